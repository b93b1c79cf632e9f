"""A shard of simulated tempering: chains in the space of configurations and temperatures together."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.protocols import Kernel
from genmodels.samplers.lowest import Lowest, lower, lowest, rows
from genmodels.samplers.shards import Segment, require_finite
from genmodels.streams import Key

_ITERATIONS = 50  # of the equations for the weights; they start near the solution
_DRAWS = 20_000  # energies that the weights are learned from, at most


class Chains(NamedTuple):
    """The state of a shard."""

    particles: Any  # the kernel's state
    rung: Tensor  # (chain,): the place of its β on the ladder
    heading: Tensor  # (chain,): +1 met β = 0 last, −1 met the last β after it, 0 neither yet


class Walked(NamedTuple):
    """What a shard saw on its way up to the rungs where its chains start."""

    sum_energy: Tensor  # (rung,), float64
    n_energies: Tensor  # (rung,), float64
    best: Lowest
    n_updates: int


class Measured(NamedTuple):
    """What a shard saw in one segment."""

    energies: Tensor  # (chain, round), nats at β = 1, float64, after the sweeps of a round
    rung: Tensor  # (chain, round): where they were measured
    round_trips: Tensor  # (chain,): from β = 0 to the last β and back
    x_sum: Tensor  # (chain, site): over the rounds at the last β, float64
    best: Lowest
    n_updates: int


def start(
    _: None, shard: int, rung: Tensor, model: Any, kernel: Kernel[Any], betas: Tensor, n_sweeps: int, key: Key
) -> tuple[Chains, Walked]:
    """Return chains on given rungs, each taken up to it from β = 0, `n_sweeps` sweeps a rung.

    They go on for as many rounds again; the energies of a rung are those of all chains that come by.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    particles = kernel.init(model, len(rung), key.child("start").at(shard=shard))
    best, n_updates = lower(None, kernel, particles), 0
    total, count = torch.zeros_like(betas), torch.zeros_like(betas)
    for t in range(2 * len(betas)):
        at = rung.clamp(max=t)
        here = key.child("walk").at(shard=shard, round=t)
        particles, info = kernel.advance(model, particles, betas[at].float(), n_sweeps, here)
        require_finite(particles.energy, f"simulated tempering, on the way up, rung {t}")
        total.index_add_(0, at, particles.energy.double())
        count.index_add_(0, at, torch.ones(len(at), dtype=torch.float64))
        best, n_updates = lower(best, kernel, particles), n_updates + info.n_updates
    state = Chains(particles, rung, torch.zeros(len(rung), dtype=torch.int8))
    return state, Walked(total, count, best, n_updates)


def advance(
    state: Chains,
    shard: int,
    rounds: Segment,
    model: Any,
    kernel: Kernel[Any],
    betas: Tensor,
    g: Tensor,
    n_sweeps: int,
    key: Key,
) -> tuple[Chains, Measured]:
    """Return the chains after the rounds first … last − 1, each `n_sweeps` sweeps and then a move of β.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    particles, rung, heading = state.particles, state.rung, state.heading.clone()
    moves, ladder = key.child("move").at(shard=shard), key.child("ladder").at(shard=shard)
    x_sum = torch.zeros(len(rung), model.n_sites, dtype=torch.float64)
    energies, at, trips = [], [], torch.zeros(len(rung), dtype=torch.int64)
    best, n_updates = lower(None, kernel, particles), 0
    for i in range(*rounds):
        particles, info = kernel.advance(model, particles, betas[rung].float(), n_sweeps, moves.at(round=i))
        require_finite(particles.energy, f"simulated tempering, round {i + 1}")
        best, n_updates = lower(best, kernel, particles), n_updates + info.n_updates
        energies.append(particles.energy.double())
        at.append(rung)
        top = (rung == len(betas) - 1).nonzero()[:, 0]
        if len(top):
            x_sum[top] += rows(kernel, particles, top).double()
        way, uniform = torch.from_numpy(ladder.at(round=i).numpy().random((2, len(rung))))
        to = proposed(rung, 2 * (way < 0.5).long() - 1, len(betas))
        rung = torch.where(uniform < log_acceptance(rung, to, energies[-1], betas, g).exp(), to, rung)
        trips += turn(heading, rung, len(betas))
    seen = Measured(torch.stack(energies, 1), torch.stack(at, 1), trips, x_sum, best, n_updates)
    return Chains(particles, rung, heading), seen


def proposed(rung: Tensor, step: Tensor, n_rungs: int) -> Tensor:
    """Return the rungs one step up or down; a step off the ladder is none  # (chain,), step ±1."""
    to = rung + step
    return torch.where((to < 0) | (to >= n_rungs), rung, to)


