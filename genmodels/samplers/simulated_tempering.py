"""Simulated tempering."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genmodels.paths import log_z_0
from genmodels.protocols import Kernel, Placement
from genmodels.samplers import expanded, ladder, shards, temperatures
from genmodels.samplers.lowest import lowest
from genmodels.samplers.shards import Report, require_least, require_positive
from genmodels.streams import Key

_STORED_ROUNDS = 1000  # that `tensors` returns


@dataclass(frozen=True)
class Tempered:
    """The measured part of a run.

    Attributes:
        betas: The ladder, from 0 up  # (rung,), float64
        g: The weights, P(x, β_k) ∝ exp(−β_k E(x) + g_k)  # (rung,), float64
        rung: Where each chain was, after the sweeps of a round  # (chain, round), int64
        energies: Its energy there, nats at β = 1  # (chain, round), float64
        round_trips: From β = 0 to the last β and back  # (chain,)
        mean_x: Mean over the rounds at the last β; nan if a chain was never there  # (chain, site), float64
        log_z_0: log Z at β = 0, nats.
        best_energy: The lowest met, burn-in included, nats at β = 1.
        best_x: Its configuration  # (site,)
        n_updates: Attempted single-site updates, burn-in included.
    """

    betas: Tensor
    g: Tensor
    rung: Tensor
    energies: Tensor
    round_trips: Tensor
    mean_x: Tensor
    log_z_0: float
    best_energy: float
    best_x: Tensor
    n_updates: int

    @property
    def visits(self) -> Tensor:
        """Rounds that each chain spent on each rung  # (chain, rung)."""
        return torch.stack([torch.bincount(row, minlength=len(self.betas)) for row in self.rung])

    @property
    def occupation(self) -> Tensor:
        """Mean over the rounds of P(k|E) ∝ exp(−β_k E + g_k): visits with less noise  # (chain, rung)."""
        return torch.stack([(self.g - row[:, None] * self.betas).softmax(1).mean(0) for row in self.energies])

    @property
    def acceptance(self) -> Tensor:
        """Mean probability that a proposed move between neighbours is accepted  # (rung − 1,)."""
        return expanded.acceptance(self.rung, self.energies, self.betas, self.g)

    def tensors(self) -> dict[str, Tensor]:
        """Return what is worth keeping, by name; at most 1000 rounds, evenly spaced."""
        stride = max(1, math.ceil(self.rung.shape[1] / _STORED_ROUNDS))
        return {
            "betas": self.betas,
            "g": self.g,
            "rung": self.rung[:, ::stride],
            "energies": self.energies[:, ::stride],
            "visits": self.visits,
            "occupation": self.occupation,
            "acceptance": self.acceptance,
            "round_trips": self.round_trips,
            "mean_x": self.mean_x,
            "best_x": self.best_x,
        }

    def summary(self) -> dict[str, Any]:
        """Return how well the chains moved, JSON-ready; `visits` are shares, None without measured rounds.

        Of a pair of rungs from which no move was proposed, the acceptance is None.
        """
        n_chains, n_rounds = self.rung.shape
        visits = self.visits.sum(0).double() / max(1, n_chains * n_rounds)
        return {
            "n_chains": n_chains,
            "n_rungs": len(self.betas),
            "n_rounds": n_rounds,
            "n_updates": self.n_updates,
            "best_energy": self.best_energy,
            "visits": visits.tolist() if n_rounds else None,
            "acceptance": [value if math.isfinite(value) else None for value in self.acceptance.tolist()],
            "round_trips": int(self.round_trips.sum()),
        }


