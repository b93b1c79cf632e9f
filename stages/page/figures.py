"""The report's figures, as PNG files with the same bytes for the same numbers."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genmodels.artifacts import new_file
from stages.page.names import TRACKS, title

MARKERS = {"exact": "o", "estimate": "s", "lower": ">", "upper": "<"}
COLOURS = {"exact": "#1b6ca8", "estimate": "#b5651d", "lower": "#2e7d32", "upper": "#8e24aa"}
Row = Mapping[str, Any]


def save(figure: Figure, path: Path) -> None:
    """Write a figure without the metadata that would tell releases apart, atomically."""
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def likelihood(tracks: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draw every likelihood with its error, a panel a track of `TRACKS`: binary and grey share no axis.

    The marker tells the kind, small ones are further routes.
    """
    figure, panels = plt.subplots(len(tracks), 1, figsize=(8, 4.2 * len(tracks)), squeeze=False)
    for (quantity, rows), axes in zip(tracks.items(), panels[:, 0], strict=True):
        _likelihoods(axes, [row for row in rows if row["value"] is not None])
        axes.set_xlabel(TRACKS[quantity].axis)
    figure.tight_layout()
    save(figure, path)


def _likelihoods(axes: Axes, rows: Sequence[Row]) -> None:
    models = list(dict.fromkeys(row["model"] for row in rows))
    seen: set[str] = set()
    for row in rows:
        main, kind = "." not in row["name"], row["kind"]
        y = len(models) - 1 - models.index(row["model"]) - (0.0 if main else 0.28)
        axes.errorbar(
            row["value"], y, xerr=row["stderr"], fmt=MARKERS[kind], color=COLOURS[kind], capsize=2,
            markersize=8 if main else 4, alpha=1.0 if main else 0.6, label=None if kind in seen else kind,
        )  # fmt: skip
        seen.add(kind)
    axes.set_yticks(range(len(models)), [title(model) for model in reversed(models)])
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="best")


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
        ["log_likelihood_train", "log_likelihood_validation"],
        ["moment_mismatch", "gradient_norm"],
    ):
        if wanted[0] in rows[0]:
            return wanted
    return [name for name in rows[0] if name not in ("step", "start")][:2]


class LogZ(NamedTuple):
    """log Z of a model by every route, and the whole path of those that give it."""

    rows: Sequence[Row]
    curves: Mapping[str, Sequence[Row]]


def log_z(models: Mapping[str, LogZ], path: Path) -> None:
    """Draw log Z by every route with its error beside log Z(β), one line a model."""
    figure, axes = plt.subplots(len(models), 2, figsize=(9, 3.2 * len(models)), squeeze=False)
    for (model, known), (left, right) in zip(models.items(), axes, strict=True):
        _path(left, known.curves)
        left.set_title(title(model), fontsize=10)
        _routes(right, [row for row in known.rows if row["value"] is not None])
    figure.tight_layout()
    save(figure, path)


def _path(panel: Axes, curves: Mapping[str, Sequence[Row]]) -> None:
    for name, points in curves.items():
        beta, value, stderr = (
            np.array([point[key] for point in points]) for key in ("beta", "value", "stderr")
        )
        panel.errorbar(beta, value, yerr=stderr, label=name.replace("_", " "), linewidth=1.2, capsize=1)
    panel.set_xlabel("β")
    panel.set_ylabel("log Z(β), nats")
    panel.legend(fontsize=8)


def _routes(panel: Axes, rows: Sequence[Row]) -> None:
    for index, row in enumerate(rows):
        panel.errorbar(
            row["value"],
            index,
            xerr=row["stderr"],
            fmt=MARKERS[row["kind"]],
            color=COLOURS[row["kind"]],
            capsize=3,
        )
        if row["kind"] == "exact":
            panel.axvline(row["value"], color=COLOURS["exact"], linewidth=0.8, alpha=0.6)
    names = [row["name"].removeprefix("log_z.").replace("_", " ") for row in rows]
    panel.set_yticks(range(len(rows)), names)
    panel.set_ylim(-0.5, len(rows) - 0.5)
    panel.set_xlabel("log Z at β = 1, nats")
    panel.ticklabel_format(axis="x", useOffset=False)
    panel.grid(axis="x", alpha=0.3)
