"""The lifted chain: compiled as readable, its directions, and how soon it forgets."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from chains import asymptotic_variances, faults, matrix, states
from scipy.special import gammaln
from scipy.stats import chi2
from torch import Tensor

from genmodels.compiled.lifted import plan
from genmodels.couplings import Couplings
from genmodels.errors import InputError
from genmodels.kernels import lifted
from genmodels.kernels.lifted import Lifted
from genmodels.kernels.metropolis import Metropolis
from genmodels.models.ising import Ising
from genmodels.paths import BaseRate
from genmodels.protocols import HasCouplings
from genmodels.streams import Key

KEY = Key(31, "lifted")
RATES = ("metropolis", "heat_bath")


def dense() -> Ising:
    i, j = np.triu_indices(7, 1)
    J = np.random.default_rng(1).normal(size=len(i)) * 0.6
    return Ising.of(Couplings(7, i, j, J, np.linspace(-0.5, 0.9, 7), 0.3))


def tree() -> Ising:
    """Return spins of 0 to 3 neighbours: site 2 has none."""
    i, j = np.array([0, 0, 0, 4]), np.array([1, 3, 4, 5])
    return Ising.of(Couplings(6, i, j, np.array([0.7, -1.2, 0.4, 2.0]), np.linspace(0.4, -0.7, 6)))


def whole() -> Ising:
    """Return spins whose fields are multiples of 0.3, one coupling and some fields 0."""
    i, j = np.array([0, 0, 1, 2, 3, 1]), np.array([1, 2, 2, 3, 4, 4])
    J, h = np.array([1, -2, 3, -1, 0, 1]), np.array([2, 0, -1, 0, 1, -4])
    return Ising.of(Couplings(6, i, j, 0.3 * J, 0.3 * h))


def curie_weiss(n: int, K: float = 1.0) -> Ising:
    i, j = np.triu_indices(n, 1)
    return Ising.of(Couplings(n, i, j, np.full(len(i), K / n), np.zeros(n)))


class EnergyAlone:
    """A model without its couplings."""

    def __init__(self, model: Any) -> None:
        self.energy, self.n_sites = model.energy, model.n_sites
        for name in ("reference_energy", "draw_reference", "log_z_reference"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))


FIELDS = torch.linspace(0.5, -0.8, 7)
MODELS = {"dense": dense(), "tree": tree(), "whole": whole(), "base rate": BaseRate(dense(), FIELDS)}


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("name", MODELS)
def test_the_compiled_loop_makes_the_flips_of_the_readable_code(name: str, rates: Any) -> None:
    model, kernel, n = MODELS[name], Lifted(rates), 24
    assert isinstance(model, HasCouplings)
    assert not isinstance(EnergyAlone(model), HasCouplings)
    schedule = torch.linspace(0.0, 2.0, 15 * n, dtype=torch.float64).view(15, n)  # another β every sweep
    start = kernel.init(model, n, KEY.child("init"))

    def history(seen: Any, schedule: Tensor) -> list[Tensor]:
        """Return the states after calls of one sweep, and of all: states that differ early may meet late."""
        state, found = start, []
        for round, row in enumerate(schedule):
            state, info = kernel.advance(seen, state, row, 1, KEY.at(round=round))
            found += [state.x, state.direction, state.energy, torch.tensor(info)]
            assert 0.0 < info.acceptance < 1.0
        state, info = kernel.advance(seen, start, schedule, len(schedule), KEY)
        return [*found, state.x, state.direction, state.energy, torch.tensor(info)]

    compiled, readable = history(model, schedule), history(EnergyAlone(model), schedule)
    assert all(torch.equal(one, other) for one, other in zip(compiled, readable, strict=True))
    hotter = history(EnergyAlone(model), 0.98 * schedule)
    assert not all(torch.equal(one, other) for one, other in zip(compiled, hotter, strict=True))


def test_rates_come_from_a_table_where_fields_take_few_values() -> None:
    exact = Couplings(3, np.array([0, 0]), np.array([1, 2]), np.array([0.5, -1.5]), np.array([0.0, 1.0, 0.0]))
    found = plan(exact)
    assert (found.unit, found.reach) == (0.5, 4)
    assert found.h.tolist() == [0.0, 2.0, 0.0]
    assert plan(curie_weiss(64).couplings()).reach == 63
    others = (
        dataclasses.replace(exact, base=np.array([0.0, 0.0, 0.1])),
        dataclasses.replace(exact, h=np.array([0.0, 0.7, 0.0])),
        dataclasses.replace(exact, h=np.array([0.0, np.inf, 0.0])),
        dataclasses.replace(exact, h=np.array([0.0, 5000.0, 0.0])),
        Couplings(2, np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(2)),
    )
    for other in others:
        assert (plan(other).unit, plan(other).reach) == (1.0, -1)
        assert np.array_equal(plan(other).h, other.h)


def test_a_replica_does_not_depend_on_the_others() -> None:
    model, kernel, beta = dense(), Lifted(), torch.linspace(0.3, 1.2, 20)
    state = kernel.init(model, 20, KEY)
    all_of_them, _ = kernel.advance(model, state, beta, 5, KEY)
    few, _ = kernel.advance(model, kernel.select(state, torch.arange(6)), beta[:6], 5, KEY)
    assert torch.equal(few.x, all_of_them.x[:6])
    shifted, _ = kernel.advance(model, kernel.select(state, torch.arange(6, 12)), beta[6:12], 5, KEY)
    assert not torch.equal(shifted.x, all_of_them.x[6:12])


def test_directions_are_drawn_once_and_go_with_their_replicas() -> None:
    model, kernel, n = dense(), Lifted(), 4000
    x = torch.ones(n, 7)
    x[: n // 2] = -1.0
    state = kernel.start(model, x)
    assert not state.direction.any()
    drawn, _ = kernel.advance(model, state, torch.ones(n), 0, KEY)
    assert torch.equal(drawn.x, x)
    for half in (drawn.direction[: n // 2], drawn.direction[n // 2 :]):  # whatever x is
        assert set(half.tolist()) == {-1, 1}
        assert abs(int(half.sum())) < 4.0 * (n / 2) ** 0.5
    again, _ = kernel.advance(model, drawn, torch.ones(n), 0, KEY.at(round=1))
    assert torch.equal(again.direction, drawn.direction)
    index = torch.tensor([5, 5, 3999])
    assert torch.equal(kernel.select(drawn, index).direction, drawn.direction[index])


@pytest.mark.parametrize("hidden", [False, True])
def test_a_sweep_flips_spins_one_way_until_it_turns(hidden: bool) -> None:
    """In strong fields upwards a chain of direction −1 turns, then all spins go up and stay there."""
    model = Ising.of(Couplings(5, np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.full(5, 30.0)))
    kernel, seen = Lifted(), EnergyAlone(model) if hidden else model
    state = kernel.start(model, -torch.ones(200, 5))
    state, _ = kernel.advance(seen, state, torch.ones(200), 0, KEY)
    state, info = kernel.advance(seen, state, torch.ones(200), 30, KEY.at(round=1))
    assert (state.x == 1.0).all()
    assert (state.direction == 1).all()
    assert info.acceptance == 200 * 5 / (30 * 200 * 5)


def test_decisions_are_taken_with_their_probabilities() -> None:
    draws = lifted._Draws(KEY, 40_000, torch.device("cpu"))
    counts = torch.bincount(draws.pick(7), minlength=7).double()
    assert chi2.sf(float(((counts - counts.mean()) ** 2 / counts.mean()).sum()), 6) > 1e-3
    p = torch.linspace(0.0, 1.0, 40_000, dtype=torch.float64)
    won = draws.coin(p).double()
    assert abs(float((won - p).sum())) < 4.0 * float((p * (1.0 - p)).sum()) ** 0.5
    assert abs(float((won - 0.98 * p).sum())) > 4.0 * float((p * (1.0 - p)).sum()) ** 0.5
    assert not draws.coin(torch.zeros(40_000)).any()
    assert draws.coin(torch.ones(40_000)).all()


def test_what_cannot_be_is_refused_or_counted() -> None:
    with pytest.raises(InputError, match="rates is 'glauber', expected one of metropolis, heat_bath"):
        Lifted("glauber")  # type: ignore[arg-type]
    model = dense()
    with torch.no_grad():
        model.h[0] = torch.inf
    kernel = Lifted()
    _, info = kernel.advance(model, kernel.init(model, 6, KEY), torch.ones(6), 2, KEY)
    assert info.n_nonfinite == 6


def flip_rates(m: np.ndarray, n: int, K: float, heat_bath: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability that a spin of the Curie–Weiss model goes up, and down, at magnetisation m."""
    rates = []
    for x in (-1.0, 1.0):
        cost = 2.0 * x * K / n * (m - x)
        one = 1.0 / (1.0 + np.exp(cost)) if heat_bath else np.exp(-np.maximum(cost, 0.0))
        rates.append((n - x * -m) / (2 * n) * one if x > 0 else (n - m) / (2 * n) * one)
    return rates[0], rates[1]


