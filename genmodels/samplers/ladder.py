"""A shard of replica exchange: ladders of replicas that advance, then swap their βs."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmodels.protocols import Kernel
from genmodels.samplers.lowest import Lowest, lower, lowest, rows
from genmodels.samplers.shards import representable, require_finite
from genmodels.streams import Key

_FLOOR = 1e-3  # added to each rejection rate to keep rungs apart where no swap is rejected


class Ladders(NamedTuple):
    """The state of a shard: some ladders, each with one replica a rung."""

    particles: Any  # the kernel's state; replica r of ladder l is its number l · n_rungs + r
    replica: Tensor  # (ladder, rung): which replica is on the rung
    heading: Tensor  # (ladder, replica): +1 met β = 0 last, −1 met the last β after it, 0 neither yet


class Measured(NamedTuple):
    """What a shard saw in one segment."""

    energies: Tensor  # (ladder, round, rung), nats at β = 1, float64, after the sweeps of a round
    round_trips: Tensor  # (ladder,): times that a replica went from β = 0 to the last β and came back
    x: Tensor  # (ladder, site), at the last β, at the end
    x_sum: Tensor  # (ladder, site): over the rounds, of x at the last β, float64
    up: Tensor  # (rung,): how often a replica that met β = 0 last was on the rung
    down: Tensor  # (rung,): and one that met the last β last
    best: Lowest
    n_updates: int


def start(
    _: None, shard: int, n_ladders: int, model: Any, kernel: Kernel[Any], n_rungs: int, key: Key
) -> tuple[Ladders, None]:
    """Return ladders whose replicas are all drawn at β = 0."""
    particles = kernel.init(model, n_ladders * n_rungs, key.child("start").at(shard=shard))
    return Ladders(particles, *places(n_ladders, n_rungs)), None


def places(n_ladders: int, n_rungs: int) -> tuple[Tensor, Tensor]:
    """Return which replica is on which rung, and where each comes from, at the start; as of `Ladders`."""
    replica = torch.arange(n_rungs).repeat(n_ladders, 1)
    return replica, torch.zeros(n_ladders, n_rungs, dtype=torch.int8)


def advance(
    state: Ladders,
    shard: int,
    rounds: tuple[int, int],
    model: Any,
    kernel: Kernel[Any],
    betas: Tensor,
    n_sweeps: int,
    key: Key,
) -> tuple[Ladders, Measured]:
    """Return the ladders after the rounds first … last − 1, each `n_sweeps` sweeps and then swaps.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    particles, swaps = state.particles, Swaps(state.replica, state.heading, betas, key.at(shard=shard))
    first = torch.arange(len(state.replica)) * len(betas)
    best, n_updates = lower(None, kernel, particles), 0
    for i in range(*rounds):
        beta = swaps.beta.flatten()
        particles, n_attempted = sweep(particles, shard, i, beta, model, kernel, n_sweeps, key)
        best, n_updates = lower(best, kernel, particles), n_updates + n_attempted
        x = rows(kernel, particles, first + swaps.replica[:, -1])
        swaps.swap(i, particles.energy.double().view_as(state.replica), x)
    x = rows(kernel, particles, first + swaps.replica[:, -1])
    return Ladders(particles, swaps.replica, swaps.heading), swaps.measured(x, best, n_updates)


def sweep(
    particles: Any, shard: int, i: int, beta: Tensor, model: Any, kernel: Kernel[Any], n_sweeps: int, key: Key
) -> tuple[Any, int]:
    """Return replicas after the sweeps of round i, each at its β, and the updates attempted  # (replica,).

    Raises:
        FloatingPointError: an energy is not finite.
    """
    moves = key.child("move").at(shard=shard, round=i)
    particles, info = kernel.advance(model, particles, beta, n_sweeps, moves)
    require_finite(particles.energy, f"replica exchange, round {i + 1}")
    return particles, info.n_updates


