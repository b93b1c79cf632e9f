"""Gibbs with gradients: its transition matrix exactly, its loop against it, and a neural energy sampled."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from machines import BoltzmannMachine, Network
from scipy.stats import chisquare
from torch import Tensor, nn

from genmodels.kernels import gibbs_with_gradients
from genmodels.kernels.gibbs_with_gradients import GibbsWithGradients, transition
from genmodels.paths import BaseRate
from genmodels.streams import Key

KEY, BETA = Key(41, "gradients"), 0.7
FIELDS = torch.tensor([0.5, -0.9, 0.2])
MODELS = {
    "boltzmann machine": BoltzmannMachine(4),
    "network": Network(4).double(),
    "base rate": BaseRate(Network(3).double(), FIELDS.double()),
}


def every_state(n_sites: int) -> Tensor:
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n_sites)), dtype=torch.float64)


def potentials(model: Any, beta: float = BETA) -> np.ndarray:
    """Return U_β of every state, written out."""
    x = every_state(model.n_sites)
    with torch.no_grad():
        u = beta * model.energy(x)
        return (u + model.reference_energy(x) if isinstance(model, BaseRate) else u).double().numpy()


def boltzmann(model: Any, beta: float = BETA) -> np.ndarray:
    p = np.exp(-potentials(model, beta))
    return p / p.sum()


def matrix(model: Any, q: Tensor, acceptance: Tensor) -> np.ndarray:
    """Return w[x', x] of one proposal."""
    n, n_states = model.n_sites, 2**model.n_sites
    w = np.zeros((n_states, n_states))
    flips = (q * acceptance).numpy()
    for state, site in itertools.product(range(n_states), range(n)):
        w[state ^ (1 << (n - 1 - site)), state] = flips[state, site]
    return w + np.diag(1.0 - w.sum(0))


def proposals(model: Any, beta: float = BETA) -> tuple[Tensor, Tensor]:
    x = every_state(model.n_sites)
    return transition(model, x, torch.full((len(x),), beta, dtype=torch.float64))


def uncorrected(model: Any, q: Tensor, with_energy: bool) -> Tensor:
    """Return the acceptance that forgets the proposal's asymmetry, and that which accepts everything."""
    u, states = potentials(model), np.arange(len(q))
    n = model.n_sites
    rises = np.stack([u[states ^ (1 << (n - 1 - i))] - u for i in range(n)], 1)
    return torch.tensor(np.exp(-np.maximum(rises, 0.0))) if with_energy else torch.ones_like(q)


@pytest.mark.parametrize("name", MODELS)
def test_a_proposal_satisfies_detailed_balance_to_rounding(name: str) -> None:
    model = MODELS[name]
    q, acceptance = proposals(model)
    w, p = matrix(model, q, acceptance), boltzmann(model)
    np.testing.assert_allclose(q.sum(1), 1.0, atol=1e-12)
    np.testing.assert_allclose(w @ p, p, atol=1e-12)
    np.testing.assert_allclose(w * p, (w * p).T, atol=1e-12)
    assert GibbsWithGradients().detailed_balance
    assert np.linalg.matrix_power(w, 2000)[:, 0] == pytest.approx(p)
    for beta in (1.02 * BETA, 2.0 * BETA):
        wrong = boltzmann(model, beta)
        assert np.abs(w @ wrong - wrong).max() > 1e-5
    for with_energy in (True, False):
        wrong = matrix(model, q, uncorrected(model, q, with_energy))
        assert np.abs(wrong @ p - p).max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_the_proposal_is_half_of_the_flips_log_ratio_to_first_order(name: str) -> None:
    model = MODELS[name]
    q, _ = proposals(model)
    x, n = every_state(model.n_sites), model.n_sites
    step, u = 1e-4, torch.zeros(len(x), n, dtype=torch.float64)
    for site, sign in itertools.product(range(n), (1.0, -1.0)):
        moved = x.clone()
        moved[:, site] += sign * step
        with torch.no_grad():
            energy = BETA * model.energy(moved)
            u[:, site] += sign * (energy + model.reference_energy(moved) if name == "base rate" else energy)
    exact = (x * u / (2.0 * step)).softmax(1)
    assert torch.allclose(q, exact, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_wrong_sign_balances_too_but_accepts_less(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, p = MODELS[name], torch.tensor(boltzmann(MODELS[name]))[:, None]
    right = float((p * torch.stack(proposals(model)).prod(0)).sum())
    monkeypatch.setattr(
        gibbs_with_gradients, "log_proposal", lambda x, gradient: (-x * gradient).log_softmax(1)
    )
    q, acceptance = proposals(model)
    w = matrix(model, q, acceptance)
    np.testing.assert_allclose(w @ p.numpy(), p.numpy(), atol=1e-12)
    assert float((p * q * acceptance).sum()) < 0.65 * right


def p_value(x: Tensor, expected: np.ndarray) -> float:
    number = ((x > 0).long() * 2 ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)
    with np.errstate(divide="ignore"):  # a wrong matrix may give a state no probability
        return chisquare(np.bincount(number.numpy(), minlength=len(expected)), expected * len(x)).pvalue


@pytest.mark.parametrize("name", MODELS)
def test_the_loop_has_the_transition_matrix(name: str) -> None:
    model, start, n = MODELS[name], 5, 60_000
    q, acceptance = proposals(model)
    x = every_state(model.n_sites)[start].repeat(n, 1)
    kernel = GibbsWithGradients()
    state, info = kernel.advance(model, kernel.start(model, x), torch.full((n,), BETA), 1, KEY)

    def swept(chances: Tensor) -> np.ndarray:
        return np.linalg.matrix_power(matrix(model, q, chances), model.n_sites)[:, start]

    assert p_value(state.x, swept(acceptance)) > 1e-3
    for with_energy in (True, False):
        assert p_value(state.x, swept(uncorrected(model, q, with_energy))) < 1e-6
    with torch.no_grad():
        assert torch.allclose(state.energy, model.energy(state.x))
    # Of every proposal the acceptance of where it comes from, step by step.
    w, rates, p = matrix(model, q, acceptance), (q * acceptance).sum(1).numpy(), np.eye(len(q))[start]
    exact = np.mean([rates @ np.linalg.matrix_power(w, k) @ p for k in range(model.n_sites)])
    assert abs(info.acceptance - exact) < 4.0 * 0.5 / math.sqrt(n * model.n_sites)
    assert info.n_updates == n * model.n_sites


def worst_z(x: Tensor, model: Any, beta: float) -> float:
    """Return the largest z-score among ⟨E⟩, ⟨x_i⟩ and ⟨x_i x_j⟩ against enumeration  # (replica, site)."""
    n_sites, p = model.n_sites, boltzmann(model, beta)
    pairs = np.triu_indices(n_sites, 1)

    def measured(x: Tensor) -> np.ndarray:
        with torch.no_grad():
            energy = model.energy(x).double().numpy()
        x = x.double().numpy()
        return np.column_stack([energy, x, x[:, pairs[0]] * x[:, pairs[1]]])

    every, found = measured(every_state(n_sites)), measured(x).mean(0)
    variance = p @ every**2 - (p @ every) ** 2
    return float(np.abs((found - p @ every) / np.sqrt(variance / len(x))).max())


def test_a_neural_energy_is_sampled_at_a_beta_for_each_replica() -> None:
    model, kernel, n = Network(10), GibbsWithGradients(), 60_000
    betas = (0.5, 1.3)
    beta = torch.tensor(betas).repeat(n)
    state, info = kernel.advance(model, kernel.init(model, 2 * n, KEY), beta, 5, KEY.at(round=1))
    assert info.n_nonfinite == 0
    assert 0.5 < info.acceptance < 1.0
    for r, b in enumerate(betas):
        assert worst_z(state.x[r::2], model, b) < 4.5  # of 56
        assert worst_z(state.x[r::2], model, 1.02 * b) > worst_z(state.x[r::2], model, b)
    assert worst_z(state.x[1::2], model, 1.02 * 1.3) > 6.0
    assert worst_z(state.x[0::2], model, 1.1 * 0.5) > 8.0


def test_at_beta_0_it_starts_from_the_reference_and_keeps_it() -> None:
    model, kernel, n = MODELS["base rate"], GibbsWithGradients(), 40_000
    state = kernel.init(model, n, KEY)
    reference = torch.softmax(every_state(3) @ FIELDS.double(), 0).numpy()
    then, _ = kernel.advance(model, state, torch.zeros(n), 1, KEY.at(round=1))
    for x in (state.x, then.x):
        assert p_value(x, reference) > 1e-3
        assert p_value(x, np.full(8, 1 / 8)) < 1e-6


def test_a_schedule_gives_each_sweep_its_beta() -> None:
    model, kernel, n, start = MODELS["network"], GibbsWithGradients(), 60_000, 9
    x = every_state(4)[start].repeat(n, 1)
    schedule = torch.tensor([0.1, 1.6])[:, None].expand(2, n)
    rising, _ = kernel.advance(model, kernel.start(model, x), schedule, 2, KEY)
    falling, _ = kernel.advance(model, kernel.start(model, x), schedule.flip(0), 2, KEY)
    first, then = (np.linalg.matrix_power(matrix(model, *proposals(model, b)), 4) for b in (0.1, 1.6))
    assert p_value(rising.x, (then @ first)[:, start]) > 1e-3
    assert p_value(falling.x, (then @ first)[:, start]) < 1e-6


class Cliff(nn.Module):
    """An energy that is no number where the first spin is up."""

    n_sites = 2

    def energy(self, x: Tensor) -> Tensor:
        return torch.sqrt(0.0 - x[:, 0]) + 0.3 * x[:, 1]


def test_proposals_without_a_number_are_refused_and_counted() -> None:
    kernel, x = GibbsWithGradients(), torch.tensor([[-1.0, 1.0]]).repeat(400, 1)
    after, info = kernel.advance(Cliff(), kernel.start(Cliff(), x), torch.ones(400), 2, KEY)
    assert after.energy.isfinite().all()
    assert 100 < info.n_nonfinite < 1500
    assert 0.0 < info.acceptance < 1.0
