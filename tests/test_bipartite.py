"""Two sides of spins: compiled passes flip for flip like their twin, also in bfloat16; and contrasts."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from twins import numbers

from genmodels.compiled import bipartite, logistic
from genmodels.compiled.bipartite import Precision
from genmodels.compiled.counter import keys
from genmodels.compiled.readable import draw
from genmodels.couplings import Bipartite
from genmodels.errors import InputError
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.learners.contrastive_divergence import ContrastiveDivergence
from genmodels.learners.persistent_contrastive_divergence import PersistentContrastiveDivergence
from genmodels.models.rbm import RBM
from genmodels.paths import BaseRate
from genmodels.streams import Key

KEY = Key(23, "sides")


def machine(n_visible: int, n_hidden: int) -> Bipartite:
    """Return fields and couplings that are multiples of 1/64: their sums are exact."""
    generator = KEY.child("machine").torch()
    sizes = [(n_visible, n_hidden), (n_visible + n_hidden,), (n_visible + n_hidden,)]
    drawn = [torch.randint(-9, 10, size, generator=generator) / 64.0 for size in sizes]
    return Bipartite(*drawn)


def integers(place: int, n: int, n_replicas: int) -> np.ndarray:
    """Return the random numbers of one side in one sweep  # (replica, site)."""
    k0, k1 = (int(half) for half in keys(KEY))
    quarter, rows = -(-n // 8), []
    for r in range(n_replicas):
        words = np.array([numbers(k0, k1, place + r * quarter + t) for t in range(quarter)], dtype=np.uint64)
        rows.append(np.ascontiguousarray(words.T).ravel().view(np.uint32)[:n])
    return np.stack(rows).astype(np.float64)


def twin(sides: Bipartite, x: Tensor, betas: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Return what `bipartite.sweep` makes of x, in numpy."""
    W, h, base = (part.double().numpy() for part in sides)
    x, (n_visible, n_hidden), n_replicas = x.double().numpy().copy(), sides.W.shape, len(x)
    blocks = (slice(0, n_visible), slice(n_visible, None))
    places = -(-max(n_visible, n_hidden) // 8)
    for t, beta in enumerate(betas.double().numpy()):
        for side in (1, 0):
            field = x[:, blocks[1 - side]] @ (W if side else W.T)
            field = torch.from_numpy(field).to(dtype).double().numpy()
            drawn = integers((2 * t + side) * n_replicas * places, field.shape[1], n_replicas)
            total = beta[:, None] * (field + h[blocks[side]]) + base[blocks[side]]
            x[:, blocks[side]] = draw(total, drawn)
    return x


SIZES = [
    (13, 21, torch.float32),  # one loop over tables
    (40, 7, torch.float32),
    (300, 230, torch.float32),  # products, then a pass
    (300, 230, torch.bfloat16),
]


@pytest.mark.parametrize(("n_visible", "n_hidden", "dtype"), SIZES)
def test_sweeps_are_their_twins_flip_for_flip(n_visible: int, n_hidden: int, dtype: torch.dtype) -> None:
    sides, n = machine(n_visible, n_hidden), 11
    x = torch.randint(0, 2, (n, n_visible + n_hidden), generator=KEY.torch()).to(dtype) * 2.0 - 1.0
    betas = torch.tensor([0.3, 0.6, 1.25])[:, None] * torch.linspace(0.5, 1.5, n)
    moved, first = x.clone(), x.new_empty(n, n_hidden)
    bipartite.sweep(sides, moved, betas, 3, KEY, first)
    assert np.array_equal(moved.double().numpy(), twin(sides, x, betas, dtype))
    assert torch.equal(first, (x[:, :n_visible].double() @ sides.W.double()).to(dtype))
    assert not np.array_equal(moved.double().numpy(), twin(sides, x, 1.05 * betas, dtype))


def test_small_loops_and_products_flip_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sides, betas = machine(64, 128), torch.ones(1, 30)
    x = torch.ones(30, 192)
    one, other = x.clone(), x.clone()
    bipartite.sweep(sides, one, betas, 4, KEY)
    monkeypatch.setattr(bipartite, "_SMALL", 0)
    bipartite.sweep(sides, other, betas, 4, KEY)
    assert torch.equal(one, other)
    bipartite.sweep(sides, other, betas, 1, KEY.at(round=1))
    assert not torch.equal(one, other)


def test_probabilities_hold_from_end_to_end() -> None:
    # 400 k draws of each of many fields, from where nothing flips to where all does.
    fields, n = np.linspace(-7.0, 7.0, 57).astype(np.float32), 400_000
    x = np.zeros((n, len(fields)), dtype=np.int32)
    rows = np.broadcast_to(fields.view(np.int32), x.shape).copy()
    h, base, ones = np.zeros(57, np.float32), np.zeros(57, np.float32), np.ones(n, np.float32)
    logistic.draw(rows, h, base, ones, x, 0, np.int32(0), *keys(KEY), np.uint64(0))
    up, p = (x > 0).mean(0), 1.0 / (1.0 + np.exp(-2.0 * fields.astype(np.float64)))
    z = np.abs(up - p) / np.sqrt(np.maximum(p * (1.0 - p), 1e-7) / n)
    assert z.max() < 4.0
    wrong = 1.0 / (1.0 + np.exp(-2.05 * fields.astype(np.float64)))
    assert (np.abs(up - wrong) / np.sqrt(np.maximum(p * (1.0 - p), 1e-7) / n)).max() > 10.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means_are_hyperbolic_tangents(dtype: torch.dtype) -> None:
    fields = torch.linspace(-30.0, 30.0, 400).view(4, 100).to(dtype)
    h, weights = torch.linspace(-1.0, 1.0, 100), [1.0, -1.0, 0.25, 2.0]
    found = torch.empty_like(fields)
    for row, weight in enumerate(weights):
        bipartite.means(fields[row : row + 1], h, weight, found[row : row + 1])
    exact = (torch.tanh(fields.double() + h.double()) * torch.tensor(weights)[:, None].double()).to(dtype)
    if dtype == torch.float32:
        assert torch.allclose(found, exact, rtol=0.0, atol=4e-7)
    else:
        # What lies at the middle between two numbers may be rounded to the other.
        assert float((found == exact).double().mean()) > 0.98
        assert torch.allclose(found, exact, rtol=2.0**-7, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_two_matrices_become_columns_of_one(dtype: torch.dtype) -> None:
    whole = torch.randn(37, 90, generator=KEY.torch()).to(dtype)
    one, other = whole[:, :50], torch.randn(18, 50, generator=KEY.child("b").torch()).to(dtype)
    found, sums = bipartite.turned(one, other)
    assert found.is_contiguous()
    assert torch.equal(found, torch.cat([one, other]).T)
    for part, total in zip((one, other), sums, strict=True):
        assert torch.allclose(total, part.float().sum(0), atol=1e-5)
        assert not torch.allclose(total, part[1:].float().sum(0), atol=1e-2)


@pytest.mark.parametrize("centred", [True, False])
def test_one_pass_climbs_as_the_direction_says(centred: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # More couplings than one loop takes.
    x = torch.randn(30, 300, generator=KEY.torch()).sign()
    rule = ContrastiveDivergence(learning_rate=0.1, weight_decay=0.3, centred=centred)
    found = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(RBM, "climb", lambda *_: None)
        model = rbm(300, 230, 0.1)
        state, metrics = rule.init(model), {}
        for t in range(3):  # centres slide after the first step
            state, metrics = rule.step(model, state, x.roll(t, 1), KEY.at(round=t))
        found.append((model, metrics["gradient_norm"]))
    (one, norm), (other, same) = found
    assert norm == pytest.approx(same, rel=1e-5)
    start = rbm(300, 230, 0.1)
    for name in ("W", "b", "c"):
        step = getattr(other, name) - getattr(start, name)
        assert torch.allclose(getattr(one, name) - getattr(start, name), step, atol=1e-5)
        assert step.abs().max() > 1e-3


def rbm(n_visible: int, n_hidden: int, scale: float) -> RBM:
    model, generator = RBM(n_visible, n_hidden), KEY.child("rbm").torch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def exact_moments(model: RBM) -> tuple[Tensor, Tensor]:
    """Return ⟨x⟩ and ⟨xzᵀ⟩, summing over all z  # (visible,), (visible, hidden), float64."""
    z = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=model.n_hidden)))
    with torch.no_grad():
        p = model.log_marginal(1, z).double().softmax(0)
        x = torch.tanh(model.field(0, z)).double()
    return p @ x, (x * p[:, None]).T @ z.double()


