"""The training loop: what each step sees, and a resumed run that ends with the same bytes."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genmodels.artifacts import load_tensors, save_tensors, sha256
from genmodels.errors import InputError
from genmodels.learners.closed_form import ClosedForm
from genmodels.learners.expectation_maximisation import ExpectationMaximisation
from genmodels.learners.fit import Shuffled, Whole, checkpoint, fit
from genmodels.learners.persistent_contrastive_divergence import PersistentContrastiveDivergence
from genmodels.models.bernoulli_mixture import BernoulliMixture
from genmodels.models.gaussian_mixture import GaussianMixture
from genmodels.models.independent import Independent
from genmodels.models.rbm import RBM
from genmodels.streams import Key

KEY = Key(41, "fit")
NUMBERED = torch.arange(23.0)[:, None]


class Recorder:
    """A learner that notes what it is given."""

    def __init__(self, metric: float = 0.0) -> None:
        self.seen: list[tuple[Tensor, Key]] = []
        self.metric = metric

    def init(self, model: Any) -> int:
        return 0

    def step(self, model: Any, state: int, batch: Tensor, key: Key) -> tuple[int, dict[str, float]]:
        self.seen.append((batch, key))
        return state + 1, {"loss": self.metric}

    def tensors(self, state: int) -> dict[str, Tensor]:
        return {"count": torch.tensor(state)}

    def restore(self, model: Any, tensors: dict[str, Tensor]) -> int:
        return int(tensors["count"])


def epoch(batches: Shuffled, number: int) -> list[float]:
    steps = range(number * batches.per_epoch, (number + 1) * batches.per_epoch)
    return torch.cat([batches(step)[:, 0] for step in steps]).tolist()


def test_an_epoch_shows_every_image_at_most_once_and_leaves_out_the_rest() -> None:
    batches = Shuffled(NUMBERED, 5, KEY)
    assert batches.per_epoch == 4
    shown = [epoch(batches, number) for number in range(200)]
    assert all(len(order) == len(set(order)) == 20 for order in shown)
    assert len({tuple(order) for order in shown}) == 200
    # Over epochs none is left out more often than chance has it: 3 of 23 each time.
    counts = Counter(value for order in shown for value in order)
    p = 20.0 / 23.0
    assert all(abs(counts[i] - 200 * p) < 4.0 * math.sqrt(200 * p * (1.0 - p)) for i in range(23))


def test_a_batch_that_divides_the_data_covers_them() -> None:
    batches = Shuffled(NUMBERED[:20], 5, KEY)
    assert sorted(epoch(batches, 0)) == sorted(epoch(batches, 1)) == list(range(20))


@pytest.mark.parametrize("batch", [23, 100])
def test_a_batch_as_large_as_the_data_is_all_of_them(batch: int) -> None:
    batches = Shuffled(NUMBERED, batch, KEY)
    assert batches.per_epoch == 1
    assert sorted(batches(7)[:, 0].tolist()) == list(range(23))


def test_a_batch_depends_on_its_step_alone() -> None:
    forwards, backwards = Shuffled(NUMBERED, 5, KEY), Shuffled(NUMBERED, 5, KEY)
    one = {step: forwards(step) for step in range(12)}
    other = {step: backwards(step) for step in reversed(range(12))}
    assert all(torch.equal(one[step], other[step]) for step in range(12))
    another = Shuffled(NUMBERED, 5, KEY._replace(seed=42))
    assert not all(torch.equal(one[step], another(step)) for step in range(12))


@pytest.mark.parametrize("batch", [0, -3])
def test_a_batch_of_nothing_is_refused(batch: int) -> None:
    with pytest.raises(InputError, match=f"batch is {batch} images"):
        Shuffled(NUMBERED, batch, KEY)


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        Shuffled(NUMBERED[:0], 5, KEY)


def test_each_step_gets_its_batch_and_its_key() -> None:
    recorder, batches = Recorder(), Shuffled(NUMBERED, 5, KEY)
    progress = list(fit(None, recorder, batches, KEY, 6))
    assert [(p.step, p.n_steps, p.state) for p in progress] == [(i + 1, 6, i + 1) for i in range(6)]
    assert [key for _, key in recorder.seen] == [KEY.at(round=i) for i in range(6)]
    assert all(torch.equal(batch, batches(i)) for i, (batch, _) in enumerate(recorder.seen))
    resumed = Recorder()
    rest = list(fit(None, resumed, batches, KEY, 6, checkpoint(recorder, progress[3])))
    assert [(p.step, p.state) for p in rest] == [(5, 5), (6, 6)]
    assert [key for _, key in resumed.seen] == [key for _, key in recorder.seen[4:]]
    assert list(fit(None, Recorder(), batches, KEY, 6, checkpoint(recorder, progress[5]))) == []


@pytest.mark.parametrize("metric", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_stops_the_run(metric: float) -> None:
    with pytest.raises(FloatingPointError, match=f"loss is {metric} at step 1 of 3"):
        next(fit(None, Recorder(metric), Whole(NUMBERED), KEY, 3))


def test_a_file_that_is_no_checkpoint_is_refused() -> None:
    with pytest.raises(InputError, match=r"no 'fit\.step'"):
        next(fit(None, Recorder(), Whole(NUMBERED), KEY, 3, {"count": torch.tensor(2)}))


def spins() -> Tensor:
    return (torch.rand(120, 8, generator=KEY.child("spins").torch()) < 0.3).float() * 2.0 - 1.0


def pixels() -> Tensor:
    return (spins() + 1.0) / 2.0


def machine() -> RBM:
    """Return a machine whose chains remember where they come from."""
    rbm = RBM(8, 5)
    torch.nn.init.normal_(rbm.W, std=0.6, generator=KEY.child("W").torch())
    return rbm


CASES: dict[str, tuple[Callable[[], Any], Any, Callable[[], Any]]] = {
    "PCD": (
        machine,
        PersistentContrastiveDivergence(n_chains=20, n_sweeps=2, learning_rate=0.05, n_steps=11),
        lambda: Shuffled(spins(), 50, KEY.child("order")),
    ),
    "EM of Bernoullis": (
        lambda: BernoulliMixture(8, 3), ExpectationMaximisation(), lambda: Whole(pixels())
    ),
    "EM of Gaussians": (
        lambda: GaussianMixture(8, 2), ExpectationMaximisation(), lambda: Whole(pixels())
    ),
    "closed form": (lambda: Independent(8), ClosedForm(), lambda: Whole(pixels())),
}  # fmt: skip


def run(case: str, folder: Path, stops: list[int], key: Key = KEY) -> str:
    """Return the digest of model and state after 11 steps, written to disk and read back at each stop."""
    new_model, learner, new_batches = CASES[case]
    start = None
    model = new_model()
    for stop in [*stops, 11]:
        for progress in fit(model, learner, new_batches(), key, 11, start):
            if progress.step == stop:
                break
        save_tensors(folder / "model.safetensors", model.state_dict())
        save_tensors(folder / "state.safetensors", checkpoint(learner, progress))
        model = new_model()
        model.load_state_dict(load_tensors(folder / "model.safetensors"))
        start = load_tensors(folder / "state.safetensors")
    return sha256(folder / "model.safetensors") + sha256(folder / "state.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_with_the_same_bytes(case: str, tmp_path: Path) -> None:
    whole = run(case, tmp_path, [])
    assert run(case, tmp_path, [1]) == whole
    assert run(case, tmp_path, [3, 4, 9]) == whole
    if case != "closed form":
        assert run(case, tmp_path, [], KEY._replace(seed=42)) != whole


def test_a_resumed_run_that_forgot_its_chains_is_told_apart(tmp_path: Path) -> None:
    new_model, learner, new_batches = CASES["PCD"]
    model = new_model()
    steps = fit(model, learner, new_batches(), KEY, 11)
    start = checkpoint(learner, [next(steps) for _ in range(4)][-1])
    start["chains.x"] = -start["chains.x"]
    list(fit(model, learner, new_batches(), KEY, 11, start))
    save_tensors(tmp_path / "model.safetensors", model.state_dict())
    assert sha256(tmp_path / "model.safetensors") != run("PCD", tmp_path, [])[:64]


def test_a_checkpoint_does_not_change_when_training_goes_on() -> None:
    new_model, learner, new_batches = CASES["PCD"]
    steps = fit(new_model(), learner, new_batches(), KEY, 11)
    kept = checkpoint(learner, next(steps))
    before = {name: tensor.clone() for name, tensor in kept.items()}
    list(steps)
    assert all(torch.equal(kept[name], before[name]) for name in before)
