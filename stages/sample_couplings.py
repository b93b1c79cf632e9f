"""One method on every instance, for as many attempted updates as any other: ground states and log Z."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from genmodels import registry
from genmodels.artifacts import read_json, save_tensors, write_json
from genmodels.data import coupling_files
from genmodels.errors import InputError
from genmodels.estimate import Estimate, of_scalar, undetermined
from genmodels.estimators import averages, free_energy
from genmodels.kernels import KERNELS
from genmodels.models.ising import Ising
from genmodels.placement.choose import resumable
from genmodels.protocols import Placement
from genmodels.samplers.jarzynski import Jarzynski
from genmodels.samplers.population_annealing import PopulationAnnealing
from genmodels.samplers.replica_exchange import ReplicaExchange
from genmodels.samplers.simulated_annealing import Cooled, SimulatedAnnealing
from genmodels.samplers.simulated_tempering import SimulatedTempering
from genmodels.streams import Key
from pipelines import progress
from pipelines.stage import Stage, main

_POINTS = 60  # of a curve, at most
_A_SHARD = 128  # replicas that are driven in one call


class Task(NamedTuple):
    """An instance that a method is to sample, and what it may spend."""

    settings: Any  # the method's block
    budget: int  # sweeps, over all replicas
    model: Ising
    beta_max: float
    kernel: Any
    key: Key


def work(stage: Stage) -> None:
    """Write out/<pipeline>/sample_couplings: <method>.json, Estimates; .safetensors, the lowest states."""
    out, prepared = stage.out / "sample_couplings", stage.out / "prepare_couplings"
    block, method = stage.params.sample_couplings, stage.model
    kernel, answers, lowest = registry.build(KERNELS, block.kernel, {}), {}, {}
    # In this process unless told otherwise: a Ray takes longer to start than it saves on a usual budget. The
    # scratch is this stage's alone, and other parameters or dependencies have another one.
    with resumable(str(stage.scratch / "samplers"), stage.name, default=0) as workers:
        for name, instance in read_json(prepared / "instances.json").items():
            model = load(prepared / "couplings" / f"{name}.coo", instance["offset"])
            key = Key(stage.params.seed, f"sample_couplings/{method}/{name}")
            task = Task(getattr(block, method), block.budget, model, instance["beta_max"], kernel, key)
            start = time.monotonic()
            sampler, spent = METHODS[method](task, workers)
            with progress.bar(f"{stage.name} {name}") as report:
                result = sampler.run(model, kernel, key, workers, report)
            stage.cost(time.monotonic() - start, name)
            answers[name] = answer(model, result) | {"n_updates": result.n_updates + spent}
            lowest[name] = result.best_x
            _track(stage, name, answers[name])
        workers.forget()
    save_tensors(out / f"{method}.safetensors", lowest)
    write_json(out / f"{method}.json", answers)
    stage.run.file(out / f"{method}.json")


def load(path: Path, offset: float) -> Ising:
    """Return the model of couplings that were written down without their offset."""
    return Ising.of(dataclasses.replace(coupling_files.read(path).couplings, offset=offset))


def answer(model: Ising, result: Any) -> dict[str, Any]:
    """Return the lowest energy and log Z as Estimates, curves over β and diagnostics, JSON-ready."""
    with torch.no_grad():
        best = float(model.energy(result.best_x[None]))
    energy = of_scalar(best, stderr=None, kind="upper", unit="nats at β = 1", n=1, method="the lowest met")
    betas = result.betas.tolist()
    if isinstance(result, Cooled):
        reason = "not in equilibrium on the way: there are only energies"
        curve = [undetermined(reason, unit="nats", n=len(result.energies), method="annealing")]
        diagnostics = result.summary()
        means = [] if result.mean_energy is None else result.mean_energy.tolist()
        energies = [{"beta": beta, "value": value} for beta, value in zip(betas, means, strict=False)]
    else:
        curve, diagnostics = free_energy.evaluate(result)
        energies = _points(betas, averages.energies(result, curve))
    return {
        "best_energy": energy.to_dict(),
        "log_z": curve[-1].to_dict(),
        "curve": _thinned([] if isinstance(result, Cooled) else _points(betas, curve)),
        "energies": _thinned(energies),
        "diagnostics": diagnostics,
    }


def _points(betas: Sequence[float], estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """Return value and error at every β that has them."""
    return [
        {"beta": beta, "value": estimate.value, "stderr": estimate.stderr}
        for beta, estimate in zip(betas, estimates, strict=True)
        if estimate.value is not None
    ]


def _thinned(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return at most so many points, evenly spaced, the first and the last among them."""
    n = min(_POINTS, len(points))
    return [points[round(i * (len(points) - 1) / max(1, n - 1))] for i in range(n)]


def _track(stage: Stage, name: str, found: dict[str, Any]) -> None:
    figures = {f"best_energy/{name}": found["best_energy"]["value"], f"n_updates/{name}": found["n_updates"]}
    log_z = found["log_z"]
    if log_z["value"] is not None:
        figures |= {f"log_z/{name}": log_z["value"], f"log_z/{name}/stderr": log_z["stderr"]}
    stage.run.metrics(figures)


