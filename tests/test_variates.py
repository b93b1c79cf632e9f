"""What the cost of a flip is compared with: variates of the right distribution, tails included."""

import math

import numpy as np
import pytest
from scipy.stats import chi2, expon, kstest, logistic
from twins import hash64, numbers

from genmodels.compiled.counter import keys
from genmodels.compiled.variates import WORDS, fill, pick
from genmodels.streams import Key

KEY = Key(37, "variates")
HALVES = tuple(int(half) for half in keys(KEY))
RULES = pytest.mark.parametrize("heat_bath", [False, True], ids=["metropolis", "heat_bath"])
COSTS = (0.01, 0.1, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
ACCURACY = 3e-7  # of a variate, in nats, and of what is above 1 relative to it


def drawn(n: int, heat_bath: bool, first: int = 0) -> np.ndarray:
    v, room = np.zeros(n, dtype=np.float32), np.zeros(-(-n // 8) * WORDS, dtype=np.uint64)
    fill(v, np.uint64(n), heat_bath, *keys(KEY), np.uint64(first), room)
    return v


def uniforms(n: int, first: int) -> np.ndarray:
    """Return the u of n variates from their 32 random bits each  # (n,), float64."""
    n_places = -(-n // 8)
    table = np.array([numbers(*HALVES, first + t) for t in range(n_places)], dtype=np.uint64)
    return (table.T.ravel().view(np.uint32)[:n] + 0.5) / 2.0**32


def exact(u: np.ndarray, heat_bath: bool) -> np.ndarray:
    return np.log1p(-u) - np.log(u) if heat_bath else -np.log(u)


def error(v: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(v - expected) / np.maximum(1.0, np.abs(expected))).max())


@RULES
@pytest.mark.parametrize("n", [1, 7, 8, 27, 512, 100_001])
def test_variates_are_logarithms_of_the_documented_random_bits(n: int, heat_bath: bool) -> None:
    expected = exact(uniforms(n, 1000), heat_bath)
    v = drawn(n, heat_bath, 1000)
    assert error(v, expected) < ACCURACY
    assert error(drawn(n, heat_bath, 1001), expected) > 0.01


def test_a_logistic_variate_from_a_difference_in_single_precision_is_seen() -> None:
    u = uniforms(100_001, 1000)
    single = u.astype(np.float32)
    wrong = np.log(np.maximum(np.float32(1.0) - single, np.float32(2.0**-33)) / single)
    assert error(wrong, exact(u, True)) > 10.0 * ACCURACY


@RULES
def test_variates_have_the_distribution_of_the_rule(heat_bath: bool) -> None:
    v = drawn(1_000_000, heat_bath, 10**12).astype(np.float64)
    law = logistic if heat_bath else expon
    assert kstest(v, law.cdf).pvalue > 1e-3
    assert kstest(1.02 * v, law.cdf).pvalue < 1e-6
    assert kstest(-v, law.cdf).pvalue < 1e-6 or heat_bath  # that one is symmetric


def z_scores(v: np.ndarray, heat_bath: bool) -> list[float]:
    """Return those of the shares of flips of several costs."""
    costs = [*COSTS, *(-cost for cost in COSTS)] if heat_bath else COSTS
    found = []
    for cost in costs:
        p = 1.0 / (1.0 + math.exp(cost)) if heat_bath else math.exp(-cost)
        share = np.count_nonzero(np.float32(cost) < v) / len(v)
        found.append((share - p) / math.sqrt(p * (1.0 - p) / len(v)))
    return found


@RULES
def test_flips_of_any_cost_have_their_probability(heat_bath: bool) -> None:
    v = drawn(10_000_000, heat_bath, 10**15)
    assert max(map(abs, z_scores(v, heat_bath))) < 4.0
    u = np.exp(-v.astype(np.float64)) if not heat_bath else 1.0 / (1.0 + np.exp(v.astype(np.float64)))
    coarse = exact((np.floor(u * 2.0**16) + 0.5) / 2.0**16, heat_bath)
    assert max(map(abs, z_scores(coarse, heat_bath))) > 6.0
    assert max(map(abs, z_scores(0.98 * v, heat_bath))) > 20.0
    assert heat_bath or v.min() > -ACCURACY


def test_sites_are_picked_uniformly_from_bits_of_their_own() -> None:
    n_sites, n = 27, 270_000
    sites = [int(pick(n_sites, *keys(KEY), np.uint64(place))) for place in range(1000)]
    high = [hash64(HALVES[0] ^ 0x8EBC6AF09C88C6E3, HALVES[1], place) >> 32 for place in range(n)]
    assert sites == [bits * n_sites >> 32 for bits in high[:1000]]
    counts = np.bincount([bits * n_sites >> 32 for bits in high], minlength=n_sites)
    assert 1e-3 < chi2.sf(((counts - n / n_sites) ** 2).sum() * n_sites / n, n_sites - 1)
    own = [hash64(*HALVES, place) >> 32 for place in range(1000)]
    assert own != high[:1000]
