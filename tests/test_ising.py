"""Spins with couplings and fields: energies, colour classes, and block Gibbs on them, against enumeration."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from genmodels.artifacts import load_model, save_model
from genmodels.couplings import Couplings
from genmodels.errors import InputError
from genmodels.estimators import enumeration
from genmodels.generate import generate
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.models import ising
from genmodels.models.ising import Ising
from genmodels.models.rbm import RBM
from genmodels.paths import BaseRate
from genmodels.placement.local import LocalPlacement
from genmodels.streams import Key

KEY = Key(51, "ising")


def lopsided(n_sites: int, edges: list[tuple[int, int]], seed: int = 3) -> Couplings:
    """Return couplings and fields without any symmetry on a graph."""
    random = np.random.default_rng(seed)
    i, j = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    return Couplings(n_sites, i, j, 0.3 * random.normal(size=len(i)), np.linspace(-0.5, 0.9, n_sites), 0.7)


def lattice(L: int) -> Couplings:
    """Return a ±J glass on a periodic cube with fields."""
    site = np.arange(L**3).reshape(L, L, L)
    ends = [np.stack([site.ravel(), np.roll(site, -1, axis).ravel()], 1) for axis in range(3)]
    edges = np.sort(np.concatenate(ends), axis=1)
    random = np.random.default_rng(L)
    signs = random.choice([-1.0, 1.0], len(edges))
    return Couplings(L**3, edges[:, 0], edges[:, 1], signs, 0.3 * random.normal(size=L**3))


GRAPHS = {
    "complete": lopsided(7, [(i, j) for j in range(7) for i in range(j)]),
    "ring": lopsided(8, [*((i, i + 1) for i in range(7)), (0, 7)]),
    "hub": lopsided(9, [*((4, k) for k in range(5, 9)), *((k, 4) for k in range(4)), (0, 1), (2, 8)]),
    "isolated": lopsided(6, [(1, 4)]),
    "no edges": lopsided(5, []),
    "one site": lopsided(1, []),
    "cube": lattice(4),
}


@pytest.fixture(params=["lists", "matrix"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whatever the graph, run with lists of neighbours and with matrices."""
    monkeypatch.setattr(ising, "_SPARSE", {"lists": 1.1, "matrix": -1.0}[request.param])
    return str(request.param)


def spins(n: int, n_sites: int) -> Tensor:
    return torch.randint(0, 2, (n, n_sites), generator=KEY.child("spins").torch()).float() * 2.0 - 1.0


def test_the_form_follows_from_the_share_of_pairs(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    assert Ising.of(GRAPHS["ring"]).dense == (form == "matrix")
    monkeypatch.undo()
    assert [Ising.of(GRAPHS[name]).dense for name in ("complete", "cube", "no edges")] == [True, False, False]


@pytest.mark.parametrize("name", GRAPHS)
def test_energies_and_conditionals_are_those_of_the_couplings(name: str) -> None:
    couplings = GRAPHS[name]
    model, x = Ising.of(couplings), spins(64, couplings.n_sites)
    with torch.no_grad():
        energy = model.energy(x)
        assert energy.dtype == torch.float64
        np.testing.assert_allclose(energy.numpy(), couplings.energy(x.numpy()), atol=1e-12)
        assert torch.equal(model.energy(x.T.contiguous().T), energy)
        assert torch.equal(model.log_unnormalised(x), -energy)
        assert sorted(torch.cat(model.blocks).tolist()) == list(range(couplings.n_sites))
        beta = torch.linspace(0.2, 1.7, len(x))
        for block, sites in enumerate(model.blocks):
            for precision, tolerance in ((torch.float32, 3e-6), (torch.float64, 1e-12)):
                p = model.conditional(block, x.to(precision), beta.to(precision))
                assert p.dtype == precision
                for place, site in enumerate(sites.tolist()):
                    flipped = x.numpy().copy()
                    flipped[:, site] *= -1.0
                    rise = couplings.energy(flipped) - couplings.energy(x.numpy())
                    odds = beta.to(precision).double() * x[:, site] * torch.from_numpy(rise)
                    np.testing.assert_allclose(p[:, place], torch.sigmoid(odds), atol=tolerance)


def test_couplings_and_folders_make_the_round_trip(tmp_path: Path) -> None:
    for name, couplings in GRAPHS.items():
        model = Ising.of(couplings)
        save_model(tmp_path / name, "ising", model, {"shape": [1, couplings.n_sites, 1]})
        loaded = load_model(tmp_path / name)
        for returned in (model.couplings(), loaded.couplings(), Ising.of(loaded.couplings()).couplings()):
            for field in ("n_sites", "i", "j", "J", "h", "offset", "base"):
                np.testing.assert_array_equal(getattr(returned, field), getattr(couplings, field))


def test_an_rbm_is_quadratic_in_all_its_units() -> None:
    rbm = RBM(4, 3)
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=KEY.child("rbm").torch()))
    x, couplings = spins(200, 7), rbm.couplings()
    with torch.no_grad():
        np.testing.assert_allclose(couplings.energy(x.numpy()), rbm.energy(x).numpy(), atol=1e-5)
        based = BaseRate(rbm, torch.linspace(-1.0, 1.0, 7))
        np.testing.assert_allclose(based.couplings().energy(x.numpy()), based.energy(x).numpy(), atol=1e-5)
    # Two colours, the layers: greedy colouring finds the wider layer's sites first.
    assert sorted(len(block) for block in Ising.of(couplings).blocks) == [3, 4]
    assert np.shares_memory(couplings.J, rbm.W.detach().numpy()) is False


