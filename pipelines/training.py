"""A training as a stage runs it: resumed from its checkpoint, with a bar, a curve and tracked metrics."""

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
    monitor: Callable[[Any], Row] | None = None,
) -> list[Row]:
    """Train `model` in place, from the checkpoint `name` in the scratch if there is one; return the curve.

    It ends early where the learner's metric `converged` is 1. Of several processes the first writes.

    Args:
        stage: The stage that trains.
        name: Of the checkpoint, and in front of the tracked metrics' names.
        model: The model, with its first parameters.
        learner: The learning rule.
        batches: The data of each step.
        key: The stream of the training.
        n_steps: Steps at most.
        monitor: Held-out figures of the model, added to every tenth of the curve.
    """
    folder, curve = stage.scratch / name, Curve(n_steps)
    start = _resume(folder, model, curve)
    with progress.bar(f"{stage.name} {name}".strip()) as report:
        last = time.monotonic()
        for done in fit(model, learner, batches, key, n_steps, start):
            row = curve.add(done)
            if row is not None:
                if monitor is not None and (len(curve.rows) % _MONITOR_EVERY == 0 or done.step == n_steps):
                    row |= monitor(model)
                stage.run.metrics({f"{name}/{metric}": value for metric, value in row.items()}, done.step)
                report(done.step, n_steps, **{metric: row[metric] for metric in list(row)[1:3]})
            if done.metrics.get("converged"):
                break
            if rank() == 0 and done.step < n_steps and time.monotonic() - last > _CHECKPOINT_EVERY:
                _save(folder, model, learner, done, curve)
                last = time.monotonic()
    if hasattr(learner, "export"):
        learner.export(model, done.state)
    return curve.rows


def _save(folder: Path, model: Any, learner: Learner[Any], done: Progress, curve: Curve) -> None:
    with new_folder(folder) as temporary:
        save_tensors(temporary / "model.safetensors", model.state_dict())
        save_tensors(temporary / "learner.safetensors", checkpoint(learner, done))
        write_json(temporary / "curve.json", curve.to_dict())


def _resume(folder: Path, model: Any, curve: Curve) -> dict[str, Tensor] | None:
    if not folder.exists():
        return None
    model.load_state_dict(load_tensors(folder / "model.safetensors"))
    curve.restore(read_json(folder / "curve.json"))
    return load_tensors(folder / "learner.safetensors")


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
