"""The IDX format of MNIST: a big-endian header, then bytes."""

import gzip
import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np

from genmodels.data.packed import require_bounded
from genmodels.errors import InputError

_UNSIGNED_BYTE = 0x08


def _header(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, _UNSIGNED_BYTE, len(shape), *shape)


def read_idx(path: Path, n_dimensions: int) -> np.ndarray:
    """Return the array of unsigned bytes in an IDX file, gzipped if its name ends in .gz.

    Args:
        path: The file.
        n_dimensions: 3 for images  # (image, row, column); 1 for labels  # (image,)

    Raises:
        InputError: the file is not IDX of that kind, shorter or longer than its header says, or would unpack
            to very much more than its size.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            header = file.read(4 + 4 * n_dimensions)
            magic = _header((0,) * n_dimensions)[:4]
            if header[:4] != magic:
                raise InputError(
                    f"{path}: begins with the bytes {header[:4].hex() or '(none)'}, expected {magic.hex()}, "
                    f"IDX of {n_dimensions} dimension{'s' if n_dimensions > 1 else ''}"
                )
            if len(header) < 4 + 4 * n_dimensions:
                raise InputError(f"{path}: ends within its header, after {len(header)} bytes; fetch it again")
            shape = struct.unpack(f">{n_dimensions}I", header[4:])
            n_bytes = int(np.prod([int(length) for length in shape], dtype=object))
            _require_there(path, n_bytes)
            body = file.read(n_bytes + 1)  # one more would show
    except (EOFError, zlib.error, OSError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read to its end ({error}); fetch it again") from error
    if len(body) != n_bytes:
        found = f"only {len(body)} follow" if len(body) < n_bytes else "more follow"
        raise InputError(f"{path}: its header announces {n_bytes} bytes, but {found}; fetch it again")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _require_there(path: Path, n_bytes: int) -> None:
    """Raise InputError where a header announces what cannot follow, before room is made for it."""
    size = path.stat().st_size
    if path.suffix == ".gz":
        require_bounded(str(path), size, n_bytes)
    elif n_bytes > size:
        raise InputError(f"{path}: its header announces {n_bytes} bytes, of {size} in all; fetch it again")


def idx_md5(array: np.ndarray) -> str:
    """Return the MD5 that the unpacked IDX file of an array of bytes has."""
    digest = hashlib.md5(_header(array.shape), usedforsecurity=False)
    digest.update(np.ascontiguousarray(array, dtype=np.uint8).data)
    return digest.hexdigest()
