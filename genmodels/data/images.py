"""Pictures as they are kept: grey, binarised and labelled, in three splits; to a folder and back."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmodels.data.meta import read_meta
from genmodels.data.npz import read_npz
from genmodels.data.target import Target
from genmodels.errors import InputError

SPLITS = ("train", "validation", "test")
Track = Literal["binary", "grey"]
_FORMAT = 1
_ARRAYS = tuple(f"{split}_{field}" for split in SPLITS for field in ("grey", "binary", "labels"))
_META = {"format": int, "name": str, "shape": list, "levels": int, "binarisation": str, "origin": str}


class Split(NamedTuple):
    """Images of one split, flattened in raster order; any prefix is a fair sample of them."""

    grey: np.ndarray  # (n, site) uint8, levels 0 … K − 1
    binary: np.ndarray  # (n, site) uint8, 0 or 1
    labels: np.ndarray  # (n,) int64, −1 where none


class Images(NamedTuple):
    """A data set, split and binarised.

    Attributes:
        name: Its name in SOURCES.
        shape: Height, width, channels.
        levels: K, the number of grey levels.
        binarisation: "fixed-stochastic" (v ~ Bernoulli(grey/(K − 1)), drawn once), "given" (by the data
            set's makers) or "native" (the pictures are black and white).
        splits: "train", "validation" and "test".
        origin: Where the pictures came from, in words.
    """

    name: str
    shape: tuple[int, int, int]
    levels: int
    binarisation: str
    splits: dict[str, Split]
    origin: str = ""


def save(folder: Path, images: Images, target: Target | None = None) -> None:
    """Write images.npz, meta.json and, where P is known, target.npz into an existing folder.

    Nothing is compressed and no time is noted, so that equal images give equal bytes with any zlib.
    """
    folder = Path(folder)
    arrays = [array for split in SPLITS for array in images.splits[split]]
    named: dict[str, Any] = dict(zip(_ARRAYS, arrays, strict=True))
    np.savez(folder / "images.npz", **named)
    meta = images._asdict() | {"format": _FORMAT}
    del meta["splits"]
    (folder / "meta.json").write_text(json.dumps(meta, indent=2, sort_keys=True, allow_nan=False) + "\n")
    if target is not None:
        np.savez(folder / "target.npz", **target._asdict())


def load(folder: Path) -> Images:
    """Return the images in a folder that `save` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    folder = Path(folder)
    meta = read_meta(folder / "meta.json", _META, _FORMAT, "prepared images")
    path = folder / "images.npz"
    arrays = read_npz(path, _ARRAYS)
    splits = {split: Split(*(arrays[f"{split}_{field}"] for field in Split._fields)) for split in SPLITS}
    n_sites = int(np.prod(meta["shape"]))
    for name, split in splits.items():
        expected = (len(split.labels), n_sites)
        if split.labels.ndim != 1 or split.grey.shape != expected or split.binary.shape != expected:
            raise InputError(f"{path}: the arrays of '{name}' do not fit images of shape {meta['shape']}")
        if split.grey.dtype != np.uint8 or split.binary.dtype != np.uint8 or split.labels.dtype != np.int64:
            raise InputError(f"{path}: the arrays of '{name}' are not uint8 levels with int64 labels")
        if split.grey.max(initial=0) >= meta["levels"] or split.binary.max(initial=0) > 1:
            raise InputError(f"{path}: '{name}' has values beyond its {meta['levels']} levels")
    return Images(
        meta["name"], tuple(meta["shape"]), meta["levels"], meta["binarisation"], splits, meta["origin"]
    )


def load_target(folder: Path) -> Target | None:
    """Return the known distribution beside the images, or None where there is none.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(folder) / "target.npz"
    if not path.exists():
        return None
    arrays = read_npz(path, Target._fields)
    states, log_p, full_support = (arrays[field] for field in Target._fields)
    if states.ndim != 2 or log_p.shape != states.shape[:1] or full_support.shape != ():
        raise InputError(f"{path}: states and log_p do not fit each other; prepare the images again")
    return Target(states, log_p, bool(full_support))


def batch(split: Split, track: Track, domain: Literal["spin", "binary", "grey"]) -> Tensor:
    """Return the images of a split as a model's domain has them.

    The binary track gives ±1 in the domain "spin", else 0 and 1; the grey track gives levels.

    Returns:
        float32  # (image, site)

    Raises:
        InputError: the grey track for a model of black and white images.
    """
    if track == "grey":
        if domain != "grey":
            raise InputError(f"track = 'grey': the model's domain is '{domain}'; use the binary track")
        return torch.from_numpy(split.grey.astype(np.float32))
    v = torch.from_numpy(split.binary.astype(np.float32))
    return v.mul_(2).sub_(1) if domain == "spin" else v


def of_levels(images: Images, split: str, levels: int) -> np.ndarray:
    """Return the images of a split as a model of so many levels sees them: the binary ones for 2.

    Returns:
        uint8  # (image, site)

    Raises:
        InputError: the grey images have another number of levels.
    """
    if levels == 2:
        return images.splits[split].binary
    if levels != images.levels:
        raise InputError(
            f"{images.name}: images of {images.levels} levels where the model was trained on {levels}"
        )
    return images.splits[split].grey


def describe(images: Images, track: Track) -> dict[str, Any]:
    """Return what a model's config.json says of its data: name, shape, levels, binarisation."""
    binary = track == "binary"
    return {
        "name": images.name,
        "shape": list(images.shape),
        "levels": 2 if binary else images.levels,
        "binarisation": images.binarisation if binary else "none",
    }
