"""Shards of work that go on segment after segment, none of them waiting for another."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.protocols import Placement

_UPDATES = 8e8  # attempted in a task: 0.2 s of the fastest loops, far longer than it takes to send
N_TASKS = 10  # of a shard in a run, at least: between them progress is told, and runs stop

Segment = tuple[int, int]  # first, and last + 1, of the rounds or steps of one task


class Report:
    """How far a run is, as its `progress` is told; `stopped` once that has answered True."""

    def __init__(self, progress: Callable[..., bool | None] | None, total: int = 0) -> None:
        """Start at 0 of `total`; `figures` are told along, and the lowest energy that shards have met."""
        self.progress, self.done, self.total = progress, 0, total
        self.figures: dict[str, float] = {}
        self.lowest = math.inf
        self.stopped = False

    def __call__(self, segment: Segment, seen: Any) -> bool:
        """Count a segment as done, in which a shard has `seen` what it says; return whether to stop."""
        self.done += segment[1] - segment[0]
        self.lowest = min(self.lowest, seen.best.energy)
        return self.tell()

    def tell(self) -> bool:
        """Tell how far the run is; return whether to stop."""
        met = {"best_energy": self.lowest} if self.lowest < math.inf else {}
        if self.progress is not None and self.progress(self.done, self.total, **met, **self.figures):
            self.stopped = True
        return self.stopped

    def within(self) -> Callable[..., bool]:
        """Return the `progress` of a run that is part of this one."""
        before = [0, 0]

        def progress(done: int, total: int, **figures: float) -> bool:
            self.done += done - before[0]
            self.total += total - before[1]
            before[:] = done, total
            self.lowest = min(self.lowest, figures.pop("best_energy", math.inf))
            self.figures = figures
            return self.tell()

        return progress


def run(
    placement: Placement,
    fn: Callable[..., tuple[Any, Any]],
    handles: Sequence[Any],
    segments: Sequence[Any],
    *small: Any,
    report: Callable[[Any, Any], bool | None] = lambda segment, seen: None,
    join: Callable[[Any, Any], Any] | None = None,
) -> tuple[list[Any], list[list[Any]]]:
    """Take every shard through all segments: state, small result = fn(state, shard, segment, *small).

    Shards take turns, as many at a time as the placement has room for; in which order they are done is no
    matter. Once `report` returns True no further segment is started, but that each shard does its first one;
    of each count as many segments as all did.

    Args:
        placement: Where the work runs.
        fn: A pure function at module level.
        handles: Handles of the shards' states  # (shard,)
        segments: What distinguishes the calls of one shard, in order.
        *small: Further arguments or handles of them, the same for every call.
        report: Called with each segment of each shard, and its small result, when it is done.
        join: Makes one small result of two successive ones, as soon as all shards have both: what grows
            with the number of sites would else fill the memory of a long run.

    Returns:
        Handles of the last states (shard,), and the small results (shard, segment), joined into one if asked.
    """
    course = _Course(handles, join)
    waiting, pending, stopped = deque(range(len(handles)) if segments else ()), dict[int, Any](), False
    while waiting or pending:
        while waiting and len(pending) < placement.room:
            shard = waiting.popleft()
            done = course.n_done(shard)
            if done == 0 or not stopped:
                kept = course.states[shard]
                task = placement.submit(fn, kept[done], shard, segments[done], *small)
                kept[done + 1], pending[shard] = task
        shards = list(pending)
        for shard in [shards[i] for i in placement.wait([pending[i] for i in shards])]:
            seen = placement.fetch(pending.pop(shard))
            course.take(shard, seen)
            if report(segments[course.n_done(shard) - 1], seen):
                stopped = True
            if course.n_done(shard) < len(segments):
                waiting.append(shard)
    return course.ends()


class _Course:
    """How far shards are on their way through segments.

    Attributes:
        states: Handles by the number of segments done, of those that matter still  # (shard,)
        results: Small results, those that all shards have joined into the first if asked  # (shard, segment)
    """

    def __init__(self, handles: Sequence[Any], join: Callable[[Any, Any], Any] | None) -> None:
        self.states: list[dict[int, Any]] = [{0: handle} for handle in handles]
        self.results: list[list[Any]] = [[] for _ in handles]
        self._join, self._joined = join, 0  # segments in the first result, but for one
        self._least, self._behind = 0, len(handles)  # done by all, and how many shards have done no more

    def n_done(self, shard: int) -> int:
        """Return the number of segments that a shard has done."""
        return len(self.results[shard]) + self._joined

    def take(self, shard: int, seen: Any) -> None:
        """Count a segment of a shard as done; let go of what nobody can go back to."""
        self.results[shard].append(seen)
        self._behind -= self.n_done(shard) == self._least + 1
        if self._behind:
            return
        self._least += 1
        self._behind = sum(self.n_done(each) == self._least for each in range(len(self.states)))
        self.states = [
            {n: handle for n, handle in kept.items() if n >= self._least} for kept in self.states
        ]
        if self._join is not None and self._least - self._joined == 2:
            self.results = [[self._join(*each[:2]), *each[2:]] for each in self.results]
            self._joined += 1

    def ends(self) -> tuple[list[Any], list[list[Any]]]:
        """Return the states after as many segments as all shards did, and what they saw until then."""
        n = self._least - self._joined
        return [kept[self._least] for kept in self.states], [each[:n] for each in self.results]


def segment(n_rounds: int, n_updates: float, n_tasks: int = N_TASKS) -> int:
    """Return how many rounds make a task: some 8 · 10⁸ updates, but 1/n_tasks of the run at most.

    A function of sizes alone, not of time nor of workers; and what is measured does not depend on it.

    Args:
        n_rounds: Of the run.
        n_updates: That a shard attempts in a round.
        n_tasks: That a shard goes through at least, if it has as many rounds.
    """
    return max(1, min(int(_UPDATES / n_updates), n_rounds // n_tasks))


def cut(first: int, last: int, length: int) -> list[Segment]:
    """Return first … last − 1 cut into segments of at most `length`."""
    return [(i, min(i + length, last)) for i in range(first, last, length)]


def sizes(n: int, most: int) -> list[int]:
    """Return the sizes of shards that hold n together, `most` each but perhaps the last."""
    return [stop - start for start, stop in cut(0, n, most)]


def require_least(settings: Any, what: str, **least: int) -> None:
    """Raise InputError, in one line, if a setting that is given is less than its least sensible value."""
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise InputError(f"{what}: {name} is {value}, give at least {bound}")


def require_positive(settings: Any, what: str, name: str) -> None:
    """Raise InputError, in one line, if a setting is not a positive number."""
    if not 0.0 < getattr(settings, name) < math.inf:
        raise InputError(f"{what}: {name} is {getattr(settings, name)}, give a positive number")


def require_finite(energy: Tensor, what: str) -> None:
    """Raise FloatingPointError, in one line, if an energy is not finite  # (replica,)."""
    n_bad = energy.numel() - int(energy.isfinite().sum())
    if n_bad:
        raise FloatingPointError(
            f"{what}: {n_bad} of {energy.numel()} energies are not finite: "
            "look for weights of the model that are infinite, NaN or too large for their precision"
        )


def representable(betas: Tensor) -> Tensor:
    """Return betas rounded to float32, as float64: what a kernel computes with is then what is reported."""
    return betas.to(torch.float32).to(torch.float64)
