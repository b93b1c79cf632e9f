"""Block Gibbs leaves P_β invariant, at a β of its own for each replica."""

import itertools

import numpy as np
import pytest
import torch
from machines import BoltzmannMachine
from scipy.stats import chisquare, kstest
from torch import Tensor, nn

from genmodels.couplings import Couplings
from genmodels.kernels.block_gibbs import BlockGibbs, uniforms
from genmodels.models.ising import Ising
from genmodels.models.rbm import RBM
from genmodels.paths import BaseRate
from genmodels.streams import Key

KEY = Key(5, "test")


def machine() -> RBM:
    rbm = RBM(3, 2)
    with torch.no_grad():
        rbm.W.copy_(torch.tensor([[0.9, -0.4], [-0.6, 0.7], [0.2, 0.5]]))
        rbm.b.copy_(torch.tensor([0.3, -0.5, 0.1]))
        rbm.c.copy_(torch.tensor([-0.2, 0.4]))
    return rbm


def every_state(n_sites: int) -> Tensor:
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n_sites)))


def boltzmann(model: nn.Module, beta: float) -> np.ndarray:
    with torch.no_grad():
        return torch.softmax(-beta * model.energy(every_state(model.n_sites)).double(), 0).numpy()


def number(x: Tensor) -> Tensor:
    return ((x > 0).long() * 2 ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)


def one_block(model: nn.Module, block: slice | Tensor, p: np.ndarray) -> np.ndarray:
    """Return w[x', x] of drawing one block from P_β(block | rest) of the joint table p."""
    states = every_state(model.n_sites).numpy()
    rest = np.delete(np.arange(model.n_sites), np.arange(model.n_sites)[block])
    same = (states[:, None, rest] == states[None, :, rest]).all(2)
    return (same * p[:, None]) / (same * p[:, None]).sum(0)


def transitions(model: nn.Module, beta: float) -> np.ndarray:
    """Return w[x', x] of one sweep, block by block."""
    p = boltzmann(model, beta)
    sweep = np.eye(len(p))
    for block in reversed(model.blocks):
        sweep = one_block(model, block, p) @ sweep
    return sweep


def p_value(model: nn.Module, x: Tensor, expected: np.ndarray) -> float:
    counts = np.bincount(number(x).numpy(), minlength=len(expected))
    return chisquare(counts, expected * len(x)).pvalue


def ring() -> Ising:
    """Return five spins on a ring: colour classes of two, two and one."""
    J, h = np.array([0.9, -0.7, 0.5, 0.8, -0.6]), np.linspace(-0.4, 0.5, 5)
    return Ising.of(Couplings(5, np.array([0, 1, 2, 3, 0]), np.array([1, 2, 3, 4, 4]), J, h))


MODELS = [machine(), BoltzmannMachine(4, 0.5), ring()]
IDS = ["rbm", "boltzmann machine", "ring"]


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_sweep_keeps_balance_but_not_detailed_balance(model: nn.Module) -> None:
    w, p = transitions(model, 0.7), boltzmann(model, 0.7)
    np.testing.assert_allclose(w.sum(0), 1.0, atol=1e-12)
    np.testing.assert_allclose(w @ p, p, atol=1e-12)
    assert np.abs(w * p - (w * p).T).max() > 1e-3
    assert np.abs(w @ boltzmann(model, 1.4) - boltzmann(model, 1.4)).max() > 1e-2


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_one_sweep_has_the_transition_probabilities(model: nn.Module) -> None:
    start = 5
    x = every_state(model.n_sites)[start].repeat(40_000, 1)
    state, _ = BlockGibbs().advance(model, BlockGibbs().start(model, x), torch.full((len(x),), 0.7), 1, KEY)
    assert p_value(model, state.x, transitions(model, 0.7)[:, start]) > 1e-3
    assert p_value(model, state.x, transitions(model, 1.4)[:, start]) < 1e-6


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_each_replica_keeps_its_own_beta(model: nn.Module) -> None:
    betas, n, generator = (0.4, 1.3), 20_000, KEY.child("start").torch()
    exact = [torch.tensor(boltzmann(model, b)) for b in betas]
    drawn = [torch.multinomial(p, n, replacement=True, generator=generator) for p in exact]
    x = every_state(model.n_sites)[torch.cat(drawn)]
    beta = torch.tensor(betas).repeat_interleave(n)
    kernel = BlockGibbs()
    right, _ = kernel.advance(model, kernel.start(model, x), beta, 3, KEY)
    doubled, _ = kernel.advance(model, kernel.start(model, x), 2.0 * beta, 3, KEY)
    for i, b in enumerate(betas):
        mine = slice(i * n, (i + 1) * n)
        assert p_value(model, right.x[mine], boltzmann(model, b)) > 1e-3
        assert p_value(model, doubled.x[mine], boltzmann(model, b)) < 1e-6


