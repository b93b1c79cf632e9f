"""The transition matrix of every kernel on discrete states, from its own code, on 3 and 4 spins."""

from collections.abc import Callable, Iterable
from functools import cache, reduce
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from chains import (
    Step,
    Walk,
    adjoint,
    asymptotic_variances,
    boltzmann,
    faults,
    matrix,
    number,
    one_sided,
    outcomes,
    reflected,
    states,
)
from machines import machine
from scipy.stats import chi2
from torch import Tensor

from genmodels.compiled.readable import sweep
from genmodels.couplings import Couplings
from genmodels.kernels import gibbs_with_gradients, lifted
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.kernels.gibbs_with_gradients import GibbsWithGradients
from genmodels.kernels.heat_bath import HeatBath
from genmodels.kernels.lifted import Lifted
from genmodels.kernels.metropolis import Metropolis
from genmodels.models.ising import Ising
from genmodels.paths import BaseRate
from genmodels.streams import Key

BETA, EXACT, WRONG = 0.7, 1e-12, 1e-5
KEY = Key(23, "matrices")


def glass(n: int) -> Ising:
    """Return spins with lopsided couplings and fields."""
    i, j = np.triu_indices(n, 1)
    J = np.random.default_rng(5).normal(size=len(i))
    return Ising.of(Couplings(n, i, j, J, np.linspace(-0.3, 0.8, n), 0.4))


MODELS = {
    "3 spins": glass(3),
    "4 spins": glass(4),
    "rbm": machine(2, 2).double(),
    "base rate": BaseRate(glass(3), torch.tensor([0.5, -0.9, 0.2])),
}


class Chain(NamedTuple):
    """What a kernel does at one β, on the spins and whatever else its state has."""

    kernel: Any
    n: int  # spins of the extended state
    updates: tuple[Step, ...]
    sweep: Step


def lifted_chain(model: Any, beta: float, rates: Any) -> Chain:
    """Return the chain on (x, ε), ε the last spin."""
    betas = torch.tensor([beta], dtype=torch.float64)
    known = cache(lambda k: Lifted(rates).acceptance(model, states(model.n_sites)[k : k + 1], betas))

    class Remembering(Lifted):
        """Asks for the energies of a state once."""

        def acceptance(self, model: Any, x: Tensor, beta: Tensor) -> Tensor:
            return known(number(x[0]))

    kernel = Remembering(rates)

    def update(state: Tensor, walk: Walk) -> Tensor:
        x, direction = state[None, :-1], state[-1:]
        after = lifted.update(x, direction, known(number(x[0])), walk.picks, walk.coins)
        return torch.cat([after[0][0], after[1]])

    def sweep(state: Tensor, walk: Walk) -> Tensor:
        x, direction, _ = kernel.sweep(model, state[None, :-1], state[-1:], betas, walk.picks, walk.coins)
        return torch.cat([x[0], direction])

    return Chain(kernel, model.n_sites + 1, (update,), sweep)


def block_chain(model: Any, beta: float) -> Chain:
    """Return the chain of block Gibbs, a block an update."""
    betas = torch.tensor([beta], dtype=torch.float64)

    def update(block: int, x: Tensor, walk: Walk) -> Tensor:
        with torch.no_grad():
            p = model.conditional(block, x[None], betas)[0].tolist()
        x[model.blocks[block]] = torch.tensor([2.0 * walk.coin(q) - 1.0 for q in p], dtype=x.dtype)
        return x

    def sweep(x: Tensor, walk: Walk) -> Tensor:
        for block in reversed(range(len(model.blocks))):
            x = update(block, x, walk)
        return x

    def one(block: int) -> Step:
        return lambda x, walk: update(block, x, walk)

    return Chain(BlockGibbs(), model.n_sites, tuple(one(b) for b in range(len(model.blocks))), sweep)


def single_flip_chain(model: Any, beta: float, kernel: Any) -> Chain:
    """Return the chain of the compiled loops' readable twin: of a random site, or of each one."""
    couplings, n = model.couplings(), model.n_sites

    def visit(sites: Callable[[Walk], Iterable[int]]) -> Step:
        def step(x: Tensor, walk: Walk) -> Tensor:
            spins = x.numpy()
            sweep(spins, couplings, beta, sites(walk), lambda cost: walk.coin(kernel.flip_probability(cost)))
            return torch.from_numpy(spins)

        return step

    if kernel.order == "random":
        update = visit(lambda walk: [walk.pick(n)])
        return Chain(kernel, n, (update,), visit(lambda walk: (walk.pick(n) for _ in range(n))))
    updates = tuple(visit(lambda walk, site=site: [site]) for site in range(n))  # type: ignore[misc]
    return Chain(kernel, n, updates, visit(lambda walk: range(n)))


