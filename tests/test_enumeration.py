"""Exact sums: against sums written out in another way, at β ≠ 1 and without symmetry."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimators import enumeration
from genmodels.models.rbm import RBM
from genmodels.streams import Key

BETAS = [0.0, 0.6, 1.0, 1.7]


def asymmetric(n_visible: int, n_hidden: int) -> RBM:
    """Return a machine whose weights and biases are all different, with log Z of several nats above β = 0."""
    rbm = RBM(n_visible, n_hidden)
    generator = Key(5, "enumeration").torch()
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator) + 0.2)
    return rbm


def brute_log_z(rbm: RBM, beta: float, beta_of_biases: float | None = None) -> float:
    """Return log Σ exp(−βE), state by state, from nothing but numpy."""
    W, b, c = (p.detach().double().numpy() for p in (rbm.W, rbm.b, rbm.c))
    bias = beta if beta_of_biases is None else beta_of_biases
    total = 0.0
    for x in itertools.product((-1.0, 1.0), repeat=rbm.n_visible):
        for z in itertools.product((-1.0, 1.0), repeat=rbm.n_hidden):
            total += math.exp(beta * np.array(x) @ W @ np.array(z) + bias * (np.dot(b, x) + np.dot(c, z)))
    return math.log(total)


def test_states_are_all_states_in_order() -> None:
    expected = list(itertools.product((-1.0, 1.0), repeat=4))
    assert [tuple(x) for x in torch.cat(list(enumeration.states(4))).tolist()] == expected
    chunks = list(enumeration.states(4, chunk=5))
    assert [len(chunk) for chunk in chunks] == [5, 5, 5, 1]
    assert [tuple(x) for x in torch.cat(chunks).tolist()] == expected


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("n_visible", "n_hidden"), [(5, 3), (3, 5), (4, 4)])
def test_log_z_by_either_layer_is_the_sum_over_all_states(n_visible: int, n_hidden: int, beta: float) -> None:
    rbm = asymmetric(n_visible, n_hidden)
    expected = brute_log_z(rbm, beta)
    estimate = enumeration.log_z(rbm, beta)
    assert estimate.value == pytest.approx(expected, abs=1e-10)
    assert (estimate.kind, estimate.stderr, estimate.unit) == ("exact", 0.0, "nats")
    assert enumeration.log_z_of_energy(rbm, beta).value == pytest.approx(expected, abs=1e-10)


def test_a_beta_left_out_or_squared_would_be_seen() -> None:
    rbm = asymmetric(5, 3)
    value = enumeration.log_z(rbm, 0.6).value
    assert value != pytest.approx(brute_log_z(rbm, 0.6, beta_of_biases=1.0), abs=0.1)
    assert value != pytest.approx(brute_log_z(rbm, 0.36), abs=0.1)


def test_log_z_at_beta_0_counts_the_states() -> None:
    assert enumeration.log_z(asymmetric(5, 3), 0.0).value == pytest.approx(8 * math.log(2.0), abs=1e-12)


def test_large_weights_do_not_overflow() -> None:
    rbm = asymmetric(4, 3)
    with torch.no_grad():
        rbm.W.mul_(1e3)
    with torch.no_grad():
        lowest = float(rbm.energy(next(enumeration.states(7)).float()).min())
    assert enumeration.log_z(rbm).value == pytest.approx(-lowest, rel=1e-3)


def test_chunks_do_not_matter() -> None:
    rbm = asymmetric(16, 15)
    whole = rbm.double().log_marginal(1, next(enumeration.states(15, chunk=2**15))).logsumexp(0)
    assert enumeration.log_z(rbm).value == pytest.approx(float(whole.detach()), abs=1e-9)
    assert rbm.W.dtype == torch.float64  # the model handed in is left as it was


def test_too_many_units_are_refused() -> None:
    with pytest.raises(InputError, match="smaller side has 25 units and 24"):
        enumeration.log_z(RBM(25, 30))
    with pytest.raises(InputError, match="21 sites and 20"):
        enumeration.log_z_of_energy(RBM(11, 10))


def exact_log_prob(rbm: RBM, beta: float = 1.0) -> Tensor:
    x = torch.cat(list(enumeration.states(rbm.n_visible)))
    log_z = enumeration.log_z(rbm, beta).value
    assert log_z is not None
    with torch.no_grad():
        return rbm.double().log_marginal(0, x, beta) - log_z


def test_divergence_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.1])
    by_hand = 0.5 * math.log(2.5) + 0.3 * math.log(1.5) + 0.2 * math.log(2.0)
    estimate = enumeration.divergence(p.double().log(), q.log())
    assert estimate.value == pytest.approx(by_hand, abs=1e-7)
    assert (estimate.kind, estimate.n, estimate.unit) == ("exact", 3, "nats")
    reverse = 0.2 * math.log(0.4) + 0.2 * math.log(2.0 / 3.0) + 0.1 * math.log(0.5)
    assert estimate.value != pytest.approx(reverse, abs=0.1)
    assert enumeration.mass_on_support(q.log()).value == pytest.approx(0.5, abs=1e-7)


def test_divergence_between_temperatures_is_a_difference_of_free_energies() -> None:
    # D(q_β‖q_1) = ⟨E⟩_β (1 − β) + log Z(1) − log Z(β), E the energy with the hidden units kept.
    rbm = asymmetric(4, 3)
    beta, h = 0.6, 1e-4
    states = next(enumeration.states(7))
    with torch.no_grad():
        energies = rbm.double().energy(states)
    log_p, log_q = ((-b * energies).log_softmax(0) for b in (beta, 1.0))
    log_z = {b: enumeration.log_z(rbm, b).value for b in (beta - h, beta, beta + h, 1.0)}
    mean_energy = -(log_z[beta + h] - log_z[beta - h]) / (2.0 * h)
    expected = mean_energy * (1.0 - beta) + log_z[1.0] - log_z[beta]
    assert enumeration.divergence(log_p, log_q).value == pytest.approx(expected, abs=1e-5)
    assert expected > 0.1


def test_divergence_from_itself_is_0_and_all_mass_is_1() -> None:
    log_q = exact_log_prob(asymmetric(6, 4))
    assert enumeration.divergence(log_q, log_q).value == pytest.approx(0.0, abs=1e-12)
    assert enumeration.mass_on_support(log_q).value == pytest.approx(1.0, abs=1e-12)


def test_divergence_keeps_the_kind_and_error_of_log_q() -> None:
    log_p = torch.tensor([0.5, 0.5]).log()
    estimate = enumeration.divergence(log_p, log_p - 0.1, kind="upper", stderr=0.02, method="bound")
    assert (estimate.kind, estimate.stderr, estimate.method) == ("upper", 0.02, "bound")


def test_states_that_p_excludes_do_not_count() -> None:
    log_p = torch.tensor([0.5, 0.5, 0.0]).log()
    log_q = torch.tensor([0.25, 0.25, 0.5]).log()
    assert enumeration.divergence(log_p, log_q).value == pytest.approx(math.log(2.0), abs=1e-7)
    assert enumeration.divergence(log_p, log_p).value == pytest.approx(0.0, abs=1e-7)


def test_a_missed_state_makes_the_divergence_infinite_and_says_so() -> None:
    log_p = torch.tensor([0.5, 0.5]).log()
    estimate = enumeration.divergence(log_p, torch.tensor([1.0, 0.0]).log())
    assert estimate.value is None
    assert "1 of the target's 2 states" in estimate.reason


def test_a_target_that_is_not_normalised_is_refused() -> None:
    with pytest.raises(InputError, match="sum to 0.9"):
        enumeration.divergence(torch.tensor([0.5, 0.4]).log(), torch.tensor([0.5, 0.5]).log())
