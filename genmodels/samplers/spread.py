"""Populations that are spread over several shards each, resampled as wholes.

Between two sweeps only energies, families and copies are sent, unless some shards have grown at the cost of
others: then walkers go from full to short ones, without a stop at the process that directs them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.protocols import Kernel, Placement
from genmodels.samplers import population
from genmodels.samplers.lowest import Lowest, lower, lowest
from genmodels.samplers.population import Held, Measured, Population
from genmodels.samplers.resampling import Plan, plan
from genmodels.samplers.shards import Report
from genmodels.streams import Key


class Seen(NamedTuple):
    """What a shard holds after a step."""

    energies: Tensor  # (walker,), float64, nats at β = 1
    family: Tensor  # (walker,)
    best: Lowest
    n_updates: int


class Gift(NamedTuple):
    """Walkers on their way from one shard to another."""

    x: Tensor  # (walker, site)
    family: Tensor  # (walker,)


def start(
    nothing: None, shard: int, first: int, n_walkers: int, model: Any, kernel: Kernel[Any], key: Key
) -> tuple[Population, Seen]:
    """Return walkers drawn at β = 0; their families are numbered from `first`.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    state, _ = population.start(nothing, shard, n_walkers, model, kernel, key)
    state = state._replace(family=state.family + first)
    return state, _seen(state, kernel, 0)


def give(state: Population, walkers: Tensor, kernel: Kernel[Any]) -> tuple[Gift, None]:
    """Return walkers for another shard; none is taken from this one."""
    return Gift(population.pick(state, walkers, kernel)[1], state.family[walkers]), None


def advance(
    state: Population,
    stay: Tensor,
    beta: float,
    n_sweeps: int,
    model: Any,
    kernel: Kernel[Any],
    key: Key,
    *gifts: Gift,
) -> tuple[Population, Seen]:
    """Return the walkers of a shard that stay, as often as they occur, and those given, moved at the new β.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    walkers, family = kernel.select(state.walkers, stay), state.family[stay]
    if gifts:
        x = torch.cat([kernel.configuration(walkers), *(gift.x for gift in gifts)])
        walkers, family = kernel.start(model, x), torch.cat([family, *(gift.family for gift in gifts)])
    walkers, n_updates = population.move(walkers, beta, n_sweeps, model, kernel, key)
    state = Population(walkers, family)
    return state, _seen(state, kernel, n_updates)


def _seen(state: Population, kernel: Kernel[Any], n_updates: int) -> Seen:
    best = lower(None, kernel, state.walkers)
    return Seen(state.walkers.energy.double(), state.family, best, n_updates)


def x_sum(state: Population, kernel: Kernel[Any]) -> tuple[None, Tensor]:
    """Return the sum of the configurations  # (site,), float64."""
    return None, kernel.configuration(state.walkers).double().sum(0)


def judge(
    _: None, log_ratio: Tensor, ess: Tensor, step: float | None, uniform: float, *seen: Seen
) -> tuple[None, tuple[Measured, Plan | None]]:
    """Return what a population is, and the plan of its next step unless `step` is None.

    Walkers and their mean, which matter at the end only, are left out. This is a task too: torch splits long
    sums among its threads, and a task has one of them everywhere.

    Args:
        log_ratio: log of the mean weight of the step that led here  # ()
        ess: Effective share of the walkers under those weights  # ()
        step: β' − β of the next step.
        uniform: A random number in [0, 1) for the next step.
        *seen: What the shards hold.
    """
    energies, family = _joined(seen)
    mean_energy, families, entropy = (each[None] for each in population.figures(energies, family))
    none, best = torch.empty(0), lowest(each.best for each in seen)
    n_updates = sum(each.n_updates for each in seen)
    measured = Measured(
        log_ratio[None], ess[None], mean_energy, families, entropy, none, none, none, best, n_updates
    )
    if step is None:
        return None, (measured, None)
    log_w = population.log_weights(energies, step)
    return None, (measured, plan(log_w, [len(each.energies) for each in seen], uniform))


def _joined(seen: Sequence[Seen]) -> tuple[Tensor, Tensor]:
    """Return energies and families of all walkers, shard after shard  # (walker,), (walker,)."""
    return torch.cat([each.energies for each in seen]), torch.cat([each.family for each in seen])