def gradient_chain(model: Any, beta: float) -> Chain:
    betas = torch.tensor([beta], dtype=torch.float64)

    @cache
    def proposals(k: int) -> tuple[list[float], list[float]]:
        q, acceptance = gibbs_with_gradients.transition(model, states(model.n_sites)[k : k + 1], betas)
        return q[0].tolist(), acceptance[0].tolist()

    def update(x: Tensor, walk: Walk) -> Tensor:
        q, acceptance = proposals(number(x))
        site = walk.among(q)
        x[site] *= -1.0 if walk.coin(acceptance[site]) else 1.0
        return x

    def sweep(x: Tensor, walk: Walk) -> Tensor:
        for _ in range(len(x)):
            x = update(x, walk)
        return x

    return Chain(GibbsWithGradients(), model.n_sites, (update,), sweep)


CHAINS: dict[str, Callable[[Any, float], Chain]] = {
    "lifted metropolis": lambda model, beta: lifted_chain(model, beta, "metropolis"),
    "lifted heat bath": lambda model, beta: lifted_chain(model, beta, "heat_bath"),
    "block gibbs": block_chain,
    "metropolis": lambda model, beta: single_flip_chain(model, beta, Metropolis("sequential")),
    "metropolis at random": lambda model, beta: single_flip_chain(model, beta, Metropolis("random")),
    "heat bath": lambda model, beta: single_flip_chain(model, beta, HeatBath("sequential")),
    "heat bath at random": lambda model, beta: single_flip_chain(model, beta, HeatBath("random")),
    "gibbs with gradients": gradient_chain,
}


@cache
def built(name: str, target: str, beta: float = BETA) -> Chain:
    return CHAINS[name](MODELS[target], beta)


def target_distribution(name: str, target: str, beta: float = BETA) -> np.ndarray:
    """Return P_β on the extended state, of which what is not a spin of the model is uniform."""
    p = boltzmann(MODELS[target], beta)
    copies = 2 ** (built(name, target).n - MODELS[target].n_sites)
    return np.repeat(p / copies, copies)


@cache
def update_matrices(name: str, target: str, beta: float = BETA) -> list[np.ndarray]:
    chain = built(name, target, beta)
    return [matrix(update, chain.n) for update in chain.updates]


@pytest.mark.parametrize("target", MODELS)
@pytest.mark.parametrize("name", CHAINS)
def test_one_update_keeps_the_distribution_with_or_without_detailed_balance(name: str, target: str) -> None:
    p, declared = target_distribution(name, target), built(name, target).kernel.detailed_balance
    for w in update_matrices(name, target):
        found = faults(w, p)
        assert found.normalisation < EXACT
        assert found.balance < EXACT
        assert (found.detailed_balance < EXACT) == declared
        assert declared or found.detailed_balance > 1e-3


@cache
def sweep_matrix(name: str, target: str, beta: float = BETA) -> np.ndarray:
    chain = built(name, target, beta)
    return matrix(chain.sweep, chain.n)


@pytest.mark.parametrize("name", CHAINS)
def test_one_sweep_keeps_the_distribution(name: str) -> None:
    w = sweep_matrix(name, "base rate")
    found = faults(w, target_distribution(name, "base rate"))
    assert found.normalisation < EXACT
    assert found.balance < EXACT
    ws = update_matrices(name, "base rate")
    n_updates = MODELS["base rate"].n_sites if len(ws) == 1 else len(ws)
    forwards = [ws[k % len(ws)] for k in range(n_updates)]
    products = [reduce(np.matmul, order) for order in (forwards, forwards[::-1])]
    assert min(abs(w - product).max() for product in products) < EXACT


