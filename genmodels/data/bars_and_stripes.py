"""Bars and stripes: a distribution whose every picture is known."""

import math

import numpy as np

from genmodels.data.sources import Material, Part, Request
from genmodels.data.target import Target
from genmodels.errors import InputError

_MAX_SIDE = 12


def bars_and_stripes(request: Request) -> Material:
    """Return the h×w pictures in which all rows, or all columns, are of one colour; P is uniform.

    There are 2^h + 2^w − 2 of them (30 for 4×4), and every split holds them all: the divergence of a model
    from P is exact, so there is nothing to hold out.

    Source: MacKay (2003), Information Theory, Inference, and Learning Algorithms, chapter 43.

    Raises:
        InputError: no size, one too large, or a limit.
    """
    if request.size is None:
        raise InputError("data.size = null: bars_and_stripes needs [height, width], such as [4, 4]")
    height, width = request.size
    if max(height, width) > _MAX_SIDE:
        raise InputError(f"data.size = {[height, width]}: sides of bars_and_stripes are at most {_MAX_SIDE}")
    rows = np.broadcast_to(_binary(height)[:, :, None], (2**height, height, width))
    columns = np.broadcast_to(_binary(width)[:, None, :], (2**width, height, width))
    both = np.concatenate([rows, columns]).reshape(-1, height * width)
    pictures = np.unique(both, axis=0)
    if request.limit is not None:
        raise InputError(
            f"data.limit = {request.limit}: every split of bars_and_stripes is all of its {len(pictures)} "
            "pictures; use null"
        )
    part = Part(pictures, np.full(len(pictures), -1, dtype=np.int64))
    log_p = np.full(len(pictures), -math.log(len(pictures)))
    target = Target(pictures, log_p, full_support=len(pictures) == 2 ** (height * width))
    splits = {"train": part, "validation": part, "test": part}
    return Material(splits, (height, width, 1), 2, "native", "every picture once", target)


def _binary(n_digits: int) -> np.ndarray:
    numbers = np.arange(2**n_digits)
    return ((numbers[:, None] >> np.arange(n_digits)) & 1).astype(np.uint8)
