"""Simulated annealing."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.paths import log_z_0
from genmodels.protocols import HasCouplings, Kernel, Placement
from genmodels.samplers import shards, temperatures
from genmodels.samplers.lowest import Lowest, lower, lowest
from genmodels.samplers.shards import (
    Report,
    Segment,
    representable,
    require_finite,
    require_least,
    require_positive,
)
from genmodels.streams import Key

_CALL = 2e8  # updates in a call of the kernel: a fraction of a second in a compiled loop
_COLD = 2.0**60  # β of a descent: no flip that costs anything is accepted, and its square is still a float32
_SCHEDULES = ("geometric", "linear")


@dataclass(frozen=True)
class Cooled:
    """What the replicas have become.

    Attributes:
        betas: Inverse temperatures, at each of which a replica spent `n_sweeps` sweeps  # (step,), float64
        energies: At the end, nats at β = 1  # (replica,), float64
        lowest: The lowest that each replica met after calls of the kernel  # (replica,), float64
        x: Configurations at the end  # (replica, site)
        mean_energy: Over the replicas after the sweeps at each β, if asked for  # (step,), float64
        log_z_0: log Z at β = 0, nats.
        best_energy: The lowest of all.
        best_x: Its configuration  # (site,)
        n_updates: Attempted single-site updates.
    """

    betas: Tensor
    energies: Tensor
    lowest: Tensor
    x: Tensor
    mean_energy: Tensor | None
    log_z_0: float
    best_energy: float
    best_x: Tensor
    n_updates: int

    def tensors(self) -> dict[str, Tensor]:
        """Return what is worth keeping, by name."""
        names = ("betas", "energies", "lowest", "x", "best_x")
        kept = {name: getattr(self, name) for name in names}
        return kept if self.mean_energy is None else kept | {"mean_energy": self.mean_energy}

    def summary(self) -> dict[str, Any]:
        """Return how low the replicas came, JSON-ready; `share` is that of those that met the best energy."""
        return {
            "n_replicas": len(self.energies),
            "n_steps": len(self.betas),
            "n_updates": self.n_updates,
            "best_energy": self.best_energy,
            "mean_energy": float(self.energies.mean()),
            "share": float(self.lowest.isclose(self.lowest.min(), rtol=1e-6, atol=0.0).double().mean()),
        }


@dataclass(frozen=True)
class SimulatedAnnealing:
    """Replicas drawn at β = 0 and cooled slowly, from `beta_min` to `beta_max`; they end near minima of E.

    Kirkpatrick, Gelatt & Vecchi 1983. With `descent` it is the baseline that annealing has to beat: plain
    descent from random starts, no flip accepted that costs energy, for as many sweeps.

    Attributes:
        n_replicas: Independent replicas.
        n_temperatures: Number of βs.
        n_sweeps: Sweeps at each.
        beta_min: The first β; None derives it from the couplings (`temperatures.beta_range`).
        beta_max: The last β; None likewise.
        schedule: "geometric", equal ratios, or "linear", equal steps of β.
        descent: Stay at β = ∞ instead.
        record: Measure the mean energy at each β, which costs a call of the kernel for each.
        replicas_per_shard: Replicas that advance in one call; the random streams depend on it.

    Raises:
        InputError: a number is out of its range, or there is no such schedule.
    """

    n_replicas: int = 1024
    n_temperatures: int = 500
    n_sweeps: int = 2
    beta_min: float | None = None
    beta_max: float | None = None
    schedule: str = "geometric"
    descent: bool = False
    record: bool = False
    replicas_per_shard: int = 512

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        least = {"n_replicas": 1, "n_temperatures": 1, "n_sweeps": 1, "replicas_per_shard": 1}
        require_least(self, "simulated annealing", **least)
        for name in ("beta_min", "beta_max"):
            if getattr(self, name) is not None:
                require_positive(self, "simulated annealing", name)
        if self.beta_min is not None and self.beta_max is not None and self.beta_min > self.beta_max:
            raise InputError(
                f"simulated annealing: beta_min is {self.beta_min}, give at most beta_max = {self.beta_max}"
            )
        if self.schedule not in _SCHEDULES:
            raise InputError(f"simulated annealing: schedule is '{self.schedule}', give one of {_SCHEDULES}")

    def run(
        self,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
        placement: Placement,
        progress: Callable[..., bool | None] | None = None,
    ) -> Cooled:
        """Return where the replicas end; arguments as of `protocols.Sampler.run`.

        A run that is stopped ends at the last β that all replicas have reached.

        Raises:
            FloatingPointError: an energy is not finite.
            InputError: a β is to be derived, and the model has no couplings, or all of them are 0.
        """
        key, betas = key.child("simulated_annealing"), self._betas(model)
        there, nothing = placement.put(model), placement.put(None)
        sizes = shards.sizes(self.n_replicas, self.replicas_per_shard)
        submit = functools.partial(placement.submit, start, nothing)
        states = [submit(shard, size, there, kernel, key)[0] for shard, size in enumerate(sizes)]
        a_beta = self.replicas_per_shard * model.n_sites * self.n_sweeps
        a_call = 1 if self.record else max(1, int(_CALL / a_beta))  # the random streams depend on it
        calls = shards.segment(math.ceil(len(betas) / a_call), a_call * a_beta)
        segments = shards.cut(0, len(betas), calls * a_call)
        report = Report(progress, len(betas) * len(sizes))
        small = (there, kernel, betas, self.n_sweeps, a_call, key)
        states, seen = shards.run(placement, cool, states, segments, *small, report=report)
        x = [placement.fetch(placement.submit(configurations, state, kernel)[1]) for state in states]
        last, every = [parts[-1] for parts in seen], [part for parts in seen for part in parts]
        best, energies = lowest([part.best for part in every]), torch.cat([part.energies for part in last])
        sums = torch.stack([torch.cat([part.sum_energy for part in parts]) for parts in seen]).sum(0)
        return Cooled(
            betas[: segments[len(seen[0]) - 1][1]],
            energies,
            torch.cat([part.lowest for part in last]),
            torch.cat(x),
            sums / self.n_replicas if self.record else None,
            log_z_0(model),
            best.energy,
            best.x,
            sum(part.n_updates for part in every),
        )

    def _betas(self, model: Any) -> Tensor:
        if self.descent:
            return torch.full((self.n_temperatures,), _COLD, dtype=torch.float64)
        first, last = self.beta_min, self.beta_max
        if first is None or last is None:
            if not isinstance(model, HasCouplings):
                raise InputError(
                    f"simulated annealing: {type(model).__name__} has no couplings to derive temperatures "
                    "from: give beta_min and beta_max"
                )
            hot, cold = temperatures.beta_range(model.couplings())
            first, last = first or min(hot, last or hot), last or max(cold, first or cold)
        if self.schedule == "linear":
            return representable(torch.linspace(first, last, self.n_temperatures, dtype=torch.float64))
        ends = math.log(first), math.log(last)
        return representable(torch.linspace(*ends, self.n_temperatures, dtype=torch.float64).exp())


class Measured(NamedTuple):
    """What a shard saw in one segment."""

    energies: Tensor  # (replica,), at the end, float64
    lowest: Tensor  # (replica,), so far, float64
    sum_energy: Tensor  # (call of the kernel,): over the replicas, after it
    best: Lowest
    n_updates: int


class Replicas(NamedTuple):
    """The state of a shard."""

    particles: Any  # the kernel's state
    lowest: Tensor  # (replica,), float64


def start(
    _: None, shard: int, n_replicas: int, model: Any, kernel: Kernel[Any], key: Key
) -> tuple[Replicas, None]:
    """Return replicas drawn at β = 0."""
    particles = kernel.init(model, n_replicas, key.child("start").at(shard=shard))
    return Replicas(particles, particles.energy.double()), None


def cool(
    state: Replicas,
    shard: int,
    steps: Segment,
    model: Any,
    kernel: Kernel[Any],
    betas: Tensor,
    n_sweeps: int,
    a_call: int,
    key: Key,
) -> tuple[Replicas, Measured]:
    """Return the replicas after `n_sweeps` sweeps at each of betas[first] … betas[last − 1], `a_call` a call.

    Raises:
        FloatingPointError: an energy is not finite.
    """
    particles, low, sums, n_updates = state.particles, state.lowest, [], 0
    best = lower(None, kernel, particles)
    for first, last in shards.cut(*steps, a_call):
        sweeps = betas[first:last].repeat_interleave(n_sweeps).float()
        schedule = sweeps[:, None].expand(-1, len(low))
        here = key.child("move").at(shard=shard, round=first)
        particles, info = kernel.advance(model, particles, schedule, len(sweeps), here)
        require_finite(particles.energy, f"simulated annealing, β = {float(betas[last - 1]):.4g}")
        energies = particles.energy.double()
        low, best = low.minimum(energies), lower(best, kernel, particles)
        sums.append(energies.sum())
        n_updates += info.n_updates
    return Replicas(particles, low), Measured(energies, low, torch.stack(sums), best, n_updates)


def configurations(state: Replicas, kernel: Kernel[Any]) -> tuple[Replicas, Tensor]:
    """Return the configurations of all replicas  # (replica, site)."""
    return state, kernel.configuration(state.particles)