def log_acceptance(rung: Tensor, to: Tensor, energies: Tensor, betas: Tensor, g: Tensor) -> Tensor:
    """Return log min(1, exp[−(β_l − β_k)E + g_l − g_k]) of moves from the rungs k to l  # (chain,)."""
    return (g[to] - g[rung] - (betas[to] - betas[rung]) * energies).clamp(max=0.0)


def turn(heading: Tensor, rung: Tensor, n_rungs: int) -> Tensor:
    """Note in `heading` who is at an end of the ladder; return the round trips that ended  # (chain,)."""
    bottom, top = rung == 0, rung == n_rungs - 1
    ended = bottom & (heading == -1)
    heading[bottom] = 1
    heading[top] = -heading[top].abs()
    return ended.long()


def pooled(parts: Sequence[Measured], last: Measured) -> Measured:
    """Return what a shard saw in some segments, perhaps none, after its `last` one."""
    first = last._replace(
        energies=last.energies[:, :0],
        rung=last.rung[:, :0],
        round_trips=torch.zeros_like(last.round_trips),
        x_sum=torch.zeros_like(last.x_sum),
        n_updates=0,
    )
    return functools.reduce(joined, parts, first)


def joined(one: Measured, other: Measured) -> Measured:
    """Return what a shard saw in two segments, one after the other."""
    return Measured(
        torch.cat([one.energies, other.energies], 1),
        torch.cat([one.rung, other.rung], 1),
        one.round_trips + other.round_trips,
        one.x_sum + other.x_sum,
        lowest([one.best, other.best]),
        one.n_updates + other.n_updates,
    )


# The weights


def integrated(betas: Tensor, energies: Tensor) -> Tensor:
    """Return g_{k+1} = g_k + ½(⟨E⟩_{k+1} + ⟨E⟩_k)(β_{k+1} − β_k) from mean energies, g_0 = 0  # (rung,)."""
    steps = 0.5 * (energies[1:] + energies[:-1]) * betas.diff()
    return torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])


def learned(rung: Tensor, energies: Tensor, betas: Tensor, g: Tensor, at: Tensor) -> Tensor:
    """Return g(β) = −log Z(β)/Z(0) at other temperatures from energies met on the rungs.

    Z(β) = Σ_E exp(−βE)/Σ_l N_l exp(−β_l E + g_l), N_l the number of energies from rung l; g_l = −log Z(β_l)
    solves the same equations: the chains need not yet be spread as g says. Shirts & Chodera 2008.

    Args:
        rung: Where the energies were met  # (…,)
        energies: Nats at β = 1  # (…,)
        betas: The ladder  # (rung,)
        g: A guess of the weights  # (rung,)
        at: The temperatures asked for, from 0 up  # (β,)
    """
    stride = max(1, rung.numel() // _DRAWS)
    rung, energies = rung.flatten()[::stride], energies.flatten()[::stride]
    log_n = torch.bincount(rung, minlength=len(betas)).double().log()
    for _ in range(_ITERATIONS):
        log_mixture = torch.logsumexp(log_n + g - energies[:, None] * betas, 1)
        g = -torch.logsumexp(-energies[:, None] * betas - log_mixture[:, None], 0)
        g = g - g[0]
    log_mixture = torch.logsumexp(log_n + g - energies[:, None] * betas, 1)
    g = -torch.logsumexp(-energies[:, None] * at - log_mixture[:, None], 0)
    return g - g[0]


def acceptance(rung: Tensor, energies: Tensor, betas: Tensor, g: Tensor) -> Tensor:
    """Return the mean probability that a proposed move between neighbours is accepted  # (rung − 1,).

    Of both directions, over all rounds on the two rungs; nan where there were none.
    """
    rung, energies = rung.flatten(), energies.flatten()
    total, count = torch.zeros(len(betas) - 1, dtype=torch.float64), torch.zeros(len(betas) - 1)
    for step, inside in ((1, rung < len(betas) - 1), (-1, rung > 0)):
        k, energy = rung[inside], energies[inside]
        pair = torch.minimum(k, k + step)
        total.index_add_(0, pair, log_acceptance(k, k + step, energy, betas, g).exp())
        count += torch.bincount(pair, minlength=len(betas) - 1)
    return total / count
