"""Work in this process: one shard after the other, or as many at a time as there are threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import torch


class Part(NamedTuple):
    """A handle of one of the two things that a shard on another thread returns."""

    shard: Future[tuple[Any, Any]]
    place: int


class LocalPlacement:
    """The trivial placement: a handle is the value itself, and `submit` does the work at once.

    With several threads shards run beside each other, as far as what they call lets go of Python's lock, as
    compiled loops and torch do. Either way a shard has one torch thread, as it does on a worker, so that the
    bits agree.
    """

    n_workers = 0
    n_failures = 0
    gpus = 0.0

    def __init__(self, n_threads: int = 1) -> None:
        """Work on so many threads."""
        self.n_threads, self.room = n_threads, 2 * n_threads
        self._torch_threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(n_threads, "shard") if n_threads > 1 else None

    def put(self, state: Any) -> Any:
        """Return `state`."""
        return state

    def submit(self, fn: Callable[..., tuple[Any, Any]], handle: Any, *small: Any) -> tuple[Any, Any]:
        """Return fn(handle, *small), or raise what it raises; on several threads `fetch` does either."""
        if self._pool is not None:
            # A shard that another one needs was submitted, and so started, before it.
            shard = self._pool.submit(_alone, fn, handle, *small)
            return Part(shard, 0), Part(shard, 1)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return fn(handle, *small)
        finally:
            torch.set_num_threads(threads)

    def wait(self, handles: Sequence[Any]) -> list[int]:
        """Return the indices of the handles that are complete or failed, at least one if there are any."""
        running = {handle.shard for handle in handles if isinstance(handle, Part)}
        if len(running) == len(handles):
            wait(running, return_when=FIRST_COMPLETED)
        return [i for i, each in enumerate(handles) if not isinstance(each, Part) or each.shard.done()]

    def fetch(self, handle: Any) -> Any:
        """Return the value behind `handle`, or raise what its shard raised."""
        return _value(handle)

    def close(self) -> None:
        """Wait for the shards that run, and forget those that wait."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._torch_threads)  # of which a part is this process's, not a thread's


def _alone(fn: Callable[..., tuple[Any, Any]], *handles: Any) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    return fn(*(_value(handle) for handle in handles))


def _value(handle: Any) -> Any:
    return handle.shard.result()[handle.place] if isinstance(handle, Part) else handle
