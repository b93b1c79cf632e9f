"""R-hat and sizes see chains that disagree; autocorrelation times and overlaps are those of closed forms."""

import math

import numpy as np
import pytest
from exact import Exact
from faults import fault_of
from machines import BoltzmannMachine
from scipy.stats import norm

from genmodels.estimators.diagnostics import (
    autocorrelation_time,
    effective_sample_size,
    overlaps,
    r_hat,
    rho_f,
    unconverged,
    unmeasured,
    weights_ess,
)
from genmodels.streams import Key

RANDOM = Key(3, "test")


def autoregressive(n_chains: int, n: int, rho: float, shard: int = 0) -> np.ndarray:
    """Return z_t = ρ z_{t−1} + √(1 − ρ²) ε_t, stationary from the start."""
    noise = RANDOM.at(shard=shard).numpy().normal(size=(n_chains, n))
    z = noise.copy()
    for t in range(1, n):
        z[:, t] = rho * z[:, t - 1] + np.sqrt(1.0 - rho**2) * noise[:, t]
    return z


def plain_split_r_hat(draws: np.ndarray) -> float:
    half = draws.shape[1] // 2
    z = np.concatenate([draws[:, :half], draws[:, -half:]])
    within = z.var(axis=1, ddof=1).mean()
    return float(np.sqrt((half - 1) / half + z.mean(axis=1).var(ddof=1) / within))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.4])
def test_draws_are_worth_what_their_autocorrelation_says(rho: float) -> None:
    # The variance of the mean of n draws is (1 + ρ)/(1 − ρ)/n.
    runs = [autoregressive(8, 2000, rho, shard) for shard in range(20)]
    sizes = [effective_sample_size(draws) for draws in runs]
    exact = 16_000 * (1.0 - rho) / (1.0 + rho)
    assert np.mean(sizes) == pytest.approx(exact, rel=0.05)
    assert max(r_hat(draws) for draws in runs) < 1.02


def test_a_chain_elsewhere_is_seen() -> None:
    draws = autoregressive(8, 1000, 0.0)
    draws[0] += 1.0
    assert r_hat(draws) > 1.05
    assert effective_sample_size(draws) < 400
    assert r_hat(draws[1:]) < 1.01


def test_a_drift_is_seen_in_a_single_chain() -> None:
    draws = autoregressive(1, 1000, 0.0)
    assert r_hat(draws) < 1.01
    assert r_hat(draws + np.linspace(0.0, 3.0, 1000)) > 1.3


def test_a_chain_of_another_width_is_seen_where_the_plain_r_hat_is_blind() -> None:
    draws = autoregressive(4, 1000, 0.0)
    draws[0] *= 4.0
    assert r_hat(draws) > 1.05
    assert plain_split_r_hat(draws) < 1.01


def test_infinite_variance_does_not_blind() -> None:
    draws = RANDOM.child("cauchy").numpy().standard_cauchy(size=(4, 1000))
    assert r_hat(draws) < 1.01
    draws[0] += 3.0
    assert r_hat(draws) > 1.05
    assert plain_split_r_hat(draws) < 1.05


def test_only_ranks_matter() -> None:
    draws = autoregressive(4, 500, 0.7)
    assert effective_sample_size(np.exp(draws)) == effective_sample_size(draws)
    assert r_hat(3.0 * draws - 2.0) == pytest.approx(r_hat(draws))


def test_equal_draws() -> None:
    assert r_hat(np.ones((4, 10))) == 1.0
    assert effective_sample_size(np.ones((4, 10))) == 40.0
    assert r_hat(np.ones((4, 10)) * np.arange(4)[:, None]) == np.inf
    assert effective_sample_size(np.ones((4, 10)) * np.arange(4)[:, None]) < 10.0


@pytest.mark.parametrize("draws", [np.ones(8), np.ones((4, 3)), np.full((2, 8), np.nan)])
@pytest.mark.parametrize("measure", [r_hat, effective_sample_size, autocorrelation_time])
def test_what_are_no_chains_is_refused(draws: np.ndarray, measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="draws"):
        measure(draws)


