"""Restricted Boltzmann machine: sums by enumeration, gradients by autograd, learning by divergence."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimators import enumeration
from genmodels.learners.ascent import Tensors
from genmodels.learners.fit import Shuffled, fit
from genmodels.learners.persistent_contrastive_divergence import PersistentContrastiveDivergence
from genmodels.models.rbm import RBM
from genmodels.streams import Key

KEY = Key(21, "rbm")
BETAS = [0.0, 0.6, 1.7]


def asymmetric(n_visible: int = 4, n_hidden: int = 3, scale: float = 0.7) -> RBM:
    """Return a machine in float64 whose weights and biases are all different."""
    rbm = RBM(n_visible, n_hidden).double()
    generator = KEY.child("parameters").torch()
    with torch.no_grad():
        for parameter in rbm.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * drawn + 0.2)
    return rbm.requires_grad_(False)


def every(n_sites: int) -> Tensor:
    return torch.cat(list(enumeration.states(n_sites)))


def log_likelihood(rbm: RBM, x: Tensor) -> Tensor:
    """Return the exact mean log-likelihood, through autograd  # (image, visible)."""
    log_z = rbm.log_unnormalised(every(rbm.n_visible)).logsumexp(0)
    return (rbm.log_unnormalised(x) - log_z).mean()


def gradient(rbm: RBM, x: Tensor) -> Tensors:
    rbm.requires_grad_(True)
    found = torch.autograd.grad(log_likelihood(rbm, x), [rbm.W, rbm.b, rbm.c])
    rbm.requires_grad_(False)
    return dict(zip("Wbc", found, strict=True))


def exact_statistics(rbm: RBM) -> Tensors:
    x = every(rbm.n_visible)
    return rbm.statistics(x, rbm.log_unnormalised(x).softmax(0))


def ascent(rbm: RBM, data: Tensors, fantasy: Tensors, mu: Tensor, lam: Tensor, decay: float = 0.0) -> Tensors:
    difference = {name: data[name] - fantasy[name] for name in data}
    return rbm.centred(difference, {"W": decay * rbm.W}, {"b": mu, "c": lam})


