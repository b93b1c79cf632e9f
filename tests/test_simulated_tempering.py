"""Simulated tempering samples P_β on every rung, visits all alike, and learns −log Z."""

import dataclasses

import numpy as np
import pytest
import torch
from summed import MODELS, Summed, Warm, ratio_scores, scores
from torch import Tensor

from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.placement.local import LocalPlacement
from genmodels.samplers import expanded
from genmodels.samplers.simulated_tempering import SimulatedTempering, Tempered
from genmodels.streams import Key

KEY = Key(31, "test")
TEMPERING = SimulatedTempering(
    n_chains=600, n_rungs=5, n_rounds=150, burn_in=64, sweeps_per_round=1, chains_per_shard=300, beta_max=1.2
)


def run(name: str, kernel: BlockGibbs | None = None) -> Tempered:
    return TEMPERING.run(MODELS[name], kernel or BlockGibbs(), KEY, LocalPlacement())


def energy_scores(name: str, result: Tempered) -> np.ndarray:
    """Return how many standard errors, over chains, the mean energies on the rungs are off."""
    on = torch.nn.functional.one_hot(result.rung, len(result.betas)).double()
    weights = on.sum(1)
    values = (result.energies[..., None] * on).sum(1) / weights.clamp(min=1.0)
    return ratio_scores(values.numpy(), weights.numpy(), Summed(MODELS[name]).energies(result.betas))


def moment_scores(name: str, result: Tempered) -> np.ndarray:
    weights = result.visits[:, -1:].double().numpy()
    exact = Summed(MODELS[name]).moments(float(result.betas[-1]))
    return ratio_scores(result.mean_x.nan_to_num(0.0).numpy(), weights, exact)


def expected_shares(name: str, result: Tempered) -> np.ndarray:
    """Return P(k) ∝ Z(β_k) exp(g_k)."""
    log_p = Summed(MODELS[name]).log_zs(result.betas) + result.g.numpy()
    return np.exp(log_p - np.logaddexp.reduce(log_p))


def visit_scores(name: str, result: Tempered) -> np.ndarray:
    shares = result.visits.double() / result.rung.shape[1]
    return scores(shares.numpy(), expected_shares(name, result))


@pytest.mark.parametrize("name", MODELS)
def test_energies_spins_and_visits_are_those_of_the_joint_distribution(name: str) -> None:
    result = run(name)
    assert np.abs(energy_scores(name, result)).max() < 3.5
    assert np.abs(moment_scores(name, result)).max() < 3.5
    assert np.abs(visit_scores(name, result)).max() < 3.5
    assert np.abs(scores(result.occupation.numpy(), expected_shares(name, result))).max() < 3.5


@pytest.mark.parametrize("name", MODELS)
def test_all_temperatures_are_visited_alike_as_g_is_minus_log_z(name: str) -> None:
    result = run(name)
    exact = Summed(MODELS[name]).log_zs(result.betas)
    # Of the machine the trapezoid rule makes the last g too high by 0.1 nats, with a deviation of 0.06 over
    # a dozen seeds: four of them.
    assert np.abs(expected_shares(name, result) * 5 - 1.0).max() < 0.3
    np.testing.assert_allclose(result.g, exact[0] - exact, atol=0.1 + 4 * 0.06)
    assert float(result.betas[-1]) == pytest.approx(1.2)
    rates = result.acceptance
    assert float(rates.max() - rates.min()) < 0.06
    assert float(rates.min()) > 0.5


@pytest.mark.parametrize("name", ["boltzmann machine", "from base rates"])
def test_a_beta_off_by_two_per_cent_is_seen(name: str) -> None:
    sampler = dataclasses.replace(TEMPERING, n_chains=6000, chains_per_shard=6000)
    right = sampler.run(MODELS[name], BlockGibbs(), KEY, LocalPlacement())
    wrong = sampler.run(MODELS[name], Warm(), KEY, LocalPlacement())
    assert np.abs(energy_scores(name, right)).max() < 3.5
    assert np.abs(energy_scores(name, wrong)).max() > 6.0


def test_a_move_with_the_wrong_sign_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = expanded.log_acceptance

    def wrong(rung: Tensor, to: Tensor, energies: Tensor, betas: Tensor, g: Tensor) -> Tensor:
        return right(rung, to, -energies, betas, -g)

    monkeypatch.setattr(expanded, "log_acceptance", wrong)
    result = run("rbm")
    assert np.abs(energy_scores("rbm", result)).max() > 7.0


