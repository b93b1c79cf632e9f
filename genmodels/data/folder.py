"""A folder of one's own pictures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from genmodels.data.npz import read_npy
from genmodels.data.picture_file import on_white, open_picture, require_size
from genmodels.data.sources import Material, Part, Request
from genmodels.errors import InputError

_PICTURES = (".png", ".jpg", ".jpeg")
_ARRAYS = (".npy",)


def folder(request: Request) -> Material:
    """Return the PNG and JPEG pictures and .npy arrays below a folder, as 256 grey levels.

    All have one size, or are resized to `size` (Lanczos). If all lie in sub-folders they are labelled
    0, 1, … in the order of the sub-folders' names, or by the names themselves where those are numbers.
    Colours become luminance (ITU-R 601), transparent pixels lie on white, and 16 bits are rounded to 8.
    An array is one picture (row, column) or many (image, row, column): bytes, or floats from 0 to 1.

    Raises:
        InputError: no pictures, an unreadable one, or one of another size or range than expected.
    """
    path = request.path
    if path is None:
        raise InputError("data.path = null: the source 'folder' needs the folder of your pictures")
    if not path.is_dir():
        what = "a file" if path.exists() else "no such folder"
        raise InputError(f"{path}: {what}; expected a folder of pictures")
    if request.size is not None:
        require_size("data.size", request.size)
    files = _files(path)
    if not files:
        raise InputError(f"{path}: no picture in it or below; read are {', '.join(_PICTURES + _ARRAYS)}")
    classes = _classes(path, files)
    grey: list[np.ndarray] = []
    labels: list[int] = []
    first = files[0]
    for file in files:
        for image in _read(file):
            sized = image if request.size is None else _resized(image, request.size)
            if grey and sized.shape != grey[0].shape:
                one, other = ("×".join(map(str, shape)) for shape in (sized.shape, grey[0].shape))
                raise InputError(
                    f"{file}: {one} pixels, but {first} has {other}; data.size = [height, width] resizes all"
                )
            grey.append(sized)
            labels.append(classes.get(file, -1))
    height, width = grey[0].shape
    part = Part(np.stack(grey).reshape(len(grey), -1), np.array(labels, dtype=np.int64))
    return Material({"train": part}, (height, width, 1), 256, "fixed-stochastic", "folder of pictures")


def _files(path: Path) -> list[Path]:
    found = []
    for file in path.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)  # caches, resource forks
        if not hidden and file.suffix.lower() in _PICTURES + _ARRAYS and file.is_file():
            found.append(file)
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def _classes(path: Path, files: list[Path]) -> dict[Path, int]:
    if any(file.parent == path for file in files):
        return {}
    names = [file.relative_to(path).parts[0] for file in files]
    order = {name: label for label, name in enumerate(sorted(set(names)))}
    if all(name.isascii() and name.isdigit() and len(name) < 10 for name in order):
        order = {name: int(name) for name in order}
    return {file: order[name] for file, name in zip(files, names, strict=True)}


def _read(file: Path) -> Iterator[np.ndarray]:
    if file.suffix.lower() in _ARRAYS:
        yield from _from_array(file, read_npy(file))
        return
    yield _grey(open_picture(file))


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits, which convert("L") would clip
        return np.rint(np.asarray(image) / 257).astype(np.uint8)
    return np.asarray(on_white(image).convert("L"))


def _from_array(file: Path, array: np.ndarray) -> Iterator[np.ndarray]:
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "buif":
        raise InputError(
            f"{file}: {array.dtype} of shape {array.shape}, expected numbers (row, column) or "
            "(image, row, column)"
        )
    top = 1 if array.dtype.kind in "bf" else 255
    for index, image in enumerate(array.reshape(-1, *array.shape[-2:])):
        wrong = np.argwhere(~((image >= 0) & (image <= top)))  # NaN fails both
        if len(wrong):
            row, column = wrong[0]
            raise InputError(
                f"{file}: image {index}, row {row}, column {column} is {image[row, column]}, "
                f"expected {'a number' if top == 1 else 'a level'} from 0 to {top}"
            )
        yield np.rint(image * (255.0 / top)).astype(np.uint8)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