@dataclass(frozen=True)
class SimulatedTempering:
    """Chains whose β is a variable: after each round it moves to a neighbour on the ladder, or stays.

    P(x, β_k) ∝ exp(−β_k E(x) + g_k). A move β_k → β_l, one up or down with equal probability, is accepted
    with probability min(1, exp[−(β_l − β_k)E + g_l − g_k]); one off the ladder is rejected. All βs are
    visited equally if g_k = −log Z(β_k) but for a constant: g is first integrated from mean energies on the
    way up, then learned from the energies of all chains in the first half of the burn-in, while the ladder is
    moved towards equal rejection. Then both are frozen, and no chain waits for another. The kernel has to mix
    at β = 0. Marinari & Parisi 1992.

    Attributes:
        n_chains: Independent chains, spread over the ladder at the start.
        n_rungs: Temperatures, β = 0 included.
        n_rounds: Measured rounds.
        burn_in: Rounds before them.
        sweeps_per_round: Sweeps of the kernel in a round.
        chains_per_shard: Chains that advance in one call; the random streams depend on it.
        beta_max: The last β.

    Raises:
        InputError: a number is too small to make sense.
    """

    n_chains: int = 256
    n_rungs: int = 24
    n_rounds: int = 1000
    burn_in: int = 400
    sweeps_per_round: int = 2
    chains_per_shard: int = 128
    beta_max: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        least = {"n_chains": 2, "n_rungs": 2, "n_rounds": 4, "burn_in": 16, "sweeps_per_round": 1}
        require_least(self, "simulated tempering", **least, chains_per_shard=1)
        require_positive(self, "simulated tempering", "beta_max")

    def run(
        self,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
        placement: Placement,
        progress: Callable[..., bool | None] | None = None,
    ) -> Tempered:
        """Return rungs and energies of all chains; arguments as of `protocols.Sampler.run`.

        A run that is stopped while burning in has measured no round.
        """
        run = _Run(self, model, kernel, key.child("simulated_tempering"), placement, Report(progress))
        run.warm_up()
        seen = run.advance(self.n_rounds)
        n_top = [(part.rung == self.n_rungs - 1).sum(1, keepdim=True) for part in seen]
        best = lowest([run.best, *(part.best for part in seen)])
        return Tempered(
            run.betas,
            run.g,
            torch.cat([part.rung for part in seen]),
            torch.cat([part.energies for part in seen]),
            torch.cat([part.round_trips for part in seen]),
            torch.cat([part.x_sum / n for part, n in zip(seen, n_top, strict=True)]),
            log_z_0(model),
            best.energy,
            best.x,
            run.n_updates,
        )


class _Run:
    """A run under way: where the shards' states are, ladder and weights, and how far it is."""

    def __init__(
        self,
        settings: SimulatedTempering,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
        placement: Placement,
        report: Report,
    ) -> None:
        self.settings, self.key, self.placement, self.report = settings, key, placement, report
        self.model, self.kernel = placement.put(model), kernel
        self.betas = temperatures.spaced(settings.n_rungs, settings.beta_max)
        # From the first rung to the last, so that somebody comes by everywhere.
        rung = torch.linspace(0.0, settings.n_rungs - 1.0, settings.n_chains, dtype=torch.float64).long()
        per_shard = shards.cut(0, settings.n_chains, settings.chains_per_shard)
        small = (self.model, kernel, self.betas, settings.sweeps_per_round, key)
        nothing = placement.put(None)
        started = [
            placement.submit(expanded.start, nothing, shard, rung[first:last], *small)
            for shard, (first, last) in enumerate(per_shard)
        ]
        walked = [placement.fetch(result) for _, result in started]
        self.states = [state for state, _ in started]
        total, count = (torch.stack(column).sum(0) for column in list(zip(*walked, strict=True))[:2])
        self.g = expanded.integrated(self.betas, total / count)
        self.best = lowest([part.best for part in walked])
        self.round, self.n_updates = 0, sum(part.n_updates for part in walked)
        a_round = (
            min(settings.n_chains, settings.chains_per_shard) * model.n_sites * settings.sweeps_per_round
        )
        self.segment = shards.segment(settings.burn_in + settings.n_rounds, a_round)
        self.last: list[expanded.Measured] = []
        report.total = (settings.burn_in + settings.n_rounds) * len(self.states)

    def warm_up(self) -> None:
        """Burn in, learning ladder and weights."""
        burn_in = self.settings.burn_in
        for end in (burn_in // 16, burn_in // 8, burn_in // 4, burn_in // 2, burn_in):
            seen = self.advance(end - self.round)
            if self.report.stopped:
                return
            rung = torch.cat([part.rung for part in seen])
            energies = torch.cat([part.energies for part in seen])
            accepted = expanded.acceptance(rung, energies, self.betas, self.g).nan_to_num(0.0)
            self.report.figures = {"acceptance": float(accepted.min())}
            if end < burn_in:
                g = expanded.learned(rung, energies, self.betas, self.g, self.betas)
                refused = 1.0 - expanded.acceptance(rung, energies, self.betas, g).nan_to_num(0.0)
                betas = ladder.adapted(self.betas, refused)
                self.betas, self.g = betas, expanded.learned(rung, energies, self.betas, g, betas)

    def advance(self, n_rounds: int) -> list[expanded.Measured]:
        """Advance all shards; return what each saw  # (shard,)."""
        segments = shards.cut(self.round, self.round + n_rounds * (not self.report.stopped), self.segment)
        self.round += n_rounds
        small = (self.model, self.kernel, self.betas, self.g, self.settings.sweeps_per_round, self.key)
        self.states, parts = shards.run(
            self.placement,
            expanded.advance,
            self.states,
            segments,
            *small,
            report=self.report,
            join=expanded.joined,
        )
        if parts[0]:
            self.last = [each[-1] for each in parts]
        seen = [expanded.pooled(each, last) for each, last in zip(parts, self.last, strict=True)]
        self.best = lowest([self.best, *(part.best for part in seen)])
        self.n_updates += sum(part.n_updates for part in seen)
        return seen
