"""Where pictures come from: one reader a name, and what a reader is asked for and returns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the names alone must be quick to import
    import numpy as np

    from genmodels.data.target import Target

SOURCES = {
    "digits": "genmodels.data.digits:digits",
    "mnist": "genmodels.data.mnist:mnist",
    "mnist5k": "genmodels.data.mnist:mnist5k",
    "binarized_mnist": "genmodels.data.binarized_mnist:binarized_mnist",
    "folder": "genmodels.data.folder:folder",
    "bars_and_stripes": "genmodels.data.bars_and_stripes:bars_and_stripes",
    "ising": "genmodels.data.ising:ising",
}
WITH_TEST = ("mnist", "binarized_mnist")  # those whose test images are the same for everyone


class Request(NamedTuple):
    """What a source is asked for; each reads the entries that concern it."""

    path: Path | None = None  # folder or file
    limit: int | None = None  # images to keep, applied by `prepare_dataset`
    size: tuple[int, int] | None = None  # height, width
    n_samples: int = 10000
    beta: float = 1.0
    seed: int = 0


class Part(NamedTuple):
    """Images that belong together."""

    grey: np.ndarray  # (n, site) uint8, levels 0 … K − 1
    labels: np.ndarray  # (n,) int64, −1 where none


class Material(NamedTuple):
    """What a source returns: levels, and the splits it comes with.

    `parts` has at least "train"; "validation" and "test" are cut from it where they are missing.
    """

    parts: dict[str, Part]
    shape: tuple[int, int, int]  # height, width, channels
    levels: int
    binarisation: str  # "fixed-stochastic" | "given" | "native"
    origin: str  # in words, without paths: it is written to files that are compared
    target: Target | None = None


def data_root() -> Path:
    """Return the folder of data outside the repository: $GENMODELS_DATA, or `data`."""
    return Path(os.environ.get("GENMODELS_DATA") or "data")
