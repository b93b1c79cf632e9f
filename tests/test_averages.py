"""Averages weigh batches as they have to, and are refused where log Z is."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from exact import Exact
from machines import BoltzmannMachine

from genmodels.estimators import averages, free_energy
from genmodels.samplers.jarzynski import Worked
from genmodels.samplers.population_annealing import Annealed
from genmodels.samplers.replica_exchange import Exchanged
from genmodels.samplers.simulated_tempering import Tempered
from genmodels.streams import Key

KEY = Key(47, "test")
EXACT = Exact(BoltzmannMachine(6))
BETAS = np.array([0.0, 0.3, 0.6])


def exchanged(n_ladders: int = 24, n_rounds: int = 200) -> Exchanged:
    energies = EXACT.energies(BETAS, n_ladders, max(n_rounds, 1), KEY)[:, :n_rounds]
    x = EXACT.draws(0.6, 24 * 200, KEY.child("x")).double().view(24, 200, 6)
    return Exchanged(
        betas=torch.from_numpy(BETAS),
        energies=torch.from_numpy(energies),
        round_trips=torch.full((n_ladders,), 9),
        x=x[:, 0].float(),
        n_updates=1,
        log_z_0=6 * math.log(2.0),
        best_energy=0.0,
        best_x=x[0, 0].float(),
        mean_x=x.mean(1) if n_rounds else torch.full((24, 6), math.nan),
        flow=torch.ones(3),
    )


def annealed(log_z: list[float], energies: list[float], spins: list[float]) -> Annealed:
    n = len(log_z)
    table = torch.zeros(n, 2).double()
    return Annealed(
        betas=torch.tensor([0.0, 0.5], dtype=torch.float64),
        log_z=torch.tensor([[4.0, value] for value in log_z], dtype=torch.float64),
        mean_energy=torch.tensor([[0.0, value] for value in energies], dtype=torch.float64),
        ess=table + 1.0,
        families=table + 100.0,
        family=torch.zeros(n, 100, dtype=torch.int64),
        energies=torch.zeros(n, 100).double(),
        n_sites=1,
        n_updates=1,
        log_z_0=4.0,
        best_energy=0.0,
        best_x=torch.ones(1),
        mean_x=torch.tensor(spins, dtype=torch.float64)[:, None],
        entropy=table,
    )


def tempered(n_rounds: int = 400, trips: int = 9, g: np.ndarray | None = None) -> Tempered:
    """Return chains that draw rung and energy independently each round."""
    n_chains = 24
    random = KEY.child("rung").numpy()
    log_z = np.array([EXACT.log_z(beta) for beta in BETAS])
    g = -log_z + np.array([0.0, 0.3, -0.2]) if g is None else g
    share = np.exp(log_z + g - np.logaddexp.reduce(log_z + g))
    rung = random.choice(3, (n_chains, n_rounds), p=share)
    energies = np.choose(rung, np.moveaxis(EXACT.energies(BETAS, n_chains, n_rounds, KEY), 2, 0))
    x = torch.full((n_chains, 6), math.nan, dtype=torch.float64)
    x[1:] = EXACT.draws(0.6, 400 * (n_chains - 1), KEY.child("x")).double().view(n_chains - 1, 400, 6).mean(1)
    rung[0][rung[0] == 2] = 1  # a chain that never was at the last β
    return Tempered(
        betas=torch.from_numpy(BETAS),
        g=torch.from_numpy(g),
        rung=torch.from_numpy(rung),
        energies=torch.from_numpy(energies),
        round_trips=torch.full((n_chains,), trips),
        mean_x=x,
        log_z_0=6 * math.log(2.0),
        best_energy=0.0,
        best_x=torch.ones(6),
        n_updates=1,
    )


def z_scores(estimates: list, exact: np.ndarray) -> np.ndarray:
    return np.array([(e.value - truth) / e.stderr for e, truth in zip(estimates, exact, strict=True)])


def test_spins_are_weighted_by_the_work_of_all_steps() -> None:
    generator = KEY.child("work").torch()
    work = torch.randn(400, 3, generator=generator, dtype=torch.float64).cumsum(1)
    x = torch.randn(400, 2, generator=generator).sign()
    nothing = torch.zeros(400, dtype=torch.float64)
    result = Worked(
        torch.from_numpy(BETAS), work, nothing, nothing, None, nothing, x, 1.0, 0.0, x[0], n_updates=1
    )
    weights = (-work[:, -1]).exp()
    expected = (weights @ x.double() / weights.sum()).tolist()
    found = averages.moments(result, free_energy.evaluate(result)[0])
    assert [one.value for one in found] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("result", [exchanged(), tempered()], ids=["exchange", "tempering"])
def test_exact_draws_have_exact_averages(result: Exchanged | Tempered) -> None:
    curve, _ = free_energy.evaluate(result)
    energies = averages.energies(result, curve)
    assert np.abs(z_scores(energies, [EXACT.mean_energy(beta) for beta in BETAS])).max() < 3.5
    heat = averages.specific_heat(result, curve)[1:]
    assert np.abs(z_scores(heat, [EXACT.specific_heat(beta) for beta in BETAS[1:]])).max() < 3.5
    assert np.abs(z_scores(averages.moments(result, curve), EXACT.moments(0.6))).max() < 3.5
    assert np.abs(z_scores(averages.moments(result, curve), EXACT.moments(0.3))).max() > 7.0
    assert (energies[1].unit, energies[1].n, energies[1].method) == ("nats", 24, curve[-1].method)


def test_populations_are_weighted_by_their_partition_functions() -> None:
    one, three = math.log(1.0), math.log(3.0)
    result = annealed([one, three, one], [-2.0, -4.0, -3.0], [1.0, 0.0, -0.5])
    curve, _ = free_energy.evaluate(result)
    energy, spin = averages.energies(result, curve)[-1], averages.moments(result, curve)[0]
    assert energy.value == pytest.approx((-2.0 - 12.0 - 3.0) / 5.0)
    assert spin.value == pytest.approx(0.5 / 5.0)
    left_out = np.array([-15.0 / 4.0, -5.0 / 2.0, -14.0 / 4.0])
    assert energy.stderr == pytest.approx(math.sqrt(2.0 * left_out.var()))
    # By the slope of ⟨E⟩: −β² Δ⟨E⟩/Δβ, without its bias.
    heat = averages.specific_heat(result, curve)[-1]
    slopes = -0.25 * np.append(-17.0 / 5.0, left_out) / 0.5
    assert heat.value == pytest.approx(3.0 * slopes[0] - 2.0 * slopes[1:].mean())


def test_the_slope_of_the_energy_has_the_error_of_its_differences() -> None:
    # A spin in a field: ⟨E⟩ = −tanh β, C = (β/cosh β)².
    betas = torch.linspace(0.0, 1.5, 8, dtype=torch.float64)
    one = torch.ones(3, 8, dtype=torch.float64)
    result = dataclasses.replace(
        annealed([0.0] * 3, [0.0] * 3, [0.0] * 3),
        betas=betas,
        log_z=4.0 * one,
        mean_energy=-torch.tanh(betas).repeat(3, 1),
        families=100.0 * one,
    )
    heat = averages.specific_heat(result, free_energy.evaluate(result)[0])
    off = np.array([estimate.value for estimate in heat]) - ((betas / betas.cosh()) ** 2).numpy()
    stated = np.array([estimate.stderr for estimate in heat])
    assert np.abs(off).max() > 0.01
    assert (np.abs(off) <= 1.5 * stated + 1e-12).all()
    assert stated.max() < 0.2


def test_replicas_are_weighted_by_their_work() -> None:
    work = torch.tensor([[0.0, -math.log(2.0)], [0.0, 0.0]], dtype=torch.float64).repeat(200, 1)
    nothing = torch.zeros(400, dtype=torch.float64)
    x = torch.tensor([[1.0], [-1.0]]).repeat(200, 1)
    result = Worked(
        betas=torch.tensor([0.0, 0.5], dtype=torch.float64),
        work=work,
        heat=nothing,
        change=nothing,
        reverse_work=None,
        energies=torch.tensor([-3.0, 0.0], dtype=torch.float64).repeat(200),
        x=x,
        log_z_0=0.0,
        best_energy=0.0,
        best_x=x[0],
        n_updates=1,
    )
    curve, _ = free_energy.evaluate(result)
    first, last = averages.energies(result, curve)
    assert first.value == pytest.approx(-math.log(2.0) / 0.5 / 2.0)  # half of them, and none
    assert last.value == pytest.approx(-2.0)  # two thirds of −3
    assert averages.moments(result, curve)[0].value == pytest.approx(1.0 / 3.0)


def test_averages_are_refused_where_log_z_is() -> None:
    result = exchanged(n_ladders=2, n_rounds=20)
    curve, _ = free_energy.evaluate(result)
    assert "independent ones" in curve[-1].reason
    energies = averages.energies(result, curve)
    assert energies[0].value is not None
    assert [e.reason for e in energies[1:]] == [e.reason for e in curve[1:]]
    assert {e.reason for e in averages.moments(exchanged(), curve)} == {curve[-1].reason}


@pytest.mark.parametrize("made", [exchanged, tempered])
def test_a_run_that_measured_nothing_has_no_averages(made: Callable[..., Exchanged | Tempered]) -> None:
    result = made(n_rounds=0)
    curve, _ = free_energy.evaluate(result)
    found = [*averages.energies(result, curve), *averages.specific_heat(result, curve)]
    for estimate in found + averages.moments(result, curve):
        assert estimate.value is None
        assert estimate.reason == "0 rounds were measured: give more of them, or more time"


# log Z of simulated tempering


def test_occupation_gives_log_z_whatever_the_weights() -> None:
    log_z = np.array([EXACT.log_z(beta) for beta in BETAS])
    for g in (-log_z, -log_z + np.array([0.0, 0.5, 1.0])):
        curve, figures = free_energy.evaluate(tempered(g=g))
        assert np.abs(z_scores(curve[1:], log_z[1:])).max() < 3.5
        assert figures["r_hat"] < 1.05
        assert figures["round_trips"] == 24 * 9
    wrong = tempered(g=-log_z)
    object.__setattr__(wrong, "g", wrong.g + torch.tensor([0.0, 0.3, 0.6]))  # not those it moved by
    assert np.abs(z_scores(free_energy.evaluate(wrong)[0][1:], log_z[1:])).min() > 7.0


def test_chains_that_do_not_get_around_are_refused() -> None:
    assert "24 round trips from end to end" in free_energy.log_z(tempered(trips=1)).reason
    stuck = tempered()
    object.__setattr__(stuck, "rung", torch.arange(3).repeat(8)[:, None].expand(24, 400))
    assert "R-hat of the rungs is inf" in free_energy.log_z(stuck).reason
    log_z = np.array([EXACT.log_z(beta) for beta in BETAS])
    nowhere = free_energy.evaluate(tempered(g=-log_z + np.array([0.0, 0.0, -2000.0])))[0]
    assert nowhere[1].value is not None
    assert "share no energies" in nowhere[2].reason
