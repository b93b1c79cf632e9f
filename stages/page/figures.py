"""The report's figures, as PNG files with the same bytes for the same numbers."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from genmodels.artifacts import new_file
from stages.page.names import title

MARKERS = {"exact": "o", "estimate": "s", "lower": ">", "upper": "<"}
COLOURS = {"exact": "#1b6ca8", "estimate": "#b5651d", "lower": "#2e7d32", "upper": "#8e24aa"}
Row = Mapping[str, Any]


def save(figure: Figure, path: Path) -> None:
    """Write a figure without the metadata that would tell releases apart, atomically."""
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def likelihood(rows: Sequence[Row], path: Path) -> None:
    """Draw every log-likelihood with its error; the marker tells the kind, small ones are further routes."""
    figure, axes = plt.subplots(figsize=(8, 4.2))
    models = list(dict.fromkeys(row["model"] for row in rows))
    seen: set[str] = set()
    for row in rows:
        if row["value"] is None or not row["name"].startswith("log_likelihood"):
            continue
        main, kind = row["name"] == "log_likelihood", row["kind"]
        y = len(models) - 1 - models.index(row["model"]) - (0.0 if main else 0.28)
        axes.errorbar(
            row["value"], y, xerr=row["stderr"], fmt=MARKERS[kind], color=COLOURS[kind], capsize=2,
            markersize=8 if main else 4, alpha=1.0 if main else 0.6, label=None if kind in seen else kind,
        )  # fmt: skip
        seen.add(kind)
    axes.set_yticks(range(len(models)), [title(model) for model in reversed(models)])
    axes.set_xlabel("held-out log-likelihood, nats per image (right is better; ▸ at least this good)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower left")
    save(figure, path)


def samples(
    rows: Sequence[tuple[str, np.ndarray]], shape: Sequence[int], path: Path, columns: int = 14
) -> None:
    """Draw one row of pictures a model, the data first  # arrays (picture, site) in [0, 1]."""
    height, width = shape[0], shape[1]
    figure, axes = plt.subplots(len(rows), columns, figsize=(columns * 0.62, len(rows) * 0.66), squeeze=False)
    for (name, pixels), line in zip(rows, axes, strict=True):
        for index, cell in enumerate(line):
            cell.axis("off")
            if index < len(pixels):
                cell.imshow(pixels[index].reshape(height, width), cmap="gray", vmin=0.0, vmax=1.0)
        line[0].text(-0.25, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    save(figure, path)


def curves(files: Mapping[str, Path], path: Path) -> None:
    """Draw what was recorded while each model was trained, one panel a model."""
    figure, axes = plt.subplots(1, len(files), figsize=(3.4 * len(files), 2.8), squeeze=False)
    for (model, file), panel in zip(files.items(), axes[0], strict=True):
        rows = list(csv.DictReader(file.open()))
        starts = list(dict.fromkeys(row.get("start", "") for row in rows))
        for start in starts:
            mine = [row for row in rows if row.get("start", "") == start]
            for metric in _shown(mine):
                points = [(float(row["step"]), float(row[metric])) for row in mine if row[metric]]
                label = metric.replace("_", " ") if len(starts) == 1 else f"start {start}"
                panel.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
        panel.set_title(title(model), fontsize=10)
        panel.set_xlabel("step")
        panel.legend(fontsize=7)
        panel.grid(alpha=0.3)
    save(figure, path)


def _shown(rows: Sequence[Mapping[str, str]]) -> list[str]:
    for wanted in (
        ["elbo_train", "elbo_validation"],
        ["log_likelihood"],
        ["moment_mismatch", "reconstruction_error"],
    ):
        if wanted[0] in rows[0]:
            return wanted
    return [name for name in rows[0] if name not in ("step", "start")][:2]


def log_z(rows: Sequence[Row], estimated: Mapping[str, Mapping[str, Row]], path: Path) -> None:
    """Draw a line of panels a model: log Z(β) by each method, and log Z at β = 1 by every route.

    Args:
        rows: Of the table.
        estimated: By model and method, a `curve` over β.
        path: The PNG to write; none without models.
    """
    if not estimated:
        return
    figure, axes = plt.subplots(len(estimated), 2, figsize=(9, 3.2 * len(estimated)), squeeze=False)
    for (model, methods), (left, right) in zip(estimated.items(), axes, strict=True):
        for name, method in methods.items():
            points = [point for point in method["curve"] if point["value"] is not None]
            beta, value, stderr = (
                np.array([point[key] for point in points]) for key in ("beta", "value", "stderr")
            )
            left.errorbar(beta, value, yerr=stderr, label=name.replace("_", " "), linewidth=1.2, capsize=1)
        left.set_xlabel("β")
        left.set_ylabel("log Z(β), nats")
        left.set_title(title(model), fontsize=10)
        left.legend(fontsize=8)
        _routes(right, [row for row in rows if row["model"] == model and row["name"].startswith("log_z")])
    figure.tight_layout()
    save(figure, path)


def _routes(axes: Any, rows: Sequence[Row]) -> None:
    known = [row for row in rows if row["value"] is not None]
    for index, row in enumerate(known):
        kind = row["kind"]
        style = {"fmt": MARKERS[kind], "color": COLOURS[kind], "capsize": 3}
        axes.errorbar(row["value"], index, xerr=row["stderr"], **style)
        if kind == "exact":
            axes.axvline(row["value"], color=COLOURS["exact"], linewidth=0.8, alpha=0.6)
    axes.set_yticks(
        range(len(known)), [row["name"].removeprefix("log_z.").replace("_", " ") for row in known]
    )
    axes.set_ylim(-0.5, len(known) - 0.5)
    axes.set_xlabel("log Z at β = 1, nats")
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.grid(axis="x", alpha=0.3)
