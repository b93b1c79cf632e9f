"""Ladders of replica exchange in parts: for systems too large, or energies too slow, for one worker.

The replicas of a group of ladders are held in parts that sweep beside each other. After a round each part
tells its energies; here the βs are swapped, no configuration moves, and the next round of that group begins:
no group waits for another. What happens in a round is a function of the group, the round and the key.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.protocols import Kernel, Placement
from genmodels.samplers import ladder, shards
from genmodels.samplers.lowest import Lowest, lower, lowest, rows
from genmodels.samplers.shards import Segment
from genmodels.streams import Key

N_TASKS = 200  # segments of a run: they cost nothing here, and a run can stop after each


class Groups:
    """A placement for shards that are groups of ladders in parts, on the placement of the parts."""

    def __init__(self, placement: Placement, n_rungs: int, per_part: int) -> None:
        """Wrap `placement`, for ladders of so many rungs, with so many of their replicas in a part."""
        self.inner, self.n_workers, self.gpus = placement, placement.n_workers, placement.gpus
        self.sizes = shards.sizes(n_rungs, per_part)  # (part,)

    @property
    def n_failures(self) -> int:
        """Number of tasks that had to be done again because their worker was lost."""
        return self.inner.n_failures

    @property
    def room(self) -> int:
        """Number of groups that may be under way at once, each with a task for every part."""
        return max(1, self.inner.room // len(self.sizes))

    def put(self, state: Any) -> Any:
        """Return a handle to `state` where the workers can reach it."""
        return self.inner.put(state)

    def submit(self, fn: Callable[..., Any], handle: Any, *small: Any) -> tuple[Any, Any]:
        """Start in parts what `ladder.start` or `ladder.advance` do; one handle is that of both results."""
        begun = _IN_PARTS[fn](self, handle, *small)
        return begun, begun

    def wait(self, handles: Sequence[Any]) -> list[int]:
        """Return the indices of segments that are done, at least one; all are kept going until then."""
        while handles and all(course.measured is None for course in handles):
            pending = [(course, part) for course in handles for part in course.pending]
            for i in self.inner.wait([course.pending[part] for course, part in pending]):
                course, part = pending[i]
                course.take(part, self.inner.fetch(course.pending[part]))
        return [i for i, course in enumerate(handles) if course.measured is not None]

    def fetch(self, handle: Any) -> Any:
        """Return what the ladders saw in a segment that is done."""
        return handle.measured

    def close(self) -> None:
        """Leave the placement of the parts to whoever opened it."""


class Group(NamedTuple):
    """Some ladders between two rounds; part p holds the replicas offsets[p] … offsets[p + 1] − 1 of each."""

    parts: list[Any]  # handles of the kernel's states, in which the replicas of a ladder stand together
    offsets: list[int]
    replica: Tensor  # (ladder, rung): which replica is on the rung
    heading: Tensor  # (ladder, replica): as of `ladder.Ladders`
    best: Lowest


class Course:
    """A group on its way through the rounds of a segment.

    Attributes:
        group: Where it has come to.
        pending: Handles of what its parts see in the round under way, by part.
        measured: What was seen; None before the end.
    """

    measured: ladder.Measured | None = None

    def __init__(
        self,
        groups: Groups,
        before: "Group | Course",
        number: int,
        rounds: Segment,
        model: Any,
        kernel: Kernel[Any],
        betas: Tensor,
        n_sweeps: int,
        key: Key,
    ) -> None:
        """Begin the first round; the arguments are those of `ladder.advance`."""
        self.group: Group = before.group if isinstance(before, Course) else before
        self.pending: dict[int, Any] = {}
        self._inner, self._number, self._rounds = groups.inner, number, rounds
        self._swaps = ladder.Swaps(self.group.replica, self.group.heading, betas, key.at(shard=number))
        self._small, self._n_updates = (model, kernel, n_sweeps, key), 0
        self._begin(rounds[0])

    def _begin(self, i: int) -> None:
        self._round, self._swept = i, dict[int, Swept]()
        # The last swap decides which of two replicas is at the last β in the end.
        self._top = self._swaps.replica[:, -2 if self._is_last else -1 :]
        parts, beta = list(self.group.parts), self._swaps.beta
        for part, handle in enumerate(self.group.parts):
            held = slice(*self.group.offsets[part : part + 2])
            small = (self._number * len(parts) + part, i, beta[:, held], self._among(part)[1])
            best = self.group.best.energy
            parts[part], self.pending[part] = self._inner.submit(sweep, handle, *small, best, *self._small)
        self.group = self.group._replace(parts=parts)

    @property
    def _is_last(self) -> bool:
        return self._round == self._rounds[1] - 1

    def _among(self, part: int) -> tuple[Tensor, Tensor]:
        """Return which of all `_top` replicas a part holds, and their numbers there  # (those,) twice."""
        first, end = self.group.offsets[part : part + 2]
        numbers = torch.arange(len(self._top))[:, None] * (end - first) + self._top - first
        inside = (self._top >= first) & (self._top < end)
        return inside.flatten().nonzero()[:, 0], numbers[inside]

    def take(self, part: int, swept: "Swept") -> None:
        """Take what a part saw; after all parts the round ends with swaps, and the next one begins."""
        del self.pending[part]
        self._swept[part] = swept
        if self.pending:
            return
        every = [self._swept[part] for part in range(len(self.group.parts))]
        self._n_updates += sum(each.n_updates for each in every)
        where = torch.cat([self._among(part)[0] for part in range(len(every))])
        x = torch.cat([each.x for each in every])[where.argsort()].view(*self._top.shape, -1)
        self._swaps.swap(self._round, torch.cat([each.energies for each in every], 1), x[:, -1])
        replica, best = self._swaps.replica, lowest([self.group.best, *(each.best for each in every)])
        self.group = self.group._replace(replica=replica, heading=self._swaps.heading, best=best)
        if self._is_last:
            stayed = (replica[:, -1] == self._top[:, -1])[:, None]
            self.measured = self._swaps.measured(
                torch.where(stayed, x[:, -1], x[:, 0]), best, self._n_updates
            )
        else:
            self._begin(self._round + 1)