@pytest.mark.parametrize("name", CHAINS)
def test_a_wrong_beta_and_wrong_proposals_are_rejected(name: str) -> None:
    chain, p = built(name, "3 spins"), target_distribution(name, "3 spins")
    for beta in (1.02 * BETA, 0.98 * BETA, -BETA):
        assert max(faults(w, p).balance for w in update_matrices(name, "3 spins", beta)) > WRONG
    for spoilt in (one_sided, reflected):
        found = [faults(matrix(spoilt(update), chain.n), p) for update in chain.updates]
        assert max(fault.normalisation for fault in found) < EXACT
        assert max(fault.balance for fault in found) > WRONG


def moduli(w: np.ndarray) -> np.ndarray:
    """Return those of the eigenvalues, rising."""
    return np.asarray(np.sort(abs(np.linalg.eigvals(w))))


@pytest.mark.parametrize("name", CHAINS)
def test_every_state_is_reached_and_the_chain_forgets_where_it_was(name: str) -> None:
    found = moduli(sweep_matrix(name, "base rate"))
    assert found[-1] == pytest.approx(1.0)
    assert found[-2] < 0.99


def test_at_beta_0_some_chains_only_go_round() -> None:
    """With every proposal accepted a sweep in turn flips all spins, and an update changes the parity."""
    (p,) = {*target_distribution("metropolis", "3 spins", 0.0).tolist()}
    assert p == pytest.approx(1 / 8)
    sweep = sweep_matrix("metropolis", "3 spins", 0.0)
    assert np.array_equal(sweep, np.eye(8)[::-1])
    assert np.array_equal(sweep @ sweep, np.eye(8))
    for name in ("metropolis at random", "gibbs with gradients"):
        (w,) = update_matrices(name, "3 spins", 0.0)
        assert np.linalg.eigvals(w).real.min() == pytest.approx(-1.0)
        assert not (np.linalg.matrix_power(w, 20) * np.linalg.matrix_power(w, 21)).any()
    for name in ("heat bath", "heat bath at random", "block gibbs", "lifted metropolis", "lifted heat bath"):
        ws = update_matrices(name, "3 spins", 0.0)
        assert moduli(reduce(np.matmul, ws))[-2] < 0.99


# The replicas of a call with random sites share them: they are not independent.
@pytest.mark.parametrize("name", [name for name in CHAINS if "at random" not in name])
def test_many_replicas_go_where_the_matrix_says(name: str) -> None:
    """The batched code from every state, one sweep: Pearson's χ² with the matrix of the readable code."""
    model, chain, n = MODELS["base rate"], built(name, "base rate"), 20_000
    x = states(model.n_sites).float()
    # What the state has beside the spins is drawn by the kernel, both ways alike, and summed over here.
    extra = 2 ** (chain.n - model.n_sites)
    w = sweep_matrix(name, "base rate").reshape(len(x), extra, len(x), extra).sum(1).mean(2)
    state = chain.kernel.start(model, x.repeat_interleave(n, 0))
    for beta, agrees in ((BETA, True), (1.1 * BETA, False)):
        after, _ = chain.kernel.advance(model, state, torch.full((len(x) * n,), beta), 1, KEY)
        ups = (chain.kernel.configuration(after) > 0).long()
        arrived = (ups * 2 ** torch.arange(model.n_sites).flip(0)).sum(1).view(len(x), n)
        counts = np.stack([np.bincount(row, minlength=len(x)) for row in arrived.numpy()], 1)
        possible = w > 0.0
        assert not counts[~possible].any()
        distance = ((counts - n * w)[possible] ** 2 / (n * w)[possible]).sum()
        assert (chi2.sf(distance, possible.sum() - len(x)) > 1e-4) == agrees


class Turning(Walk):
    """Decides a step of the lifted chain, of which the second coin is that of the turn."""

    def coins(self, p: Tensor) -> Tensor:
        self.tossed = 1 - getattr(self, "tossed", 1)
        return super().coins(self.turn(p) if self.tossed else p)

    def turn(self, p: Tensor) -> Tensor:
        return p


class HalfTheTurns(Turning):
    def turn(self, p: Tensor) -> Tensor:
        return 0.5 * p


class TwoPercentMoreTurns(Turning):
    def turn(self, p: Tensor) -> Tensor:
        return (1.02 * p).clamp(max=1.0)


class NoTurns(Turning):
    def turn(self, p: Tensor) -> Tensor:
        return 0.0 * p


class ReflectedPicks(Walk):
    """Picks one of 0 … n, and takes n − 1 for n: harmless with detailed balance, not without."""

    def pick(self, n: int) -> int:
        return min(super().pick(n + 1), n - 1)


