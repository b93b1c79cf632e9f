"""A shard of population annealing: walkers that are weighted, resampled and moved."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.protocols import Kernel, Placement
from genmodels.samplers import shards
from genmodels.samplers.lowest import Lowest, lower, rows
from genmodels.samplers.shards import Report, Segment, require_finite
from genmodels.streams import Key


class Population(NamedTuple):
    """The state of a shard: one population."""

    walkers: Any  # the kernel's state
    family: Tensor  # (walker,): the walker at β = 0 that each descends from


class Measured(NamedTuple):
    """What a population saw in some steps of β, and what it is after them; float64."""

    log_ratio: Tensor  # (step,): log of the mean weight, log Z(β')/Z(β)
    ess: Tensor  # (step,): effective share of the walkers under the weights
    mean_energy: Tensor  # (step,): after the sweeps, nats at β = 1
    families: Tensor  # (step,): their effective number, 1/Σ n_i², n_i the share of family i
    entropy: Tensor  # (step,): −Σ n_i log n_i, nats
    energies: Tensor  # (walker,), at the end
    family: Tensor  # (walker,), at the end
    mean_x: Tensor  # (site,), at the end
    best: Lowest
    n_updates: int


class Held(NamedTuple):
    """A shard at the end of a run."""

    state: Any  # a handle of a Population
    n_walkers: int


def run(
    n_populations: int,
    n_walkers: int,
    segment: int,
    model: Any,
    kernel: Kernel[Any],
    betas: Tensor,
    n_sweeps: int,
    key: Key,
    placement: Placement,
    report: Report,
) -> tuple[list[list[Held]], list[list[Measured]]]:
    """Anneal populations of one shard each, none of them waiting for another.

    Args:
        n_populations: Independent ones.
        n_walkers: Of each.
        segment: Steps a task.
        model: A handle.
        kernel: What moves the walkers.
        betas: The steps, from 0 up  # (step,)
        n_sweeps: Sweeps at each β.
        key: The stream of the run.
        placement: Where it runs.
        report: Is told of the steps done; once it says stop, no more are started.

    Returns:
        The shards at the end (population, shard), and what they saw, β = 0 first (population, segment).

    Raises:
        FloatingPointError: an energy is not finite.
    """
    nothing, settings = placement.put(None), (n_walkers, model, kernel, key)
    started = [placement.submit(start, nothing, shard, *settings) for shard in range(n_populations)]
    first = [placement.fetch(measured) for _, measured in started]
    states = [state for state, _ in started]
    segments = shards.cut(0, 0 if report.stopped else len(betas) - 1, segment)
    small = (model, kernel, betas, n_sweeps, key)
    states, seen = shards.run(placement, advance, states, segments, *small, report=report)
    parts = [[one, *more] for one, more in zip(first, seen, strict=True)]
    return [[Held(state, n_walkers)] for state in states], parts


def start(
    _: None, shard: int, n_walkers: int, model: Any, kernel: Kernel[Any], key: Key
) -> tuple[Population, Measured]:
    """Return walkers drawn at β = 0, each its own family, and what they are: a step without weights.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    walkers = kernel.init(model, n_walkers, key.child("start").at(shard=shard))
    require_finite(walkers.energy, "population annealing, β = 0")
    state, one = Population(walkers, torch.arange(n_walkers)), torch.ones(1, dtype=torch.float64)
    seen = [(torch.zeros_like(one[0]), one[0], *figures(walkers.energy, state.family))]
    return state, _measured(state, seen, kernel, None, 0)


def advance(
    state: Population,
    shard: int,
    steps: Segment,
    model: Any,
    kernel: Kernel[Any],
    betas: Tensor,
    n_sweeps: int,
    key: Key,
) -> tuple[Population, Measured]:
    """Return the population after the steps first … last − 1; step i goes from betas[i] to betas[i + 1].

    Raises:
        FloatingPointError: an energy is not finite.
    """
    seen, best, n_updates = [], None, 0
    for i in range(*steps):
        log_w = log_weights(state.walkers.energy.double(), float(betas[i + 1] - betas[i]))
        here = key.at(shard=shard, round=i)
        state, n_attempted = step(state, log_w, float(betas[i + 1]), n_sweeps, model, kernel, here)
        n_updates += n_attempted
        best = lower(best, kernel, state.walkers)
        after = figures(state.walkers.energy, state.family)
        seen.append((log_mean_weight(log_w), effective_share(log_w), *after))
    return state, _measured(state, seen, kernel, best, n_updates)


