"""A step of learning in one compiled pass is the step of its parts, and leaves to them what it is not for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from machines import DoubledBeta
from torch import Tensor

from genmodels.compiled import bipartite, contrastive, tables
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.learners.ascent import Climb
from genmodels.learners.contrast import Chains, Contrast
from genmodels.learners.contrastive_divergence import ContrastiveDivergence
from genmodels.learners.fit import Shuffled, checkpoint, fit
from genmodels.learners.persistent_contrastive_divergence import PersistentContrastiveDivergence
from genmodels.models.rbm import RBM
from genmodels.streams import Key

KEY = Key(29, "step")


def images(n: int, n_visible: int, purpose: str = "images") -> Tensor:
    return torch.randint(0, 2, (n, n_visible), generator=KEY.child(purpose).torch()) * 2.0 - 1.0


def machine(n_visible: int, n_hidden: int) -> RBM:
    """Return parameters that are multiples of 1/64: sums with spins are exact, whatever their order."""
    rbm, generator = RBM(n_visible, n_hidden), KEY.child("machine").torch()
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.copy_(torch.randint(-9, 10, parameter.shape, generator=generator) / 64.0)
    return rbm


@pytest.mark.parametrize(
    ("n_rows", "n_visible", "n_hidden"), [(1, 1, 1), (7, 13, 21), (5, 64, 128), (3, 30, 70)]
)
def test_rows_of_tables_make_the_product(n_rows: int, n_visible: int, n_hidden: int) -> None:
    x, W = images(n_rows, n_visible), machine(n_visible, n_hidden).W.detach()
    room = tables.room(n_visible, n_hidden)
    room[:n_visible, :n_hidden] = W.numpy()
    table = tables.of(room)
    fields = tables.zeros(n_rows, room.shape[1])
    contrastive._multiply(x.numpy(), n_visible, table, fields)
    found = torch.from_numpy(fields[:, :n_hidden])
    assert torch.equal(found, x @ W)
    x[:, 0] *= -1.0
    assert not torch.equal(found, x @ W)


def begun(rule: Contrast, rbm: RBM, n_chains: int) -> Climb:
    """Return a state in the midst of a training, with centres and chains that are known."""
    x = images(n_chains, rbm.n_sites, "chains")
    lasting = isinstance(rule, PersistentContrastiveDivergence)
    chains = Chains(BlockGibbs(), BlockGibbs().start(rbm, x)) if lasting else None
    centres = {"b": torch.linspace(-0.5, 0.4, rbm.n_visible), "c": torch.linspace(0.3, -0.6, rbm.n_hidden)}
    return Climb(4, chains, centres if rule.centred else {}, {})


Result = tuple[RBM, Climb, dict[str, float]]


def stepped(rule: Contrast, sizes: tuple[int, int], n_images: int, key: Key = KEY) -> Result:
    rbm = machine(*sizes)
    state, metrics = rule.step(rbm, begun(rule, rbm, 70), images(n_images, sizes[0]), key)
    return rbm, state, metrics


def parts(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> Result:
    """Return what the parts make of a step: block Gibbs, contrast, centred direction, update."""
    with monkeypatch.context() as patch:
        patch.setattr(bipartite, "_SMALL", 0)
        return stepped(*arguments)


def flat(rbm: RBM) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in rbm.parameters()])


CD, PCD = ContrastiveDivergence, PersistentContrastiveDivergence
CASES = [
    (CD(n_sweeps=1, learning_rate=0.1), (64, 128), 100),
    (CD(n_sweeps=4, learning_rate=0.1, weight_decay=0.3, kernel=BlockGibbs()), (13, 21), 7),
    (CD(n_sweeps=1, learning_rate=0.1, weight_decay=0.3, centred=False), (40, 7), 130),
    (PCD(n_chains=70, n_sweeps=3, learning_rate=0.1, weight_decay=0.3), (33, 50), 9),
    (PCD(n_chains=70, n_sweeps=1, learning_rate=0.1, centred=False, n_steps=8), (3, 2), 65),
]


@pytest.mark.parametrize(("rule", "sizes", "n_images"), CASES)
def test_a_step_in_one_pass_is_the_step_of_its_parts(
    rule: Any, sizes: tuple[int, int], n_images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Contrast, "_compared", None)  # with which the parts begin
        rbm, state, metrics = stepped(rule, sizes, n_images)
    other, expected, figures = parts(monkeypatch, rule, sizes, n_images)
    assert torch.allclose(flat(rbm), flat(other), rtol=0.0, atol=3e-7)
    assert metrics == pytest.approx(figures, rel=1e-5, abs=1e-7)
    assert state.centres.keys() == expected.centres.keys()
    for name, centre in expected.centres.items():
        assert torch.allclose(state.centres[name], centre, rtol=0.0, atol=2e-7)
    if isinstance(rule, PCD):
        found, known = state.chains.particles, expected.chains.particles
        assert torch.equal(found.x, known.x)
        assert torch.allclose(found.energy, known.energy, equal_nan=True)
    else:
        assert state.chains is None


WRONG: dict[str, Callable[[Any], Any]] = {
    "sweeps": lambda rule: dataclasses.replace(rule, n_sweeps=rule.n_sweeps + 1),
    "decay": lambda rule: dataclasses.replace(rule, weight_decay=0.31),
    "rate": lambda rule: dataclasses.replace(rule, learning_rate=0.101),
    "centres": lambda rule: dataclasses.replace(rule, centred=False),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_parts_are_seen(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, *where = CASES[1]
    rbm, *_ = stepped(rule, *where)
    other, *_ = parts(monkeypatch, WRONG[wrong](rule), *where)
    assert not torch.allclose(flat(rbm), flat(other), rtol=0.0, atol=3e-5)


def test_other_numbers_make_another_step() -> None:
    rbm, *_ = stepped(*CASES[0])
    other, *_ = stepped(*CASES[0], KEY.at(round=1))
    assert not torch.allclose(flat(rbm), flat(other), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("why", ["grey images", "float64", "a surrogate", "a kernel of one's own"])
def test_what_the_pass_is_not_for_is_left_to_the_parts(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def step() -> Tensor:
        rbm, x, rule = machine(9, 6), images(20, 9), CD(centred=False)
        if why == "grey images":
            x[3, 2] = 0.5
        elif why == "float64":
            rbm, x = rbm.double(), x.double()
        elif why == "a surrogate":
            rule = CD(centred=False, surrogate="global")
        else:
            rule = CD(centred=False, kernel=DoubledBeta())
        rule.step(rbm, Climb(4, None, {}, {}), x, KEY)
        return flat(rbm)

    found = step()
    monkeypatch.setattr(bipartite, "_SMALL", 0)
    assert torch.allclose(found, step(), rtol=0.0, atol=1e-9)


def test_a_direction_that_is_not_finite_changes_nothing() -> None:
    rbm = machine(9, 6)
    with torch.no_grad():
        rbm.W[2, 3] = float("nan")
    before = flat(rbm)
    with pytest.raises(FloatingPointError, match="the gradient is not finite at step 5"):
        CD().step(rbm, begun(CD(), rbm, 70), images(20, 9), KEY)
    assert torch.equal(flat(rbm).nan_to_num(7.0), before.nan_to_num(7.0))


def trained(rule: Contrast, n_threads: int, stop: int | None = None) -> Tensor:
    """Return the parameters after 12 steps, of a run that starts anew after step `stop`."""
    torch.set_num_threads(n_threads)
    rbm, batches, start = RBM(20, 13), Shuffled(images(300, 20), 40, KEY.child("order")), None
    if stop is not None:
        for progress in fit(rbm, rule, batches, KEY, stop):
            start = checkpoint(rule, progress)
    for _ in fit(rbm, rule, batches, KEY, 12, start):
        pass
    return flat(rbm)


@pytest.mark.parametrize("rule", [CD(n_sweeps=2), PCD(n_chains=30, n_sweeps=2, ema=0.9)])
def test_runs_have_the_same_bytes_resumed_or_not_on_any_number_of_threads(rule: Contrast) -> None:
    threads = torch.get_num_threads()
    try:
        found = trained(rule, 1)
        assert torch.equal(found, trained(rule, 2))
        assert torch.equal(found, trained(rule, 1, 5))
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(found, trained(dataclasses.replace(rule, n_sweeps=1), threads))
