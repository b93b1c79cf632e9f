"""Metropolis and heat bath: compiled sweeps of every layout, flip for flip as their readable twin's."""

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from twins import decisions, replica

from genmodels.compiled.dense import Dense
from genmodels.compiled.multispin import Multispin
from genmodels.compiled.single_flip import layout
from genmodels.compiled.sparse import Sparse
from genmodels.couplings import Couplings
from genmodels.errors import InputError
from genmodels.estimators.enumeration import states as enumerated
from genmodels.kernels.heat_bath import HeatBath
from genmodels.kernels.metropolis import Metropolis
from genmodels.models.ising import Ising
from genmodels.paths import BaseRate
from genmodels.streams import Key

KEY = Key(29, "single flips")
KERNELS = [rule(order) for rule in (Metropolis, HeatBath) for order in ("sequential", "random")]
RULES = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{type(k).__name__}-{k.order}")
NONE = np.zeros(0, dtype=np.int64)


def lattice(L: int, periodic: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of a cube of L³ sites."""
    index, pairs = np.arange(L**3).reshape(L, L, L), []
    for axis in range(3):
        neighbour = np.roll(index, -1, axis)
        inside = np.arange(L - 1 + periodic)
        pairs.append(np.stack([np.take(a, inside, axis).ravel() for a in (index, neighbour)]))
    edges = np.concatenate(pairs, 1)
    return edges.min(0), edges.max(0)


def graph(n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of a random graph."""
    i, j = np.triu_indices(n, 1)
    kept = np.random.default_rng(n).random(len(i)) < share
    return i[kept], j[kept]


def star(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of a site with `degree` neighbours, some of which are neighbours of each other."""
    rim = np.arange(1, degree, 2)
    return np.r_[np.zeros(degree, int), rim], np.r_[np.arange(1, degree + 1), rim + 1]


def spins(
    n: int, edges: tuple[np.ndarray, np.ndarray], J: Any = (-1, 1), h: Any = (0,), unit: float = 1.0
) -> Ising:
    """Return a model with couplings and fields drawn from what is given; from N(0, 1) where J is None."""
    random = np.random.default_rng(7)
    if J is None:
        return Ising.of(Couplings(n, *edges, random.normal(size=len(edges[0])), random.normal(size=n)))
    return Ising.of(
        Couplings(n, *edges, random.choice(J, len(edges[0])) * unit, random.choice(h, n) * unit, 0.75)
    )


SHARED = 0.45
MODELS: dict[str, tuple[type, Any]] = {
    "lattice": (Multispin, spins(27, lattice(3))),
    "open lattice, fields": (Multispin, spins(27, lattice(3, False), h=(-1, 0, 1))),
    "degree 7": (Multispin, spins(8, star(7))),
    "degree 8": (Multispin, spins(9, star(8))),
    "degrees to 20": (Multispin, spins(40, graph(40, 0.3), J=(-1,))),
    "three sizes": (Multispin, spins(27, lattice(3), (-3, -2, -1, 1, 2, 3), (-2, 0, 1), 0.3)),
    "two and three": (Multispin, spins(12, graph(12, 0.2), (-3, -2, 2, 3), (-2, 2), 0.7)),
    "field of one": (Multispin, spins(1, (NONE, NONE), h=(-2,), unit=0.3)),
    "free": (Multispin, spins(3, (NONE, NONE))),
    "fields alone": (Multispin, spins(5, (NONE, NONE), h=(-3, -2, 1))),
    "isolated": (Multispin, spins(7, (np.array([0, 0]), np.array([3, 5])))),
    "real": (Sparse, spins(27, lattice(3), None)),
    "real, open": (Sparse, spins(40, graph(40, 0.15), None)),
    "real, isolated": (Sparse, spins(9, (np.array([0, 0]), np.array([3, 5])), None)),
    "real, no couplings": (Sparse, spins(4, (NONE, NONE), None)),
    "base rate, sparse": (Sparse, BaseRate(spins(27, lattice(3)), torch.linspace(-0.9, 1.3, 27))),
    "dense": (Dense, spins(19, graph(19, 1.1), None)),
    "dense, two": (Dense, spins(2, graph(2, 1.1), None)),
    "base rate, dense": (Dense, BaseRate(spins(8, graph(8, 1.1), None), torch.linspace(1.3, -0.9, 8))),
}


def own(n: int, n_sweeps: int) -> Tensor:
    """Return another β for each replica  # (replica,)."""
    return torch.linspace(0.01, 1.9, n + 1, dtype=torch.float64)[:n]


def shared(n: int, n_sweeps: int) -> Tensor:
    return torch.full((n,), SHARED, dtype=torch.float64)


def scheduled(n: int, n_sweeps: int) -> Tensor:
    """Return another β for each sweep and replica  # (sweep, replica)."""
    return own(n, 1) + torch.linspace(0.0, 0.4, n_sweeps, dtype=torch.float64)[:, None]


def annealed(n: int, n_sweeps: int) -> Tensor:
    """Return another β for each sweep, the same for all replicas  # (sweep, replica)."""
    return torch.linspace(0.2, 1.5, n_sweeps, dtype=torch.float64)[:, None].expand(n_sweeps, n)


def agree(
    model: Any, kernel: Any, n: int, betas: Tensor, n_sweeps: int, some: Any = None, **wrong: float
) -> bool:
    """Return whether the sweeps of the replicas `some` of n, all unless given, are those of the twin."""
    start = kernel.init(model, n, KEY.child("init"))
    x = kernel.configuration(start).numpy()
    found = [
        kernel.configuration(kernel.advance(model, start, betas[:t] if betas.ndim == 2 else betas, t, KEY)[0])
        for t in range(1, n_sweeps + 1)
    ]
    rows = betas.expand(n_sweeps, n).numpy()
    for r in range(n) if some is None else some:
        for t, expected in enumerate(replica(model, kernel, x, rows, r, KEY, **wrong)):
            if not np.array_equal(expected, found[t][r].numpy()):
                return False
    return True


@RULES
@pytest.mark.parametrize("name", MODELS)
def test_compiled_sweeps_make_the_flips_of_the_twin(name: str, kernel: Any) -> None:
    kind, model = MODELS[name]
    assert type(layout(model)) is kind
    for schedule in (own, shared, scheduled):
        assert agree(model, kernel, 70, schedule(70, 3), 3), schedule.__name__


# Replicas fill up part of a word, several words, more than the 64 words of a tile; blocks of 256 the same.
SIZES = {1: None, 5: None, 64: None, 200: None, 1030: (0, 63, 64, 255, 256, 511, 512, 1023, 1024, 1029)}
SIZES |= {4170: (0, 64, 4095, 4096, 4159, 4160, 4169)}


@RULES
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", ["open lattice, fields", "degree 8", "degrees to 20", "real", "dense"])
def test_any_number_of_replicas(name: str, n: int, kernel: Any) -> None:
    model = MODELS[name][1]
    for schedule in (own, scheduled, annealed):
        assert agree(model, kernel, n, schedule(n, 2), 2, SIZES[n]), schedule.__name__


@RULES
@pytest.mark.parametrize("name", ["open lattice, fields", "base rate, sparse", "dense"])
def test_many_sweeps(name: str, kernel: Any) -> None:
    assert agree(MODELS[name][1], kernel, 5, annealed(5, 150), 150, (0, 4))


@RULES
@pytest.mark.parametrize("name", ["lattice", "degree 8", "three sizes", "base rate, sparse", "dense"])
def test_the_twin_of_another_rule_makes_other_flips(name: str, kernel: Any) -> None:
    model, betas = MODELS[name][1], scheduled(200, 6)
    assert agree(model, kernel, 200, betas, 6)
    for factor in (0.98, 1.02, -1.0):
        assert not agree(model, kernel, 200, betas, 6, factor=factor)


@RULES
@pytest.mark.parametrize("name", MODELS)
def test_a_state_is_its_configurations_and_their_energies(name: str, kernel: Any) -> None:
    kind, model = MODELS[name]
    n = 130
    x = torch.from_numpy(KEY.child("x").numpy().choice([-1.0, 1.0], (n, model.n_sites))).float()
    state = kernel.start(model, x)
    assert state.layout is kind
    assert torch.equal(kernel.configuration(state), x)
    assert torch.allclose(state.energy, torch.from_numpy(model.couplings().energy(x.numpy())), atol=1e-9)
    index = torch.from_numpy(KEY.child("index").numpy().integers(0, n, n))
    for chosen in (index, index[:3], torch.cat([index, index]), torch.arange(n)):
        picked = kernel.select(state, chosen)
        assert torch.equal(kernel.configuration(picked), x[chosen])
        assert torch.equal(picked.energy, state.energy[chosen])
    betas = scheduled(n, 3)
    before = state.spins.tobytes(), state.energy.clone()
    after, info = kernel.advance(model, state, betas, 3, KEY)
    assert (state.spins.tobytes(), state.energy.tolist()) == (before[0], before[1].tolist())
    energy = torch.from_numpy(model.couplings().energy(kernel.configuration(after).numpy()))
    assert torch.allclose(after.energy, energy, atol=1e-9)
    again, same = kernel.advance(model, state, betas, 3, KEY)
    assert (again.spins.tobytes(), again.energy.tolist()) == (after.spins.tobytes(), after.energy.tolist())
    assert same == info
    other, _ = kernel.advance(model, state, betas, 3, KEY.at(round=1))
    assert other.spins.tobytes() != after.spins.tobytes() or after.energy.std() == 0.0
    assert (info.n_updates, info.n_nonfinite) == (3 * n * model.n_sites, 0)


def test_energies_of_integer_couplings_are_exact() -> None:
    model = spins(60, graph(60, 0.3), (-2, -1, 1, 3), (-2, 0, 5))
    x = torch.from_numpy(KEY.child("exact").numpy().choice([-1.0, 1.0], (5000, 60))).float()
    state = Metropolis().start(model, x)
    assert state.layout is Multispin
    assert state.energy.tolist() == model.couplings().energy(x.numpy()).tolist()
    assert all(energy % 1.0 == 0.75 for energy in state.energy.tolist())


@RULES
@pytest.mark.parametrize("name", MODELS)
def test_the_acceptance_is_the_share_of_flips_of_the_last_sweep(name: str, kernel: Any) -> None:
    model, n = MODELS[name][1], 70
    state, betas = kernel.init(model, n, KEY.child("init")), 0.3 * scheduled(n, 3)
    x = kernel.configuration(state).numpy()
    rows, flips = betas.numpy(), 0
    for r in range(n):
        # Of every update of the last sweep: a site that is drawn twice may flip twice.
        flips += sum(decisions(model, kernel, x, rows, r, KEY)[-1])
    _, info = kernel.advance(model, state, betas, 3, KEY)
    assert round(info.acceptance * n * model.n_sites, 6) == flips


@pytest.mark.parametrize("name", MODELS)
def test_without_temperature_every_proposal_is_accepted(name: str) -> None:
    model, n = MODELS[name][1], 300
    if isinstance(model, BaseRate):
        pytest.skip("its flips cost something at β = 0")
    state, betas = Metropolis().init(model, n, KEY), torch.zeros(n)
    after, info = Metropolis().advance(model, state, betas, 3, KEY)
    assert torch.equal(Metropolis().configuration(after), -Metropolis().configuration(state))
    assert info.acceptance == 1.0
    _, info = Metropolis("random").advance(model, state, betas, 3, KEY)
    assert info.acceptance == 1.0
    for order in ("sequential", "random"):
        _, info = HeatBath(order).advance(model, state, betas, 3, KEY)
        assert abs(info.acceptance - 0.5) < 4.0 * 0.5 / (n * model.n_sites) ** 0.5


# 7 sites each, lopsided: fields of one sign on the strong bonds.
SMALL: dict[str, tuple[type, Any]] = {
    "multispin": (Multispin, spins(7, graph(7, 0.5), (-2, -1, 1), (-1, 1, 2), 0.35)),
    "multispin, many": (Multispin, spins(7, graph(7, 0.9), (-2, 1, 3), (-3, 1, 2), 0.2)),
    "sparse": (Sparse, spins(7, (np.arange(4), np.arange(4) + 2), None)),
    "base rate": (Sparse, BaseRate(spins(7, (np.arange(4), np.arange(4) + 2)), torch.linspace(-0.6, 0.9, 7))),
    "dense": (Dense, spins(7, graph(7, 0.9), None)),
}


def deviations(model: Any, kernel: Any, x: Tensor, beta: float) -> tuple[float, float, float]:
    """Return z-scores of the mean energy and of the states' χ², and the greatest of the ⟨x_i⟩."""
    states = torch.cat(list(enumerated(model.n_sites))).float()
    energy = model.energy(states).detach().double()
    log_p = -beta * energy
    if isinstance(model, BaseRate):
        log_p -= model.reference_energy(states).double()
    p, n = log_p.softmax(0), len(x)
    mean, magnetisation = float(p @ energy), p @ states.double()
    found = model.energy(x).detach().double()
    spread = float(p @ (energy - mean) ** 2) ** 0.5
    place = torch.arange(model.n_sites)
    counts = torch.bincount(((x > 0).long() << place).sum(1), minlength=len(p))
    counts = counts[((states > 0).long() << place).sum(1)]
    # States that are hardly ever met count as one: Pearson's χ² is none otherwise.
    rare = n * p < 20.0
    met, expected = (torch.cat([part[~rare], part[rare].sum()[None]]) for part in (counts, n * p))
    kept = expected > 0.0
    square, free = float(((met - expected)[kept] ** 2 / expected[kept]).sum()), int(kept.sum()) - 1
    moments = (x.double().mean(0) - magnetisation) / ((1.0 - magnetisation**2) / n).sqrt()
    z = (float(found.mean()) - mean) / spread * n**0.5
    return z, (square - free) / (2.0 * free) ** 0.5, float(moments.abs().max())


@RULES
@pytest.mark.parametrize("name", SMALL)
def test_replicas_come_to_the_enumerated_distribution(name: str, kernel: Any) -> None:
    kind, model = SMALL[name]
    assert type(layout(model)) is kind
    n, betas = 160_000, (0.5, 0.8)
    rows = torch.tensor(betas, dtype=torch.float64).repeat(n // 2)

    def after(model: Any, factor: float = 1.0) -> list[Tensor]:
        state = kernel.init(model, n, KEY.child("init"))
        state, _ = kernel.advance(model, state, factor * rows, 60, KEY.child(name))
        return [kernel.configuration(state)[k::2] for k in range(2)]

    for beta, x in zip(betas, after(model), strict=True):
        assert max(map(abs, deviations(model, kernel, x, beta))) < 4.0
    hotter = zip(betas, after(model, 0.98), strict=True)
    assert sum(deviations(model, kernel, x, beta)[0] for beta, x in hotter) > 5.0 * 2.0**0.5
    for beta, x in zip(betas, after(Negated(model)), strict=True):
        assert abs(deviations(model, kernel, x, beta)[0]) > 20.0


class Negated:
    """A model that charges flips with the wrong sign."""

    def __init__(self, model: Any) -> None:
        self.n_sites, couplings = model.n_sites, model.couplings()
        self.turned = dataclasses.replace(couplings, J=-couplings.J, h=-couplings.h, base=-couplings.base)

    def couplings(self) -> Couplings:
        return self.turned


def test_no_sweeps_change_nothing() -> None:
    for model in (MODELS[name][1] for name in ("lattice", "real", "dense")):
        state = HeatBath().init(model, 70, KEY)
        after, info = HeatBath().advance(model, state, torch.full((70,), 0.4), 0, KEY)
        assert torch.equal(HeatBath().configuration(after), HeatBath().configuration(state))
        assert (info.n_updates, info.acceptance) == (0, 0.0)


def test_an_unknown_order_is_named() -> None:
    message = "Metropolis: order is 'shuffled', expected one of sequential, random"
    with pytest.raises(InputError, match=message):
        Metropolis("shuffled")  # type: ignore[arg-type]


def test_a_copy_of_a_model_has_its_layout_and_another_model_its_own() -> None:
    model = spins(60, graph(60, 0.1))
    plan = layout(model)
    assert layout(pickle.loads(pickle.dumps(model))) is plan
    other = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        next(iter(other.parameters())).mul_(2.0)
    assert layout(other) is not plan
    assert layout(model) is plan


def test_a_state_is_taken_to_another_layout_when_the_couplings_change() -> None:
    model, kernel = spins(12, graph(12, 0.2)), HeatBath()
    state = kernel.init(model, 70, KEY)
    assert state.layout is Multispin
    with torch.no_grad():
        model.J.copy_(torch.randn(len(model.J), generator=KEY.torch(), dtype=torch.float64))
    after, _ = kernel.advance(model, state, shared(70, 1), 2, KEY)
    direct, _ = kernel.advance(model, kernel.start(model, kernel.configuration(state)), shared(70, 1), 2, KEY)
    assert after.layout is Sparse
    assert torch.equal(kernel.configuration(after), kernel.configuration(direct))