def magnetisation_chains(n: int, K: float, heat_bath: bool = False) -> tuple[np.ndarray, ...]:
    """Return m, P(m), the reversible chain on m, and the lifted one on (m, ε), ε the faster index: all exact.

    All spins of the Curie–Weiss model are alike, so that m alone, (m, ε) respectively, is a Markov chain.
    """
    k = np.arange(n + 1)
    m = 2.0 * k - n
    log_p = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + 0.5 * K / n * m**2
    p = np.exp(log_p - log_p.max())
    up, down = flip_rates(m, n, K, heat_bath)
    reversible = np.diag(up[:-1], -1) + np.diag(down[1:], 1) + np.diag(1.0 - up - down)
    one_way = np.zeros((n + 1, 2, n + 1, 2))  # [to m, to ε, from m, from ε]
    for direction, (out, back) in enumerate(((down, up), (up, down))):
        turn = np.maximum(0.0, back - out)
        to = k + (1 if direction else -1)
        moves = (to >= 0) & (to <= n)
        one_way[to[moves], direction, k[moves], direction] = out[moves]
        one_way[k, 1 - direction, k, direction] = turn
        one_way[k, direction, k, direction] = 1.0 - out - turn
    return m, p / p.sum(), reversible, one_way.reshape(2 * n + 2, 2 * n + 2)


