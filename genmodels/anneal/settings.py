"""The samplers behind the command's methods, with settings that suit the couplings."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from genmodels.couplings import Couplings
from genmodels.errors import InputError
from genmodels.kernels.heat_bath import HeatBath
from genmodels.kernels.metropolis import Metropolis
from genmodels.protocols import Kernel, Sampler
from genmodels.samplers import temperatures
from genmodels.samplers.jarzynski import Jarzynski
from genmodels.samplers.population_annealing import PopulationAnnealing
from genmodels.samplers.replica_exchange import ReplicaExchange
from genmodels.samplers.simulated_annealing import SimulatedAnnealing
from genmodels.samplers.simulated_tempering import SimulatedTempering

Choice = Callable[[Couplings, float, int | None, int | None], Any]
_SWEEPS_PER_ROUND = 2
_SHARDS = {"exchange": "rungs_per_shard", "population": "walkers_per_shard"}
_BUDGET = 4e9  # updates that a default is meant to stay below: seconds on two cores


def beta_max(couplings: Couplings, given: float | None) -> float:
    """Return the last β as a float32: the one asked for, else one at which hardly a spin is excited any more.

    Raises:
        InputError: it is not positive, or none is asked for and all couplings and fields are 0.
    """
    with np.errstate(over="ignore", under="ignore"):
        last = float(np.float32(temperatures.beta_range(couplings)[1] if given is None else given))
    if not 0.0 < last < math.inf:
        raise InputError(f"--beta-max is {given}, give a positive number")
    return last


def kernel(method: str) -> Kernel[Any]:
    """Return what moves the spins of a method.

    Annealing, which starts above β = 0 and wants low energies, by Metropolis' rule; the others by heat bath,
    which mixes at β = 0. Bennett's ratio of the work in both directions asks for a reversible chain: sites at
    random.
    """
    if method == "annealing":
        return Metropolis()
    return HeatBath("random" if method == "jarzynski" else "sequential")


def sampler(
    method: str,
    couplings: Couplings,
    beta_max: float,
    replicas: int | None,
    sweeps: int | None,
    shard: int | None = None,
) -> Sampler:
    """Return the sampler of a method.

    Args:
        method: A key of METHODS.
        couplings: Of the model: their number of sites decides how many temperatures there are.
        beta_max: The last β.
        replicas: Configurations that move at once, over all ladders or populations; None is the default.
        sweeps: Sweeps at each temperature; None is the default.
        shard: Replicas of a ladder, or walkers of a population, in a task; None for whole ones.

    Raises:
        InputError: a number is too small to make sense, or the method has no such shards.
    """
    chosen = METHODS[method](couplings, beta_max, replicas, sweeps)
    if shard is not None:
        if method not in _SHARDS:
            raise InputError(f"--shard: there is none for {method}, only for {' and '.join(_SHARDS)}")
        chosen = dataclasses.replace(chosen, **{_SHARDS[method]: shard})
    whole: Sampler = chosen
    return whole


def n_rungs(couplings: Couplings, replicas: int) -> int:
    """Return the number of temperatures of a ladder: energies vary by √n_sites, so do the swaps they need."""
    wanted = min(max(6, round(1.6 * math.sqrt(couplings.n_sites))), 96)
    return max(2, min(wanted, replicas // 2))


def within_budget(couplings: Couplings, replicas: int, least: int, most: int) -> int:
    """Return how many sweeps of all replicas the budget allows, between `least` and `most`."""
    return min(max(least, int(_BUDGET / (replicas * couplings.n_sites))), most)


def _annealing(couplings: Couplings, beta_max: float, replicas: int | None, sweeps: int | None) -> Any:
    return SimulatedAnnealing(
        n_replicas=replicas or 1024, n_temperatures=500, n_sweeps=sweeps or 2, beta_max=beta_max, record=True
    )


def _exchange(couplings: Couplings, beta_max: float, replicas: int | None, sweeps: int | None) -> Any:
    rungs = n_rungs(couplings, replicas or 1024)
    n_ladders = max(2, replicas // rungs) if replicas else 16
    # Large systems take long to come to equilibrium.
    hard = min(max(2000, round(300 * math.sqrt(couplings.n_sites))), 6000)
    sweeps = sweeps or within_budget(couplings, n_ladders * rungs, 1000, hard)
    n_rounds = max(4, math.ceil(sweeps / _SWEEPS_PER_ROUND))
    return ReplicaExchange(
        n_ladders=n_ladders,
        n_rungs=rungs,
        n_rounds=n_rounds,
        burn_in=max(16, n_rounds // 2),
        sweeps_per_round=_SWEEPS_PER_ROUND,
        beta_max=beta_max,
    )


def _population(couplings: Couplings, beta_max: float, replicas: int | None, sweeps: int | None) -> Any:
    replicas = replicas or 16000
    n_populations = max(2, min(16, replicas // 100))
    return PopulationAnnealing(
        n_populations=n_populations,
        n_walkers=replicas // n_populations,
        n_sweeps=sweeps or within_budget(couplings, 100 * replicas, 2, 10),  # in a hundred steps or so
        beta_max=beta_max,
    )


def _tempering(couplings: Couplings, beta_max: float, replicas: int | None, sweeps: int | None) -> Any:
    # A chain is at one temperature at a time: the sweeps at all of them are made one after the other.
    rungs = n_rungs(couplings, 1024)
    n_rounds = max(4, math.ceil((sweeps or 200) * rungs / _SWEEPS_PER_ROUND))
    return SimulatedTempering(
        n_chains=replicas or 256,
        n_rungs=rungs,
        n_rounds=n_rounds,
        burn_in=max(16, n_rounds // 2),
        sweeps_per_round=_SWEEPS_PER_ROUND,
        beta_max=beta_max,
    )


def _jarzynski(couplings: Couplings, beta_max: float, replicas: int | None, sweeps: int | None) -> Any:
    # Half of the replicas go forward, half of them back from where an exchange has found equilibrium.
    half = (replicas or 2048) // 2
    return Jarzynski(
        n_replicas=half,
        n_reverse=half,
        n_steps=1000,
        n_sweeps=sweeps or 2,
        exchange=_exchange(couplings, beta_max, None, None),
        beta_max=beta_max,
    )


METHODS: dict[str, Choice] = {
    "annealing": _annealing,
    "tempering": _tempering,
    "exchange": _exchange,
    "population": _population,
    "jarzynski": _jarzynski,
}