def deviation(model: RBM, x: Tensor) -> float:
    """Return the largest deviation of ⟨x⟩ and ⟨xzᵀ⟩ from the exact ones, in standard errors."""
    x, n = x.double(), len(x)
    visible, hidden = x[:, : model.n_visible], x[:, model.n_visible :]
    found = torch.cat([visible.mean(0)[:, None], visible.T @ hidden / n], 1)
    means, products = exact_moments(model)
    exact = torch.cat([means[:, None], products], 1)
    return float(((found - exact) / ((1.0 - exact.square()) / n).sqrt()).abs().max())


def test_bfloat16_samples_have_the_moments_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of weights and fields with three digits no error of 1/200 deviations is seen; of one digit it is.
    monkeypatch.setattr(bipartite, "_GAIN", 0)
    model, n = rbm(30, 9, 0.25), 40_000
    kernel, x = BlockGibbs(precision="bfloat16"), torch.ones(n, 39)
    moved, _ = kernel.advance(model, kernel.start(model, x), torch.ones(n), 60, KEY)
    plain, _ = BlockGibbs().advance(model, kernel.start(model, x), torch.ones(n), 60, KEY)
    assert not torch.equal(moved.x, plain.x)
    assert deviation(model, plain.x) < 4.5
    assert deviation(model, moved.x) < 4.5
    coarse = rbm(30, 9, 0.25)
    with torch.no_grad():
        coarse.W.copy_((8.0 * coarse.W).round() / 8.0)
    rounded, _ = kernel.advance(coarse, kernel.start(model, x), torch.ones(n), 60, KEY)
    assert deviation(model, rounded.x) > 8.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_contrast_is_the_difference_of_two_statistics(dtype: torch.dtype) -> None:
    model = rbm(90, 50, 0.2)
    data, fantasy = (torch.randn(size, generator=KEY.torch()).sign() for size in ((70, 90), (40, 140)))
    if dtype == torch.float64:
        model, data, fantasy = model.double(), data.double(), fantasy.double()
    with torch.no_grad():
        one, other = model.statistics(data), model.statistics(fantasy)
        difference, means = model.contrast(data, fantasy.to(dtype))
        known, _ = model.contrast(data, fantasy.to(dtype), (data @ model.W).to(dtype))
    tolerance = 0.01 if dtype == torch.bfloat16 else 1e-5
    for name in ("W", "b", "c"):
        assert torch.allclose(difference[name], one[name] - other[name], atol=tolerance)
        assert torch.allclose(known[name], difference[name], atol=tolerance)
        assert not torch.allclose(difference[name], one[name], atol=5.0 * tolerance)
    assert all(torch.allclose(means[name], one[name], atol=tolerance) for name in ("b", "c"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_energies_are_those_of_where_the_sweeps_end(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bipartite, "_GAIN", 0)
    inner = rbm(300, 230, 0.2)  # more than one loop's
    for model in (inner, BaseRate(inner, torch.linspace(-1.0, 1.0, 530))):
        state = BlockGibbs(precision).init(model, 20, KEY)
        after, _ = BlockGibbs(precision).advance(model, state, torch.linspace(0.3, 1.0, 20), 2, KEY)
        assert torch.allclose(after.energy, model.energy(after.x), rtol=1e-5, atol=1e-3)
        assert not torch.allclose(after.energy, model.energy(state.x), rtol=1e-3, atol=1e-3)
        still, _ = BlockGibbs(precision).advance(model, after, torch.ones(20), 0, KEY)
        assert torch.equal(still.x, after.x)
        assert torch.allclose(still.energy, after.energy, rtol=1e-5, atol=1e-3)


def test_contrastive_divergence_goes_on_from_its_images() -> None:
    # With couplings this strong, one sweep keeps most of an image, and a restart from elsewhere would not.
    model = rbm(64, 200, 1.5)
    x = torch.randn(100, 64, generator=KEY.torch()).sign()
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.float32)):  # too small to gain
        kernel = BlockGibbs(precision=precision)
        fantasy = ContrastiveDivergence(n_sweeps=1, kernel=kernel).fantasy(model, None, x, KEY)
        assert fantasy.x.dtype == dtype
        assert float((fantasy.x[:, :64] == x).double().mean()) > 0.8
        start = kernel.start(model, torch.cat([x, x, x, x, x[:, :8]], 1))
        state, _ = kernel.advance(model, start, torch.ones(100), 1, KEY)
        assert torch.equal(state.x, fantasy.x)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_persistent_chains_move_as_the_kernel_says(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bipartite, "_GAIN", 0)
    model, kernel = rbm(64, 200, 0.3), BlockGibbs(precision)
    data = torch.randn(30, 64, generator=KEY.torch()).sign()
    rule = PersistentContrastiveDivergence(n_chains=30, n_sweeps=3, products=precision)
    chains = rule.start(model, data, KEY)
    fantasy = rule.fantasy(model, chains, data, KEY.child("sweeps"))
    moved, _ = kernel.advance(model, chains.particles, torch.ones(30), 3, KEY.child("sweeps"))
    assert fantasy.x.dtype == getattr(torch, precision)
    assert torch.equal(fantasy.x, moved.x)
    assert torch.equal(fantasy.chains.particles.x, moved.x)
    resumed = rule.restart(model, rule.chain_tensors(fantasy.chains))
    again = [rule.fantasy(model, each, data, KEY.child("more")).x for each in (fantasy.chains, resumed)]
    assert torch.equal(*again)
    assert not torch.equal(again[0], fantasy.x)


def test_a_precision_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="precision is 'half', expected one of float32, bfloat16"):
        BlockGibbs(precision="half")  # type: ignore[arg-type]