def test_energies_have_gradients() -> None:
    couplings = GRAPHS["hub"]
    model, x = Ising.of(couplings), spins(16, 9).double().requires_grad_()
    gradient, by_J, by_h = torch.autograd.grad(model.energy(x).sum(), (x, model.J, model.h))
    y = x.detach().numpy()
    np.testing.assert_allclose(gradient.numpy(), -y @ couplings.dense() - couplings.h, atol=1e-12)
    np.testing.assert_allclose(by_J.numpy(), -(y[:, couplings.i] * y[:, couplings.j]).sum(0), atol=1e-12)
    np.testing.assert_allclose(by_h.numpy(), -y.sum(0), atol=1e-12)


@pytest.mark.parametrize(("L", "n_colours"), [(2, 2), (4, 2), (3, 3)])
def test_colours_of_a_cube_are_two_where_its_side_is_even(L: int, n_colours: int) -> None:
    if L == 2:  # where both ways round lead to the same neighbour
        edges = [(i, i ^ bit) for i in range(8) for bit in (1, 2, 4) if i < i ^ bit]
        model = Ising.of(lopsided(8, edges))
    else:
        model = Ising.of(lattice(L))
    assert len(model.blocks) == n_colours if L % 2 == 0 else len(model.blocks) >= n_colours
    colour = torch.empty(model.n_sites, dtype=torch.long)
    for c, sites in enumerate(model.blocks):
        colour[sites] = c
    assert (colour[model.i] != colour[model.j]).all()


def p_value(x: Tensor, model: Any, beta: float) -> float:
    states = torch.cat(list(enumeration.states(model.n_sites)))
    with torch.no_grad():
        p = torch.softmax(-beta * model.energy(states), 0).numpy()
    number = ((x > 0).long() * 2 ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)
    rare = p * len(x) < 5.0  # as one
    counts = np.bincount(number.numpy(), minlength=len(p))
    found, expected = ((*a[~rare], a[rare].sum()) if rare.any() else a for a in (counts, p * len(x)))
    return chisquare(found, expected).pvalue


@pytest.mark.parametrize("name", ["complete", "ring", "hub", "isolated", "no edges"])
def test_colour_classes_sample_every_temperature(name: str) -> None:
    model, kernel, n = Ising.of(GRAPHS[name]), BlockGibbs(), 40_000
    betas = (0.4, 1.3)
    beta = torch.tensor(betas).repeat(n)
    state, info = kernel.advance(model, kernel.init(model, 2 * n, KEY), beta, 30, KEY.at(round=1))
    assert info == (30 * 2 * n * model.n_sites, 1.0, 0)
    assert torch.equal(state.energy, model.energy(state.x).detach())
    for r, b in enumerate(betas):
        assert p_value(state.x[r::2], model, b) > 1e-3
        assert p_value(state.x[r::2], model, 1.1 * b) < 1e-6
    # A quench and back is as good as staying.
    schedule = torch.tensor([2.0] * 5 + [0.4] * 30)[:, None].expand(35, 2 * n)
    back, _ = kernel.advance(model, state, schedule, 35, KEY.at(round=2))
    assert p_value(back.x, model, 0.4) > 1e-3
    ends_cold, _ = kernel.advance(model, state, schedule.flip(0), 35, KEY.at(round=2))
    assert p_value(ends_cold.x, model, 0.4) < 1e-6


