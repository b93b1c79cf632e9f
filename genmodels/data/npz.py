"""Arrays of .npz and .npy files, never unpickled."""

import textwrap
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from genmodels.data.packed import require_bounded
from genmodels.errors import InputError

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,  # an encrypted member, an unknown compression
    SyntaxError,  # a header that is no Python literal
    tokenize.TokenError,
    TypeError,
    ValueError,
)


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the named arrays of an .npz file.

    Raises:
        InputError: the file is missing, damaged, lacks an array, holds Python objects, or would unpack to
            very much more than its size.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an .npz file with {', '.join(names)}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            present = [member.removesuffix(".npy") for member in members if member.endswith(".npy")]
            missing = [name for name in names if name not in present]
            if missing:
                raise InputError(f"{path}: no array '{missing[0]}' in it, only {present[:9]}")
            for name in names:
                member = archive.getinfo(f"{name}.npy")
                require_bounded(f"{path}: {name}", member.compress_size, member.file_size)
            return {name: _read_member(archive, name) for name in names}
    except _DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: {_what(error)}") from error


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:  # which compares the checksum at its end
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _what(error: Exception) -> str:
    if "Object arrays" in str(error):
        return "holds Python objects, which are never loaded; save plain arrays of numbers"
    return f"cut off, damaged or not a file of numpy arrays ({textwrap.shorten(str(error), 200)})"


def read_npy(path: Path) -> np.ndarray:
    """Return the array of an .npy file.

    Raises:
        InputError: the file is damaged or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except _DAMAGE as error:
        raise InputError(f"{path}: {_what(error)}") from error
