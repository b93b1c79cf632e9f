"""Work that remembers what it has done: killed and started again, it goes on where it was."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from genmodels.errors import InputError
from genmodels.placement.store import Store
from genmodels.placement.trees import dumps, loads
from genmodels.protocols import Placement

_FORMAT = 1


class Task:
    """A call of a shard function, known by what other tasks made of what it takes."""

    def __init__(
        self, fn: Callable[..., Any], handle: Any, small: tuple[Any, ...], alike: dict[str, int]
    ) -> None:
        """Note what to call; `alike` counts the tasks that take the same."""
        self.fn, self.handle = fn, handle
        self.small: tuple[Any, ...] = small
        takes = [f"{part.task.name}.{part.place}" for part in (handle, *small) if isinstance(part, Part)]
        what = " ".join([f"{fn.__module__}.{fn.__qualname__}", *takes])
        n = alike[what] = alike.get(what, 0) + 1
        self.name: str = hashlib.blake2b(f"{what} {n}".encode(), digest_size=12).hexdigest()
        self.running: tuple[Any, Any] | None = None  # the inner handles of state and result, once it has any
        self.settled = False
        self.alike: dict[str, int] = {}  # of tasks that take its state


class Part(NamedTuple):
    """A handle: of the state that a task makes (0), or of its small result (1)."""

    task: Task
    place: int


class Resumable:
    """A placement whose tasks are written down when they are done, and not done again by the next run.

    Shard functions are pure, and of the tasks that take the same state a run submits the same in the same
    order, whatever the timing. So a task is known by what it takes, and a run that is started again is given
    the results that were written down, then the state that each chain of tasks had come to; a state that was
    not kept is made again. The bytes at the end are those of a run that nothing disturbed.
    """

    def __init__(self, inner: Placement, location: str, run: str, every: float = 60.0) -> None:
        """Go on with what is in `location`, if anything, and keep there what is done from now on.

        Args:
            inner: Where the work is done.
            location: A folder, local or any that fsspec knows (s3://…, memory://…).
            run: Names the run: model, sampler, settings, seed and version.
            every: Seconds between two snapshots.

        Raises:
            InputError: what is in `location` belongs to another run, or it cannot be written to.
        """
        self.inner, self.n_workers, self.gpus = inner, inner.n_workers, inner.gpus
        self._every, self._run = every, run
        self._store = Store(location)
        self._alike: dict[str, int] = {}  # tasks that take what no task has made
        self._done: dict[str, Any] = {}  # results of an earlier run, by the task's name
        self._kept: dict[str, tuple[Any, Any]] = {}  # states and results of an earlier run's last tasks
        self._fresh: dict[str, Any] = {}  # results that are not written down yet
        self._tips: dict[str, Task] = {}  # tasks of this run that none has come after
        self._results: list[dict[str, str]] = []  # the files they are in
        self._saved = time.monotonic()
        self._resume()

    @property
    def n_resumed(self) -> int:
        """Number of tasks that an earlier run has done."""
        return len(self._done)

    @property
    def n_failures(self) -> int:
        """Number of tasks that had to be done again."""
        return self.inner.n_failures

    @property
    def room(self) -> int:
        """Number of tasks that may be under way at once."""
        return self.inner.room

    def put(self, state: Any) -> Any:
        """Return a handle to `state`."""
        return self.inner.put(state)

    def submit(self, fn: Callable[..., tuple[Any, Any]], handle: Any, *small: Any) -> tuple[Any, Any]:
        """Start fn; where an earlier run may have done it, not before somebody asks for what comes of it."""
        task = Task(fn, handle, small, handle.task.alike if isinstance(handle, Part) else self._alike)
        is_new = handle.task.running is not None if isinstance(handle, Part) else not self._done
        if is_new and task.name not in self._done:
            self._start(task)
        return Part(task, 0), Part(task, 1)

    def wait(self, handles: Sequence[Any]) -> Sequence[int]:
        """Return the indices of the handles that are complete or failed, at least one if there are any."""
        known = [i for i, each in enumerate(handles) if isinstance(each, Part) and self._is_known(each)]
        return known or self.inner.wait([self._inner(handle) for handle in handles])

    def fetch(self, handle: Any) -> Any:
        """Return the value behind `handle`; write down what is new if it is time to."""
        if not isinstance(handle, Part):
            return self.inner.fetch(handle)
        task = handle.task
        if handle.place == 1 and task.name in self._done:
            return self._done[task.name]
        value = self.inner.fetch(self._inner(handle))
        if handle.place == 1 and task.name not in self._fresh:
            self._fresh[task.name] = value
            self._settle(task)
            if time.monotonic() - self._saved >= self._every:
                self.save()
        return value

    def save(self) -> None:
        """Write down what is new; it counts from the moment that the snapshot's list is there."""
        states = {name: tuple(map(self.inner.fetch, task.running or ())) for name, task in self._tips.items()}
        number = self._store.newest() + 1
        self._results.append(self._store.write(f"results-{number:06d}", dumps(self._fresh)))
        last = self._store.write(f"states-{number:06d}", dumps(self._kept | states))
        head = {"format": _FORMAT, "run": self._run, "results": self._results, "states": last}
        self._store.publish(number, json.dumps(head).encode())
        self._fresh, self._saved = {}, time.monotonic()

    def close(self) -> None:
        """Write down what is new, and give back what the workers hold."""
        try:
            if self._fresh:
                self.save()
        finally:
            self.inner.close()

    def forget(self) -> None:
        """Remove what is written down: the run has come to its end."""
        self._fresh = {}
        self._store.clear()

    def _start(self, task: Task) -> None:
        small = [self._inner(one) for one in task.small]
        task.running = self.inner.submit(task.fn, self._inner(task.handle), *small)

    def _is_known(self, part: Part) -> bool:
        name, is_started = part.task.name, part.task.running is not None
        return not is_started and (name in self._kept or (part.place == 1 and name in self._done))

    def _inner(self, handle: Any) -> Any:
        """Return the inner placement's handle; what was not kept is made again."""
        if not isinstance(handle, Part):
            return handle
        task = handle.task
        if task.running is None:
            if task.name in self._kept:
                task.running = tuple(map(self.inner.put, self._kept[task.name]))
                task.settled = True
                self._tips[task.name] = task
                del self._kept[task.name]
            elif handle.place == 1 and task.name in self._done:
                return self.inner.put(self._done[task.name])
            else:
                self._start(task)
        return task.running[handle.place] if task.running else None

    def _settle(self, task: Task) -> None:
        """Note that a task is done, and so all whose work it takes: only the last of them need be kept."""
        if task.settled:
            return
        task.settled = True
        taken = [part for part in (task.handle, *task.small) if isinstance(part, Part)]
        for part in taken:
            self._settle(part.task)
            if part.place == 0:
                self._tips.pop(part.task.name, None)
                self._kept.pop(part.task.name, None)
        if task.running is not None and (isinstance(task.handle, Part) or not taken):
            self._tips[task.name] = task  # not what only sums up others' results: nobody takes its state
        task.handle, task.small = None, ()  # its state is there: what it was made of need not be kept

    def _resume(self) -> None:
        for head in self._store.snapshots():
            if head.get("format") != _FORMAT or head.get("run") != self._run:
                raise InputError(
                    f"{self._store.location}: there is the checkpoint of another run "
                    "(another file, setting, seed or version): give another folder, or remove this one"
                )
            try:
                for entry in head["results"]:
                    self._done |= loads(self._store.read(entry))
                self._kept = loads(self._store.read(head["states"]))
            except (LookupError, TypeError, ValueError):  # damaged, or by another hand
                self._done = {}
                continue
            self._results = head["results"]
            return
