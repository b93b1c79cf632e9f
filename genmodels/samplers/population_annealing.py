"""Population annealing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.paths import log_z_0
from genmodels.protocols import Kernel, Placement
from genmodels.samplers import pilot, population, resampling, shards, spread
from genmodels.samplers.lowest import Lowest, lowest
from genmodels.samplers.shards import Report, require_least, require_positive
from genmodels.streams import Key


@dataclass(frozen=True)
class Annealed:
    """Independent populations, annealed along the same temperatures; the first step is β = 0.

    Attributes:
        betas: Inverse temperatures, from 0 up  # (step,), float64
        log_z: log Ẑ(β) of each population in nats  # (population, step), float64
        mean_energy: ⟨E⟩ of each population after its sweeps, nats at β = 1  # (population, step), float64
        ess: Effective share of the walkers under the weights that led to β  # (population, step)
        families: Effective number, 1/Σ n_i², n_i the share of family i  # (population, step)
        family: Walker at β = 0 that each walker of the end descends from  # (population, walker)
        energies: Of the walkers at the last β  # (population, walker), float64
        n_sites: Number of sites of a configuration.
        n_updates: Attempted single-site updates, the pilot's included.
        log_z_0: log Z at β = 0, nats.
        best_energy: The lowest met, nats at β = 1.
        best_x: Its configuration  # (site,)
        mean_x: Mean over the walkers at the last β  # (population, site), float64
        entropy: Of the families, −Σ n_i log n_i, nats  # (population, step)
    """

    betas: Tensor
    log_z: Tensor
    mean_energy: Tensor
    ess: Tensor
    families: Tensor
    family: Tensor
    energies: Tensor
    n_sites: int
    n_updates: int
    log_z_0: float
    best_energy: float
    best_x: Tensor
    mean_x: Tensor
    entropy: Tensor

    @property
    def family_entropy(self) -> Tensor:
        """S_f = −Σ n_i log n_i at the end, in nats  # (population,)."""
        return self.entropy[:, -1]

    @property
    def rho_t(self) -> Tensor:
        """ρ_t = R Σ n_i² at the end, the walkers for one independent family  # (population,)."""
        return self.family.shape[1] / self.families[:, -1]

    @property
    def weights(self) -> Tensor:
        """Ẑ_m(β)/Σ_l Ẑ_l(β), the weights of averages over populations of equal size  # (population, step)."""
        return torch.softmax(self.log_z, dim=0)

    def tensors(self) -> dict[str, Tensor]:
        """Return what is worth keeping, by name."""
        return {
            "betas": self.betas,
            "log_z": self.log_z,
            "mean_energy": self.mean_energy,
            "ess": self.ess,
            "families": self.families,
            "family": self.family,
            "energies": self.energies,
            "entropy": self.entropy,
            "mean_x": self.mean_x,
            "best_x": self.best_x,
        }

    def summary(self) -> dict[str, Any]:
        """Return how well the populations survived, JSON-ready; of S_f and ρ_t the worst population's."""
        return {
            "n_populations": self.family.shape[0],
            "n_walkers": self.family.shape[1],
            "n_steps": len(self.betas) - 1,
            "n_updates": self.n_updates,
            "best_energy": self.best_energy,
            "lowest_ess": float(self.ess.min()),
            "family_entropy": float(self.family_entropy.min()),
            "rho_t": float(self.rho_t.max()),
            "log_z_spread": float(self.log_z[:, -1].std()),
        }