def figures(energy: Tensor, family: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean energy, the effective number of families and their entropy  # (walker,), (walker,)."""
    n, counts = len(family), torch.bincount(family).double()
    entropy = torch.special.entr(counts / n).sum()
    return energy.double().mean(), n * n / counts.square().sum(), entropy


def _measured(
    state: Population,
    seen: Sequence[tuple[Tensor, ...]],
    kernel: Kernel[Any],
    best: Lowest | None,
    n_updates: int,
) -> Measured:
    columns = [torch.stack(column) for column in zip(*seen, strict=True)]
    mean_x, best = kernel.configuration(state.walkers).double().mean(0), lower(best, kernel, state.walkers)
    log_ratio, ess, mean_energy, families, entropy = columns
    energies = state.walkers.energy.double()
    return Measured(
        log_ratio, ess, mean_energy, families, entropy, energies, state.family, mean_x, best, n_updates
    )


def pick(state: Population, walkers: Tensor, kernel: Kernel[Any]) -> tuple[Population, Tensor]:
    """Return the configurations of some walkers  # (those, site)."""
    return state, rows(kernel, state.walkers, walkers)


def step(
    state: Population, log_w: Tensor, beta: float, n_sweeps: int, model: Any, kernel: Kernel[Any], key: Key
) -> tuple[Population, int]:
    """Return the population resampled by its weights and moved at the new β, and the updates attempted.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    index = systematic(log_w, float(key.child("resample").numpy().random()))
    chosen = kernel.select(state.walkers, index)
    walkers, n_updates = move(chosen, beta, n_sweeps, model, kernel, key)
    return Population(walkers, state.family[index]), n_updates


def move(
    walkers: Any, beta: float, n_sweeps: int, model: Any, kernel: Kernel[Any], key: Key
) -> tuple[Any, int]:
    """Return the walkers after their sweeps at β, and the updates attempted.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    betas = torch.full((len(walkers.energy),), beta)
    walkers, info = kernel.advance(model, walkers, betas, n_sweeps, key.child("move"))
    require_finite(walkers.energy, f"population annealing, β = {beta:.4g}")
    return walkers, info.n_updates


def log_weights(energy: Tensor, step: float) -> Tensor:
    """Return −Δβ E, the log of the weights but for a constant  # (walker,)."""
    return -step * energy


def log_mean_weight(log_w: Tensor) -> Tensor:
    """Return log (1/R) Σ w, which estimates log Z(β')/Z(β)  # (walker,) -> ()."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def effective_share(log_w: Tensor) -> Tensor:
    """Return (Σ w)²/(R Σ w²), between 1/R and 1  # (walker,) -> ()."""
    return (2.0 * log_w.logsumexp(0) - (2.0 * log_w).logsumexp(0)).exp() / len(log_w)


def systematic(log_w: Tensor, uniform: float) -> Tensor:
    """Return indices in which walker r occurs ⌊R w_r⌋ or ⌈R w_r⌉ times, R w_r on average  # (walker,)."""
    return placed(copies(log_w, uniform))


def copies(log_w: Tensor, uniform: float) -> Tensor:
    """Return ⌊R w_r⌋ or ⌈R w_r⌉ copies of walker r, R w_r on average and R together  # (walker,).

    The points (u + i)/R, one random u in [0, 1), are looked up in the cumulative weights.
    """
    n = len(log_w)
    cumulative = log_w.softmax(0).cumsum(0)
    points = (torch.arange(n, dtype=torch.float64) + uniform) / n
    # Rounding can leave the last cumulative weight just below the last point.
    found = torch.searchsorted(cumulative, points, right=True).clamp(max=n - 1)
    return torch.bincount(found, minlength=n)


def placed(copies: Tensor) -> Tensor:
    """Return indices in which walker r occurs copies[r] times  # (walker,) -> (copy,).

    Who survives keeps its place, as far as there are places; the others fill, in order, those that are free.
    """
    walkers, index = torch.arange(len(copies)), torch.arange(int(copies.sum()))
    keeps = (copies > 0) & (walkers < len(index))
    free = torch.ones(len(index), dtype=torch.bool)
    free[walkers[keeps]] = False
    index[free] = walkers.repeat_interleave(copies - keeps.long())
    return index
