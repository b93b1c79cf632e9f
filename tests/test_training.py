"""A training as a stage runs it: resumed to the same bytes, the best kept, refusals in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from killed import stage
from test_gradient import Line, pictures, points

from genmodels.data import images
from genmodels.errors import InputError
from genmodels.learners.contrastive_divergence import ContrastiveDivergence
from genmodels.learners.fit import Shuffled, Whole
from genmodels.learners.gradient import Gradient
from genmodels.models.rbm import RBM
from genmodels.streams import Key
from pipelines import params, progress, training
from pipelines.early_stopping import EarlyStopping
from pipelines.stage import Stage
from pipelines.tracking import Silent
from pipelines.training import Every, train
from stages import train as train_stage

KEY = Key(47, "training")


def test_a_killed_training_ends_with_the_same_bytes(tmp_path: Path) -> None:
    kill_at = int(KEY.child("kill").numpy().integers(5, 22))
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "tests/killed.py", str(tmp_path), str(kill_at)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    digests = json.loads(done.stdout)
    assert {"vae", "hvae", "diffusion", "vae moments", "vae epochs", "vae noise"} <= digests.keys()
    for case, (whole, killed) in digests.items():
        assert (killed == whole) == (" " not in case), case


def scratch(folder: Path) -> Stage:
    return Stage("train@line", "line", None, folder, folder, Silent())


def held_out(figures: list[float], seen: list[torch.Tensor]) -> Any:
    """Return a monitor that gives these figures one after the other, and keeps the weights it was shown."""
    told: Iterator[float] = iter(figures)

    def monitor(model: Any, state: Any) -> dict[str, float]:
        seen.append(model.W.detach().clone())
        return {"elbo_validation": next(told)}

    return monitor


@pytest.mark.parametrize(("patience", "n_looks"), [(None, 10), (3, 6)])
def test_the_best_averaged_weights_are_put_back(tmp_path: Path, patience: int | None, n_looks: int) -> None:
    figures = [-5.0, -4.0, -3.0, -3.5, -3.1, -3.0, -4.0, -5.0, -6.0, -3.2]
    seen: list[torch.Tensor] = []
    model, learner, stopping = Line(0.3), Gradient(0.05, 200), EarlyStopping(patience, "elbo_validation")
    monitor = held_out(figures, seen)
    train(scratch(tmp_path), "fit", model, learner, Whole(points()), KEY, 200, monitor, stopping)
    assert len(seen) == n_looks
    assert torch.equal(model.W, seen[2])
    assert not torch.equal(model.W, seen[-1])
    last, whole = Line(0.3), held_out([-1.0] * 10, [])
    train(scratch(tmp_path), "last", last, learner, Whole(points()), KEY, 200, whole)
    assert not torch.equal(last.W, model.W)
    if patience is None:  # the last look is at the last average
        assert torch.equal(last.W, seen[-1])


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (Every(3, None), [3, 6, 9]),
        (Every(None, 0.0), list(range(1, 10))),
        (Every(4, 1e6), [4, 8]),
        (Every(None, None), []),
    ],
)
def test_checkpoints_come_by_step_or_by_time(
    tmp_path: Path, every: Every, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(training._Run, "_save", lambda run, folder: saved.append(run.done.step))
    train(scratch(tmp_path), "fit", Line(), Gradient(0.05, 10), Whole(points()), KEY, 10, every=every)
    assert saved == steps


def test_progress_tells_speed_time_left_and_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    stopping = EarlyStopping(None, "elbo_validation")
    monitor = held_out([-float(k) for k in range(10)], [])
    batches = Shuffled(points(), 4, KEY)
    train(scratch(tmp_path), "fit", Line(), Gradient(0.05, 200), batches, KEY, 200, monitor, stopping)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("train@line fit: 200 of 200, 0 s left, images per second ")
    assert "loss " in last
    assert "elbo validation -9" in last


def test_the_time_left_of_a_resumed_run_is_by_its_own_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bar("resumed") as report:
        report(900, 1000)
        for done, now[0] in ((910, 20.0), (940, 40.0)):
            report(done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "resumed: 910 of 1000, 180 s left", "resumed: 940 of 1000, 60 s left"
    ]  # fmt: skip


class Unpredictable(Line):
    """Least squares that has no finite value from its third step on."""

    def loss(self, x: Any, generator: Any, step: int = 0) -> Any:
        loss, metrics = super().loss(x, generator)
        return (loss * (1.0 if step < 2 else float("nan"))), metrics


def test_a_gradient_that_is_not_finite_changes_nothing_and_ends_the_run(tmp_path: Path) -> None:
    model = Unpredictable()
    message = r"gradient_norm is nan at step 3 of 9: .*; the last good state, of step 2, is in .*-diverged$"
    with pytest.raises(FloatingPointError, match=message) as caught:
        train(scratch(tmp_path), "fit", model, Gradient(0.05, 9), Whole(points()), KEY, 9)
    assert "\n" not in str(caught.value)
    twin = Line()
    list(training.fit(twin, Gradient(0.05, 9), Whole(points()), KEY, 2))
    assert torch.equal(model.W, twin.W)


def test_an_energy_model_whose_units_are_frozen_ends_the_run(tmp_path: Path) -> None:
    learner, x = ContrastiveDivergence(learning_rate=0.01, n_steps=9), 2.0 * pictures(20).float() - 1.0
    model = RBM(x.shape[1], 4)
    assert len(train(scratch(tmp_path), "fit", model, learner, Whole(x), KEY, 9)) == 9
    model.c.data[2] = 1184.0
    message = r"^train@line: c has reached 1.18e\+03 at step 1 of 9, .* learning_rate or raise n_sweeps$"
    with pytest.raises(FloatingPointError, match=message):
        train(scratch(tmp_path / "runaway"), "fit", model, learner, Whole(x), KEY, 9)


def prepared(folder: Path, x: torch.Tensor) -> images.Images:
    split = images.Split(*(x.to(torch.uint8).numpy() for _ in range(2)), torch.zeros(len(x)).long().numpy())
    made = images.Images("blocks", (4, 3, 1), 2, "native", {name: split for name in images.SPLITS})
    (folder / "out" / "prepare" / "images").mkdir(parents=True)
    images.save(folder / "out" / "prepare" / "images", made)
    return made


def settings(changes: dict[str, Any]) -> Any:
    given = params.read(ROOT / "params.yaml")
    values = given.model_dump()
    values["train"]["vae"] |= {"hidden": [8], "latent": 2, "steps": 2} | changes
    return type(given).model_validate(values)


def test_images_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    prepared(tmp_path, torch.ones(20, 12))
    with pytest.raises(InputError, match="train@vae: all 20 training images are the same") as caught:
        train_stage.work(stage("train", "vae", settings({}), tmp_path))
    assert "\n" not in str(caught.value)


def test_a_batch_of_more_than_all_images_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(tmp_path, torch.eye(12))
    train_stage.work(stage("train", "vae", settings({}), tmp_path))
    told = "train@vae: batch = 100 is more than the 12 training images: every step sees all\n"
    assert capsys.readouterr().err == told
    assert (tmp_path / "out" / "train" / "vae" / "config.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"processes": 0}, "train.vae.processes = 0"),
        ({"accumulate": 0}, "train.vae.accumulate = 0"),
        ({"processes": 3}, r"batch = 100 cannot be cut into processes \* accumulate = 3 equal parts"),
        ({"mixed_precision": "fp8"}, "train.vae.mixed_precision = 'fp8'"),
        ({"clip": 0.0}, "train.vae.clip = 0.0"),
        ({"optimiser": "adam"}, "train.vae.optimiser = 'adam'"),
        ({"checkpoint_every": {"steps": 0, "seconds": None}}, "train.vae.checkpoint_every.steps = 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    import yaml

    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["train"]["vae"] |= changes
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=words) as caught:
        params.read(path)
    assert "\n" not in str(caught.value)
