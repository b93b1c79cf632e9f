"""log Z with an honest error, or a refusal that says why."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from machines import BoltzmannMachine, DoubledBeta, machine
from scipy.stats import chi2
from torch import nn

from genmodels.estimate import Estimate, of_scalar, undetermined
from genmodels.estimators import enumeration, free_energy, stepping_stones
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


def scores(model: nn.Module, result: Exchanged | Annealed) -> np.ndarray:
    """Return by how many standard errors log Z is off at every β > 0."""
    off = []
    for beta, estimate in zip(result.betas.tolist()[1:], free_energy.curve(result)[1:], strict=True):
        assert estimate.value is not None, estimate.reason
        exact = enumeration.log_z_of_energy(model, beta).value
        off.append((estimate.value - exact) / estimate.stderr)
    return np.array(off)


def exact_draws(betas: np.ndarray, n_ladders: int, n_rounds: int) -> np.ndarray:
    """Return independent energies of the Boltzmann machine at each β  # (ladder, round, rung)."""
    model, random = MODELS["boltzmann machine"], KEY.child("exact").numpy()
    with torch.no_grad():
        energy = torch.cat([model.energy(x.float()) for x in enumeration.states(6)]).double()
    rungs = [torch.softmax(-beta * energy, 0).numpy() for beta in betas]
    return np.stack([random.choice(energy.numpy(), (n_ladders, n_rounds), p=p) for p in rungs], axis=2)


def exchanged(betas: np.ndarray, energies: np.ndarray) -> Exchanged:
    nothing = torch.zeros(len(energies), dtype=torch.int64)
    x = torch.ones(len(energies), 6)
    return Exchanged(torch.from_numpy(betas), torch.from_numpy(energies), nothing, x, 1)


def annealed(families: float, spread: float) -> Annealed:
    log_z = torch.tensor([[4.0, 5.0], [4.0, 5.0 + spread], [4.0, 5.0 - spread]]).double()
    family, table = torch.zeros(3, 100, dtype=torch.int64), torch.zeros(3, 2).double()
    counted = torch.tensor([[100.0, 90.0], [100.0, families], [100.0, 90.0]]).double()
    return Annealed(torch.tensor([0.0, 1.0]), log_z, table, table, counted, family, table, 6, 1)


# Against enumeration


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", MODELS)
def test_log_z_at_every_beta(sampler: str, name: str) -> None:
    result = SAMPLERS[sampler].run(MODELS[name], BlockGibbs(), KEY, LocalPlacement())
    assert np.abs(scores(MODELS[name], result)).max() < 3.5
    start, *_, last = free_energy.curve(result)
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


def test_stones_from_exact_draws_reach_log_z_from_either_side() -> None:
    betas = np.array([0.0, 0.15, 0.4, 0.9])
    energies = exact_draws(betas, 24, 400)
    exact = np.array([enumeration.log_z_of_energy(MODELS["boltzmann machine"], b).value for b in betas])
    exact = exact - 6 * math.log(2.0)
    values, left_out = stepping_stones.bennett(betas, energies)
    error = free_energy.jackknife(left_out)
    assert values[0] == error[0] == 0.0
    assert np.abs((values - exact)[1:] / error[1:]).max() < 3.5
    upside_down, _ = stepping_stones.bennett(betas, energies[..., ::-1])
    assert np.abs((upside_down - exact)[1:] / error[1:]).min() > 7.0
    for name, other in stepping_stones.checks(betas, energies).items():
        assert np.abs(other - exact)[1:].max() < 0.05, name


def test_a_ladder_left_out_is_as_if_it_had_never_been() -> None:
    betas = np.array([0.0, 0.3, 0.8])
    energies = exact_draws(betas, 12, 100)
    values, left_out = stepping_stones.bennett(betas, energies)
    without = np.stack([stepping_stones.bennett(betas, np.delete(energies, i, axis=0))[0] for i in range(12)])
    # A Newton step from the root of all to that of the rest: its error is of second order in what it moves.
    moved = np.abs(without - values).max()
    assert np.abs(left_out - without).max() < moved**2
    assert moved > 1e-3


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = KEY.numpy().normal(size=(9, 4))
    left_out = np.stack([np.delete(values, i, axis=0).mean(0) for i in range(9)])
    np.testing.assert_allclose(free_energy.jackknife(left_out), values.std(0, ddof=1) / 3.0)


def test_equal_energies_need_no_overlap() -> None:
    values, left_out = stepping_stones.bennett(np.array([0.0, 0.5, 1.0]), np.full((3, 8, 3), -2.0))
    np.testing.assert_allclose(values, [0.0, 1.0, 2.0])
    np.testing.assert_allclose(left_out, np.tile([0.0, 1.0, 2.0], (3, 1)))