def test_energy_is_the_sum_over_pairs_and_sites() -> None:
    rbm = asymmetric()
    joint = every(7)
    by_hand = torch.zeros(len(joint), dtype=torch.float64)
    for i in range(4):
        by_hand -= rbm.b[i] * joint[:, i]
        for j in range(3):
            by_hand -= rbm.W[i, j] * joint[:, i] * joint[:, 4 + j]
    for j in range(3):
        by_hand -= rbm.c[j] * joint[:, 4 + j]
    assert torch.allclose(rbm.energy(joint), by_hand, atol=1e-12)
    assert not torch.allclose(rbm.energy(-joint), by_hand, atol=0.1)
    assert torch.allclose(torch.from_numpy(rbm.couplings().energy(joint.numpy())), by_hand, atol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("block", [0, 1])
def test_a_marginal_is_the_sum_over_the_other_layer(block: int, beta: float) -> None:
    rbm = asymmetric()
    n_side, n_summed = (4, 3) if block == 0 else (3, 4)
    for side in every(n_side):
        other = every(n_summed)
        same = side.expand(len(other), n_side)
        joint = torch.cat([same, other] if block == 0 else [other, same], 1)
        expected = (-beta * rbm.energy(joint)).logsumexp(0)
        assert torch.allclose(rbm.log_marginal(block, side[None], beta)[0], expected, atol=1e-12)
        if beta == 0.6:  # β on the biases only, and β outside of the sum: both are seen
            bias, cold = rbm.b if block == 0 else rbm.c, rbm.log_marginal(block, side[None])[0]
            assert not torch.allclose(cold - 0.4 * side @ bias, expected, atol=1e-3)
            assert not torch.allclose(0.6 * cold, expected, atol=1e-3)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("block", [0, 1])
def test_a_conditional_is_a_ratio_of_boltzmann_factors(block: int, beta: float) -> None:
    rbm, joint = asymmetric(), every(7)
    p = rbm.conditional(block, joint, torch.full((len(joint),), beta, dtype=torch.float64))
    for place, site in enumerate(range(*rbm.blocks[block].indices(7))):
        up, down = joint.clone(), joint.clone()
        up[:, site], down[:, site] = 1.0, -1.0
        expected = torch.sigmoid(beta * (rbm.energy(down) - rbm.energy(up)))
        assert torch.allclose(p[:, place], expected, atol=1e-12)
        if beta > 0.0:  # units 0/1 in place of ±1 lose the factor 2
            assert not torch.allclose(torch.logit(p[:, place]) / 2.0, torch.logit(expected), atol=1e-3)


def test_each_replica_has_its_own_beta() -> None:
    rbm, joint = asymmetric(), every(7)[40:43]
    betas = torch.tensor(BETAS, dtype=torch.float64)
    together = rbm.conditional(1, joint, betas)
    alone = [rbm.conditional(1, joint[i : i + 1], betas[i : i + 1]) for i in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-14)
    assert together[0].tolist() == [0.5, 0.5, 0.5]


def test_the_machine_in_units_of_0_and_1() -> None:
    # W' = 4W, b' = 2b − 2W1, c' = 2c − 2Wᵀ1, and the constant 1ᵀW1 − Σb − Σc.
    rbm, joint = asymmetric(), every(7)
    v, h = (joint[:, :4] + 1.0) / 2.0, (joint[:, 4:] + 1.0) / 2.0
    W = 4.0 * rbm.W
    b, c = 2.0 * rbm.b - 2.0 * rbm.W.sum(1), 2.0 * rbm.c - 2.0 * rbm.W.sum(0)
    constant = rbm.W.sum() - rbm.b.sum() - rbm.c.sum()
    binary = ((v @ W) * h).sum(1) + v @ b + h @ c + constant
    assert torch.allclose(-rbm.energy(joint), binary, atol=1e-12)
    assert not torch.allclose(-rbm.energy(joint), binary - constant, atol=0.1)
    marginal = v @ b + torch.nn.functional.softplus(v @ W + c).sum(1) + constant
    assert torch.allclose(rbm.log_unnormalised(joint[:, :4]), marginal, atol=1e-12)


def test_ascent_with_exact_moments_is_the_gradient() -> None:
    rbm = asymmetric()
    x = every(4)[[0, 3, 3, 7, 9]]
    zeros = torch.zeros(4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    direction, expected = ascent(rbm, rbm.statistics(x), exact_statistics(rbm), *zeros), gradient(rbm, x)
    assert all(torch.allclose(direction[name], expected[name], atol=1e-12) for name in "Wbc")
    backwards = ascent(rbm, exact_statistics(rbm), rbm.statistics(x), *zeros)
    assert not torch.allclose(backwards["W"], expected["W"], atol=1e-3)


def test_weighted_moments_count_an_image_as_often_as_its_weight() -> None:
    rbm, x = asymmetric(), every(4)[[1, 6, 11]]
    repeated = rbm.statistics(x[[0, 1, 1, 2, 2, 2]])
    weighted = rbm.statistics(x, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) / 6.0)
    assert all(torch.allclose(repeated[name], weighted[name], atol=1e-14) for name in "Wbc")


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_centred_ascent_is_the_gradient_in_centred_parameters(decay: float) -> None:
    rbm = asymmetric()
    x = every(4)[[0, 3, 3, 7, 9]]
    generator = KEY.child("centres").torch()
    mu, lam = (torch.rand(n, generator=generator, dtype=torch.float64) - 0.3 for n in (4, 3))
    W = rbm.W.clone().requires_grad_()
    b0 = (rbm.b + rbm.W @ lam).requires_grad_()  # E = −((x − μ)ᵀW(z − λ) + b0ᵀx + c0ᵀz)
    c0 = (rbm.c + rbm.W.T @ mu).requires_grad_()
    centred = {"W": W, "b": b0 - W @ lam, "c": c0 - W.T @ mu}

    def log_unnormalised(states: Tensor) -> Tensor:
        nu = states @ centred["W"] + centred["c"]
        return states @ centred["b"] + torch.logaddexp(nu, -nu).sum(1)

    objective = log_unnormalised(x).mean() - log_unnormalised(every(4)).logsumexp(0)
    objective = objective - 0.5 * decay * W.square().sum()
    dW, db0, dc0 = torch.autograd.grad(objective, [W, b0, c0])
    direction = ascent(rbm, rbm.statistics(x), exact_statistics(rbm), mu, lam, decay)
    assert torch.allclose(direction["W"], dW, atol=1e-12)
    assert torch.allclose(direction["b"], db0 - dW @ lam, atol=1e-12)
    assert torch.allclose(direction["c"], dc0 - dW.T @ mu, atol=1e-12)
    assert not torch.allclose(direction["W"], gradient(rbm, x)["W"], atol=1e-3)


@pytest.mark.parametrize("at", [0.0, 0.4])
def test_with_weight_decay_the_means_of_x_and_z_still_come_out_right(at: float) -> None:
    # Wherever the centres are, the ascent comes to rest at the optimum of the penalised likelihood.
    rbm = asymmetric()
    x = every(4)[[0, 3, 3, 7, 9]]
    mu, lam = torch.full((4,), at, dtype=torch.float64), torch.full((3,), -at, dtype=torch.float64)
    for _ in range(4000):
        direction = ascent(rbm, rbm.statistics(x), exact_statistics(rbm), mu, lam, 0.2)
        for name, parameter in rbm.named_parameters():
            parameter.add_(direction[name], alpha=0.1)
    data, model = rbm.statistics(x), exact_statistics(rbm)
    assert torch.allclose(model["b"], data["b"], atol=1e-6)
    assert torch.allclose(model["c"], data["c"], atol=1e-6)
    assert torch.allclose(data["W"] - model["W"], 0.2 * rbm.W, atol=1e-6)
    assert float(rbm.W.abs().max()) > 0.1
    undecayed = ascent(rbm, data, model, mu, lam)["b"] - data["b"] + model["b"]
    assert at == 0.0 or float(undecayed.abs().max()) > 1e-3  # decay of W alone moves b


def test_either_direction_raises_the_likelihood() -> None:
    rbm = asymmetric()
    x = every(4)[[0, 3, 3, 7, 9]]
    centres = torch.full((4,), 0.4, dtype=torch.float64), torch.full((3,), -0.3, dtype=torch.float64)
    for mu, lam in (centres, (torch.zeros_like(centres[0]), torch.zeros_like(centres[1]))):
        direction = ascent(rbm, rbm.statistics(x), exact_statistics(rbm), mu, lam)
        rise = sum(float((g * direction[name]).sum()) for name, g in gradient(rbm, x).items())
        moved = asymmetric()
        for name, parameter in moved.named_parameters():
            parameter.add_(direction[name], alpha=1e-5)
        gained = float(log_likelihood(moved, x) - log_likelihood(rbm, x))
        assert rise > 0.0
        assert gained == pytest.approx(1e-5 * rise, rel=1e-3)


STRIPES = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]]).repeat(1, 3)
SHARES = torch.tensor([0.5, 0.3, 0.2])
NOISE = 0.1