@pytest.mark.parametrize("heat_bath", [False, True])
def test_the_magnetisation_of_the_curie_weiss_model_is_a_chain_of_its_own(heat_bath: bool) -> None:
    n, K, beta = 4, 0.8, 1.25
    kernel, model = Lifted("heat_bath" if heat_bath else "metropolis"), curie_weiss(n, K)
    betas = torch.tensor([beta], dtype=torch.float64)

    def update(state: Tensor, walk: Any) -> Tensor:
        rates = kernel.acceptance(model, state[None, :-1], betas)
        x, direction = lifted.update(state[None, :-1], state[-1:], rates, walk.picks, walk.coins)
        return torch.cat([x[0], direction])

    with torch.no_grad():
        w = matrix(update, n + 1)
    m, p, reversible, one_way = magnetisation_chains(n, K * beta, heat_bath)
    assert max(faults(reversible, p)) < 1e-12
    assert faults(one_way, np.repeat(p / 2, 2)).balance < 1e-12
    x = states(n + 1)
    place = (x[:, :n].sum(1) + n + (x[:, n] + 1) / 2).long().numpy()
    lumped = np.zeros_like(one_way)
    for start in range(2 * n + 2):
        for column in np.flatnonzero(place == start):  # every state of this m and ε gives the same
            lumped[:, start] = np.bincount(place, w[:, column], 2 * n + 2)
            assert abs(lumped[:, start] - one_way[:, start]).max() < 1e-12


def exact_time(f: np.ndarray, w: np.ndarray, p: np.ndarray) -> float:
    """Return τ = ½ + Σ_{t≥1} ρ(t) in updates: half the asymptotic variance, per variance."""
    return float(f @ asymptotic_variances(w, p) @ f / (p @ f**2 - (p @ f) ** 2)) / 2.0


def exact_times(n: int, K: float = 1.0, heat_bath: bool = False) -> tuple[float, float]:
    """Return τ of the magnetisation of the Curie–Weiss model, reversible and lifted."""
    m, p, reversible, one_way = magnetisation_chains(n, K, heat_bath)
    return exact_time(m, reversible, p), exact_time(np.repeat(m, 2), one_way, np.repeat(p / 2, 2))


def test_the_curie_weiss_model_forgets_its_magnetisation_far_sooner() -> None:
    """Exact, at the critical point, and the more so the larger the model."""
    metropolis, one_way = exact_times(64)
    assert (metropolis, one_way) == pytest.approx((415.46, 24.016), rel=1e-4)
    larger = exact_times(256)
    assert larger[0] / larger[1] > 3.0 * metropolis / one_way
    heat_bath = exact_times(64, heat_bath=True)
    assert heat_bath[0] > 25.0 * heat_bath[1]


