"""R-hat and the effective sample size see chains that disagree, in place, in width and in pace."""

import numpy as np
import pytest

from genmodels.estimators.diagnostics import effective_sample_size, r_hat
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
@pytest.mark.parametrize("measure", [r_hat, effective_sample_size])
def test_what_are_no_chains_is_refused(draws: np.ndarray, measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="draws"):
        measure(draws)
