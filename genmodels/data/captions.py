"""Pictures with captions as they are kept: levels and the numbers of their captions; to a folder and back."""

import json
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genmodels.data.meta import read_meta
from genmodels.data.npz import read_npz
from genmodels.errors import InputError

SPLITS = ("train", "validation", "test", "held_out")
NO_CAPTION = ""  # caption 0 of every data set: what a model is told where it is told nothing
_FORMAT = 1
_ARRAYS = tuple(f"{split}_{field}" for split in SPLITS for field in ("levels", "captions"))
_META = {"format": int, "name": str, "shape": list, "levels": int, "captions": list, "origin": str}


class Captioned(NamedTuple):
    """Pictures of one split, in raster order, channels last; any prefix is a fair sample of them."""

    levels: np.ndarray  # (n, site) uint8, 0 … K − 1
    captions: np.ndarray  # (n,) int64, the number of each picture's caption


class CaptionedImages(NamedTuple):
    """A data set of pictures with captions, split.

    Attributes:
        name: Its name in CAPTIONED.
        shape: Height, width, channels.
        levels: K, the number of levels of a channel.
        captions: All captions, each once; the first is empty.
        splits: "train", "validation" and "test", which share captions, and "held_out": the pictures of
            captions that none of the others has.
        origin: Where the pictures came from, in words.
    """

    name: str
    shape: tuple[int, int, int]
    levels: int
    captions: tuple[str, ...]
    splits: dict[str, Captioned]
    origin: str


def clean(text: str) -> str:
    """Return a caption in Unicode's normal form C, each run of spaces and control characters one space."""
    normal = unicodedata.normalize("NFC", text)
    spaced = "".join(" " if unicodedata.category(it) in ("Cc", "Cs") else it for it in normal)
    return " ".join(spaced.split())


def words(captions: list[str]) -> set[str]:
    """Return all words of some captions, without punctuation."""
    return {word for caption in captions for word in "".join(_letter(it) for it in caption).split()}


def _letter(character: str) -> str:
    return character.casefold() if unicodedata.category(character)[0] in "LMN" else " "


def describe(images: CaptionedImages) -> dict[str, Any]:
    """Return what a model's config.json says of its data: name, shape, levels, binarisation."""
    return {
        "name": images.name,
        "shape": list(images.shape),
        "levels": images.levels,
        "binarisation": "none",
    }


def statistics(images: CaptionedImages) -> dict[str, Any]:
    """Return how many pictures and captions there are, JSON-ready, and which held-out words are new."""
    present = {name: np.unique(split.captions) for name, split in images.splits.items()}
    known = words([images.captions[k] for k in present["train"]])
    held_out = {
        images.captions[k]: {
            "n": int((images.splits["held_out"].captions == k).sum()),
            "new_words": sorted(words([images.captions[k]]) - known),
        }
        for k in present["held_out"]
    }
    return {
        "name": images.name,
        "origin": images.origin,
        "shape": list(images.shape),
        "levels": images.levels,
        "n": {name: len(split.captions) for name, split in images.splits.items()},
        "captions": {name: len(numbers) for name, numbers in present.items()},
        "held_out": held_out,
    }


def save(folder: Path, images: CaptionedImages) -> None:
    """Write images.npz and meta.json into an existing folder; equal images give equal bytes."""
    folder = Path(folder)
    arrays = [array for split in SPLITS for array in images.splits[split]]
    named: dict[str, Any] = dict(zip(_ARRAYS, arrays, strict=True))
    np.savez(folder / "images.npz", **named)
    meta = images._asdict() | {"format": _FORMAT}
    del meta["splits"]
    text = json.dumps(meta, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    (folder / "meta.json").write_text(text + "\n", encoding="utf-8")


def load(folder: Path) -> CaptionedImages:
    """Return the images in a folder that `save` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    folder = Path(folder)
    path, described = folder / "images.npz", folder / "meta.json"
    meta = read_meta(described, _META, _FORMAT, "captioned images")
    texts = meta["captions"]
    if not all(isinstance(it, str) for it in texts) or texts[:1] != [NO_CAPTION]:
        raise InputError(f"{described}: captions are not texts of which the first is empty; prepare again")
    arrays = read_npz(path, _ARRAYS)
    splits = {
        split: Captioned(*(arrays[f"{split}_{field}"] for field in ("levels", "captions")))
        for split in SPLITS
    }
    for name, split in splits.items():
        expected = (len(split.captions), int(np.prod(meta["shape"])))
        if split.captions.ndim != 1 or split.levels.shape != expected:
            raise InputError(f"{path}: the arrays of '{name}' do not fit images of shape {meta['shape']}")
        if split.levels.dtype != np.uint8 or split.captions.dtype != np.int64:
            raise InputError(f"{path}: the arrays of '{name}' are not uint8 levels with int64 captions")
        if split.levels.max(initial=0) >= meta["levels"]:
            raise InputError(f"{path}: '{name}' has values beyond its {meta['levels']} levels")
        if split.captions.min(initial=0) < 0 or split.captions.max(initial=0) >= len(texts):
            raise InputError(f"{path}: '{name}' has captions beyond the {len(texts)} there are")
    shape = tuple(meta["shape"])
    return CaptionedImages(meta["name"], shape, meta["levels"], tuple(texts), splits, meta["origin"])