def magnetisations(n: int, K: float, n_replicas: int, n_updates: int) -> np.ndarray:
    """Return those of the lifted chain, update after update, from equilibrium  # (replica, update)."""
    m, p, *_ = magnetisation_chains(n, K)
    random = KEY.child("curie weiss").numpy()
    ups = random.choice(n + 1, size=n_replicas, p=p)
    x = torch.from_numpy(random.permuted(np.where(np.arange(n) < ups[:, None], 1.0, -1.0), axis=1))
    direction = torch.from_numpy(random.choice([-1, 1], size=n_replicas))
    draws, found = lifted._Draws(KEY.child("updates"), n_replicas, x.device), []
    for _ in range(n_updates):
        costs = 2.0 * x * (x.sum(1, keepdim=True) - x) * (K / n)
        rates = torch.exp(-costs.clamp(min=0.0))
        x, direction = lifted.update(x, direction, rates, draws.pick, draws.coin)
        found.append(x.sum(1))
    return torch.stack(found, 1).numpy()


def time_of_means(draws: np.ndarray) -> tuple[float, float]:
    """Return τ of draws of mean 0, n Var(chain's mean) / 2σ², and its standard error  # (chain, draw).

    Without detailed balance autocorrelations oscillate. A sum of them that is broken off where they are small
    misses what comes later, on the Curie–Weiss model 12 %; the variance of means needs no such window.
    """
    squares = draws.shape[1] * draws.mean(1) ** 2 / (2.0 * (draws**2).mean())
    return float(squares.mean()), float(squares.std(ddof=1) / len(draws) ** 0.5)


def test_the_time_measured_on_the_curie_weiss_model_is_the_exact_one() -> None:
    drawn = magnetisations(64, 1.0, 512, 2000)
    m, p, _, w = magnetisation_chains(64, 1.0)
    f, p = np.repeat(m, 2), np.repeat(p / 2, 2)
    later, covariances = f, []
    for _ in range(drawn.shape[1]):
        covariances.append((p * f) @ later)
        later = w.T @ later
    for lag in (10, 50, 120):
        products = (drawn[:, lag:] * drawn[:, :-lag]).mean(1)
        error = products.std(ddof=1) / len(products) ** 0.5
        assert abs(products.mean() - covariances[lag]) < 4.0 * error
    assert products.mean() < -10.0 * error  # it swings to the other side
    time, error = time_of_means(drawn)
    lags = np.arange(1, len(covariances))
    rho = np.array(covariances[1:]) / covariances[0]
    assert abs(time - (0.5 + ((1.0 - lags / drawn.shape[1]) * rho).sum())) < 4.0 * error
    assert abs(time - exact_times(64)[0]) > 10.0 * error  # that of Metropolis is another
    assert abs(time - exact_times(64)[1]) < 4.0 * error


def square(length: int) -> Ising:
    """Return the periodic ferromagnet, J = 1."""
    sites = np.arange(length**2).reshape(length, length)
    ends = np.concatenate([np.stack([sites, np.roll(sites, -1, axis)], -1).reshape(-1, 2) for axis in (0, 1)])
    i, j = np.sort(ends, axis=1).T
    return Ising.of(Couplings(length**2, i, j, np.ones(len(i)), np.zeros(length**2)))


def after_sweeps(model: Ising, kernel: Any, beta: float, n_replicas: int, n_sweeps: int) -> np.ndarray:
    """Return the magnetisations after every sweep  # (replica, sweep)."""
    betas, found = torch.full((n_replicas,), beta), []
    state, _ = kernel.advance(model, kernel.init(model, n_replicas, KEY), betas, 2000, KEY.child("burn in"))
    for sweep in range(n_sweeps):
        state, _ = kernel.advance(model, state, betas, 1, KEY.at(round=sweep))
        found.append(kernel.configuration(state).sum(1))
    return torch.stack(found, 1).double().numpy()


def test_an_ising_model_forgets_its_magnetisation_sooner_than_under_metropolis() -> None:
    """8 × 8 spins near the critical point: as many updates, all of random sites."""
    model, beta = square(8), 0.4
    drawn = [after_sweeps(model, kernel, beta, 128, 1500) for kernel in (Metropolis("random"), Lifted())]
    (metropolis, error), (one_way, its_error) = (time_of_means(draws) for draws in drawn)
    assert metropolis - one_way > 4.0 * np.hypot(error, its_error)
    # Both sample the same distribution: one of them at another β would show.
    squares = [(draws**2).mean(1) for draws in drawn]
    difference = squares[0].mean() - squares[1].mean()
    assert abs(difference) < 4.0 * np.hypot(*(s.std(ddof=1) / len(s) ** 0.5 for s in squares))
