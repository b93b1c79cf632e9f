"""Work on replicas that β drives: Jarzynski's equality, annealed importance sampling."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.paths import log_z_0
from genmodels.protocols import Kernel, Placement
from genmodels.samplers import pilot, population, shards, temperatures, work
from genmodels.samplers.lowest import Lowest, lowest
from genmodels.samplers.replica_exchange import ReplicaExchange
from genmodels.samplers.shards import Report, representable, require_least, require_positive
from genmodels.streams import Key

_PILOT_ESS = 0.9  # share of its walkers that a step of the pilot leaves
_SCHEDULES = ("adapted", "quadratic")


@dataclass(frozen=True)
class Worked:
    """Work and heat of every replica, in nats.

    Attributes:
        betas: Inverse temperatures, from 0 up  # (step,), float64
        work: W on the way from β = 0 to betas[t], forward  # (replica, step), float64; work[:, 0] = 0
        heat: Change of U = βE + E_0 by all sweeps, forward  # (replica,), float64
        change: U_T(x_T) − U_0(x_0) = work + heat  # (replica,), float64
        reverse_work: W on the way back, from equilibrium at the last β, after s steps: from betas[T] to
            betas[T − s]; reverse_work[:, 0] = 0 and the last column is at β = 0  # (replica, step), float64.
            None if there was none, or it was not completed.
        energies: At the end of the way forward, nats at β = 1  # (replica,), float64
        x: Configurations there, which exp(−W) weights for the last β  # (replica, site)
        log_z_0: log Z at β = 0, nats.
        best_energy: The lowest met, nats at β = 1.
        best_x: Its configuration  # (site,)
        n_updates: Attempted single-site updates, the pilot's included, those of `exchange` not.
    """

    betas: Tensor
    work: Tensor
    heat: Tensor
    change: Tensor
    reverse_work: Tensor | None
    energies: Tensor
    x: Tensor
    log_z_0: float
    best_energy: float
    best_x: Tensor
    n_updates: int

    @property
    def ess(self) -> Tensor:
        """Effective share of the replicas under the weights exp(−W) at each β  # (step,)."""
        return torch.stack([population.effective_share(-work) for work in self.work.T])

    def tensors(self) -> dict[str, Tensor]:
        """Return what is worth keeping, by name."""
        names = ("betas", "work", "heat", "change", "energies", "x", "best_x")
        kept = {name: getattr(self, name) for name in names} | {"ess": self.ess}
        return kept if self.reverse_work is None else kept | {"reverse_work": self.reverse_work}

    def summary(self) -> dict[str, Any]:
        """Return how far from equilibrium the replicas were driven, JSON-ready."""
        return {
            "n_replicas": len(self.work),
            "n_reverse": 0 if self.reverse_work is None else len(self.reverse_work),
            "n_steps": len(self.betas) - 1,
            "n_updates": self.n_updates,
            "best_energy": self.best_energy,
            "ess": float(self.ess[-1]),
            "mean_work": float(self.work[:, -1].mean()),
            "mean_heat": float(self.heat.mean()),
        }


@dataclass(frozen=True)
class Jarzynski:
    """Replicas drawn at β = 0 and driven to `beta_max`, and others driven back from equilibrium there.

    Step t first moves x by sweeps at β_{t−1}, which take up heat, then β at fixed x, which is work:
    W += (β_t − β_{t−1})E(x_t). At any speed ⟨exp(−W)⟩ = Z(β_T)/Z(0), and ⟨W⟩ ≥ −log of it. On the way back
    the same holds with the ends exchanged: log Z(β_T) lies between the two. The upper bound is one only from
    equilibrium at β_T: `exchange` draws the starts. Crooks' relation between the two ways needs, besides,
    reversible sweeps. Jarzynski 1997; Neal 2001, annealed importance sampling.

    Attributes:
        n_replicas: Replicas driven forward.
        n_steps: Steps of β.
        n_sweeps: Sweeps at each β.
        schedule: "adapted", steps that are equally hard for a pilot population, or "quadratic", β ∝ t².
        n_pilot: Walkers of the pilot.
        n_reverse: Replicas driven back; 0 for none.
        exchange: The replica exchange that draws their starts, at the same last β; None is its defaults.
        replicas_per_shard: Replicas that advance in one call; the random streams depend on it.
        beta_max: The last β.

    Raises:
        InputError: a number is out of its range, or there is no such schedule.
    """

    n_replicas: int = 1024
    n_steps: int = 500
    n_sweeps: int = 1
    schedule: str = "adapted"
    n_pilot: int = 250
    n_reverse: int = 0
    exchange: ReplicaExchange | None = None
    replicas_per_shard: int = 256
    beta_max: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        least = {"n_replicas": 2, "n_steps": 1, "n_sweeps": 1, "n_pilot": 10, "n_reverse": 0}
        require_least(self, "Jarzynski", **least, replicas_per_shard=1)
        require_positive(self, "Jarzynski", "beta_max")
        if self.n_reverse == 1:
            raise InputError("Jarzynski: n_reverse is 1, give 0 or at least 2")
        if self.schedule not in _SCHEDULES:
            raise InputError(f"Jarzynski: schedule is '{self.schedule}', give one of {_SCHEDULES}")

    def run(
        self,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
        placement: Placement,
        progress: Callable[..., bool | None] | None = None,
    ) -> Worked:
        """Return the work both ways; arguments as of `protocols.Sampler.run`.

        A run that is stopped ends at the last β that all replicas have reached, and has no reverse work.
        """
        key = key.child("jarzynski")
        run = _Run(self, model, kernel, placement, Report(progress))
        betas = run.schedule(key.child("pilot"))
        forward, nothing = key.child("forward"), placement.put(None)
        started = [
            placement.submit(work.draw, nothing, shard, size, run.there, kernel, forward)
            for shard, size in enumerate(shards.sizes(self.n_replicas, self.replicas_per_shard))
        ]
        states, seen = run.drive(started, betas, forward)
        x = [placement.fetch(placement.submit(work.configurations, state, kernel)[1]) for state in states]
        done, last = _work(seen), [parts[-1] for parts in seen]
        reverse_work = run.back(betas, key) if self.n_reverse and not run.report.stopped else None
        return Worked(
            betas[: done.shape[1]],
            done,
            torch.cat([part.heat for part in last]),
            torch.cat([part.change for part in last]),
            reverse_work,
            torch.cat([part.energies for part in last]),
            torch.cat(x),
            log_z_0(model),
            run.best.energy,
            run.best.x,
            run.n_updates,
        )