# The autocorrelation time


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.4])
def test_the_autocorrelation_time_of_an_autoregressive_process(rho: float) -> None:
    # ½ + Σ ρ^t = ½ (1 + ρ)/(1 − ρ).
    exact = 0.5 * (1.0 + rho) / (1.0 - rho)
    runs = [autocorrelation_time(autoregressive(8, 1000, rho, shard)) for shard in range(100)]
    values, errors = np.array([(run.value, run.stderr) for run in runs]).T
    assert values.mean() == pytest.approx(exact, rel=0.03)
    z = (values - exact) / errors
    assert fault_of(z) is None
    assert fault_of(2.5 * z) is not None
    assert fault_of((2.0 * values - exact) / errors) is not None  # without the ½
    assert (runs[0].unit, runs[0].n) == ("draws", 8000)


def test_the_variance_of_a_mean_is_twice_the_time_over_the_draws() -> None:
    means = np.array([autoregressive(4, 500, 0.8, shard).mean() for shard in range(400)])
    tau = autocorrelation_time(autoregressive(4, 500, 0.8, 1000)).value
    assert means.var() * 2000 / (2.0 * tau) == pytest.approx(1.0, abs=0.3)


def test_a_long_tail_is_summed_as_far_as_it_can_be_seen() -> None:
    slow = np.cos(np.linspace(0.0, math.pi, 200))[None] + 0.01 * autoregressive(3, 200, 0.0)
    tau = autocorrelation_time(slow)
    assert tau.value > 20.0
    assert autocorrelation_time(np.ones((3, 9))).value == 0.5


# Overlaps and weights


def test_overlaps_of_normal_energies() -> None:
    # Two normal distributions of variance 1, d apart: 2Φ(−d/2).
    energies = RANDOM.child("normal").numpy().normal(size=(8, 4000, 3)) - np.array([0.0, 0.5, 2.5])
    np.testing.assert_allclose(overlaps(energies), 2.0 * norm.cdf([-0.25, -1.0]), atol=0.01)
    np.testing.assert_allclose(overlaps(np.stack([energies[..., 0]] * 2, -1)), 1.0)
    np.testing.assert_allclose(overlaps(energies - 100.0 * np.arange(3)), 0.0)


def test_overlaps_of_a_machine_are_those_of_its_states() -> None:
    exact, betas = Exact(BoltzmannMachine(6)), np.array([0.3, 0.7, 1.3])
    states = [exact.p(beta).numpy() for beta in betas]
    expected = [float(np.minimum(one, other).sum()) for one, other in zip(states, states[1:], strict=False)]
    seen = overlaps(exact.energies(betas, 10, 5000, RANDOM))
    np.testing.assert_allclose(seen, expected, atol=0.01)
    assert np.abs(seen - expected[::-1]).min() > 0.03


def test_weights_are_worth_what_their_spread_leaves() -> None:
    log_w = np.array([[0.0, 0.0, 700.0], [0.0, -2000.0, 700.0], [0.0, -2000.0, 700.0 + math.log(2.0)]])
    np.testing.assert_allclose(weights_ess(log_w), [3.0, 1.0, 16.0 / 6.0])
    log_normal = RANDOM.child("weights").numpy().normal(size=200_000) * 0.8
    assert weights_ess(log_normal) / 200_000 == pytest.approx(math.exp(-0.64), rel=0.02)


def test_rho_f_does_not_depend_on_the_number_of_walkers() -> None:
    # log of the mean of R numbers whose relative variance is ½: variance ½/R.
    random = RANDOM.child("populations").numpy()
    for n_walkers in (100, 400):
        log_z = np.log(1.0 + random.normal(size=(2000, n_walkers, 1)).mean(1) * math.sqrt(0.5))
        assert rho_f(log_z, n_walkers)[0] == pytest.approx(0.5, rel=0.1)


def test_what_is_wrong_is_said_with_what_to_do() -> None:
    assert unconverged(1.01, 500.0, "the energies", "at β = 1") == ""
    assert unconverged(1.2, 5.0, "it", "here") == "R-hat of it is 1.2 here: give more rounds"
    assert "at β = 1 are worth 5 independent ones" in unconverged(1.01, 5.0, "the energies", "at β = 1")
    assert unmeasured(4) == ""
    assert unmeasured(0) == "0 rounds were measured: give more of them, or more time"
