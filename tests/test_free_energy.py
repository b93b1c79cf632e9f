"""log Z with an honest error, or a refusal that says why."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from exact import Exact
from machines import BoltzmannMachine, DoubledBeta, machine
from scipy.stats import chi2
from torch import nn

from genmodels.estimate import Estimate, of_scalar, undetermined
from genmodels.estimators import enumeration, exchange, free_energy, jackknife, stepping_stones
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.learners.fit import Shuffled, fit
from genmodels.learners.persistent_contrastive_divergence import PersistentContrastiveDivergence
from genmodels.models.rbm import RBM
from genmodels.placement.local import LocalPlacement
from genmodels.samplers import population
from genmodels.samplers.population_annealing import Annealed, PopulationAnnealing
from genmodels.samplers.replica_exchange import Exchanged, ReplicaExchange
from genmodels.streams import Key

KEY = Key(21, "test")
EXCHANGE = ReplicaExchange(
    n_ladders=16, n_rungs=6, n_rounds=160, burn_in=64, sweeps_per_round=1, ladders_per_shard=16, beta_max=1.2
)
ANNEALING = PopulationAnnealing(n_populations=16, n_walkers=250, n_sweeps=2, n_pilot=100, beta_max=1.2)
SAMPLERS = {"exchange": EXCHANGE, "annealing": ANNEALING}


MODELS = {"rbm": machine(), "boltzmann machine": BoltzmannMachine(6)}
EXACT = Exact(MODELS["boltzmann machine"])


def scores(model: nn.Module, result: Exchanged | Annealed) -> np.ndarray:
    """Return by how many standard errors log Z is off at every β > 0."""
    off = []
    for beta, estimate in zip(result.betas.tolist()[1:], free_energy.evaluate(result)[0][1:], strict=True):
        assert estimate.value is not None, estimate.reason
        exact = enumeration.log_z_of_energy(model, beta).value
        off.append((estimate.value - exact) / estimate.stderr)
    return np.array(off)


def exchanged(betas: np.ndarray, energies: np.ndarray) -> Exchanged:
    n_ladders, x = len(energies), torch.ones(len(energies), 6)
    return Exchanged(
        betas=torch.from_numpy(betas),
        energies=torch.from_numpy(energies),
        round_trips=torch.zeros(n_ladders, dtype=torch.int64),
        x=x,
        n_updates=1,
        log_z_0=6 * math.log(2.0),
        best_energy=-1.0,
        best_x=x[0],
        mean_x=x.double(),
        flow=torch.linspace(1.0, 0.0, len(betas)),
    )


def annealed(families: float, spread: float) -> Annealed:
    log_z = torch.tensor([[4.0, 5.0], [4.0, 5.0 + spread], [4.0, 5.0 - spread]], dtype=torch.float64)
    table = torch.zeros(3, 2).double()
    return Annealed(
        betas=torch.tensor([0.0, 1.0]).double(),
        log_z=log_z,
        mean_energy=table,
        ess=table + 1.0,
        families=torch.tensor([[100.0, 90.0], [100.0, families], [100.0, 90.0]]).double(),
        family=torch.zeros(3, 100, dtype=torch.int64),
        energies=torch.zeros(3, 100).double(),
        n_sites=6,
        n_updates=1,
        log_z_0=4.0,
        best_energy=-1.0,
        best_x=torch.ones(6),
        mean_x=torch.zeros(3, 6).double(),
        entropy=table,
    )


# Against enumeration


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", MODELS)
def test_log_z_at_every_beta(sampler: str, name: str) -> None:
    result = SAMPLERS[sampler].run(MODELS[name], BlockGibbs(), KEY, LocalPlacement())
    assert np.abs(scores(MODELS[name], result)).max() < 3.5
    start, *_, last = free_energy.evaluate(result)[0]
    assert (start.value, start.stderr, start.kind) == (result.n_sites * math.log(2.0), 0.0, "exact")
    assert last == free_energy.log_z(result)
    assert (last.kind, last.unit, last.n) == ("estimate", "nats", 16)
    assert 0.0 < last.stderr < 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_errors_are_neither_too_small_nor_too_large(sampler: str) -> None:
    model = MODELS["rbm"]
    exact, z = enumeration.log_z_of_energy(model, 1.2).value, np.empty(20)
    for seed in range(20):
        result = SAMPLERS[sampler].run(model, BlockGibbs(), KEY._replace(seed=seed), LocalPlacement())
        estimate = free_energy.log_z(result)
        z[seed] = (estimate.value - exact) / estimate.stderr
    low, high = chi2(20).ppf([1e-3, 1.0 - 1e-3])
    square = (z**2).sum() * 13 / 15  # Student's t with 15 degrees of freedom has a variance of 15/13
    assert low < square < high
    assert abs(z.mean()) < 3.5 / math.sqrt(20)
    # Errors that are wrong by a factor of 3 either way do not pass.
    assert not low < 9.0 * square < high
    assert not low < square / 9.0 < high


def test_wrong_kernels_weights_and_resampling_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, here = MODELS["rbm"], LocalPlacement()
    for sampler in SAMPLERS.values():
        warm = dataclasses.replace(sampler, beta_max=0.6)  # at twice 1.2 R-hat alone refuses
        assert np.abs(scores(model, warm.run(model, DoubledBeta(), KEY, here))).max() > 7.0
    with monkeypatch.context() as patch:
        patch.setattr(population, "systematic", lambda log_w, uniform: torch.arange(len(log_w)))
        assert np.abs(scores(model, ANNEALING.run(model, BlockGibbs(), KEY, here))).max() > 7.0


@pytest.mark.slow
def test_a_machine_trained_on_digits() -> None:
    from sklearn.datasets import load_digits

    x = torch.tensor(2.0 * (load_digits().data >= 8) - 1.0, dtype=torch.float32)[:1200]
    rbm, learner = RBM(64, 20), PersistentContrastiveDivergence(n_steps=3000)
    for _ in fit(rbm, learner, Shuffled(x, 100, KEY.child("batches")), KEY, 3000):
        pass
    exact = enumeration.log_z(rbm)
    samplers = (ReplicaExchange(), PopulationAnnealing())
    both = [free_energy.log_z(s.run(rbm, BlockGibbs(), KEY, LocalPlacement())) for s in samplers]
    for estimate in [*both, free_energy.combined(both)]:
        assert estimate.stderr is not None
        assert estimate.stderr < 0.05
        assert free_energy.agree(estimate, exact), estimate
    assert free_energy.agree(*both)


def test_a_machine_without_energy_has_the_error_of_rounding() -> None:
    samplers = SAMPLERS.values()
    both = [free_energy.log_z(s.run(RBM(6, 4), BlockGibbs(), KEY, LocalPlacement())) for s in samplers]
    together = free_energy.combined(both)
    assert together.value == pytest.approx(10 * math.log(2.0), rel=1e-12)
    assert together.stderr < 1e-6


# Bennett's acceptance ratio and its checks


@pytest.mark.parametrize("way", exchange.WAYS)
def test_every_way_from_exact_draws_reaches_log_z_with_its_error(way: str) -> None:
    betas = np.array([0.0, 0.15, 0.3, 0.5, 0.7, 0.9])
    exact = np.array([EXACT.log_z(beta) for beta in betas])
    curve = exchange.curves(exchanged(betas, EXACT.energies(betas, 24, 400, KEY)))[way]
    assert [estimate.method for estimate in curve] == ["β = 0"] + [way] * 5
    assert max(abs(e.value - x) / e.stderr for e, x in list(zip(curve, exact, strict=True))[1:]) < 3.5
    assert max(e.stderr for e in curve) < 0.03
    negated, _ = exchange.WAYS[way](betas, -EXACT.energies(betas, 24, 400, KEY))
    assert np.abs(negated - (exact - exact[0]))[2:].min() > 0.1


def test_stones_are_one_sided_where_rungs_are_far_apart() -> None:
    betas = np.array([0.0, 1.2])
    exact, runs = EXACT.log_z(1.2) - EXACT.log_z(0.0), []
    for seed in range(200):
        energies = EXACT.energies(betas, 2, 10, KEY._replace(seed=seed))
        runs.append([f(betas, energies).every[1] for f in (stepping_stones.forward, stepping_stones.reverse)])
    low, high = (np.array(runs) - exact).T
    assert low.mean() < -4.0 * low.std() / math.sqrt(200)
    assert high.mean() > 4.0 * high.std() / math.sqrt(200)


@pytest.mark.parametrize("way", sorted(set(exchange.WAYS) - {"MBAR"}))
def test_a_ladder_left_out_is_as_if_it_had_never_been(way: str) -> None:
    betas, f = np.array([0.0, 0.3, 0.8]), exchange.WAYS[way]
    energies = EXACT.energies(betas, 12, 100, KEY)
    every, rest = f(betas, energies)
    without = np.stack([f(betas, np.delete(energies, i, axis=0)).every for i in range(12)])
    # A Newton step from the root of all to that of the rest: its error is of second order in what it moves.
    moved = np.abs(without - every).max()
    assert np.abs(rest - without).max() < (moved**2 if way == exchange.HEADLINE else 1e-12)
    assert moved > 1e-3


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = KEY.numpy().normal(size=(9, 4))
    every, rest = jackknife.mean(values)
    np.testing.assert_allclose(rest, [np.delete(values, i, axis=0).mean(0) for i in range(9)])
    np.testing.assert_allclose(jackknife.standard_error(rest), values.std(0, ddof=1) / 3.0)
    np.testing.assert_allclose(every, values.mean(0))


def test_what_is_left_out_of_ratios_logs_and_variances() -> None:
    a, b = np.exp(KEY.numpy().normal(size=(2, 7, 3)))
    draws = 1e6 + KEY.child("draws").numpy().normal(size=(7, 20, 3))
    for i in range(7):
        keep = np.arange(7) != i
        np.testing.assert_allclose(jackknife.ratio(a, b).rest[i], a[keep].sum(0) / b[keep].sum(0))
        np.testing.assert_allclose(jackknife.log_mean(np.log(a)).rest[i], np.log(a[keep].mean(0)))
        mean, variance = jackknife.mean_and_variance(draws)
        np.testing.assert_allclose(mean.rest[i], draws[keep].mean((0, 1)), rtol=1e-14)
        np.testing.assert_allclose(variance.rest[i], draws[keep].var((0, 1)), rtol=1e-7)
    unlike = np.array([[0.0], [800.0], [-800.0]])
    rest = np.array([800.0, 0.0, 800.0]) - math.log(2.0)
    np.testing.assert_allclose(jackknife.log_mean(unlike).rest[:, 0], rest)


def test_without_its_bias_a_variance_is_the_unbiased_one() -> None:
    draws = KEY.numpy().normal(size=(8, 1, 1))
    _, variance = jackknife.mean_and_variance(draws)
    np.testing.assert_allclose(jackknife.unbiased(variance), draws.var(ddof=1))


def test_equal_energies_need_no_overlap() -> None:
    values, left_out = stepping_stones.bennett(np.array([0.0, 0.5, 1.0]), np.full((3, 8, 3), -2.0))
    np.testing.assert_allclose(values, [0.0, 1.0, 2.0])
    np.testing.assert_allclose(left_out, np.tile([0.0, 1.0, 2.0], (3, 1)))


def test_integration_is_exact_to_fourth_order_and_says_what_it_leaves() -> None:
    # A single spin in a field: ⟨E⟩ = −tanh β, log Z = log 2 cosh β.
    n, errors, stated = 100_000, [], []
    for n_rungs in (2, 3):
        betas = np.linspace(0.0, 1.0, n_rungs)
        up = [round(n / (1.0 + math.exp(2.0 * beta))) for beta in betas]
        energies = np.stack([np.r_[np.ones(m), -np.ones(n - m)] for m in up], axis=1).reshape(2, -1, n_rungs)
        integral = stepping_stones.integration(betas, energies).every
        errors.append(abs(integral[-1] - math.log(math.cosh(1.0))))
        stated.append(stepping_stones.integration_error(betas, energies)[-1])
    assert errors[1] < errors[0] / 10.0
    assert all(0.3 * claimed < error < 2.0 * claimed for error, claimed in zip(errors, stated, strict=True))
    assert stepping_stones.integration_error(betas, energies)[0] == 0.0


def test_what_integration_leaves_is_told_by_fourth_cumulants() -> None:
    # None at one rung; ⟨E⁴⟩ − 3⟨E²⟩² = 16 − 48 at the next, where E is ±2 about its mean.
    energies = np.stack([np.full((2, 4), 5.0), 5.0 + np.tile([2.0, -2.0], (2, 2))], axis=2)
    claimed = stepping_stones.integration_error(np.array([0.0, 0.5]), energies)
    np.testing.assert_allclose(claimed, [0.0, 0.5**4 / 720.0 * 32.0])


# Refusals


def test_a_sound_run_is_not_refused_and_is_summarised() -> None:
    betas = np.array([0.0, 0.15, 0.4, 0.9])
    result = exchanged(betas, EXACT.energies(betas, 8, 100, KEY))
    curve, figures = free_energy.evaluate(result)
    assert curve[-1].kind == "estimate"
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["n_rungs"] == 4
    assert figures["r_hat"] < 1.05
    assert 100.0 < figures["ess"] < 1500.0
    assert 0.3 < figures["overlap"] < 0.9
    checks = figures["checks"]
    assert len(checks) == 4
    assert all(abs(check["value"] - curve[-1].value) < 5.0 * check["stderr"] for check in checks.values())


def test_a_ladder_that_is_stuck_is_refused_from_its_rung_on() -> None:
    betas = np.array([0.0, 0.15, 0.4, 0.9])
    energies = EXACT.energies(betas, 8, 100, KEY)
    energies[0, :, 2:] += 4.0
    curve, _ = free_energy.evaluate(exchanged(betas, energies))
    assert [estimate.kind for estimate in curve] == ["exact", "estimate", "undetermined", "undetermined"]
    assert curve[-1].reason.startswith("R-hat of the energies is 1.")
    assert curve[-1].reason == curve[-2].reason


def test_frozen_ladders_are_refused_and_can_still_be_written() -> None:
    energies = np.arange(8.0)[:, None, None] * np.ones((8, 50, 2)) / 10.0
    result = exchanged(np.array([0.0, 0.3]), energies)
    assert "R-hat of the energies is inf" in free_energy.log_z(result).reason
    assert free_energy.evaluate(result)[1]["r_hat"] is None


def test_rungs_too_far_apart_are_refused() -> None:
    betas = np.array([0.0, 1.0])
    normal = KEY.numpy().normal(size=(8, 200, 2))
    energies = 6.0 * normal - 36.0 * betas
    assert "are accepted at a rate of" in free_energy.log_z(exchanged(betas, energies)).reason
    far = normal - 1e5 * betas  # nothing overlaps: no error can be had
    assert free_energy.log_z(exchanged(betas, far)).kind == "undetermined"


@pytest.mark.parametrize("n_rounds", [0, 1, 3])
def test_a_run_that_was_broken_off_is_refused(n_rounds: int) -> None:
    betas = np.array([0.0, 0.3, 0.6])
    energies = EXACT.energies(betas, 8, max(n_rounds, 1), KEY)[:, :n_rounds]
    curve, figures = free_energy.evaluate(exchanged(betas, energies))
    assert [estimate.kind for estimate in curve] == ["exact", "undetermined", "undetermined"]
    assert curve[-1].reason == f"{n_rounds} rounds were measured: give more of them, or more time"
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_what_no_estimator_knows_is_named() -> None:
    with pytest.raises(TypeError, match="what a Tensor is"):
        free_energy.evaluate(torch.zeros(1))


def test_too_few_independent_energies_are_refused() -> None:
    betas = np.array([0.0, 0.3])
    energies = EXACT.energies(betas, 2, 20, KEY)
    assert "independent ones: give more rounds" in free_energy.log_z(exchanged(betas, energies)).reason


def test_estimates_that_contradict_each_other_are_refused() -> None:
    # Energies that belong to no ladder of βs: the mean falls far too fast for their variance.
    betas = np.array([0.0, 1.0])
    energies = KEY.numpy().normal(size=(8, 200, 2)) - np.array([0.0, 4.0])
    assert "differs by" in free_energy.log_z(exchanged(betas, energies)).reason


def test_populations_of_few_families_or_wide_spread_are_refused() -> None:
    sound = free_energy.log_z(annealed(families=60.0, spread=0.3))
    assert sound.value == pytest.approx(5.0 + math.log((1.0 + 2.0 * math.cosh(0.3)) / 3.0))
    assert free_energy.evaluate(annealed(60.0, 0.3))[1]["rho_f"] == pytest.approx(100 * 0.09)
    few, wide = annealed(families=12.0, spread=0.3), annealed(families=60.0, spread=1.5)
    assert free_energy.log_z(few).reason.startswith("12 effective families are left at β = 1")
    assert "varies by 1.5 nats" in free_energy.log_z(wide).reason


def test_settings_too_small_for_the_task_are_refused_in_a_run() -> None:
    model = machine()
    with torch.no_grad():
        model.W.mul_(4.0)
    stuck = dataclasses.replace(EXCHANGE, n_rungs=2, n_rounds=20, burn_in=16)
    few = dataclasses.replace(ANNEALING, n_walkers=20)
    for sampler in (stuck, few):
        estimate = free_energy.log_z(sampler.run(model, BlockGibbs(), KEY, LocalPlacement()))
        assert estimate.kind == "undetermined"
        assert ": give more" in estimate.reason


# Two estimates


def number(value: float, stderr: float, method: str = "one") -> Estimate:
    return of_scalar(value, stderr=stderr, kind="estimate", unit="nats", n=8, method=method)


def test_agreement_is_within_three_joint_errors_and_half_a_nat() -> None:
    assert free_energy.agree(number(1.0, 0.03), number(1.14, 0.04))
    assert not free_energy.agree(number(1.0, 0.03), number(1.16, 0.04))
    assert free_energy.agree(number(1.0, 0.3), number(1.49, 0.4))
    assert not free_energy.agree(number(1.0, 0.3), number(1.51, 0.4))  # 1 joint error, but what use is it
    assert not free_energy.agree(number(1.0, 0.3), undetermined("why", unit="nats", n=8, method="two"))


def test_a_number_of_the_table_rests_on_chains_that_agree() -> None:
    good = number(1.0, 0.1)
    assert free_energy.for_the_table(good, {"r_hat": 1.01}) == good
    assert free_energy.for_the_table(good, {"rho_f": 3.0}) == good  # no chains
    missing = undetermined("why", unit="nats", n=8, method="two")
    assert free_energy.for_the_table(missing, {"r_hat": 1.2}) == missing
    for r_hat, said in ((1.02, "1.02"), (None, "inf")):
        refused = free_energy.for_the_table(good, {"r_hat": r_hat})
        assert (refused.kind, refused.n, refused.method) == ("undetermined", 8, "one")
        assert refused.reason == f"R-hat of the chains is {said}, above 1.01: give more rounds"


def test_an_estimate_that_contradicts_enumeration_is_refused() -> None:
    exact = of_scalar(1.0, stderr=0.0, kind="exact", unit="nats", n=4, method="sum")
    assert free_energy.against_exact(number(1.2, 0.1), exact) == number(1.2, 0.1)
    for wrong in (number(1.2, 0.05), number(1.6, 0.5)):
        refused = free_energy.against_exact(wrong, exact)
        assert refused.value is None
        assert "contradicts the exact 1.00" in refused.reason
        assert "would settle it" in refused.reason


def test_combination_weighs_by_inverse_variance() -> None:
    both = free_energy.combined([number(1.0, 0.3), number(1.5, 0.6, "two")])
    assert both.value == pytest.approx((1.0 / 0.09 + 1.5 / 0.36) / (1.0 / 0.09 + 1.0 / 0.36))
    assert both.stderr == pytest.approx((1.0 / 0.09 + 1.0 / 0.36) ** -0.5)
    assert (both.kind, both.n, both.method) == ("estimate", 16, "one and two")


def test_what_disagrees_or_is_missing_is_not_combined() -> None:
    apart = free_energy.combined([number(1.0, 0.1), number(1.2, 0.1), number(1.6, 0.1, "three")])
    assert apart.value is None
    assert apart.reason == (
        "the estimates disagree: one 1.00 ± 0.10, one 1.20 ± 0.10, three 1.60 ± 0.10; "
        "more sweeps, rounds or replicas of each would settle it"
    )
    far = free_energy.combined([number(1.0, 0.3), number(1.6, 0.3, "two")])
    assert far.value is None
    assert far.reason.startswith("the estimates disagree")
    missing = free_energy.combined([number(1.0, 0.1), undetermined("why", unit="nats", n=8, method="two")])
    assert missing.reason == "two: why"
    with pytest.raises(ValueError, match="at least two"):
        free_energy.combined([number(1.0, 0.1)])
    with pytest.raises(ValueError, match="no standard error"):
        free_energy.combined([number(1.0, 0.1), number(1.0, 0.0)])
