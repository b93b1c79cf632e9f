"""Population annealing."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.protocols import Kernel, Placement
from genmodels.samplers import population, shards
from genmodels.streams import Key

_SEGMENT = 10  # temperatures a task


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

    @property
    def family_entropy(self) -> Tensor:
        """S_f = −Σ n_i log n_i at the end, in nats  # (population,)."""
        return torch.stack([torch.special.entr(population.shares(family)).sum() for family in self.family])

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
        }

    def summary(self) -> dict[str, Any]:
        """Return how well the populations survived, JSON-ready; of S_f and ρ_t the worst population's."""
        return {
            "n_populations": self.family.shape[0],
            "n_walkers": self.family.shape[1],
            "n_steps": len(self.betas) - 1,
            "n_updates": self.n_updates,
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
        n_populations: Independent populations, one a shard: error bars come from them.
        n_walkers: Walkers of each.
        n_sweeps: Sweeps at each β.
        ess: Effective share of the walkers after a step; the nearer to 1, the smaller the steps.
        n_pilot: Walkers of the population that chooses the steps.
        beta_max: The last β.

    Raises:
        InputError: a number is out of its range.
    """

    n_populations: int = 16
    n_walkers: int = 1000
    n_sweeps: int = 10
    ess: float = 0.9
    n_pilot: int = 250
    beta_max: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        for name, bound in {"n_populations": 2, "n_walkers": 2, "n_sweeps": 1, "n_pilot": 10}.items():
            if getattr(self, name) < bound:
                given = getattr(self, name)
                raise InputError(f"population annealing: {name} is {given}, give at least {bound}")
        if not 0.0 < self.ess < 1.0:
            raise InputError(f"population annealing: ess is {self.ess}, give a share between 0 and 1")
        if not 0.0 < self.beta_max < math.inf:
            raise InputError(f"population annealing: beta_max is {self.beta_max}, give a positive number")

    def run(
        self,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
        placement: Placement,
        progress: Callable[..., None] | None = None,
    ) -> Annealed:
        """Return log Ẑ at every β, energies and families.

        Args:
            model: With an energy and what the kernel asks for.
            kernel: What moves the walkers at fixed β.
            key: The stream of the run.
            placement: Where the populations run; it does not change a bit of the result.
            progress: Called as progress(steps done, steps in all), summed over the populations.

        Raises:
            FloatingPointError: an energy is not finite.
        """
        key = key.child("population_annealing")
        work, nothing = (model, kernel), placement.put(None)
        choice = (self.ess, self.beta_max, self.n_sweeps, key.child("pilot"))
        betas, n_updates = placement.fetch(
            placement.submit(population.pilot, nothing, self.n_pilot, *work, *choice)[1]
        )
        started = [
            placement.submit(population.start, nothing, shard, self.n_walkers, *work, key)
            for shard in range(self.n_populations)
        ]
        n_steps = len(betas) - 1
        segments = [(i, min(i + _SEGMENT, n_steps)) for i in range(0, n_steps, _SEGMENT)]
        report = _counted(progress, n_steps * self.n_populations)
        small = (*work, betas, self.n_sweeps, key)
        states, seen = shards.run(
            placement, population.advance, [state for state, _ in started], segments, *small, report=report
        )
        zero = torch.stack([placement.fetch(measured) for _, measured in started])
        last = [placement.fetch(state) for state in states]
        return _annealed(betas, zero, seen, last, model.n_sites, n_updates)


def _counted(progress: Callable[..., None] | None, total: int) -> Callable[[tuple[int, int]], None]:
    done = 0

    def report(steps: tuple[int, int]) -> None:
        nonlocal done
        done += steps[1] - steps[0]
        if progress is not None:
            progress(done, total)

    return report


def _annealed(
    betas: Tensor,
    zero: Tensor,
    seen: list[list[population.Measured]],
    last: list[population.Population],
    n_sites: int,
    n_updates: int,
) -> Annealed:
    def steps(name: str, first: Tensor) -> Tensor:
        later = torch.stack([torch.cat([getattr(part, name) for part in parts]) for parts in seen])
        return torch.cat([first[:, None], later], 1)

    family, ones = torch.stack([state.family for state in last]), torch.ones_like(zero)
    return Annealed(
        betas,
        steps("log_ratio", ones * n_sites * math.log(2.0)).cumsum(1),
        steps("mean_energy", zero),
        steps("ess", ones),
        steps("families", ones * family.shape[1]),
        family,
        torch.stack([state.walkers.energy.double() for state in last]),
        n_sites,
        n_updates + sum(part.n_updates for parts in seen for part in parts),
    )