def start(
    groups: Groups,
    _: Any,
    number: int,
    n_ladders: int,
    model: Any,
    kernel: Kernel[Any],
    n_rungs: int,
    key: Key,
) -> Group:
    """Return ladders whose replicas are all drawn at β = 0; the arguments are those of `ladder.start`."""
    held, nothing = groups.sizes, groups.put(None)
    parts = [
        groups.inner.submit(draw, nothing, number * len(held) + part, n_ladders * n, model, kernel, key)[0]
        for part, n in enumerate(held)
    ]
    offsets = [sum(held[:part]) for part in range(len(held) + 1)]
    return Group(parts, offsets, *ladder.places(n_ladders, n_rungs), Lowest(math.inf, torch.empty(0)))


_IN_PARTS: dict[Callable[..., Any], Callable[..., Any]] = {ladder.start: start, ladder.advance: Course}


# A part, on a worker


class Swept(NamedTuple):
    """What a part saw in one round."""

    energies: Tensor  # (ladder, replica held), nats at β = 1, float64
    x: Tensor  # (those asked for, site)
    best: Lowest  # without a configuration if the group has met one as low before
    n_updates: int


def draw(_: None, shard: int, n_replicas: int, model: Any, kernel: Kernel[Any], key: Key) -> tuple[Any, None]:
    """Return a part's replicas, drawn at β = 0."""
    return kernel.init(model, n_replicas, key.child("start").at(shard=shard)), None


def sweep(
    particles: Any,
    shard: int,
    i: int,
    beta: Tensor,
    wanted: Tensor,
    so_far: float,
    model: Any,
    kernel: Kernel[Any],
    n_sweeps: int,
    key: Key,
) -> tuple[Any, Swept]:
    """Return a part after the sweeps of round i.

    Args:
        particles: The part.
        shard: Its number among the parts of all groups.
        i: Which round.
        beta: Of its replicas  # (ladder, replica held)
        wanted: The replicas whose configurations are asked for  # (those,)
        so_far: The lowest energy that the group has met, nats at β = 1.
        model: With an energy.
        kernel: What moves the replicas.
        n_sweeps: How many sweeps.
        key: The stream of the run.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    best = lower(Lowest(so_far, torch.empty(0)), kernel, particles)  # draws at β = 0 count
    particles, n_updates = ladder.sweep(particles, shard, i, beta.flatten(), model, kernel, n_sweeps, key)
    best, energies = lower(best, kernel, particles), particles.energy.double().view_as(beta)
    return particles, Swept(energies, rows(kernel, particles, wanted), best, n_updates)