def test_proposals_reflected_at_the_ends_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def reflected(rung: Tensor, step: Tensor, n_rungs: int) -> Tensor:
        to = rung + step
        return torch.where((to < 0) | (to >= n_rungs), rung - step, to)

    monkeypatch.setattr(expanded, "proposed", reflected)
    result = run("boltzmann machine")
    assert np.abs(visit_scores("boltzmann machine", result)).max() > 7.0


def test_a_step_off_the_ladder_is_none() -> None:
    rung = torch.tensor([0, 0, 2, 2, 1, 1])
    step = torch.tensor([-1, 1, 1, -1, 1, -1])
    assert expanded.proposed(rung, step, 3).tolist() == [0, 1, 2, 1, 2, 0]


def test_acceptance_is_the_ratio_of_joint_probabilities() -> None:
    betas, g = torch.tensor([0.2, 0.5, 1.1]).double(), torch.tensor([0.0, -0.4, -2.0]).double()
    energies = torch.tensor([-3.0, 1.0, -7.0]).double()
    rung, to = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 1])
    log_p = -betas * energies[:, None] + g  # (chain, rung)
    expected = [min(0.0, float(log_p[c, to[c]] - log_p[c, rung[c]])) for c in range(3)]
    assert expanded.log_acceptance(rung, to, energies, betas, g).tolist() == pytest.approx(expected)
    assert min(expected) < 0.0 == max(expected)


def test_weights_are_integrated_from_mean_energies() -> None:
    # A single spin in a field: ⟨E⟩ = −tanh β, g = −log cosh β.
    betas = torch.linspace(0.0, 1.0, 41).double()
    g = expanded.integrated(betas, -betas.tanh())
    np.testing.assert_allclose(g, -betas.cosh().log(), atol=1e-4)
    assert g[0] == 0.0


def test_weights_are_learned_even_from_chains_that_are_ill_spread() -> None:
    model = Summed(MODELS["boltzmann machine"])
    betas, at = torch.tensor([0.0, 0.3, 0.7, 1.2]).double(), torch.tensor([0.0, 0.5, 1.0, 1.2]).double()
    generator = KEY.torch()
    rung = torch.tensor([0, 1, 2, 3]).repeat_interleave(torch.tensor([9000, 500, 3000, 6000]))
    drawn = [
        torch.multinomial(model.log_p(beta).softmax(0), int((rung == k).sum()), True, generator=generator)
        for k, beta in enumerate(betas.tolist())
    ]
    energies = model.energy[torch.cat(drawn)]
    exact = model.log_z(0.0) - model.log_zs(at)
    learned = expanded.learned(rung, energies, betas, torch.zeros(4).double(), at)
    np.testing.assert_allclose(learned, exact, atol=0.06)
    # As if the chains were spread evenly: what a plain mean of P(k|E) would take them for.
    even = torch.arange(len(rung)) % 4
    naive = expanded.learned(even, energies, betas, torch.zeros(4).double(), at)
    assert np.abs(naive.numpy() - exact).max() > 0.3


def test_round_trips_are_counted_from_end_to_end() -> None:
    generator, n_rungs = KEY.torch(), 4
    heading, counted = torch.zeros(3, dtype=torch.int8), torch.zeros(3, dtype=torch.int64)
    path = torch.randint(0, n_rungs, (200, 3), generator=generator)
    for rung in path:
        counted += expanded.turn(heading, rung, n_rungs)
    for chain in range(3):
        met = [{0: "0", n_rungs - 1: "1"}.get(rung, "") for rung in path[:, chain].tolist()]
        ends = "".join(met).lstrip("1")
        runs = "".join(a for a, b in zip(ends, " " + ends, strict=False) if a != b)
        assert counted[chain] == (len(runs) - 1) // 2 > 10


def test_figures_follow_from_rungs_and_energies() -> None:
    result = run("rbm")
    assert result.rung.shape == result.energies.shape == (600, 150)
    assert result.visits.sum(1).eq(150).all()
    torch.testing.assert_close(result.occupation.sum(1), torch.ones(600).double())
    k, dg, step = 2, float(result.g[3] - result.g[2]), float(result.betas[3] - result.betas[2])
    up = (dg - step * result.energies[result.rung == k]).clamp(max=0.0).exp()
    down = (step * result.energies[result.rung == k + 1] - dg).clamp(max=0.0).exp()
    assert float(result.acceptance[k]) == pytest.approx(float(torch.cat([up, down]).mean()))
    assert float(result.round_trips.sum()) > 1000
    assert result.n_updates == 600 * 10 * (150 + 64 + 2 * 5)


def test_few_chains_still_reach_the_last_rung() -> None:
    few = dataclasses.replace(TEMPERING, n_chains=3, n_rungs=12, n_rounds=20, burn_in=16)
    result = few.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    assert result.g.isfinite().all()
