"""Work on Ray: a private one on this machine, or a cluster that is there already."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from genmodels.errors import InputError

OBJECT_STORE_BYTES = 256 * 2**20  # more is spilled to disk; a smaller /dev/shm makes Ray use the disk at once
MAX_RETRIES = 3  # of a shard whose worker died
_LEAST_ROOM = 64  # tasks; a cluster that grows on demand sees from them that there is work
_LONGEST_CHAIN = 100  # tasks, which the loss of a node may make Ray do again
_REMEMBERED = 10_000  # results not yet fetched whose shard is known: some never are
_ROOT = Path(__file__).resolve().parents[2]  # where this checkout of genmodels is imported from
_LONGEST = 40  # characters of a folder whose sockets still fit into the 107 that Unix allows
# Else Ray tells of a lost worker on the standard output, which belongs to the command's result.
_QUIET = {"RAY_DEDUP_LOGS": "1", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}

# Outlives this process, even killed: waits for the end of its standard input, then ends whatever holds an
# output file of Ray's daemons (its agents would miss their parent only after a minute), removes the folder.
_JANITOR = """
cat
for entry in $(find /proc/[0-9]*/fd -lname "$0/*.out"); do
    process=${entry#/proc/}
    kill -9 "${process%%/*}"
done
for attempt in 1 2 3; do rm -rf -- "$0" && exit; sleep 1; done
"""


class Chained(NamedTuple):
    """A handle of a state that tasks have made one after the other, each from what the last one left.

    Ray makes states that are lost with a node again, from the first of the chain whose value is held; and its
    own bookkeeping overflows where chains are thousands long. So a chain starts anew from time to time.
    """

    ref: Any
    length: int  # tasks since the values in `held`
    held: frozenset[Any]  # what the state can be made again from


class RayPlacement:
    """Shards as Ray tasks; states and results stay in Ray's object store until they are fetched.

    Whatever is handed to several tasks, a large model for one, goes in once: `submit` takes the handle
    that `put` returns for any of its arguments. Arrays of numpy arrive read-only. One at a time in a
    process, opened from a thread that lives as long as it does (Linux ends a child with its thread).
    """

    def __init__(self, n_workers: int, gpus: float, closing: contextlib.ExitStack) -> None:
        """Wrap the Ray that `local` or `connect` has opened; `closing` ends it."""
        import ray

        self.n_workers, self.gpus, self.n_failures = n_workers, gpus, 0
        self.room = max(_LEAST_ROOM, 4 * n_workers)
        self._closing = closing
        self._running: set[Any] = set()  # results of tasks that may be under way still
        self._shards: dict[str, tuple[str, Any]] = {}  # of results on their way: whose, and after what tries
        self._run = ray.remote(num_cpus=1, num_gpus=gpus, num_returns=3, max_retries=MAX_RETRIES)(_run)

    @classmethod
    def local(cls, n_workers: int, gpus: float = 0.0) -> "RayPlacement":
        """Start a Ray of our own with `n_workers` workers; `close` leaves nothing of it behind.

        It listens on loopback only, asks for a token that only its own processes know, and writes to a
        folder of its own under the system's temporary one. Each task has `gpus` of a GPU.

        Raises:
            InputError: tasks are to have GPUs, and there is none.
        """
        with contextlib.ExitStack() as closing:
            folder = closing.enter_context(_temporary_folder())
            closing.callback(_stop)
            environment = {
                # Ray's switch for loopback only, named after the systems where it is the default.
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(32),
                "RAY_USAGE_STATS_ENABLED": "0",
                "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
                "OMP_NUM_THREADS": "1",
                "NUMBA_NUM_THREADS": "1",
            }
            _start(
                environment,
                address="local",
                num_cpus=n_workers,
                num_gpus=None if gpus else 0,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=folder,
                _node_ip_address="127.0.0.1",
            )
            _require(gpus)
            return cls(n_workers, gpus, closing.pop_all())

    @classmethod
    def connect(cls, address: str, gpus: float = 0.0) -> "RayPlacement":
        """Join the cluster at `address`, with one worker for each of its CPUs; `close` only leaves it.

        Raises:
            InputError: no cluster answers at `address`; or tasks are to have GPUs, and it has none.
        """
        with contextlib.ExitStack() as closing:
            closing.callback(_stop)
            try:
                _knock(address)
                _start({}, address=address)
            except (OSError, RuntimeError, ValueError) as error:
                reason = str(error).strip().split("\n")[0].rstrip(".")
                raise InputError(
                    f"RAY_ADDRESS is '{address}': no Ray cluster could be joined there ({reason}); "
                    "start one, or set GENMODELS_WORKERS to work on this machine"
                ) from error
            _require(gpus)
            return cls(_cpus(), gpus, closing.pop_all())

    def put(self, state: Any) -> Any:
        """Return a reference to `state` in the object store."""
        import ray

        return ray.put(state)

    def submit(self, fn: Callable[..., tuple[Any, Any]], handle: Any, *small: Any) -> tuple[Any, Any]:
        """Start fn(state of handle, *small) on a free worker; what it raises, `fetch` raises.

        Where there is no room left this waits until a quarter of the tasks under way is done.
        """
        if len(self._running) >= self.room:
            self._await(self.room // 4)
        handle = self._anchored(handle)
        chains = [part for part in (handle, *small) if isinstance(part, Chained)]
        state, result, tries = self._run.remote(fn, *map(_ref, (handle, *small)))
        what = fn.__module__.rsplit(".", 1)[-1].replace("_", " ")
        shard = f"{what}, shard {small[0]}" if small and type(small[0]) is int else what
        self._running.add(result)
        self._shards[result.hex()] = shard, tries
        if len(self._shards) > _REMEMBERED:
            del self._shards[next(iter(self._shards))]
        length = 1 + max((chain.length for chain in chains), default=0)
        return Chained(state, length, frozenset().union(*(chain.held for chain in chains))), result

    def _anchored(self, handle: Any) -> Any:
        """Return a state's handle, or at the end of a long chain one of a copy that starts a new one."""
        import ray

        if not isinstance(handle, Chained) or handle.length < _LONGEST_CHAIN:
            return handle
        copy = ray.put(self.fetch(handle))
        return Chained(copy, 0, frozenset([copy]))

    def _await(self, n: int) -> None:
        import ray

        _, running = ray.wait(list(self._running), num_returns=n, fetch_local=False)
        self._running = set(running)

    def wait(self, handles: Sequence[Any]) -> list[int]:
        """Return the indices of the handles that are complete or failed, at least one if there are any."""
        import ray

        if not handles:
            return []
        index = {_ref(handle): i for i, handle in enumerate(handles)}
        ray.wait(list(index), fetch_local=False)
        done, _ = ray.wait(list(index), num_returns=len(index), timeout=0, fetch_local=False)
        return [index[handle] for handle in done]

    def fetch(self, handle: Any) -> Any:
        """Return the value behind `handle`.

        Raises:
            RuntimeError: the worker died, and so did those that tried again.
            Exception: what the shard raised, as it raised it; the worker's traceback is its cause.
        """
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

        handle = _ref(handle)
        self._running.discard(handle)
        shard, tries = self._shards.pop(handle.hex(), ("a shard", None))
        try:
            value, n_lost = ray.get([handle, tries]) if tries else (ray.get(handle), 0)
        except RayTaskError as error:
            raise error.cause from error
        except (OutOfMemoryError, WorkerCrashedError, NodeDiedError) as error:
            raise RuntimeError(
                f"{shard}: its worker died {MAX_RETRIES + 1} times in a row: it crashes, or memory is short; "
                "try fewer workers"
            ) from error
        self.n_failures += n_lost
        return value

    def close(self) -> None:
        """End the local Ray and remove its files, or leave the cluster."""
        self._closing.close()


def _ref(handle: Any) -> Any:
    return handle.ref if isinstance(handle, Chained) else handle


def _run(fn: Callable[..., tuple[Any, Any]], state: Any, *small: Any) -> tuple[Any, Any, int]:
    """Return what fn does, and how often the task was tried before."""
    from ray._private import worker

    torch.set_num_threads(1)  # a worker that is used again may come with another number
    state, result = fn(state, *small)
    core: Any = worker.global_worker.core_worker  # type: ignore[attr-defined]
    return state, result, core.get_current_task_attempt_number()


def _start(environment: dict[str, str], **settings: Any) -> None:
    """Call ray.init such that it is silent, workers import this checkout and SIGTERM stays the caller's."""
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    # Ray puts the current folder first on the workers' path.
    with _environment(_QUIET | environment), contextlib.chdir(_ROOT):
        import ray
        from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

        AuthenticationTokenLoader.instance().reset_cache()  # it may hold an earlier session's token
        try:
            ray.init(**settings, log_to_driver=False, logging_level=logging.CRITICAL)
        finally:
            if in_main and handler is not None:
                signal.signal(signal.SIGTERM, handler)


def _knock(address: str) -> None:
    """Raise where nobody listens: Ray itself would try for minutes."""
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not (host and port.isdigit()):
            raise ValueError("an address is host:port, ray://host:port or auto")
        socket.create_connection((host, int(port)), timeout=10).close()


def _cpus() -> int:
    import ray

    # A cluster that grows on demand may have none yet.
    return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]


def _require(gpus: float) -> None:
    import ray

    if gpus and not ray.cluster_resources().get("GPU"):  # type: ignore[no-untyped-call]
        raise InputError(f"GENMODELS_GPUS is {gpus:g}, but Ray finds no GPU: add one, or leave it out")


def _stop() -> None:
    import ray

    ray.shutdown()


@contextlib.contextmanager
def _environment(entries: dict[str, str]) -> Iterator[None]:
    """Set variables that Ray's processes inherit, and put ours back."""
    before = {name: os.environ.get(name) for name in entries}
    os.environ.update(entries)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
    """Yield a new folder; it goes, with what runs for it, on leaving or when this one is killed."""
    root = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="gm-", dir=root if len(root) < _LONGEST - 11 else "/tmp")
    janitor = subprocess.Popen(
        ["/bin/sh", "-c", _JANITOR, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )
    try:
        yield folder
    finally:
        janitor.communicate()
