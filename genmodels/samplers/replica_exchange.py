"""Replica exchange (parallel tempering, exchange Monte Carlo)."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.paths import log_z_0
from genmodels.protocols import Kernel, Placement
from genmodels.samplers import ladder, shards, split_ladder, temperatures
from genmodels.samplers.lowest import Lowest, lowest
from genmodels.samplers.shards import Report, require_least, require_positive
from genmodels.streams import Key

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
        log_z_0: log Z at β = 0, nats.
        best_energy: The lowest met, burn-in included, nats at β = 1.
        best_x: Its configuration  # (site,)
        mean_x: Mean over the rounds of x at the last β; nan without rounds  # (ladder, site), float64
        flow: Share of the replicas on a rung that met β = 0 last, not the last β, which falls linearly over
            a good ladder; nan where nobody came that had met an end. Katzgraber et al. 2006  # (rung,)
    """

    betas: Tensor
    energies: Tensor
    round_trips: Tensor
    x: Tensor
    n_updates: int
    log_z_0: float
    best_energy: float
    best_x: Tensor
    mean_x: Tensor
    flow: Tensor

    @property
    def n_sites(self) -> int:
        """Number of sites of a configuration."""
        return self.x.shape[1]

    @property
    def rejection(self) -> Tensor:
        """Mean probability that a swap of neighbours is rejected, nan without rounds  # (rung − 1,)."""
        return ladder.rejection(self.betas, self.energies)

    def tensors(self) -> dict[str, Tensor]:
        """Return what is worth keeping, by name; of the energies at most 250 rounds, evenly spaced."""
        stride = max(1, math.ceil(self.energies.shape[1] / _STORED_ROUNDS))
        return {
            "betas": self.betas,
            "energies": self.energies[:, ::stride],
            "swap_rates": 1.0 - self.rejection,
            "round_trips": self.round_trips,
            "flow": self.flow,
            "x": self.x,
            "mean_x": self.mean_x,
            "best_x": self.best_x,
        }

    def summary(self) -> dict[str, Any]:
        """Return how well the ladders mixed, JSON-ready; `barrier` is Λ, the sum of the rejection rates.

        Swap rates and barrier of a run without measured rounds are None.
        """
        n_ladders, n_rounds, n_rungs = self.energies.shape
        return {
            "n_ladders": n_ladders,
            "n_rungs": n_rungs,
            "n_rounds": n_rounds,
            "n_updates": self.n_updates,
            "best_energy": self.best_energy,
            "swap_rates": (1.0 - self.rejection).tolist() if n_rounds else None,
            "barrier": float(self.rejection.sum()) if n_rounds else None,
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
        rungs_per_shard: Replicas of each that do, if systems are so large, or energies so slow, that a round
            takes far longer than to send what it gives; None for all. The random streams depend on it.
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
    rungs_per_shard: int | None = None
    beta_max: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        least = {"n_ladders": 2, "n_rungs": 2, "n_rounds": 4, "burn_in": 16, "sweeps_per_round": 1}
        require_least(self, "replica exchange", **least, ladders_per_shard=1, rungs_per_shard=1)
        require_positive(self, "replica exchange", "beta_max")

    def run(
        self,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
        placement: Placement,
        progress: Callable[..., bool | None] | None = None,
    ) -> Exchanged:
        """Return the energies on every rung of the frozen ladder; arguments as of `protocols.Sampler.run`.

        A run that is stopped while burning in has measured no round.
        """
        run = _Run(self, model, kernel, key.child("replica_exchange"), placement, Report(progress))
        run.report.total += self.n_rounds * len(run.states)
        run.warm_up()
        seen = [ladder.pooled(*of) for of in zip(run.advance(self.n_rounds), run.last, strict=True)]
        energies = torch.cat([part.energies for part in seen])
        ways = torch.stack([torch.stack([part.up, part.down]) for part in seen]).sum(0).double()
        best = lowest(run.met)
        return Exchanged(
            run.betas,
            energies,
            torch.cat([part.round_trips for part in seen]),
            torch.cat([part.x for part in seen]),
            run.n_updates,
            log_z_0(model),
            best.energy,
            best.x,
            torch.cat([part.x_sum for part in seen]) / energies.shape[1],
            ways[0] / ways.sum(0),
        )

    def draw(
        self,
        model: Any,
        kernel: Kernel[Any],
        n: int,
        key: Key,
        placement: Placement,
        progress: Callable[..., bool | None] | None = None,
    ) -> Tensor:
        """Return n configurations at the last β, of all ladders in turn  # (n, site).

        Between two of one ladder pass 2 + 2 Σ_k r_k/(1 − r_k) rounds, the time between round trips of
        replicas that forget on a rung (Syed et al. 2022), or the burn-in if that is shorter. Fewer than n if
        `progress` stops the run; the other arguments are those of `run`.

        Raises:
            FloatingPointError: an energy is not finite.
            InputError: n < 1.
        """
        if n < 1:
            raise InputError(f"replica exchange: {n} configurations asked for, give at least 1")
        run = _Run(self, model, kernel, key.child("replica_exchange/draw"), placement, Report(progress))
        refused = run.warm_up()
        between = 2.0 + 2.0 * float((refused / (1.0 - refused)).sum())
        apart = math.ceil(min(between, self.burn_in))
        n_rounds = apart * math.ceil(n / self.n_ladders)
        run.report.total += n_rounds * len(run.states)
        drawn = zip(run.advance(n_rounds, apart), run.last, strict=True)
        x = [torch.stack([last.x, *(part.x for part in parts)])[1:] for parts, last in drawn]
        return torch.cat(x, 1).flatten(0, 1)[:n]  # from (draw, ladder, site)


class _Run:
    """A run under way: where the shards' states are, the ladder, and how far it is."""

    def __init__(
        self,
        settings: ReplicaExchange,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
        placement: Placement,
        report: Report,
    ) -> None:
        self.settings, self.key, self.placement, self.report = settings, key, placement, report
        n_tasks, held = shards.N_TASKS, settings.rungs_per_shard
        if held is not None:
            self.placement = split_ladder.Groups(placement, settings.n_rungs, held)
            n_tasks = split_ladder.N_TASKS
        self.model, self.kernel = placement.put(model), kernel
        self.betas = temperatures.spaced(settings.n_rungs, settings.beta_max)
        self.round, self.n_updates = 0, 0
        sizes = shards.sizes(settings.n_ladders, settings.ladders_per_shard)
        a_round = sizes[0] * settings.n_rungs * settings.sweeps_per_round * model.n_sites
        self.segment = shards.segment(settings.burn_in + settings.n_rounds, a_round, n_tasks)
        small, nothing = (self.model, kernel, settings.n_rungs, key), placement.put(None)
        submit = functools.partial(self.placement.submit, ladder.start, nothing)
        self.states = [submit(shard, size, *small)[0] for shard, size in enumerate(sizes)]
        report.total += settings.burn_in * len(sizes)
        self.last: list[ladder.Measured] = []  # of each shard
        self.met: list[Lowest] = []

    def warm_up(self) -> Tensor:
        """Burn in, adapting the ladder; return the rejection rates on the last one  # (rung − 1,)."""
        burn_in, refused = self.settings.burn_in, torch.zeros(self.settings.n_rungs - 1)
        for end in (burn_in // 16, burn_in // 8, burn_in // 4, burn_in // 2, burn_in):
            seen = self.advance(end - self.round)
            if not self.report.stopped:
                refused = ladder.rejection(self.betas, torch.cat([part.energies for (part,) in seen]))
                self.report.figures = {"swap_rate": 1.0 - float(refused.max())}
                if end < burn_in:
                    self.betas = ladder.adapted(self.betas, refused)
        return refused

    def advance(self, n_rounds: int, apart: int = 0) -> list[list[ladder.Measured]]:
        """Advance all shards; return what each saw, all in one or every `apart` rounds  # (shard, result)."""
        if self.report.stopped:
            return [[] for _ in self.states]
        segments = shards.cut(self.round, self.round + n_rounds, apart or self.segment)
        self.round += n_rounds
        small = (self.model, self.kernel, self.betas, self.settings.sweeps_per_round, self.key)
        run = functools.partial(shards.run, self.placement, ladder.advance, report=self.report)
        self.states, seen = run(self.states, segments, *small, join=None if apart else ladder.joined)
        self.n_updates += sum(part.n_updates for parts in seen for part in parts)
        self.met += [part.best for parts in seen for part in parts]
        self.last = [parts[-1] for parts in seen]
        return seen
