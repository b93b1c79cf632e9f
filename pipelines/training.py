"""A training as a stage runs it: resumed from its checkpoint, with a bar, a curve and tracked metrics."""

import copy
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.artifacts import load_tensors, new_folder, read_json, save_tensors, sha256, write_json
from genmodels.errors import InputError
from genmodels.learners.fit import checkpoint, fit
from genmodels.protocols import HasStatistics, Learner, Progress
from genmodels.streams import Key
from pipelines import progress
from pipelines.curve import MONITOR_EVERY, Curve, Row
from pipelines.early_stopping import METRIC, EarlyStopping
from pipelines.stage import Stage, rank

_SHOW_EVERY = 1.0  # seconds
_FROZEN = 100.0  # a field or coupling so large that its unit never turns again
_BOUNDS = ("elbo_validation", METRIC)  # figures that are shown from one look at the model to the next


class Every(NamedTuple):
    """How often a checkpoint is written, by whichever comes first; it never changes the result."""

    steps: int | None = None
    seconds: float | None = 15.0

    def due(self, step: int, saved: float) -> bool:
        """Return whether to write one after `step` steps, the last being written at the time `saved`."""
        by_step = self.steps is not None and step % self.steps == 0
        return by_step or (self.seconds is not None and time.monotonic() - saved > self.seconds)


QUARTER_MINUTE = Every()


def train(
    stage: Stage,
    name: str,
    model: Any,
    learner: Learner[Any],
    batches: Callable[[int], Any],
    key: Key,
    n_steps: int,
    monitor: Callable[[Any, Any], Row] | None = None,
    stopping: EarlyStopping | None = None,
    every: Every = QUARTER_MINUTE,
) -> list[Row]:
    """Train `model` in place, from the checkpoint `name` in the scratch if there is one; return the curve.

    It ends early where the learner's metric `converged` is 1, or `stopping` says so. Of several processes the
    first monitors, decides and writes.

    Args:
        stage: The stage that trains.
        name: Of the checkpoint, and in front of the tracked metrics' names.
        model: The model, with its first parameters.
        learner: The learning rule.
        batches: The data of each step.
        key: The stream of the training.
        n_steps: Steps at most.
        monitor: Held-out figures, from the model and the learner's state, added to every tenth of the curve.
            It is resumed, too, if it has `tensors` and `restore`.
        stopping: Ends the training, and keeps the best of the monitored models instead of the last.
        every: How often a checkpoint is written.

    Raises:
        FloatingPointError: the training diverged; the message says where its last good state is kept.
    """
    run = _Run(stage, name, model, learner, Curve(n_steps), monitor, stopping, every)
    start = run.resume()
    with progress.bar(f"{stage.name} {name}".strip()) as report:
        try:
            for done in fit(model, learner, batches, key, n_steps, start):
                if run.see(done, report):
                    break
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}{run.last_good()}") from error
    return run.end()


class _Speed:
    """Images a second since this process began to train, and the share of time that it waited for them."""

    def __init__(self) -> None:
        self.start, self.n_images, self.waited = time.monotonic(), 0, 0.0

    def see(self, done: Progress) -> None:
        self.n_images += done.n_images
        self.waited += done.waited

    def figures(self) -> Row:
        """Return both, for MLflow: no output has a time in it."""
        elapsed = max(time.monotonic() - self.start, 1e-9)
        return {"images_per_second": self.n_images / elapsed, "waiting_for_images": self.waited / elapsed}


