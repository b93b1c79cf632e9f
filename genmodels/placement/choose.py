"""Choose where shards run: the argument, then the environment, then the caller's default."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from genmodels.errors import InputError
from genmodels.placement.local import LocalPlacement
from genmodels.placement.ray import RayPlacement
from genmodels.placement.resumable import Resumable
from genmodels.protocols import Placement


@contextmanager
def placement(
    default: int | None = None, n_workers: int | None = None, n_threads: int | None = None
) -> Iterator[Placement]:
    """Yield a place to work, and close it on leaving.

    The first of these that is there decides: `n_workers`; GENMODELS_WORKERS; RAY_ADDRESS, a cluster to
    join; `default`. 0 workers is this process, its threads; n > 0 is a Ray on this machine with n workers.
    GENMODELS_GPUS is the share of a GPU that each task on Ray has: 0.25 lets four tasks share one.

    Args:
        default: Number of workers where nobody says; None is one for each core this process may use.
        n_workers: What the command's --workers says, if anything.
        n_threads: Threads of this process where it works itself; None is one for each core it may use.

    Raises:
        InputError: what should be a number of workers or GPUs is not, or no cluster at RAY_ADDRESS.
    """
    place = _open(default, n_workers, _cores() if n_threads is None else n_threads)
    try:
        yield place
    finally:
        place.close()


@contextmanager
def resumable(
    location: str, run: str, every: float = 60.0, default: int | None = None, n_workers: int | None = None
) -> Iterator[Resumable]:
    """Yield a place to work that goes on with what the same run has left in `location`; close it on leaving.

    Args:
        location: A folder, local or any that fsspec knows.
        run: Names the run; a checkpoint of another one is refused.
        every: Seconds between two snapshots.
        default: As of `placement`.
        n_workers: As of `placement`.

    Raises:
        InputError: as `placement`; the checkpoint is of another run, or there can be none.
    """
    with placement(default, n_workers) as inner:
        place = Resumable(inner, location, run, every)
        try:
            yield place
        finally:
            place.close()


def _open(default: int | None, n_workers: int | None, n_threads: int) -> Placement:
    if n_workers is not None:
        return _with(_count("--workers", str(n_workers)), n_threads)
    if workers := os.environ.get("GENMODELS_WORKERS"):
        return _with(_count("GENMODELS_WORKERS", workers), n_threads)
    if address := os.environ.get("RAY_ADDRESS"):
        return RayPlacement.connect(address, _gpus())
    return _with(_cores() if default is None else default, n_threads)


def _with(n_workers: int, n_threads: int) -> Placement:
    return RayPlacement.local(n_workers, _gpus()) if n_workers else LocalPlacement(n_threads)


def _gpus() -> float:
    text = os.environ.get("GENMODELS_GPUS") or "0"
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    # Ray gives shares of one, or whole ones.
    if not (0.0 <= share <= 1.0 or share.is_integer() and share > 0.0):
        raise InputError(f"GENMODELS_GPUS is '{text}', expected a share of a GPU such as 0.25, or whole ones")
    return share


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InputError(
            f"{name} is '{text}', expected a whole number: 0 for this process, n for Ray with n workers"
        )
    return int(text)
