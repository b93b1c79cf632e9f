"""A disk that is full, and what a process leaves on it that was killed while it wrote."""

import errno
import glob
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Turn whatever a library raises on a full disk into one error that says what needs room, and where.

    Raises:
        OSError: there is no room; its message is a single line.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "(os error 28)" in str(error)
        if not full:
            raise
        message = f"{what}: no space left on the disk of {Path.cwd()}: make room and start it again"
        raise OSError(message) from error


def sweep(path: Path) -> None:
    """Remove what killed processes left beside `path` when they wrote it; nobody may be writing it now."""
    for left in path.parent.glob(f".{glob.escape(path.stem)}-????????*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