class _Run:
    """A training under way."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        model: Any,
        learner: Any,
        curve: Curve,
        monitor: Callable[[Any, Any], Row] | None,
        stopping: EarlyStopping | None,
        every: Every,
    ) -> None:
        self.stage, self.name, self.model, self.learner, self.curve = stage, name, model, learner, curve
        self.monitor, self.stopping, self.every = monitor, stopping, every
        self.folder, self.before = stage.scratch / name, stage.scratch / f"{name}-before"
        self.done = Progress(0, 0, {})
        self.saved, self.shown, self.speed = time.monotonic(), -math.inf, _Speed()
        self.figures: Row = {}
        parts = {"monitor": monitor, "stopping": stopping}
        self.resumed = {part: each for part, each in parts.items() if hasattr(each, "restore")}

    def see(self, done: Progress, report: Callable[..., Any]) -> bool:
        """Note a step; return whether it is to be the last."""
        self.done, stop = done, bool(done.metrics.get("converged"))
        self.speed.see(done)
        row, last = self.curve.add(done), done.step == done.n_steps
        if row is not None:
            self._look_for_frozen_units()
            if self.monitor is not None and (len(self.curve.rows) % MONITOR_EVERY == 0 or last):
                stop |= self._look(row)
            told = row | self.speed.figures()
            self.stage.run.metrics({f"{self.name}/{metric}": told[metric] for metric in told}, done.step)
            bounds = {name: row[name] for name in _BOUNDS if name in row}
            self.figures = self.figures | dict(list(row.items())[1:3]) | bounds
        if row is not None or time.monotonic() - self.shown > _SHOW_EVERY:
            self.shown = time.monotonic()
            speed = self.speed.figures()["images_per_second"]
            report(done.step, done.n_steps, images_per_second=speed, **self.figures)
        if rank() == 0 and not stop and not last and self.every.due(done.step, self.saved):
            self._save(self.folder)
            self.saved = time.monotonic()
        return stop

    def _frozen(self) -> tuple[str, float] | None:
        """Return the parameter of an energy model at which a unit never turns again, and its size, if any."""
        tensors = self.model.state_dict()
        if not isinstance(self.model, HasStatistics):
            return None
        largest = {name: float(each.abs().max()) for name, each in tensors.items()}
        name = max(largest, key=lambda each: largest[each])
        return (name, largest[name]) if largest[name] > _FROZEN else None

    def _look_for_frozen_units(self) -> None:
        """Raise FloatingPointError where an energy model ran away, which its chains can no longer show."""
        if (frozen := self._frozen()) is not None:
            raise FloatingPointError(
                f"{self.stage.name}: {frozen[0]} has reached {frozen[1]:.3g} at step {self.done.step} of "
                f"{self.done.n_steps}, where its unit never turns: lower learning_rate or raise n_sweeps"
            )

    def _look(self, row: Row) -> bool:
        """Have the first process add the monitored figures to its row; return whether to stop, to all."""
        stop = False
        if rank() == 0:
            assert self.monitor is not None
            shown = self.model
            if self.stopping is not None:
                shown = copy.deepcopy(self.model)
                self._export(shown)
            row |= self.monitor(shown, self.done.state)
            stop = self.stopping is not None and self.stopping.see(row, shown)
        return stop if self.stopping is None else self._agreed(stop)

    def _agreed(self, stop: bool) -> bool:
        """Return what the first process says."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return stop
        told = torch.tensor(float(stop), device=next(self.model.parameters()).device)
        torch.distributed.broadcast(told, 0)
        return bool(told)

    def _export(self, model: Any) -> None:
        if hasattr(self.learner, "export"):
            self.learner.export(model, self.done.state)

    def end(self) -> list[Row]:
        """Give the model the parameters to be kept; return the curve."""
        if self.stopping is not None and self.stopping.best:
            self.stopping.put_back(self.model)
        else:
            self._export(self.model)
        return self.curve.rows

    def last_good(self) -> str:
        """Keep the parameters before the step that failed; return where, as the end of a message.

        Nothing is kept of a learner that has changed them before it saw that it failed.
        """
        if self._frozen() is not None:
            return f"; what it was at its last checkpoint is in {self.folder}" if self.folder.exists() else ""
        finite = all(bool(tensor.isfinite().all()) for tensor in self.model.state_dict().values())
        if self.done.step == 0 or rank() > 0 or not finite:
            return ""
        folder = self.folder.with_name(f"{self.name}-diverged")
        self._save(folder)
        return f"; the last good state, of step {self.done.step}, is in {folder}"

    def _save(self, folder: Path) -> None:
        with new_folder(folder) as temporary:
            save_tensors(temporary / "model.safetensors", self.model.state_dict())
            save_tensors(temporary / "learner.safetensors", checkpoint(self.learner, self.done))
            for part, each in self.resumed.items():
                save_tensors(temporary / f"{part}.safetensors", each.tensors())
            write_json(temporary / "curve.json", self.curve.to_dict())
            write_json(temporary / "sha256.json", _digests(temporary))
            if folder == self.folder and folder.exists():
                # Whenever this process ends, one of both is there and whole.
                shutil.rmtree(self.before, ignore_errors=True)
                os.replace(folder, self.before)

    def resume(self) -> dict[str, Tensor] | None:
        """Go on from the last checkpoint that is whole, if there is one; return what `fit` starts from."""
        there = [folder for folder in (self.folder, self.before) if folder.exists()]
        whole = [folder for folder in there if _is_whole(folder)]
        if there and whole[:1] != there[:1] and rank() == 0:
            told = f"this checkpoint is damaged: going on from {'the one before' if whole else 'the start'}"
            print(f"genmodels: {there[0]}: {told}", file=sys.stderr)
        if not whole:
            return None
        folder = whole[0]
        self.model.load_state_dict(load_tensors(folder / "model.safetensors"))
        for part, each in self.resumed.items():
            each.restore(load_tensors(folder / f"{part}.safetensors"))
        self.curve.restore(read_json(folder / "curve.json"))
        return load_tensors(folder / "learner.safetensors")


def _digests(folder: Path) -> dict[str, str]:
    """Return the digests of a checkpoint's files, by name."""
    return {path.name: sha256(path) for path in folder.iterdir() if path.name != "sha256.json"}


def _is_whole(folder: Path) -> bool:
    try:
        return bool(read_json(folder / "sha256.json") == _digests(folder))
    except InputError:
        return False