def descent(task: Task, workers: Placement) -> tuple[SimulatedAnnealing, int]:
    """Return as many restarts as the budget allows."""
    n_sweeps = task.settings.n_sweeps
    n_replicas = _rounds(task, n_sweeps, 1)
    return SimulatedAnnealing(n_replicas=n_replicas, n_temperatures=n_sweeps, n_sweeps=1, descent=True), 0


def simulated_annealing(task: Task, workers: Placement) -> tuple[SimulatedAnnealing, int]:
    """Return annealing whose last β is that of the couplings, as slow as the budget allows."""
    n = task.settings.n_replicas
    return SimulatedAnnealing(n, _rounds(task, n, 2), 1, record=True), 0


def simulated_tempering(task: Task, workers: Placement) -> tuple[SimulatedTempering, int]:
    """Return tempering with as many rounds as the budget allows; the walk up the ladder takes 2 n_rungs."""
    s = task.settings
    n_rounds = _rounds(task, s.n_chains * s.sweeps_per_round, 2 * s.n_rungs + 32) - 2 * s.n_rungs
    sizes = _parts(n_rounds, s.burn_in) | {"sweeps_per_round": s.sweeps_per_round}
    return SimulatedTempering(s.n_chains, s.n_rungs, **sizes, beta_max=task.beta_max), 0


def replica_exchange(task: Task, workers: Placement) -> tuple[ReplicaExchange, int]:
    """Return exchange with as many rounds as the budget allows."""
    s = task.settings
    n_rounds = _rounds(task, s.n_ladders * s.n_rungs * s.sweeps_per_round, 32)
    sizes = _parts(n_rounds, s.burn_in) | {"sweeps_per_round": s.sweeps_per_round}
    return ReplicaExchange(s.n_ladders, s.n_rungs, **sizes, beta_max=task.beta_max), 0


def population_annealing(task: Task, workers: Placement) -> tuple[PopulationAnnealing, int]:
    """Return populations as large as the budget allows; a trial tells how many steps the pilot takes."""
    s = task.settings
    trial = PopulationAnnealing(s.n_populations, 2, s.n_sweeps, s.ess, s.n_pilot, task.beta_max)
    tried = trial.run(task.model, task.kernel, task.key, workers)
    n_steps, spent = len(tried.betas) - 1, tried.n_updates
    # The pilot of the run proper costs as much again.
    left = task.budget - 2 * math.ceil(spent / task.model.n_sites)
    n_walkers = left // (s.n_populations * n_steps * s.n_sweeps)
    if n_walkers < 2:
        raise _too_small(task, f"{n_steps} steps of temperature")
    return dataclasses.replace(trial, n_walkers=n_walkers), spent


def jarzynski(task: Task, workers: Placement) -> tuple[Jarzynski, int]:
    """Return replicas driven both ways as slowly as the budget allows, and what drawing the starts costs.

    A share `equilibrium` of the budget goes to the replica exchange from which the way back starts; it is
    charged with the most that it can take, a burn-in between any two draws of a ladder.
    """
    s = task.settings
    n_draws = 1 + math.ceil(s.n_replicas / s.n_ladders)
    a_round = s.n_ladders * s.n_rungs
    burn_in = int(task.budget * s.equilibrium) // (a_round * n_draws)
    spent = burn_in * n_draws * a_round
    n_steps = (task.budget - spent - 100 * s.n_pilot) // (2 * s.n_replicas)
    if burn_in < 16 or n_steps < 1:
        raise _too_small(task, f"{n_draws} times {burn_in} rounds of {a_round} replicas to draw the starts")
    exchange = ReplicaExchange(s.n_ladders, s.n_rungs, burn_in=burn_in, sweeps_per_round=1)
    sizes = {"n_reverse": s.n_replicas, "n_pilot": s.n_pilot, "replicas_per_shard": _A_SHARD}
    sampler = Jarzynski(s.n_replicas, n_steps, 1, **sizes, exchange=exchange, beta_max=task.beta_max)
    return sampler, spent * task.model.n_sites


METHODS: dict[str, Callable[[Task, Placement], tuple[Any, int]]] = {
    "descent": descent,
    "simulated_annealing": simulated_annealing,
    "simulated_tempering": simulated_tempering,
    "replica_exchange": replica_exchange,
    "population_annealing": population_annealing,
    "jarzynski": jarzynski,
}  # each returns the sampler, and the updates that its result does not count


def _rounds(task: Task, sweeps: int, least: int) -> int:
    """Return how many rounds of so many sweeps the budget allows.

    Raises:
        InputError: fewer than `least`.
    """
    n_rounds = task.budget // sweeps
    if n_rounds < least:
        raise _too_small(task, f"{least} rounds of {sweeps} sweeps")
    return n_rounds


def _parts(n_rounds: int, burn_in: float) -> dict[str, int]:
    first = max(16, round(burn_in * n_rounds))
    return {"burn_in": first, "n_rounds": n_rounds - first}


def _too_small(task: Task, what: str) -> InputError:
    kind = type(task.settings).__name__
    return InputError(
        f"sample_couplings.budget = {task.budget}: too few sweeps for {kind}, which needs {what}: "
        "give more, or smaller sizes of the method"
    )


if __name__ == "__main__":
    main("sample_couplings", work)
