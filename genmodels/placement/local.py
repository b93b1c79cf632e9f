"""Work in this process, one shard after the other."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


class LocalPlacement:
    """The trivial placement: a handle is the value itself, and `submit` does the work at once.

    Shards run with one torch thread, as they do on a worker, so that the bits agree.
    """

    n_workers = 0

    def put(self, state: Any) -> Any:
        """Return `state`."""
        return state

    def submit(self, fn: Callable[..., tuple[Any, Any]], handle: Any, *small: Any) -> tuple[Any, Any]:
        """Return fn(handle, *small), or raise what it raises."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return fn(handle, *small)
        finally:
            torch.set_num_threads(threads)

    def wait(self, handles: Sequence[Any]) -> Iterator[int]:
        """Yield all indices in order: everything has been done already."""
        yield from range(len(handles))

    def fetch(self, handle: Any) -> Any:
        """Return `handle`."""
        return handle

    def close(self) -> None:
        """Do nothing."""
