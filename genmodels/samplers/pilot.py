"""A pilot population that chooses the steps of β for others: each is as hard for the walkers as the next."""

from typing import Any

import torch
from torch import Tensor

from genmodels.protocols import Kernel, Placement
from genmodels.samplers.lowest import Lowest, lower, lowest
from genmodels.samplers.population import Population, effective_share, log_weights, start, step
from genmodels.samplers.shards import Report, representable, segment
from genmodels.streams import Key

_HALVINGS = 40  # of the interval that holds the next β
_SMALLEST = 1e-5  # step, in units of the whole way: a pilot ends
_STEPS = 200  # that a pilot may be expected to take


def steps(
    model: Any,
    kernel: Kernel[Any],
    n_walkers: int,
    ess: float,
    beta_max: float,
    n_sweeps: int,
    key: Key,
    placement: Placement,
    report: Report,
) -> tuple[Tensor, Lowest, int]:
    """Return βs from 0 to beta_max, each step leaving an effective share `ess` of the walkers.

    Args:
        model: A handle of it.
        kernel: What moves the walkers.
        n_walkers: Size of the population.
        ess: (Σ τ)²/(R Σ τ²) of the weights τ of a step.
        beta_max: The last β.
        n_sweeps: Sweeps at each β.
        key: The stream of the pilot.
        placement: Where it runs.
        report: Is told of the β reached; once it says stop, the βs end there.

    Returns:
        The βs (step,), the lowest energy met and the number of updates.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    nothing = placement.put(None)
    state, first = placement.submit(start, nothing, 0, n_walkers, model, kernel, key)
    betas, best, n_updates = [0.0], placement.fetch(first).best, 0
    while betas[-1] < beta_max and not report.stopped:
        state, result = placement.submit(advance, state, betas, model, kernel, ess, beta_max, n_sweeps, key)
        betas, met, n_attempted = placement.fetch(result)
        best, n_updates, report.figures = lowest([best, met]), n_updates + n_attempted, {"pilot": betas[-1]}
        report.tell()
    report.figures = {}
    return torch.tensor(betas, dtype=torch.float64), best, n_updates


def advance(
    state: Population,
    betas: list[float],
    model: Any,
    kernel: Kernel[Any],
    ess: float,
    beta_max: float,
    n_sweeps: int,
    key: Key,
) -> tuple[Population, tuple[list[float], Lowest, int]]:
    """Return the population some steps on, with all βs so far, the lowest energy met and the updates made.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    betas, best, n_updates = list(betas), lower(None, kernel, state.walkers), 0
    n_walkers = len(state.walkers.energy)
    last = len(betas) + segment(_STEPS, n_walkers * model.n_sites * n_sweeps)
    while betas[-1] < beta_max and len(betas) < last:
        energy = state.walkers.energy.double()
        longest = max(longest_step(energy, beta_max - betas[-1], ess), _SMALLEST * beta_max)
        betas.append(min(float(representable(torch.tensor(betas[-1] + longest))), beta_max))
        log_w = log_weights(energy, betas[-1] - betas[-2])
        here = key.at(round=len(betas))
        state, n_attempted = step(state, log_w, betas[-1], n_sweeps, model, kernel, here)
        best, n_updates = lower(best, kernel, state.walkers), n_updates + n_attempted
    return state, (betas, best, n_updates)


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
