"""What a training went through: its metrics over windows of steps, as CSV in the end."""

from pathlib import Path
from typing import Any

from genmodels.artifacts import new_file
from genmodels.protocols import Progress

_POINTS = 200  # of a curve
MONITOR_EVERY = _POINTS // 10  # points, and at the last step

Row = dict[str, float]


class Curve:
    """Metrics averaged over windows of steps, one row a window; windows depend on n_steps only."""

    def __init__(self, n_steps: int) -> None:
        self.window = max(1, n_steps // _POINTS)
        self.rows: list[Row] = []
        self._sums: dict[str, tuple[float, int]] = {}  # over the steps since the last row that had the metric

    def add(self, done: Progress) -> Row | None:
        """Count one step's metrics; return the row that it completes, if any."""
        for name, value in done.metrics.items():
            total, n = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, n + 1
        if done.step % self.window and done.step != done.n_steps and not done.metrics.get("converged"):
            return None
        row = {"step": float(done.step)} | {name: total / n for name, (total, n) in self._sums.items()}
        self.rows.append(row)
        self._sums = {}
        return row

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON-ready values."""
        return {"rows": self.rows, "sums": self._sums}

    def restore(self, entries: dict[str, Any]) -> None:
        """Go on from what `to_dict` returned."""
        self.rows = entries["rows"]
        self._sums = {name: (total, n) for name, (total, n) in entries["sums"].items()}


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