class _Run:
    """A run under way: where it runs, how far it is, and what it has met."""

    def __init__(
        self, settings: Jarzynski, model: Any, kernel: Kernel[Any], placement: Placement, report: Report
    ) -> None:
        self.settings, self.model, self.kernel = settings, model, kernel
        self.placement, self.report, self.there = placement, report, placement.put(model)
        self.n_sites = model.n_sites
        self.met: list[Lowest] = []
        self.n_updates = 0

    @property
    def best(self) -> Lowest:
        """Return the lowest energy that was met."""
        return lowest(self.met)

    def schedule(self, key: Key) -> Tensor:
        """Return the βs, from 0 up; those of a stopped pilot end early  # (step,)."""
        settings = self.settings
        if settings.schedule == "quadratic":
            return temperatures.spaced(settings.n_steps + 1, settings.beta_max)
        sizes = (settings.n_pilot, _PILOT_ESS, settings.beta_max, settings.n_sweeps)
        coarse, best, n_updates = pilot.steps(
            self.there, self.kernel, *sizes, key, self.placement, self.report
        )
        self.met.append(best)
        self.n_updates += n_updates
        places = np.linspace(0.0, len(coarse) - 1.0, settings.n_steps + 1)
        return representable(torch.from_numpy(np.interp(places, np.arange(len(coarse)), coarse.numpy())))

    def drive(
        self, started: list[tuple[Any, Any]], betas: Tensor, key: Key
    ) -> tuple[list[Any], list[list[work.Measured]]]:
        """Take all shards along the βs; return their states, and what they saw  # (shard, segment)."""
        first = [self.placement.fetch(measured) for _, measured in started]
        n_steps = 0 if self.report.stopped else len(betas) - 1
        self.report.total += n_steps * len(started)
        small = (self.there, self.kernel, betas, self.settings.n_sweeps, key)
        a_step = len(first[0].work) * self.n_sites * self.settings.n_sweeps
        segments = shards.cut(0, n_steps, shards.segment(n_steps, a_step))
        states, more = shards.run(
            self.placement,
            work.advance,
            [state for state, _ in started],
            segments,
            *small,
            report=self.report,
        )
        seen = [[one, *parts] for one, parts in zip(first, more, strict=True)]
        self.met += [part.best for parts in seen for part in parts]
        self.n_updates += sum(part.n_updates for parts in seen for part in parts)
        return states, seen

    def back(self, betas: Tensor, key: Key) -> Tensor | None:
        """Return the work on the way back, None if it was not completed  # (replica, step)."""
        settings, last = self.settings, float(betas[-1])
        exchange = dataclasses.replace(settings.exchange or ReplicaExchange(), beta_max=last)
        equilibrium = key.child("equilibrium")
        x = exchange.draw(
            self.model, self.kernel, settings.n_reverse, equilibrium, self.placement, self.report.within()
        )
        if self.report.stopped:
            return None
        self.report.figures, nothing = {}, self.placement.put(None)
        started = [
            self.placement.submit(work.start, nothing, x[first:end], self.there, self.kernel, last)
            for first, end in shards.cut(0, len(x), settings.replicas_per_shard)
        ]
        done = _work(self.drive(started, betas.flip(0), key.child("reverse"))[1])
        return done if done.shape[1] == len(betas) else None


def _work(seen: list[list[work.Measured]]) -> Tensor:
    return torch.cat([torch.cat([part.work for part in parts], 1) for parts in seen])
