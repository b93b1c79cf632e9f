"""Replica exchange (parallel tempering, exchange Monte Carlo)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.protocols import Kernel, Placement
from genmodels.samplers import ladder, shards
from genmodels.streams import Key

_SEGMENT = 50  # rounds a task: long beside the cost of sending it, short beside a run
_STORED_ROUNDS = 250  # of the energies that `tensors` returns


@dataclass(frozen=True)
class Exchanged:
    """The measured part of a run.

    Attributes:
        betas: The ladder, from 0 up  # (rung,), float64
        energies: Of the replica on each rung, nats at β = 1  # (ladder, round, rung), float64
        round_trips: From β = 0 to the last β and back, over the replicas of a ladder  # (ladder,)
        x: Configurations at the last β, at the end  # (ladder, site)
        n_updates: Attempted single-site updates, burn-in included.
    """

    betas: Tensor
    energies: Tensor
    round_trips: Tensor
    x: Tensor
    n_updates: int

    @property
    def n_sites(self) -> int:
        """Number of sites of a configuration."""
        return self.x.shape[1]

    @property
    def rejection(self) -> Tensor:
        """Mean probability that a swap of neighbouring rungs is rejected  # (rung − 1,)."""
        return ladder.rejection(self.betas, self.energies)

    def tensors(self) -> dict[str, Tensor]:
        """Return what is worth keeping, by name; of the energies at most 250 rounds, evenly spaced."""
        stride = math.ceil(self.energies.shape[1] / _STORED_ROUNDS)
        return {
            "betas": self.betas,
            "energies": self.energies[:, ::stride],
            "swap_rates": 1.0 - self.rejection,
            "round_trips": self.round_trips,
            "x": self.x,
        }

    def summary(self) -> dict[str, Any]:
        """Return how well the ladders mixed, JSON-ready; `barrier` is Λ, the sum of the rejection rates."""
        n_ladders, n_rounds, n_rungs = self.energies.shape
        return {
            "n_ladders": n_ladders,
            "n_rungs": n_rungs,
            "n_rounds": n_rounds,
            "n_updates": self.n_updates,
            "swap_rates": (1.0 - self.rejection).tolist(),
            "barrier": float(self.rejection.sum()),
            "round_trips": int(self.round_trips.sum()),
        }


@dataclass(frozen=True)
class ReplicaExchange:
    """Replicas of the joint configuration on a ladder of β from 0 to `beta_max`, neighbours swapped.

    A round is `sweeps_per_round` sweeps of every replica, then swaps of the rungs (0,1)(2,3)… in even rounds
    and (1,2)(3,4)… in odd ones, accepted with probability min(1, exp[(β_a − β_b)(E_a − E_b)]), E the energy
    of the joint configuration. The βs are swapped, not the configurations. In the first half of the burn-in
    the ladder is moved towards equal rejection, for all ladders together; then it is frozen. The kernel has
    to mix at β = 0. Hukushima & Nemoto 1996; Syed, Bouchard-Côté, Deligiannidis & Doucet 2022.

    Attributes:
        n_ladders: Independent ladders: error bars come from them.
        n_rungs: Replicas of each, β = 0 included.
        n_rounds: Measured rounds.
        burn_in: Rounds before them.
        sweeps_per_round: Sweeps of the kernel in a round.
        ladders_per_shard: Ladders that advance in one call; the random streams depend on it.
        beta_max: The last β.

    Raises:
        InputError: a number is too small to make sense.
    """

    n_ladders: int = 16
    n_rungs: int = 24
    n_rounds: int = 1000
    burn_in: int = 400
    sweeps_per_round: int = 2
    ladders_per_shard: int = 8
    beta_max: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        least = {"n_ladders": 2, "n_rungs": 2, "n_rounds": 4, "burn_in": 16, "sweeps_per_round": 1}
        for name, bound in (least | {"ladders_per_shard": 1}).items():
            if getattr(self, name) < bound:
                raise InputError(f"replica exchange: {name} is {getattr(self, name)}, give at least {bound}")
        if not 0.0 < self.beta_max < math.inf:
            raise InputError(f"replica exchange: beta_max is {self.beta_max}, give a positive number")

    def run(
        self,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
        placement: Placement,
        progress: Callable[..., None] | None = None,
    ) -> Exchanged:
        """Return the energies on every rung of the frozen ladder.

        Args:
            model: With an energy and what the kernel asks for.
            kernel: What moves the replicas at fixed β.
            key: The stream of the run.
            placement: Where the shards run; it does not change a bit of the result.
            progress: Called as progress(rounds done, rounds in all, swap_rate=…), rounds summed over shards.

        Raises:
            FloatingPointError: an energy is not finite.
        """
        run = _Run(self, model, kernel, key.child("replica_exchange"), placement, progress)
        run.total += self.n_rounds * len(run.states)
        run.warm_up()
        seen = run.advance(self.n_rounds, _SEGMENT)
        return Exchanged(
            run.betas,
            torch.cat([_energies(parts) for parts in seen]),
            torch.cat([torch.stack([part.round_trips for part in parts]).sum(0) for parts in seen]),
            torch.cat([parts[-1].x for parts in seen]),
            run.n_updates,
        )

    def draw(
        self,
        model: Any,
        kernel: Kernel[Any],
        n: int,
        key: Key,
        placement: Placement,
        progress: Callable[..., None] | None = None,
    ) -> Tensor:
        """Return n configurations at the last β, of all ladders in turn  # (n, site).

        Between two of one ladder pass 2 + 2 Σ_k r_k/(1 − r_k) rounds, the time between round trips of
        replicas that forget on a rung (Syed et al. 2022), or the burn-in if that is shorter. The other
        arguments are those of `run`.

        Raises:
            FloatingPointError: an energy is not finite.
            InputError: n < 1.
        """
        if n < 1:
            raise InputError(f"replica exchange: {n} configurations asked for, give at least 1")
        run = _Run(self, model, kernel, key.child("replica_exchange/draw"), placement, progress)
        refused = run.warm_up()
        between = 2.0 + 2.0 * float((refused / (1.0 - refused)).sum())
        apart = math.ceil(min(between, self.burn_in))
        n_rounds = apart * math.ceil(n / self.n_ladders)
        run.total += n_rounds * len(run.states)
        seen = run.advance(n_rounds, apart)
        x = torch.cat([torch.stack([part.x for part in parts], 1) for parts in seen])  # (ladder, draw, site)
        return x.transpose(0, 1).flatten(0, 1)[:n]