def test_two_per_cent_of_beta_are_seen_in_the_energy() -> None:
    model, kernel, n = Ising.of(GRAPHS["hub"]), BlockGibbs(), 200_000
    states = torch.cat(list(enumeration.states(9)))
    with torch.no_grad():
        energy = model.energy(states)
    p = torch.softmax(-1.3 * energy, 0)
    mean, deviation = float(p @ energy), float((p @ energy**2 - (p @ energy) ** 2).sqrt())
    scores = []
    for beta in (1.3, 1.02 * 1.3):
        state = kernel.init(model, n, KEY)
        after, _ = kernel.advance(model, state, torch.full((n,), beta), 40, KEY.at(round=1))
        scores.append((float(after.energy.mean()) - mean) / deviation * n**0.5)
    assert abs(scores[0]) < 4.0
    assert scores[1] < -6.0


def test_two_neighbours_of_one_colour_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, n, right = BlockGibbs(), 40_000, Ising.of(GRAPHS["ring"])
    colours = Couplings.colours

    def wrong(self: Couplings) -> np.ndarray:
        found = colours(self)
        found[found == found[0]] = found[1]
        return np.unique(found, return_inverse=True)[1]

    monkeypatch.setattr(Couplings, "colours", wrong)
    alike = Ising.of(GRAPHS["ring"])
    assert len(alike.blocks) < len(right.blocks)
    beta = torch.full((n,), 0.7)
    for model, seen in ((right, False), (alike, True)):
        after, _ = kernel.advance(model, kernel.init(model, n, KEY), beta, 31, KEY.at(round=1))
        assert (p_value(after.x, right, 0.7) < 1e-6) == seen


def test_the_memory_order_of_configurations_changes_no_bit() -> None:
    model, kernel = Ising.of(GRAPHS["cube"]), BlockGibbs()
    x, beta = spins(33, 64), torch.linspace(0.1, 1.5, 33)
    one, _ = kernel.advance(model, kernel.start(model, x), beta, 3, KEY)
    other, _ = kernel.advance(model, kernel.start(model, x.T.contiguous().T), beta, 3, KEY)
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.energy, other.energy)
    assert torch.equal(x, spins(33, 64))


def test_a_model_moves_to_other_devices_and_precisions() -> None:
    model, x = Ising.of(GRAPHS["cube"]), spins(8, 64)
    with torch.no_grad():
        energy, p = model.energy(x), model.conditional(0, x, torch.ones(8))
    single = copy.deepcopy(model).to(torch.float32)
    assert single.energy(x).dtype == torch.float64
    assert torch.allclose(single.energy(x), energy, atol=1e-4)
    assert torch.allclose(single.conditional(0, x, torch.ones(8)), p, atol=1e-6)
    # Nothing of a computation may have stayed behind: "meta" tensors mix with no others.
    moved, there = copy.deepcopy(model).to("meta"), x.to("meta")
    assert all(sites.device.type == "meta" for sites in moved.blocks)
    assert (moved.energy(there).shape, moved.energy(there).device.type) == ((8,), "meta")
    assert moved.conditional(1, there, torch.ones(8, device="meta")).shape == (8, len(model.blocks[1]))
    assert moved.args() == model.args()


def test_pictures_show_every_site() -> None:
    pictures = generate(Ising.of(GRAPHS["ring"]), 40, KEY, LocalPlacement())
    assert pictures.pixels.shape == (40, 8)
    assert set(pictures.pixels.unique().tolist()) == {0.0, 1.0}
    assert pictures.means is None


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([[0, 1], [2, 1]], r"^edges: \[2, 1\] is no edge of 4 sites: give i < j, counted from 0$"),
        ([[0, 4]], r"\[0, 4\] is no edge of 4 sites"),
        ([[-1, 2]], r"\[-1, 2\] is no edge"),
        ([[1, 1]], r"\[1, 1\] is no edge"),
        ([[0, 1], [1, 3], [1, 3]], r"^edges: \[1, 3\] is there 2 times: add up its couplings$"),
    ],
)
def test_edges_that_are_none_are_refused(edges: list[list[int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ising(4, edges)
