"""The handwritten digits that ship with scikit-learn."""

import numpy as np

from genmodels.data.sources import Material, Part, Request


def digits(request: Request) -> Material:
    """Return 1,797 digits of 8×8 pixels in 17 grey levels.

    Source: Alpaydin and Kaynak (1998), "Optical recognition of handwritten digits" (UCI), its test part.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    part = Part(bunch.data.astype(np.uint8), bunch.target.astype(np.int64))
    return Material({"train": part}, (8, 8, 1), 17, "fixed-stochastic", "scikit-learn")
