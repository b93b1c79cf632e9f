"""MNIST after one stochastic binarisation, the same for everyone."""

from pathlib import Path

import numpy as np

from genmodels.data.npz import read_npz
from genmodels.data.sources import Material, Part, Request, data_root
from genmodels.errors import InputError

_FILE = "binarized_mnist_packed.npz"
_ARRAYS = {"train": "x_train", "validation": "x_valid", "test": "x_test"}
_SITES = 28 * 28


def binarized_mnist(request: Request) -> Material:
    """Return the fixed binarisation of MNIST with its own training, validation and test images.

    Read from `path` (the file, or its folder), else from $GENMODELS_DATA/binarized_mnist: an .npz file of
    x_train, x_valid and x_test, each (n, 784) of 0 and 1, or (n, 98) bytes as `numpy.packbits` makes them.

    Source: Larochelle and Murray (2011) made such a data set known; Salakhutdinov and Murray (2008).

    Raises:
        InputError: no such file, or one of other content.
    """
    path = request.path or data_root() / "binarized_mnist"
    if path.is_dir() or request.path is None:
        path = path / _FILE
    arrays = read_npz(path, tuple(_ARRAYS.values()))
    parts = {split: _part(path, name, arrays[name]) for split, name in _ARRAYS.items()}
    return Material(parts, (28, 28, 1), 2, "given", "binarisation as given")


def _part(path: Path, name: str, array: np.ndarray) -> Part:
    if array.ndim == 2 and array.shape[1] == _SITES // 8 and array.dtype == np.uint8:
        pixels = np.unpackbits(array, axis=1)
    elif array.ndim == 2 and array.shape[1] == _SITES and array.dtype.kind in "buif":
        wrong = np.argwhere((array != 0) & (array != 1))
        if len(wrong):
            image, pixel = wrong[0]
            raise InputError(
                f"{path}: {name}, image {image}, pixel {pixel} is {array[image, pixel]}, expected 0 or 1"
            )
        pixels = array.astype(np.uint8)
    else:
        raise InputError(
            f"{path}: {name} is {array.dtype} of shape {array.shape}, expected (n, {_SITES}) of 0 and 1, "
            f"or (n, {_SITES // 8}) uint8 of packed bits"
        )
    return Part(pixels, np.full(len(pixels), -1, dtype=np.int64))
