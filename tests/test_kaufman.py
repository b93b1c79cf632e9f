"""Samplers of large Ising ferromagnets against Kaufman's exact free energy and energy."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pytest
from faults import OffBeta

from genmodels.couplings import Couplings
from genmodels.estimators import averages, free_energy, ising_2d
from genmodels.estimators.enumeration import log_z_of_energy
from genmodels.kernels.metropolis import Metropolis
from genmodels.models.ising import Ising
from genmodels.placement.local import LocalPlacement
from genmodels.samplers.jarzynski import Jarzynski
from genmodels.samplers.population_annealing import PopulationAnnealing
from genmodels.samplers.replica_exchange import ReplicaExchange
from genmodels.streams import Key

KEY = Key(41, "test")
CRITICAL = 0.44068679350977147  # ½ log(1 + √2)
# log Z and ⟨E⟩ a site of 64 × 64 spins, the formula and its slope in arithmetic of 60 digits.
SITE = {
    0.2: (0.734530812276326, -0.428228833240348),
    0.3: (0.790559070951263, -0.704499070832445),
    CRITICAL: (0.929851631694289, -1.423938389833010),
    0.6: (1.210301613674292, -1.909086177684075),
}


def torus(n_rows: int, n_columns: int) -> Ising:
    """Return the ferromagnet with couplings of 1 on a periodic rectangle."""
    site = np.arange(n_rows * n_columns).reshape(n_rows, n_columns)
    pairs = [np.stack([site, np.roll(site, -1, axis)], -1).reshape(-1, 2) for axis in (0, 1)]
    ends = np.sort(np.concatenate(pairs), axis=1)
    return Ising.of(Couplings(site.size, ends[:, 0], ends[:, 1], np.ones(len(ends)), np.zeros(site.size)))


# The closed form


@pytest.mark.parametrize("k", SITE)
def test_values_of_the_64_by_64_torus(k: float) -> None:
    log_z, energy = ising_2d.log_z(64, 64, k)
    assert log_z / 4096 == pytest.approx(SITE[k][0], abs=1e-13)
    assert energy / 4096 == pytest.approx(SITE[k][1], abs=1e-12)


def test_the_4_by_4_torus() -> None:
    log_z, energy = ising_2d.log_z(4, 4, 0.44068679)
    assert log_z == pytest.approx(15.521915370836, abs=1e-11)
    model = torus(4, 4)
    assert log_z == pytest.approx(log_z_of_energy(model, 0.44068679).value, rel=1e-13)
    low, high = (log_z_of_energy(model, 0.44068679 + step).value for step in (-1e-5, 1e-5))
    assert energy == pytest.approx((low - high) / 2e-5, rel=1e-8)


@pytest.mark.parametrize("k", [0.05, 0.3, CRITICAL, 1.0])
def test_rows_and_columns_may_be_swapped(k: float) -> None:
    np.testing.assert_allclose(ising_2d.log_z(3, 5, k), ising_2d.log_z(5, 3, k), rtol=1e-12)
    exact = log_z_of_energy(torus(3, 5), k).value
    assert ising_2d.log_z(3, 5, k)[0] == pytest.approx(exact, rel=1e-12)


def test_large_and_cold_systems_do_not_overflow() -> None:
    log_z, energy = ising_2d.log_z(512, 512, 3.0)
    assert log_z == pytest.approx(2 * 512**2 * 3.0 + math.log(2.0), rel=1e-6)
    assert energy == pytest.approx(-2 * 512**2, rel=1e-6)
    assert ising_2d.log_z(512, 512, 1e-3)[0] == pytest.approx(512**2 * math.log(2.0), rel=1e-5)


@pytest.mark.parametrize("wrong", [(2, 5, 0.3), (5, 2, 0.3), (4, 4, 0.0), (4, 4, -0.3)])
def test_what_it_does_not_hold_for_is_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="expected sides of at least 3"):
        ising_2d.log_z(*wrong)


# Samplers


SMALL: dict[str, Any] = {
    "exchange": ReplicaExchange(n_ladders=16, n_rungs=16, n_rounds=400, burn_in=100, sweeps_per_round=2),
    "population": PopulationAnnealing(n_populations=16, n_walkers=1000, n_sweeps=5, ess=0.8, n_pilot=200),
    "jarzynski": Jarzynski(n_replicas=1000, n_steps=200, n_sweeps=2),
}
# Side, β, and what reaches it without being refused.
LARGE: dict[str, tuple[int, float, Any]] = {
    "exchange, hot": (64, 0.3, ReplicaExchange(n_rungs=64, n_rounds=400, burn_in=200)),
    "exchange, critical": (64, CRITICAL, ReplicaExchange(n_rungs=64, n_rounds=1500, burn_in=400)),
    "population, hot": (64, 0.3, PopulationAnnealing(n_walkers=2000, n_sweeps=5, n_pilot=100)),
    "population, critical": (32, CRITICAL, PopulationAnnealing(n_walkers=2000, n_pilot=100)),
    "jarzynski, hot": (64, 0.3, Jarzynski(n_steps=3000)),
    "jarzynski, critical": (64, CRITICAL, Jarzynski(n_steps=8000)),
}


@functools.cache
def torus_of(side: int) -> Ising:
    return torus(side, side)


def worst(sampler: Any, kernel: Any, side: int, k: float) -> dict[str, float]:
    """Return |z| at β = k: of log Z, the largest at any β of the run, and of ⟨E⟩ at the last."""
    cooled = dataclasses.replace(sampler, beta_max=k)
    result = cooled.run(torus_of(side), kernel, KEY, LocalPlacement())
    curve, _ = free_energy.evaluate(result)
    assert curve[-1].value is not None, curve[-1].reason
    last, betas = float(result.betas[-1]), result.betas.tolist()[1:]
    energy = averages.energies(result, curve)[-1]
    exact = [ising_2d.log_z(side, side, beta)[0] for beta in betas]
    z = [(point.value - truth) / point.stderr for point, truth in zip(curve[1:], exact, strict=True)]
    off = (energy.value - ising_2d.log_z(side, side, last)[1]) / energy.stderr
    return {"log_z": float(np.abs(z).max()), "energy": abs(off)}


@pytest.mark.parametrize("k", [0.3, CRITICAL])
@pytest.mark.parametrize("name", SMALL)
def test_16_by_16_spins(name: str, k: float) -> None:
    assert max(worst(SMALL[name], Metropolis(), 16, k).values()) < 4.0


@pytest.mark.parametrize("name", SMALL)
def test_a_kernel_that_is_off_by_two_per_cent_is_seen(name: str) -> None:
    assert worst(SMALL[name], OffBeta(Metropolis()), 16, 0.3)["log_z"] > 4.0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LARGE)
def test_large_systems(name: str) -> None:
    side, k, sampler = LARGE[name]
    assert max(worst(sampler, Metropolis(), side, k).values()) < 4.0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in LARGE if "hot" in name])
def test_a_kernel_that_is_off_by_two_per_cent_is_seen_in_a_large_system(name: str) -> None:
    side, k, sampler = LARGE[name]
    assert worst(sampler, OffBeta(Metropolis()), side, k)["log_z"] > 4.0