@pytest.mark.parametrize("name", ["lifted metropolis", "lifted heat bath"])
def test_the_lifted_chain_needs_the_exact_number_of_turns_and_every_site_alike(name: str) -> None:
    (update,), p = built(name, "3 spins").updates, target_distribution(name, "3 spins")
    assert abs(matrix(update, 4, Turning) - update_matrices(name, "3 spins")[0]).max() == 0.0
    for who in (HalfTheTurns, TwoPercentMoreTurns, NoTurns, ReflectedPicks):
        found = faults(matrix(update, 4, who), p)
        assert found.normalisation < EXACT
        assert found.balance > WRONG


@pytest.mark.parametrize("target", ["3 spins", "4 spins", "base rate"])
@pytest.mark.parametrize("name", ["lifted metropolis", "lifted heat bath"])
@pytest.mark.parametrize("beta", [BETA, 1.6])
def test_no_observable_varies_more_than_under_the_reversible_part(
    name: str, target: str, beta: float
) -> None:
    """For every function f of (x, ε), hence of x. Sun, Gomez & Schmidhuber 2010."""
    (w,), p = update_matrices(name, target, beta), target_distribution(name, target, beta)
    reversible = 0.5 * (w + adjoint(w, p))
    assert max(faults(reversible, p)) < EXACT
    gain = asymptotic_variances(reversible, p) - asymptotic_variances(w, p)
    gains = np.linalg.eigvalsh(gain)
    assert gains[0] > -1e-10
    of_x = np.repeat(np.eye(len(p) // 2), 2, axis=0)  # a function of x alone takes one value at both ε
    assert np.linalg.eigvalsh(of_x.T @ gain @ of_x)[-1] > 1e-3
    magnetisation = of_x @ states(MODELS[target].n_sites).sum(1).numpy()
    assert magnetisation @ gain @ magnetisation > 1e-3
    # A chain as good as can be, but of another distribution, is caught where it is compared with this one.
    hot, q = update_matrices(name, target, 0.98 * beta)[0], target_distribution(name, target, 0.98 * beta)
    assert faults(0.5 * (hot + adjoint(hot, p)), p).balance > WRONG
    wrong = asymptotic_variances(hot, q) - asymptotic_variances(w, p)
    assert np.linalg.eigvalsh(wrong)[0] < -1e-6


def test_against_metropolis_there_is_no_such_guarantee() -> None:
    """On 3 spins some observables vary less under Metropolis and others more."""
    p = boltzmann(MODELS["3 spins"], BETA)
    of_x = np.repeat(np.eye(len(p)), 2, axis=0)
    (w,) = update_matrices("lifted metropolis", "3 spins")
    (metropolis,) = update_matrices("metropolis at random", "3 spins")
    one_way = of_x.T @ asymptotic_variances(w, np.repeat(p / 2, 2)) @ of_x
    gains = np.linalg.eigvalsh(asymptotic_variances(metropolis, p) - one_way)
    assert gains[0] < -1e-3
    assert gains[-1] > 1e-3


def test_an_asymptotic_variance_is_that_of_the_time_average() -> None:
    name = "lifted metropolis"
    (w,), p = update_matrices(name, "3 spins"), target_distribution(name, "3 spins")
    f = np.random.default_rng(3).normal(size=len(p))
    centred = f - p @ f
    total, later = p @ centred**2, centred
    for _ in range(2000):
        later = w.T @ later
        total += 2.0 * (p * centred) @ later
    assert f @ asymptotic_variances(w, p) @ f == pytest.approx(total, abs=1e-10)
    assert f @ asymptotic_variances(w @ w, p) @ f != pytest.approx(total, rel=0.02)


def test_all_paths_of_a_walk_are_taken_once() -> None:
    def step(walk: Walk) -> Tensor:
        site = walk.pick(3)
        return torch.tensor([site, walk.coin(0.25) if site else walk.accept(0.0), walk.coin(0.0)])

    found = [(round(p, 12), result.tolist()) for p, result in outcomes(step)]
    third, quarter = round(1 / 3, 12), round(1 / 12, 12)
    assert found == [
        (third, [0, 1, 0]),
        *((p, [site, won, 0]) for site in (1, 2) for p, won in ((0.25, 0), (quarter, 1))),
    ]