class Swaps:
    """The other half of the rounds of some ladders: the βs are swapped, by energies, and what is seen noted.

    Attributes:
        replica: Which is on the rung  # (ladder, rung)
        heading: Where it comes from, as of `Ladders`  # (ladder, replica)
    """

    def __init__(self, replica: Tensor, heading: Tensor, betas: Tensor, key: Key) -> None:
        """Start with nothing seen; `key` is the ladders', betas (rung,)."""
        self.replica, self.heading, self._betas, self._key = (
            replica,
            heading.clone(),
            betas,
            key.child("swap"),
        )
        self._energies: list[Tensor] = []
        self._trips = torch.zeros(len(replica), dtype=torch.int64)
        self._ways = torch.zeros(2, len(betas), dtype=torch.int64)
        self._x_sum = torch.zeros(())

    @property
    def beta(self) -> Tensor:
        """Return the β of every replica  # (ladder, replica), float32."""
        return self._betas[self.replica.argsort(1)].float()

    def swap(self, i: int, energies: Tensor, x: Tensor) -> None:
        """End round i, after whose sweeps the replicas have `energies`, and x is at the last β.

        Args:
            i: Which round.
            energies: Nats at β = 1  # (ladder, replica), float64
            x: Configurations  # (ladder, site)
        """
        n_ladders, n_rungs = self.replica.shape
        self._x_sum = self._x_sum + x.double()
        self._energies.append(energies.gather(1, self.replica))
        uniform = torch.from_numpy(self._key.at(round=i).numpy().random((n_ladders, n_rungs - 1)))
        self.replica = swap(self.replica, self._betas, self._energies[-1], uniform, i % 2)
        self._trips += turn(self.heading, self.replica)
        way = self.heading.gather(1, self.replica)
        self._ways += torch.stack([(way > 0).sum(0), (way < 0).sum(0)])

    def measured(self, x: Tensor, best: Lowest, n_updates: int) -> Measured:
        """Return what was seen; x is at the last β now  # (ladder, site)."""
        energies, (up, down) = torch.stack(self._energies, 1), self._ways
        return Measured(energies, self._trips, x, self._x_sum, up, down, best, n_updates)


def pooled(parts: Sequence[Measured], last: Measured) -> Measured:
    """Return what a shard saw in some segments, perhaps none, after its `last` one."""
    first = last._replace(
        energies=last.energies[:, :0],
        round_trips=torch.zeros_like(last.round_trips),
        x_sum=torch.zeros_like(last.x_sum),
        up=torch.zeros_like(last.up),
        down=torch.zeros_like(last.down),
        n_updates=0,
    )
    return functools.reduce(joined, parts, first)


def joined(one: Measured, other: Measured) -> Measured:
    """Return what a shard saw in two segments, one after the other."""
    return Measured(
        torch.cat([one.energies, other.energies], 1),
        one.round_trips + other.round_trips,
        other.x,
        one.x_sum + other.x_sum,
        one.up + other.up,
        one.down + other.down,
        lowest([one.best, other.best]),
        one.n_updates + other.n_updates,
    )


def log_acceptance(betas: Tensor, energies: Tensor) -> Tensor:
    """Return log min(1, exp[(β_k − β_{k+1})(E_k − E_{k+1})])  # (rung,), (…, rung) -> (…, rung − 1)."""
    return (betas.diff() * energies.diff(dim=-1)).clamp(max=0.0)


def swap(replica: Tensor, betas: Tensor, energies: Tensor, uniform: Tensor, parity: int) -> Tensor:
    """Return which replica is on which rung after swaps of the rungs (k, k + 1), k of the given parity.

    Args:
        replica: Before  # (ladder, rung)
        betas: The ladder  # (rung,)
        energies: Of the replica on each rung  # (ladder, rung)
        uniform: Random numbers in [0, 1)  # (ladder, rung − 1)
        parity: 0 for (0,1)(2,3)…, 1 for (1,2)(3,4)…
    """
    accepted = uniform < log_acceptance(betas, energies).exp()
    accepted[:, 1 - parity :: 2] = False
    swapped = replica.clone()
    swapped[:, :-1] = torch.where(accepted, replica[:, 1:], replica[:, :-1])
    swapped[:, 1:] = torch.where(accepted, replica[:, :-1], swapped[:, 1:])
    return swapped


def turn(heading: Tensor, replica: Tensor) -> Tensor:
    """Note in `heading` who is at an end of the ladder; return the round trips that ended  # (ladder,)."""
    bottom, top = replica[:, :1], replica[:, -1:]
    ended = heading.gather(1, bottom)[:, 0] == -1
    heading.scatter_(1, bottom, 1)
    heading.scatter_(1, top, -heading.gather(1, top).abs())
    return ended.long()


def rejection(betas: Tensor, energies: Tensor) -> Tensor:
    """Return the mean probability that a swap is rejected  # (rung,), (…, rung) -> (rung − 1,)."""
    refused = 1.0 - log_acceptance(betas, energies).exp()
    return refused.flatten(0, -2).mean(0)


def adapted(betas: Tensor, refused: Tensor) -> Tensor:
    """Return the ladder on which all rejection rates would be equal, its ends unchanged.

    The barrier Λ(β_k) = Σ_{j<k} r_j is interpolated linearly and cut into equal parts. Syed et al. 2022.

    Args:
        betas: The ladder on which `refused` was measured  # (rung,)
        refused: Rejection rates  # (rung − 1,)
    """
    barrier = np.concatenate([[0.0], np.cumsum(refused.numpy() + _FLOOR)])
    parts = np.linspace(0.0, barrier[-1], len(barrier))
    return representable(torch.from_numpy(np.interp(parts, barrier, betas.numpy())))