@dataclass(frozen=True)
class PopulationAnnealing:
    """Walkers taken from β = 0 to `beta_max` in small steps, at each resampled by weight, then moved.

    At a step β → β' walker r has the weight τ_r = exp(−Δβ E_r)/mean and gets τ_r copies on average
    (systematic resampling, the number of walkers fixed), then `n_sweeps` sweeps at β'; log Z(β') − log Z(β)
    is estimated by log mean exp(−Δβ E). A pilot population chooses the steps such that the effective share of
    its walkers, (Σ τ)²/(R Σ τ²), is `ess` at each: the populations all follow the same fixed βs, so that Ẑ is
    unbiased (and its log biased low, by half its variance). Hukushima & Iba 2003; Machta 2010.

    Attributes:
        n_populations: Independent populations: error bars come from them.
        n_walkers: Walkers of each.
        n_sweeps: Sweeps at each β.
        ess: Effective share of the walkers after a step; the nearer to 1, the smaller the steps.
        n_pilot: Walkers of the population that chooses the steps.
        beta_max: The last β.
        walkers_per_shard: For populations too large for one process: each is spread over as many shards of at
            most so many walkers as it takes, a quarter more where they multiply, and resampled as a whole.
            The random streams depend on it. None: a population is one shard.

    Raises:
        InputError: a number is out of its range.
    """

    n_populations: int = 16
    n_walkers: int = 1000
    n_sweeps: int = 10
    ess: float = 0.9
    n_pilot: int = 250
    beta_max: float = 1.0
    walkers_per_shard: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        least = {"n_populations": 2, "n_walkers": 2, "n_sweeps": 1, "n_pilot": 10}
        if self.walkers_per_shard is not None:
            least["walkers_per_shard"] = 1
        require_least(self, "population annealing", **least)
        require_positive(self, "population annealing", "beta_max")
        if not 0.0 < self.ess < 1.0:
            raise InputError(f"population annealing: ess is {self.ess}, give a share between 0 and 1")

    def run(
        self,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
        placement: Placement,
        progress: Callable[..., bool | None] | None = None,
    ) -> Annealed:
        """Return log Ẑ at every β, energies and families; arguments as of `protocols.Sampler.run`.

        A run that is stopped ends at the last β that all populations have reached.
        """
        return self._run(model, kernel, key.child("population_annealing"), placement, Report(progress))[0]

    def draw(
        self,
        model: Any,
        kernel: Kernel[Any],
        n: int,
        key: Key,
        placement: Placement,
        progress: Callable[..., bool | None] | None = None,
    ) -> Tensor:
        """Return n walkers at the last β, the populations weighted by Ẑ, in random order  # (n, site).

        Walkers occur again only where there are fewer than n. If `progress` stops the run before the last β
        there are none, (0, site); the other arguments are those of `run`.

        Raises:
            FloatingPointError: an energy is not finite.
            InputError: n < 1.
        """
        if n < 1:
            raise InputError(f"population annealing: {n} configurations asked for, give at least 1")
        key = key.child("population_annealing/draw")
        result, ends = self._run(model, kernel, key, placement, Report(progress))
        if result.betas[-1] < self.beta_max:
            return result.mean_x[:0].float()
        random, x = key.child("choice").numpy(), torch.empty(n, result.n_sites)
        population_of = random.choice(len(ends), n, p=result.weights[:, -1].numpy())
        for m, held in enumerate(ends):
            places = np.flatnonzero(population_of == m)
            walkers, first = np.resize(random.permutation(self.n_walkers), len(places)), 0
            for state, n_walkers in held:
                here = (first <= walkers) & (walkers < first + n_walkers)
                picked = placement.submit(
                    population.pick, state, torch.from_numpy(walkers[here] - first), kernel
                )
                x[torch.from_numpy(places[here])] = placement.fetch(picked[1])
                first += n_walkers
        return x

    def _run(
        self, model: Any, kernel: Kernel[Any], key: Key, placement: Placement, report: Report
    ) -> tuple[Annealed, list[list[population.Held]]]:
        """Return the result, and where the walkers of the end are."""
        there = placement.put(model)
        sizes = (self.n_pilot, self.ess, self.beta_max, self.n_sweeps)
        betas, best, n_updates = pilot.steps(there, kernel, *sizes, key.child("pilot"), placement, report)
        report.total = (len(betas) - 1) * self.n_populations
        small = (there, kernel, betas, self.n_sweeps, key, placement, report)
        if self.walkers_per_shard is None:
            segment = shards.segment(len(betas) - 1, self.n_walkers * model.n_sites * self.n_sweeps)
            ends, parts = population.run(self.n_populations, self.n_walkers, segment, *small)
        else:
            shares = resampling.fair(self.n_walkers, math.ceil(self.n_walkers / self.walkers_per_shard))
            ends, parts = spread.run(self.n_populations, shares, *small)
        return _annealed(model, betas, parts, best, n_updates), ends


def _annealed(
    model: Any, betas: Tensor, parts: Sequence[list[population.Measured]], best: Lowest, n_updates: int
) -> Annealed:
    """Put together what the populations saw at β = 0 and in their segments  # (population, segment)."""

    def steps(name: str) -> Tensor:
        return torch.stack([torch.cat([getattr(part, name) for part in each]) for each in parts])

    def last(name: str) -> Tensor:
        return torch.stack([getattr(each[-1], name) for each in parts])

    every = [part for each in parts for part in each]
    zero, best = log_z_0(model), lowest([best, *(part.best for part in every)])
    log_z = zero + steps("log_ratio").cumsum(1)
    return Annealed(
        betas[: log_z.shape[1]],
        log_z,
        steps("mean_energy"),
        steps("ess"),
        steps("families"),
        last("family"),
        last("energies"),
        model.n_sites,
        n_updates + sum(part.n_updates for part in every),
        zero,
        best.energy,
        best.x,
        last("mean_x"),
        steps("entropy"),
    )