class _Run:
    """A run under way: where the shards' states are, the ladder, and how far it is."""

    def __init__(
        self,
        settings: ReplicaExchange,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
        placement: Placement,
        progress: Callable[..., None] | None,
    ) -> None:
        self.settings, self.key, self.placement, self.progress = settings, key, placement, progress
        self.model, self.kernel = model, kernel
        spaced = torch.linspace(0.0, 1.0, settings.n_rungs, dtype=torch.float64).square()
        self.betas = shards.representable(spaced * settings.beta_max)
        self.round, self.n_updates = 0, 0
        self.figures: dict[str, float] = {}
        full, rest = divmod(settings.n_ladders, settings.ladders_per_shard)
        sizes = [settings.ladders_per_shard] * full + [rest] * (rest > 0)
        nothing = placement.put(None)
        self.states = [
            placement.submit(ladder.start, nothing, shard, size, model, kernel, settings.n_rungs, key)[0]
            for shard, size in enumerate(sizes)
        ]
        self.done, self.total = 0, settings.burn_in * len(sizes)

    def warm_up(self) -> Tensor:
        """Burn in, adapting the ladder; return the rejection rates on the last one  # (rung − 1,)."""
        burn_in = self.settings.burn_in
        for end in (burn_in // 16, burn_in // 8, burn_in // 4, burn_in // 2, burn_in):
            seen = self.advance(end - self.round, _SEGMENT)
            refused = ladder.rejection(self.betas, torch.cat([_energies(parts) for parts in seen]))
            self.figures = {"swap_rate": 1.0 - float(refused.max())}
            if end < burn_in:
                self.betas = ladder.adapted(self.betas, refused)
        return refused

    def advance(self, n_rounds: int, segment: int) -> list[list[ladder.Measured]]:
        """Advance all shards; return what each saw in each segment of so many rounds  # (shard, segment)."""
        first, self.round = self.round, self.round + n_rounds
        segments = [(i, min(i + segment, self.round)) for i in range(first, self.round, segment)]
        small = (self.model, self.kernel, self.betas, self.settings.sweeps_per_round, self.key)
        self.states, seen = shards.run(
            self.placement, ladder.advance, self.states, segments, *small, report=self._report
        )
        self.n_updates += sum(part.n_updates for parts in seen for part in parts)
        return seen

    def _report(self, rounds: tuple[int, int]) -> None:
        self.done += rounds[1] - rounds[0]
        if self.progress is not None:
            self.progress(self.done, self.total, **self.figures)


def _energies(parts: list[ladder.Measured]) -> Tensor:
    return torch.cat([part.energies for part in parts], 1)