class _Course:
    """One population on its way.

    Attributes:
        tasks: By the number of steps done, handles of what its shards are and of what was seen of them.
        parts: What is known of it after each step.
    """

    def __init__(self, number: int, placement: Placement, report: Report) -> None:
        self.number, self.placement, self.report = number, placement, report
        self.tasks: dict[int, list[tuple[Any, Any]]] = {}
        self.parts: list[Measured] = []

    def steps(
        self,
        shares: Sequence[int],
        model: Any,
        kernel: Kernel[Any],
        betas: Tensor,
        n_sweeps: int,
        key: Key,
    ) -> Iterator[Any]:
        """Anneal; yield handles of what has to be done before this goes on."""
        submit, nothing, first = self.placement.submit, self.placement.put(None), 0
        self.tasks[0] = []
        for stream, n in zip(self._streams(len(shares)), shares, strict=True):
            self.tasks[0].append(submit(start, nothing, stream, first, n, model, kernel, key))
            first += n
        weights = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        for i in range(len(betas)):
            seen = [result for _, result in self.tasks[i]]
            step = float(betas[i + 1] - betas[i]) if i + 1 < len(betas) else None
            here = key.at(shard=self.number, round=i)
            uniform = float(here.child("resample").numpy().random())
            judged = submit(judge, nothing, *weights, step, uniform, *seen)[1]
            yield judged
            measured, planned = self.placement.fetch(judged)
            self.parts.append(measured)
            if i > 0:
                self.report((i - 1, i), measured)
            if planned is None or self.report.stopped:
                return
            weights, states = (planned.log_ratio, planned.ess), [state for state, _ in self.tasks[i]]
            small = (float(betas[i + 1]), n_sweeps, model, kernel, here)
            self.tasks[i + 1] = self._follow(planned, states, *small)

    def _streams(self, n_shards: int) -> range:
        """Return the numbers that tell the shards' random streams from those of other populations."""
        return range(self.number * n_shards, (self.number + 1) * n_shards)

    def _follow(
        self,
        plan: Plan,
        states: list[Any],
        beta: float,
        n_sweeps: int,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
    ) -> list[tuple[Any, Any]]:
        """Start the tasks of a step, those of the walkers that move first."""
        submit = self.placement.submit
        gifts: list[list[Any]] = [[] for _ in states]
        for source, target, walkers in plan.moves:
            gifts[target].append(submit(give, states[source], walkers, kernel)[0])
        keys = [key.at(shard=stream) for stream in self._streams(len(states))]
        each = zip(states, plan.stay, keys, gifts, strict=True)
        return [
            submit(advance, state, stay, beta, n_sweeps, model, kernel, own, *given)
            for state, stay, own, given in each
        ]

    def end(self, step: int, kernel: Kernel[Any]) -> list[Held]:
        """Look at the walkers after what shall be the last step, and return where they are."""
        fetch, tasks = self.placement.fetch, self.tasks[step]
        sums = [self.placement.submit(x_sum, state, kernel)[1] for state, _ in tasks]
        seen = [fetch(result) for _, result in tasks]
        energies, family = _joined(seen)
        mean_x = sum(fetch(each) for each in sums) / len(energies)
        self.parts[step] = self.parts[step]._replace(energies=energies, family=family, mean_x=mean_x)
        return [Held(state, len(each.energies)) for (state, _), each in zip(tasks, seen, strict=True)]


def run(
    n_populations: int,
    shares: Sequence[int],
    model: Any,
    kernel: Kernel[Any],
    betas: Tensor,
    n_sweeps: int,
    key: Key,
    placement: Placement,
    report: Report,
) -> tuple[list[list[Held]], list[list[Measured]]]:
    """Anneal populations of several shards each; as `population.run`, but for the shards' fair `shares`.

    A population goes on as soon as all of its own shards are done; they take turns, as many at a time as the
    placement has room for.
    """
    betas = betas[:1] if report.stopped else betas
    courses = [_Course(m, placement, report) for m in range(n_populations)]
    steps = [course.steps(shares, model, kernel, betas, n_sweeps, key) for course in courses]
    waiting, awaited, least = deque(range(n_populations)), dict[int, Any](), 0
    at_once = max(1, placement.room // len(shares))
    while waiting or awaited:
        while waiting and len(awaited) < at_once:
            m = waiting.popleft()
            if (handle := next(steps[m], None)) is not None:
                awaited[m] = handle
        order = list(awaited)
        for m in [order[i] for i in placement.wait([awaited[m] for m in order])]:
            del awaited[m]
            waiting.append(m)
        least = min(len(course.parts) for course in courses)
        for course in courses:  # shards that nobody can go back to make room
            course.tasks = {done: tasks for done, tasks in course.tasks.items() if done + 1 >= least}
    return [course.end(least - 1, kernel) for course in courses], [course.parts[:least] for course in courses]