def test_integration_is_exact_to_fourth_order() -> None:
    # A single spin in a field: ⟨E⟩ = −tanh β, log Z = log 2 cosh β.
    n, errors = 100_000, []
    for n_rungs in (2, 3):
        betas = np.linspace(0.0, 1.0, n_rungs)
        up = [round(n / (1.0 + math.exp(2.0 * beta))) for beta in betas]
        energies = np.stack([np.r_[np.ones(m), -np.ones(n - m)] for m in up], axis=1)[None]
        integral = stepping_stones.checks(betas, energies)["thermodynamic integration"]
        errors.append(abs(integral[-1] - math.log(math.cosh(1.0))))
    assert errors[1] < errors[0] / 10.0


# Refusals


def test_a_sound_run_is_not_refused_and_is_summarised() -> None:
    betas = np.array([0.0, 0.15, 0.4, 0.9])
    result = exchanged(betas, exact_draws(betas, 8, 100))
    assert free_energy.log_z(result).kind == "estimate"
    summary = free_energy.summary(result)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["r_hat"] < 1.05
    assert 100.0 < summary["ess"] < 1500.0
    value = free_energy.log_z(result).value
    assert value is not None
    assert all(abs(other - value) < 0.3 for other in summary["checks"].values())


def test_a_ladder_that_is_stuck_is_refused_from_its_rung_on() -> None:
    betas = np.array([0.0, 0.15, 0.4, 0.9])
    energies = exact_draws(betas, 8, 100)
    energies[0, :, 2:] += 4.0
    curve = free_energy.curve(exchanged(betas, energies))
    assert [estimate.kind for estimate in curve] == ["exact", "estimate", "undetermined", "undetermined"]
    assert curve[-1].reason.startswith("R-hat of the energies is 1.")
    assert curve[-1].reason == curve[-2].reason


def test_frozen_ladders_are_refused_and_can_still_be_written() -> None:
    energies = np.arange(8.0)[:, None, None] * np.ones((8, 50, 2)) / 10.0
    result = exchanged(np.array([0.0, 0.3]), energies)
    assert "R-hat of the energies is inf" in free_energy.log_z(result).reason
    assert free_energy.summary(result)["r_hat"] is None


def test_rungs_too_far_apart_are_refused() -> None:
    betas = np.array([0.0, 1.0])
    normal = KEY.numpy().normal(size=(8, 200, 2))
    energies = 6.0 * normal - 36.0 * betas
    assert "are accepted at a rate of" in free_energy.log_z(exchanged(betas, energies)).reason
    far = normal - 1e5 * betas  # nothing overlaps: no error can be had
    assert free_energy.log_z(exchanged(betas, far)).kind == "undetermined"


def test_too_few_independent_energies_are_refused() -> None:
    betas = np.array([0.0, 0.3])
    energies = exact_draws(betas, 2, 20)
    assert "independent ones: give more rounds" in free_energy.log_z(exchanged(betas, energies)).reason


def test_estimates_that_contradict_each_other_are_refused() -> None:
    # Energies that belong to no ladder of βs: the mean falls far too fast for their variance.
    betas = np.array([0.0, 1.0])
    energies = KEY.numpy().normal(size=(8, 200, 2)) - np.array([0.0, 4.0])
    assert "differs by" in free_energy.log_z(exchanged(betas, energies)).reason


def test_populations_of_few_families_or_wide_spread_are_refused() -> None:
    sound = free_energy.log_z(annealed(families=60.0, spread=0.3))
    assert sound.value == pytest.approx(5.0 + math.log((1.0 + 2.0 * math.cosh(0.3)) / 3.0))
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


def test_agreement_is_within_three_joint_errors() -> None:
    assert free_energy.agree(number(1.0, 0.3), number(2.4, 0.4))
    assert not free_energy.agree(number(1.0, 0.3), number(2.6, 0.4))
    assert not free_energy.agree(number(1.0, 0.3), undetermined("why", unit="nats", n=8, method="two"))


def test_combination_weighs_by_inverse_variance() -> None:
    both = free_energy.combined([number(1.0, 0.3), number(1.5, 0.6, "two")])
    assert both.value == pytest.approx((1.0 / 0.09 + 1.5 / 0.36) / (1.0 / 0.09 + 1.0 / 0.36))
    assert both.stderr == pytest.approx((1.0 / 0.09 + 1.0 / 0.36) ** -0.5)
    assert (both.kind, both.n, both.method) == ("estimate", 16, "one and two")


def test_what_disagrees_or_is_missing_is_not_combined() -> None:
    apart = free_energy.combined([number(1.0, 0.1), number(1.2, 0.1), number(1.6, 0.1, "three")])
    assert apart.value is None
    assert apart.reason == "the estimates disagree: one 1.00 ± 0.10, one 1.20 ± 0.10, three 1.60 ± 0.10"
    missing = free_energy.combined([number(1.0, 0.1), undetermined("why", unit="nats", n=8, method="two")])
    assert missing.reason == "two: why"
    with pytest.raises(ValueError, match="at least two"):
        free_energy.combined([number(1.0, 0.1)])
    with pytest.raises(ValueError, match="no standard error"):
        free_energy.combined([number(1.0, 0.1), number(1.0, 0.0)])