def striped(n: int) -> Tensor:
    """Return 3×3 pictures of three stripes in ±1, each pixel flipped with probability NOISE  # (n, 9)."""
    generator = KEY.child("striped").torch()
    x = STRIPES[torch.multinomial(SHARES, n, replacement=True, generator=generator)]
    return torch.where(torch.rand(n, 9, generator=generator) < NOISE, -x, x)


def striped_log_prob() -> Tensor:
    """Return the exact log probabilities of all pictures  # (512,)."""
    n_flipped = (every(9)[:, None] != STRIPES).sum(2).double()
    return (SHARES.log() + n_flipped * math.log(NOISE) + (9 - n_flipped) * math.log(1 - NOISE)).logsumexp(1)


def divergence_of(rbm: RBM) -> float:
    exact = RBM(9, 6).double()
    exact.load_state_dict(rbm.state_dict())
    log_q = exact.log_unnormalised(every(9)).detach()
    value = enumeration.divergence(striped_log_prob(), log_q.log_softmax(0)).value
    assert value is not None
    return value


def trained(learner: PersistentContrastiveDivergence, n_steps: int) -> RBM:
    rbm = RBM(9, 6)
    for _ in fit(rbm, learner, Shuffled(striped(4000), 500, KEY.child("order")), KEY.child("train"), n_steps):
        pass
    return rbm


