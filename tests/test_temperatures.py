"""Default temperatures follow from what flips cost, found by trying all of them."""

import itertools
import math

import numpy as np
import pytest

from genmodels.couplings import Couplings
from genmodels.errors import InputError
from genmodels.samplers import temperatures
from genmodels.samplers.temperatures import beta_range


def couplings(n_sites: int, edges: list[tuple[int, int, float]], h: list[float] | None = None) -> Couplings:
    i, j, J = (np.array(column) for column in zip(*edges, strict=True)) if edges else ([], [], [])
    fields = np.array(h if h is not None else [0.0] * n_sites)
    return Couplings(n_sites, np.array(i, int), np.array(j, int), np.array(J, float), fields)


def flip_costs(model: Couplings) -> list[list[float]]:
    """Return what flipping each site can cost, of all states."""
    x = np.array(list(itertools.product([-1.0, 1.0], repeat=model.n_sites)))
    costs = np.abs(2.0 * x * (x @ model.dense() + model.h))
    return [sorted({round(cost, 9) for cost in column if cost > 1e-9}) for column in costs.T]


def random_glass(seed: int, values: list[float], n_sites: int = 8) -> Couplings:
    random = np.random.default_rng(seed)
    pairs = [pair for pair in itertools.combinations(range(n_sites), 2) if random.random() < 0.6]
    edges = [(i, j, random.choice(values)) for i, j in pairs]
    return couplings(n_sites, edges, random.choice([0.0, *values], n_sites).tolist())


@pytest.mark.parametrize("values", [[-1.0, 1.0], [-3.0, 2.0, 5.0], [-0.5, 0.25, 1.0], [4.0, 6.0]])
@pytest.mark.parametrize("seed", range(5))
def test_both_ends_are_exact_where_couplings_have_a_unit(values: list[float], seed: int) -> None:
    model = random_glass(seed, values)
    costs = flip_costs(model)
    smallest = [site[0] for site in costs if site]
    gap = min(smallest)
    beta_min, beta_max = beta_range(model)
    assert beta_min == pytest.approx(math.log(2.0) / max(site[-1] for site in costs if site))
    assert smallest.count(gap) * math.exp(-beta_max * gap) == pytest.approx(0.01)


def test_the_gap_is_not_the_smallest_coupling() -> None:
    # A ring of ±1: flips cost 0 or 4. The rule by the smallest coupling says 2, and twice the β.
    ring = couplings(6, [(k, (k + 1) % 6, (-1.0) ** (k == 2)) for k in range(5)] + [(0, 5, 1.0)])
    assert beta_range(ring)[1] == pytest.approx(math.log(600.0) / 4.0)
    # An odd number of neighbours, or a field, leaves a gap of 2 somewhere.
    open_chain = couplings(6, [(k, k + 1, 1.0) for k in range(5)])
    assert beta_range(open_chain)[1] == pytest.approx(math.log(200.0) / 2.0)


def test_the_range_scales_with_the_couplings_and_forgets_signs_and_offsets() -> None:
    model = random_glass(1, [-1.0, 2.0])
    low, high = beta_range(model)
    for factor in (-1.0, 0.3, 1e-7, 1e6):
        scaled = Couplings(8, model.i, model.j, factor * model.J, factor * model.h, 17.0)
        assert beta_range(scaled) == (pytest.approx(low / abs(factor)), pytest.approx(high / abs(factor)))


def test_only_fields_are_enough_and_lonely_sites_do_not_count() -> None:
    low, high = beta_range(couplings(4, [], [0.5, 0.0, -1.5, 0.5]))
    assert (low, high) == (pytest.approx(math.log(2.0) / 3.0), pytest.approx(math.log(200.0)))
    low, high = beta_range(couplings(1, [], [2.0]))
    assert (low, high) == (pytest.approx(math.log(2.0) / 4.0), pytest.approx(math.log(100.0) / 4.0))


def test_real_couplings_excite_one_site_in_a_hundred_among_random_local_fields() -> None:
    random = np.random.default_rng(5)
    n = 80
    edges = [(i, j, random.normal()) for i, j in itertools.combinations(range(n), 2)]
    model = couplings(n, edges, random.normal(size=n).tolist())
    low, high = beta_range(model)
    dearest = 2.0 * (np.abs(model.dense()).sum(1) + np.abs(model.h)).max()
    assert low == pytest.approx(math.log(2.0) / dearest)
    x = random.choice([-1.0, 1.0], (20_000, n))
    rate = np.exp(-2.0 * high * np.abs(x @ model.dense() + model.h)).mean()
    assert rate == pytest.approx(0.01, rel=0.1)
    assert 1.0 < high < 10.0  # the smallest coupling would ask for thousands
    assert math.log(100.0) / (2.0 * np.abs(model.J).min()) > 1000.0


def test_couplings_that_are_all_zero_are_refused_in_one_line() -> None:
    for nothing in (couplings(3, [(0, 1, 0.0)]), couplings(3, [])):
        with pytest.raises(InputError, match="all couplings and fields are 0") as caught:
            beta_range(nothing)
        assert "\n" not in str(caught.value)


def test_wide_sums_are_not_listed() -> None:
    # A unit of 1 beside couplings of 10^9: too many sums to list, yet an answer.
    model = couplings(4, [(0, 1, 1e9 + 1), (1, 2, 3.0), (2, 3, -7.0)])
    low, high = beta_range(model)
    assert 0.0 < low < high < 10.0


def test_a_ladder_is_finest_at_the_hot_end() -> None:
    betas = temperatures.spaced(5, 1.2)
    np.testing.assert_allclose(betas, 1.2 * np.array([0.0, 1.0, 4.0, 9.0, 16.0]) / 16.0, rtol=1e-6)
    assert betas.float().double().equal(betas)