def test_replicas_at_beta_0_are_uniform_and_forget_their_state() -> None:
    model, kernel = BoltzmannMachine(4, 0.5), BlockGibbs()
    first = kernel.init(model, 20_000, KEY)
    then, _ = kernel.advance(model, first, torch.zeros(20_000), 1, KEY.at(round=1))
    for state in (first, then):
        assert p_value(model, state.x, np.full(16, 1 / 16)) > 1e-3
    overlap = (first.x * then.x).mean(0) * np.sqrt(20_000)
    assert overlap.abs().max() < 4.0


def test_replicas_at_beta_0_are_of_the_reference_if_there_is_one() -> None:
    fields, kernel = torch.tensor([0.4, -0.2, 0.0, 0.7, -0.5]), BlockGibbs()
    model, n = BaseRate(machine(), fields), 20_000
    reference = torch.softmax((every_state(5) @ fields).double(), 0).numpy()
    first = kernel.init(model, n, KEY)
    then, _ = kernel.advance(model, first, torch.zeros(n), 1, KEY.at(round=1))
    for state in (first, then):
        assert p_value(model, state.x, reference) > 1e-3
    assert p_value(model, kernel.init(machine(), n, KEY).x, reference) < 1e-6
    there, _ = kernel.advance(model, first, torch.ones(n), 30, KEY.at(round=2))
    assert p_value(model, there.x, boltzmann(machine(), 1.0)) > 1e-3
    assert p_value(model, there.x, boltzmann(machine(), 1.1)) < 1e-6


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_a_schedule_gives_each_sweep_its_beta(model: nn.Module) -> None:
    kernel, start, n = BlockGibbs(), 5, 40_000
    state = kernel.start(model, every_state(model.n_sites)[start].repeat(n, 1))
    schedule = torch.tensor([0.2, 1.5])[:, None].expand(2, n)
    rising, _ = kernel.advance(model, state, schedule, 2, KEY)
    expected = (transitions(model, 1.5) @ transitions(model, 0.2))[:, start]
    assert p_value(model, rising.x, expected) > 1e-3
    falling, _ = kernel.advance(model, state, schedule.flip(0), 2, KEY)
    assert p_value(model, falling.x, expected) < 1e-6
    constant, _ = kernel.advance(model, state, torch.full((2, n), 0.7), 2, KEY)
    vector, _ = kernel.advance(model, state, torch.full((n,), 0.7), 2, KEY)
    assert torch.equal(constant.x, vector.x)


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_one_block_satisfies_detailed_balance_as_declared(model: nn.Module) -> None:
    p = boltzmann(model, 0.7)
    assert BlockGibbs().detailed_balance
    for block in model.blocks:
        flow = one_block(model, block, p) * p
        np.testing.assert_allclose(flow, flow.T, atol=1e-12)


def test_state_is_left_untouched_and_its_energies_are_the_models() -> None:
    model, kernel = machine(), BlockGibbs()
    before = kernel.init(model, 64, KEY)
    copy = before.x.clone()
    after, info = kernel.advance(model, before, torch.ones(64), 7, KEY)
    assert torch.equal(before.x, copy)
    assert not torch.equal(after.x, copy)
    assert torch.equal(after.energy, model.energy(after.x).detach())
    assert info == (7 * 64 * 5, 1.0, 0)
    assert not after.energy.requires_grad


def test_equal_keys_give_equal_bits_and_others_do_not() -> None:
    model, kernel, beta = machine(), BlockGibbs(), torch.ones(64)
    state = kernel.init(model, 64, KEY)
    one, again, other = (kernel.advance(model, state, beta, 2, key)[0] for key in (KEY, KEY, KEY.at(shard=1)))
    assert torch.equal(one.x, again.x)
    assert not torch.equal(one.x, other.x)


def test_select_takes_replicas_with_their_energies() -> None:
    model, kernel = machine(), BlockGibbs()
    state = kernel.init(model, 8, KEY)
    chosen = kernel.select(state, torch.tensor([3, 3, 0]))
    assert torch.equal(kernel.configuration(chosen), state.x[[3, 3, 0]])
    assert torch.equal(chosen.energy, state.energy[[3, 3, 0]])


def test_energies_that_are_not_finite_are_counted() -> None:
    model, kernel = machine(), BlockGibbs()
    with torch.no_grad():
        model.b[0] = torch.inf
    _, info = kernel.advance(model, kernel.init(model, 6, KEY), torch.ones(6), 1, KEY)
    assert info.n_nonfinite == 6


@pytest.mark.parametrize("n", [99_999, 100_000])
def test_uniforms_are_uniform_and_uncorrelated(n: int) -> None:
    drawn = uniforms(n, KEY.torch()).double().numpy()
    assert drawn.shape == (n,)
    assert kstest(drawn, "uniform").pvalue > 1e-3
    assert kstest(drawn**1.02, "uniform").pvalue < 1e-3
    centred = (drawn - 0.5) * np.sqrt(12.0)
    for lag in (1, 2, 5):
        assert abs((centred[lag:] * centred[:-lag]).sum()) < 4.0 * np.sqrt(n)
