"""Where pictures with captions come from: one reader a name, and what a reader is asked for and returns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the names alone must be quick to import
    import numpy as np

CAPTIONED = {
    "emoji": "genmodels.data.emoji:emoji",
    "imagefolder": "genmodels.data.imagefolder:imagefolder",
    "digits": "genmodels.data.captioned_digits:digits",
    "mnist": "genmodels.data.captioned_digits:mnist",
    "mnist5k": "genmodels.data.captioned_digits:mnist5k",
}


class CaptionRequest(NamedTuple):
    """What a source is asked for; each reads the entries that concern it."""

    path: Path | None = None  # folder or font
    size: tuple[int, int] | None = None  # height, width
    variants: bool = False  # skin tones and genders, of emoji
    recoloured: bool = True  # objects of one colour in other colours, too, of emoji


class CaptionedPart(NamedTuple):
    """Pictures that belong together.

    `groups` says which pictures show the same thing: all of a group are in one split, unless their captions
    are held out.
    """

    levels: np.ndarray  # (n, site) uint8, levels 0 … K − 1
    captions: list[str]
    groups: np.ndarray  # (n,) int64


class CaptionedMaterial(NamedTuple):
    """What a source returns: levels, captions, and the splits it comes with, "train" at least."""

    parts: dict[str, CaptionedPart]
    shape: tuple[int, int, int]  # height, width, channels
    levels: int
    origin: str  # in words, without paths: it is written to files that are compared
