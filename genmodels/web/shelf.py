"""The models that are served: found in folders, read at the start, and known by short names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from genmodels.artifacts import load_model, read_config
from genmodels.errors import InputError
from genmodels.protocols import CanSample, HasComponents, HasEnergy, HasPictures
from genmodels.ways import options_of

Kind = Literal["text", "denoising", "particles", "draws"]
PLACES = ("out", "pipelines")
_STAGES = ("train", "fit_baselines", "models", "train_latent_diffusion")


@dataclass(frozen=True)
class Entry:
    """A model on the shelf.

    Attributes:
        name: Short, and no other's.
        folder: Where it was read from.
        model: Itself.
        kind: How it draws: from text, by denoising, as the particles of Markov chains, or at once.
        shape: Height, width and channels of its pictures.
        digest: The first digits of its weights' SHA-256.
    """

    name: str
    folder: Path
    model: Any
    kind: Kind
    shape: tuple[int, int, int]
    digest: str


def shelf(given: Sequence[Path]) -> dict[str, Entry]:
    """Return the models in folders, or in the folders below them, by name; without any, all that are here.

    Models from which nothing can be drawn are left out, unless they are named themselves.

    Raises:
        InputError: there is none, one is damaged, or one that was named draws nothing.
    """
    folders = list(dict.fromkeys(found for place in given or map(Path, PLACES) for found in _below(place)))
    entries = [entry for folder in folders if (entry := _entry(folder, folder in given)) is not None]
    if not entries:
        where = ", ".join(map(str, given or PLACES))
        raise InputError(f"{where}: no model to draw from here; run 'make repro', or name a model's folder")
    short = [_short(entry.folder) for entry in entries]
    named = [
        replace(entry, name=name if short.count(name) == 1 else str(entry.folder))
        for name, entry in zip(short, entries, strict=True)
    ]
    return {entry.name: entry for entry in named}


def _below(place: Path) -> Iterator[Path]:
    if (place / "config.json").is_file():
        yield place
        return
    if not place.is_dir() and str(place) not in PLACES:
        raise InputError(f"{place}: no such folder")
    for depth in ("*", "*/*", "*/*/*"):
        yield from sorted(path.parent for path in place.glob(f"{depth}/config.json") if _is_model(path))


def _is_model(config: Path) -> bool:
    # Others have files of that name as well: the pipeline of diffusers in a model's folder is one.
    return (config.parent / "model.safetensors").is_file()


def _entry(folder: Path, wanted: bool) -> Entry | None:
    model, config = load_model(folder), read_config(folder)
    kind = kind_of(model)
    if kind is None:
        if wanted:
            raise InputError(f"{folder}: nothing can be drawn from a model '{config['model']}'")
        return None
    height, width, channels = config["data"]["shape"]
    digest = config["sha256"]["model.safetensors"][:12]
    return Entry("", folder, model, kind, (height, width, channels), digest)


def kind_of(model: Any) -> Kind | None:
    """Return how a model draws pictures for somebody who waits, None if it does not."""
    if getattr(model, "text_encoder", None) is not None:
        return "text"
    if "method" in options_of(model):
        return "denoising"
    if isinstance(model, HasPictures | HasComponents | CanSample):
        return "draws"
    spins = isinstance(model, HasEnergy) and getattr(model, "domain", "spin") == "spin"
    return "particles" if spins else None


def _short(folder: Path) -> str:
    """Return "pipeline/model" of a pipeline's folders, else the folder's own name."""
    parts = folder.resolve().parts
    if len(parts) > 2 and parts[-2] in _STAGES:
        return f"{parts[-3]}/{parts[-1]}"
    return parts[-1]
