"""A shard of population annealing: walkers that are weighted, resampled and moved."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.protocols import Kernel
from genmodels.samplers.shards import representable, require_finite
from genmodels.streams import Key

_HALVINGS = 40  # of the interval that holds the next β
_SMALLEST = 1e-5  # step, in units of the whole way: a pilot ends


class Population(NamedTuple):
    """The state of a shard: one population."""

    walkers: Any  # the kernel's state
    family: Tensor  # (walker,): the walker at β = 0 that each descends from


class Measured(NamedTuple):
    """What a population saw in some steps of β; float64."""

    log_ratio: Tensor  # (step,): log of the mean weight, log Z(β')/Z(β)
    ess: Tensor  # (step,): effective share of the walkers under the weights
    mean_energy: Tensor  # (step,): after the sweeps, nats at β = 1
    families: Tensor  # (step,): their effective number, 1/Σ n_i², n_i the share of family i
    n_updates: int


def start(
    _: None, shard: int, n_walkers: int, model: Any, kernel: Kernel[Any], key: Key
) -> tuple[Population, Tensor]:
    """Return walkers drawn at β = 0, each its own family, and their mean energy."""
    walkers = kernel.init(model, n_walkers, key.child("start").at(shard=shard))
    require_finite(walkers.energy, "population annealing, β = 0")
    return Population(walkers, torch.arange(n_walkers)), walkers.energy.double().mean()


def advance(
    state: Population,
    shard: int,
    steps: tuple[int, int],
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
    log_ratio, ess, mean_energy, families, n_updates = [], [], [], [], 0
    for i in range(*steps):
        log_w = log_weights(state.walkers.energy.double(), float(betas[i + 1] - betas[i]))
        here = key.at(shard=shard, round=i)
        state, n_attempted = _step(state, log_w, float(betas[i + 1]), n_sweeps, model, kernel, here)
        n_updates += n_attempted
        log_ratio.append(log_w.logsumexp(0) - math.log(len(log_w)))
        ess.append(effective_share(log_w))
        mean_energy.append(state.walkers.energy.double().mean())
        families.append(1.0 / shares(state.family).square().sum())
    return state, Measured(
        torch.stack(log_ratio), torch.stack(ess), torch.stack(mean_energy), torch.stack(families), n_updates
    )


def pilot(
    _: None,
    n_walkers: int,
    model: Any,
    kernel: Kernel[Any],
    ess: float,
    beta_max: float,
    n_sweeps: int,
    key: Key,
) -> tuple[None, tuple[Tensor, int]]:
    """Return βs from 0 to beta_max, each step leaving an effective share `ess`, and the updates made.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    state, _mean = start(None, 0, n_walkers, model, kernel, key)
    betas, n_updates = [0.0], 0
    while betas[-1] < beta_max:
        energy = state.walkers.energy.double()
        step = max(longest_step(energy, beta_max - betas[-1], ess), _SMALLEST * beta_max)
        betas.append(min(float(representable(torch.tensor(betas[-1] + step))), beta_max))
        log_w = log_weights(energy, betas[-1] - betas[-2])
        here = key.at(round=len(betas))
        state, n_attempted = _step(state, log_w, betas[-1], n_sweeps, model, kernel, here)
        n_updates += n_attempted
    return None, (torch.tensor(betas, dtype=torch.float64), n_updates)


def _step(
    state: Population, log_w: Tensor, beta: float, n_sweeps: int, model: Any, kernel: Kernel[Any], key: Key
) -> tuple[Population, int]:
    index = systematic(log_w, float(key.child("resample").numpy().random()))
    chosen, betas = kernel.select(state.walkers, index), torch.full((len(index),), beta)
    walkers, info = kernel.advance(model, chosen, betas, n_sweeps, key.child("move"))
    require_finite(walkers.energy, f"population annealing, β = {beta:.4g}")
    return Population(walkers, state.family[index]), info.n_updates


def shares(family: Tensor) -> Tensor:
    """Return the share n_i of each walker at β = 0 among its descendants' generation  # (walker,)."""
    return torch.bincount(family, minlength=len(family)).double() / len(family)


def log_weights(energy: Tensor, step: float) -> Tensor:
    """Return −Δβ E, the log of the weights but for a constant  # (walker,)."""
    return -step * energy


def effective_share(log_w: Tensor) -> Tensor:
    """Return (Σ w)²/(R Σ w²), between 1/R and 1  # (walker,) -> ()."""
    return (2.0 * log_w.logsumexp(0) - (2.0 * log_w).logsumexp(0)).exp() / len(log_w)


def longest_step(energy: Tensor, most: float, ess: float) -> float:
    """Return the longest Δβ ≤ most whose weights leave an effective share of at least `ess`, by bisection."""
    if effective_share(log_weights(energy, most)) >= ess:
        return most
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if effective_share(log_weights(energy, middle)) >= ess:
            low = middle
        else:
            high = middle
    return low


def systematic(log_w: Tensor, uniform: float) -> Tensor:
    """Return indices in which walker r occurs ⌊R w_r⌋ or ⌈R w_r⌉ times, R w_r on average  # (walker,).

    The points (u + i)/R, one random u in [0, 1), are looked up in the cumulative weights.
    """
    n = len(log_w)
    cumulative = log_w.softmax(0).cumsum(0)
    points = (torch.arange(n, dtype=torch.float64) + uniform) / n
    # Rounding can leave the last cumulative weight just below the last point.
    return torch.searchsorted(cumulative, points, right=True).clamp(max=n - 1)
