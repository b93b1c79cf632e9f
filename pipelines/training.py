"""A training as a stage runs it: resumed from its checkpoint, with a bar, a curve and tracked metrics."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from genmodels.artifacts import load_tensors, new_file, new_folder, read_json, save_tensors, write_json
from genmodels.learners.fit import checkpoint, fit
from genmodels.protocols import Learner, Progress
from genmodels.streams import Key
from pipelines import progress
from pipelines.early_stopping import EarlyStopping
from pipelines.stage import Stage, rank

_CHECKPOINT_EVERY = 15.0  # seconds; how often never changes the result
_POINTS = 200  # of a curve
_MONITOR_EVERY = _POINTS // 10  # points, and at the last step

Row = dict[str, float]


class Curve:
    """Metrics averaged over windows of steps, one row a window; windows depend on n_steps only."""

    def __init__(self, n_steps: int) -> None:
        self.window = max(1, n_steps // _POINTS)
        self.rows: list[Row] = []
        self._sums: Row = {}

    def add(self, done: Progress) -> Row | None:
        """Count one step's metrics; return the row that it completes, if any."""
        for name, value in done.metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if done.step % self.window and done.step != done.n_steps and not done.metrics.get("converged"):
            return None
        n = done.step - int(self.rows[-1]["step"]) if self.rows else done.step
        row = {"step": float(done.step)} | {name: total / n for name, total in self._sums.items()}
        self.rows.append(row)
        self._sums = {}
        return row

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON-ready values."""
        return {"rows": self.rows, "sums": self._sums}

    def restore(self, entries: dict[str, Any]) -> None:
        """Go on from what `to_dict` returned."""
        self.rows, self._sums = entries["rows"], entries["sums"]


def train(
    stage: Stage,
    name: str,
    model: Any,
    learner: Learner[Any],
    batches: Callable[[int], Tensor],
    key: Key,
    n_steps: int,
    monitor: Callable[[Any, Any], Row] | None = None,
    stopping: EarlyStopping | None = None,
) -> list[Row]:
    """Train `model` in place, from the checkpoint `name` in the scratch if there is one; return the curve.

    It ends early where the learner's metric `converged` is 1, or `stopping` says so. Of several processes the
    first writes.

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

    Raises:
        FloatingPointError: the training diverged; the message says where its last good state is kept.
    """
    run = _Run(stage, name, model, learner, Curve(n_steps), monitor, stopping)
    start = run.resume()
    with progress.bar(f"{stage.name} {name}".strip()) as report:
        try:
            for done in fit(model, learner, batches, key, n_steps, start):
                if run.see(done, report):
                    break
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}{run.last_good()}") from error
    return run.end()


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
    ) -> None:
        self.stage, self.name, self.model, self.learner, self.curve = stage, name, model, learner, curve
        self.monitor, self.stopping = monitor, stopping
        self.folder, self.saved, self.done = stage.scratch / name, time.monotonic(), Progress(0, 0, {})
        parts = {"monitor": monitor, "stopping": stopping}
        self.resumed = {part: each for part, each in parts.items() if hasattr(each, "restore")}

    def see(self, done: Progress, report: Callable[..., Any]) -> bool:
        """Note a step; return whether it is to be the last."""
        self.done, stop = done, bool(done.metrics.get("converged"))
        row = self.curve.add(done)
        if row is not None:
            last = done.step == done.n_steps
            if self.monitor is not None and (len(self.curve.rows) % _MONITOR_EVERY == 0 or last):
                stop |= self._look(row)
            metrics = {f"{self.name}/{metric}": value for metric, value in row.items()}
            self.stage.run.metrics(metrics, done.step)
            report(done.step, done.n_steps, **{metric: row[metric] for metric in list(row)[1:3]})
        due = time.monotonic() - self.saved > _CHECKPOINT_EVERY
        if rank() == 0 and not stop and done.step < done.n_steps and due:
            self._save(self.folder)
            self.saved = time.monotonic()
        return stop

    def _look(self, row: Row) -> bool:
        """Add the monitored figures to a row; return whether to stop."""
        assert self.monitor is not None
        if self.stopping is None:
            row |= self.monitor(self.model, self.done.state)
            return False
        shown = copy.deepcopy(self.model)
        self._export(shown)
        row |= self.monitor(shown, self.done.state)
        return self.stopping.see(row, shown)

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
        """Keep the parameters before the step that failed; return where, as the end of a message."""
        if self.done.step == 0 or rank() > 0:
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

    def resume(self) -> dict[str, Tensor] | None:
        """Go on from the checkpoint, if there is one; return what `fit` starts from."""
        if not self.folder.exists():
            return None
        self.model.load_state_dict(load_tensors(self.folder / "model.safetensors"))
        for part, each in self.resumed.items():
            each.restore(load_tensors(self.folder / f"{part}.safetensors"))
        self.curve.restore(read_json(self.folder / "curve.json"))
        return load_tensors(self.folder / "learner.safetensors")


def write_curve(path: Path, rows: list[Row]) -> None:
    """Write a curve as CSV: one column a metric, empty where a row lacks it."""
    first = [name for name in ("start", "step") if name in rows[0]]
    columns = first + sorted({name for row in rows for name in row} - set(first))
    lines = [",".join(columns)]
    lines += [",".join(_cell(row.get(name)) for name in columns) for row in rows]
    with new_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
