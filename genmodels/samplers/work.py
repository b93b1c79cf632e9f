"""A shard of replicas on which work is done: β is moved at fixed x, then x at fixed β."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.paths import potential
from genmodels.protocols import Kernel
from genmodels.samplers.lowest import Lowest, lower
from genmodels.samplers.shards import Segment, require_finite
from genmodels.streams import Key


class Driven(NamedTuple):
    """The state of a shard."""

    particles: Any  # the kernel's state
    potential: Tensor  # (replica,): U at the start, at the β of the start, float64
    reference: Tensor  # (replica,): E_0 at the start, float64
    work: Tensor  # (replica,), so far, float64
    heat: Tensor  # (replica,): Σ β ΔE of the sweeps so far, float64


class Measured(NamedTuple):
    """What a shard saw in one segment; nats, float64."""

    work: Tensor  # (replica, step): since the start, after each step of β
    heat: Tensor  # (replica,): since the start: the change of U by all sweeps
    change: Tensor  # (replica,): of U, since the start
    energies: Tensor  # (replica,): E at the end
    best: Lowest
    n_updates: int


def draw(
    _: None, shard: int, n_replicas: int, model: Any, kernel: Kernel[Any], key: Key
) -> tuple[Driven, Measured]:
    """Return replicas drawn at β = 0, on which no work has been done."""
    return _driven(model, kernel, kernel.init(model, n_replicas, key.child("start").at(shard=shard)), 0.0)


def start(_: None, x: Tensor, model: Any, kernel: Kernel[Any], beta: float) -> tuple[Driven, Measured]:
    """Return replicas that start as x at β, on which no work has been done  # (replica, site)."""
    return _driven(model, kernel, kernel.start(model, x), beta)


def _driven(model: Any, kernel: Kernel[Any], particles: Any, beta: float) -> tuple[Driven, Measured]:
    x, energies = kernel.configuration(particles), particles.energy.double()
    require_finite(energies, f"Jarzynski, β = {beta:.4g}")
    zero, best = torch.zeros_like(energies), lower(None, kernel, particles)
    state = Driven(particles, _potential(model, x, beta), _potential(model, x, 0.0), zero, zero)
    return state, Measured(zero[:, None], zero, zero, energies, best, 0)


def _potential(model: Any, x: Tensor, beta: float) -> Tensor:
    with torch.no_grad():
        return potential(model, x, torch.tensor(beta)).double()


def advance(
    state: Driven,
    shard: int,
    steps: Segment,
    model: Any,
    kernel: Kernel[Any],
    betas: Tensor,
    n_sweeps: int,
    key: Key,
) -> tuple[Driven, Measured]:
    """Return the replicas after the steps first … last − 1; step t goes from betas[t] to betas[t + 1].

    Each but step 0, which finds equilibrium, begins with sweeps at betas[t]; the work on what they leave is
    (betas[t + 1] − betas[t])E. The βs rise, or fall on the way back.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    particles, work, heat, done, n_updates = state.particles, state.work, state.heat, [], 0
    best = lower(None, kernel, particles)
    for t in range(*steps):
        if t > 0:
            before, beta = particles.energy.double(), torch.full((len(work),), float(betas[t]))
            here = key.child("move").at(shard=shard, round=t)
            particles, info = kernel.advance(model, particles, beta, n_sweeps, here)
            heat = heat + betas[t] * (particles.energy.double() - before)
            best, n_updates = lower(best, kernel, particles), n_updates + info.n_updates
        require_finite(particles.energy, f"Jarzynski, β = {float(betas[t]):.4g}")
        work = work + charged(particles.energy.double(), betas, t)
        done.append(work)
    x, end = kernel.configuration(particles), float(betas[steps[1]])
    heat_and_reference = heat + _potential(model, x, 0.0) - state.reference
    change = _potential(model, x, end) - state.potential
    energies = particles.energy.double()
    seen = Measured(torch.stack(done, 1), heat_and_reference, change, energies, best, n_updates)
    return state._replace(particles=particles, work=work, heat=heat), seen


def charged(energies: Tensor, betas: Tensor, t: int) -> Tensor:
    """Return the work of step t, (β_{t+1} − β_t)E at fixed x  # (replica,)."""
    return (betas[t + 1] - betas[t]) * energies


def configurations(state: Driven, kernel: Kernel[Any]) -> tuple[Driven, Tensor]:
    """Return the configurations of all replicas  # (replica, site)."""
    return state, kernel.configuration(state.particles)