@pytest.mark.parametrize("centred", [True, False])
def test_training_comes_close_to_a_known_distribution(centred: bool) -> None:
    rules = PersistentContrastiveDivergence(
        n_chains=500, n_sweeps=2, learning_rate=0.1, weight_decay=0.0, centred=centred, n_steps=800
    )
    rates = (striped_log_prob().exp() @ every(9) + 1.0) / 2.0
    independent = enumeration.divergence(
        striped_log_prob(), torch.where(every(9) > 0, rates.log(), (1.0 - rates).log()).sum(1)
    )
    first, last = divergence_of(trained(rules, 1)), divergence_of(trained(rules, 800))
    assert independent.value == pytest.approx(first, rel=0.05)  # the first step has only set the base rates
    assert last < 0.05 * first


@dataclass(frozen=True)
class Backwards(PersistentContrastiveDivergence):
    """Takes every step the wrong way."""

    def rate(self, step: int) -> float:
        return -super().rate(step)


def test_steps_the_wrong_way_lead_away() -> None:
    assert (
        divergence_of(trained(Backwards(n_chains=100, learning_rate=0.05), 60))
        > divergence_of(trained(PersistentContrastiveDivergence(n_chains=100, learning_rate=0.0), 1)) + 0.1
    )


def test_a_step_is_the_ascent_from_the_chains_that_went_on() -> None:
    rbm, x = asymmetric(9, 6, scale=0.3).float(), striped(200)
    learner = PersistentContrastiveDivergence(
        n_chains=50, n_sweeps=3, learning_rate=0.1, weight_decay=0.02, centred=False, n_steps=10
    )
    state, _ = learner.step(rbm, learner.init(rbm), x, KEY.at(round=0))
    W, b, c = rbm.W.clone(), rbm.b.clone(), rbm.c.clone()
    kernel, particles = state.chains
    particles, _ = kernel.advance(rbm, particles, torch.ones(50), 3, KEY.at(round=1))
    fantasy, data = rbm.statistics(kernel.configuration(particles)), rbm.statistics(x)
    after, metrics = learner.step(rbm, state, x, KEY.at(round=1))
    rate = 0.1 * (1.0 - 1.0 / 10.0)
    assert metrics["learning_rate"] == pytest.approx(rate)
    assert torch.allclose(rbm.W, W + rate * (data["W"] - fantasy["W"] - 0.02 * W), atol=1e-6)
    assert torch.allclose(rbm.b, b + rate * (data["b"] - fantasy["b"]), atol=1e-6)
    assert torch.allclose(rbm.c, c + rate * (data["c"] - fantasy["c"]), atol=1e-6)
    assert torch.equal(kernel.configuration(after.chains.particles), kernel.configuration(particles))
    mismatch = (data["b"] - fantasy["b"]).square().mean().sqrt()
    assert metrics["moment_mismatch"] == pytest.approx(float(mismatch))


def test_the_first_step_sets_base_rates_and_small_weights() -> None:
    x, rbm = striped(300), RBM(9, 6)
    x[:, 4] = 1.0
    learner = PersistentContrastiveDivergence(n_chains=20, learning_rate=0.0)
    state, _ = learner.step(rbm, learner.init(rbm), x, KEY)
    assert torch.allclose(rbm.b.tanh(), x.sum(0) / 302.0, atol=1e-6)
    assert 0.005 < float(rbm.W.detach().std()) < 0.02
    assert torch.equal(state.centres["b"], x.mean(0))
    kept = asymmetric(9, 6).float()
    learner.step(kept, learner.init(kept), x, KEY)
    assert torch.equal(kept.W, asymmetric(9, 6).float().W)  # a trained machine is trained further, not reset


def test_centres_follow_the_data_slowly() -> None:
    x, rbm = striped(300), RBM(9, 6)
    learner = PersistentContrastiveDivergence(n_chains=20, learning_rate=0.0)
    state, _ = learner.step(rbm, learner.init(rbm), x, KEY)
    state, _ = learner.step(rbm, state, -x, KEY.at(round=1))
    assert torch.allclose(state.centres["b"], 0.98 * x.mean(0), atol=1e-6)


def test_pixels_of_0_and_1_are_refused() -> None:
    rbm, learner = RBM(9, 6), PersistentContrastiveDivergence()
    with pytest.raises(InputError, match="map binary pixels v to 2v - 1"):
        learner.step(rbm, learner.init(rbm), (striped(10) + 1.0) / 2.0, KEY)
