"""The report's figures, as PNG files with the same bytes for the same numbers."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from stages.page.names import QUALITIES, TRACKS, YARDSTICKS, title
from stages.palette import BLACK, BLUE, DASHES, GREEN, PURPLE, VERMILION, line, save

MARKERS = {"exact": "o", "estimate": "s", "lower": ">", "upper": "<"}
COLOURS = {"exact": BLUE, "estimate": VERMILION, "lower": GREEN, "upper": PURPLE}
SHOWN = 14  # pictures of a model, at most
_A_ROW = 3  # panels of curves: labels of more of them would be too small to read
Row = Mapping[str, Any]


def likelihood(tracks: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draw every likelihood with its error, a panel a track of `TRACKS`: binary and grey share no axis.

    The best model is at the top. The marker tells the kind, small ones are further routes.
    """
    heights = [1.3 + 0.42 * len({row["model"] for row in rows}) for rows in tracks.values()]
    figure, panels = plt.subplots(
        len(tracks), 1, figsize=(8, sum(heights)), squeeze=False, height_ratios=heights
    )
    for (quantity, rows), axes in zip(tracks.items(), panels[:, 0], strict=True):
        _likelihoods(axes, rows)
        axes.set_xlabel(TRACKS[quantity].axis)
    figure.tight_layout()
    save(figure, path)


def _likelihoods(axes: Axes, rows: Sequence[Row]) -> None:
    models = list(dict.fromkeys(row["model"] for row in rows))
    seen: set[str] = set()
    low, high = _span(rows)
    axes.set_xlim(low, high)
    for row in rows:
        main, kind = "." not in row["name"], row["kind"]
        y = len(models) - 1 - models.index(row["model"]) - (0.0 if main else 0.28)
        if row["value"] is None:
            if main:
                axes.text(0.02, y, "not determined", transform=axes.get_yaxis_transform(), va="center")
            continue
        if not low < row["value"] < high:  # a further route that is far off would press all others together
            left = row["value"] <= low
            said, side = (f"◂ {row['value']:.1f}", "left") if left else (f"{row['value']:.1f} ▸", "right")
            axes.text(0.01 if left else 0.99, y, said.replace("-", "−"), fontsize=8, color=COLOURS[kind],
                      ha=side, va="center", transform=axes.get_yaxis_transform())  # fmt: skip
            continue
        axes.errorbar(
            row["value"], y, xerr=row["stderr"], fmt=MARKERS[kind], color=COLOURS[kind], capsize=2,
            markersize=8 if main else 4, alpha=1.0 if main else 0.6, label=None if kind in seen else kind,
        )  # fmt: skip
        seen.add(kind)
    axes.set_yticks(range(len(models)), [title(model) for model in reversed(models)])
    axes.set_ylim(-0.6, len(models) - 0.4)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="best")


def _span(rows: Sequence[Row]) -> tuple[float, float]:
    """Return where the axis ends: a little beyond the models' own numbers, further routes aside."""
    main = [row for row in rows if "." not in row["name"] and row["value"] is not None]
    ends = [row["value"] + side * 3.0 * (row["stderr"] or 0.0) for row in main for side in (-1, 1)]
    if not ends:
        return 0.0, 1.0
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def samples(rows: Sequence[tuple[str, np.ndarray]], shape: Sequence[int], path: Path) -> None:
    """Draw one row of pictures a model, the data first  # arrays (picture, site) in [0, 1]."""
    height, width = shape[0], shape[1]
    size = (SHOWN * 0.62, len(rows) * 0.66)
    figure, axes = plt.subplots(len(rows), SHOWN, figsize=size, squeeze=False)
    for (name, pixels), cells in zip(rows, axes, strict=True):
        for index, cell in enumerate(cells):
            cell.axis("off")
            if index < len(pixels):
                cell.imshow(pixels[index].reshape(height, width), cmap="gray", vmin=0.0, vmax=1.0)
        cells[0].text(-0.25, 0.5, name, transform=cells[0].transAxes, ha="right", va="center", fontsize=10)
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    save(figure, path)


def curves(files: Mapping[str, Path], path: Path) -> None:
    """Draw what was recorded while each model was trained, one panel a model, three a row."""
    figure, panels = _panels(len(files))
    for (model, file), panel in zip(files.items(), panels, strict=True):
        rows = list(csv.DictReader(file.open()))
        starts = list(dict.fromkeys(row.get("start", "") for row in rows))
        number = 0
        for start in starts:
            mine = [row for row in rows if row.get("start", "") == start]
            for metric in _shown(mine):
                points = [(float(row["step"]), float(row[metric])) for row in mine if row[metric]]
                label = metric.replace("_", " ") if len(starts) == 1 else f"start {start}"
                panel.plot(*zip(*points, strict=True), label=label, linewidth=1.4, **line(number))
                number += 1
        panel.set_title(title(model), fontsize=11)
        panel.set_xlabel("step")
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(5))
    figure.tight_layout()
    save(figure, path)


def _panels(n: int) -> tuple[Any, list[Axes]]:
    """Return a figure of n panels, three a row."""
    lines = max(1, math.ceil(n / _A_ROW))
    figure, axes = plt.subplots(lines, _A_ROW, figsize=(11, 3.1 * lines), squeeze=False)
    for panel in axes.flat[n:]:
        panel.axis("off")
    return figure, list(axes.flat[:n])


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
    """Draw log Z(β) beside log Z by every route with its error, one line a model."""
    figure, axes = plt.subplots(
        len(models), 2, figsize=(11, 3.0 * len(models)), squeeze=False, width_ratios=(1.0, 1.1)
    )
    for (model, known), (left, right) in zip(models.items(), axes, strict=True):
        _path(left, known.curves)
        left.set_title(title(model), fontsize=11)
        _routes(right, known.rows)
    figure.tight_layout(w_pad=2.5)
    save(figure, path)


def _path(panel: Axes, curves: Mapping[str, Sequence[Row]]) -> None:
    for number, (name, points) in enumerate(curves.items()):
        beta, value, stderr = (
            np.array([point[key] for point in points]) for key in ("beta", "value", "stderr")
        )
        # Where routes agree, each shows through the gaps of the next.
        style = line(number) | {"linestyle": DASHES[number % len(DASHES)]}
        label = name.replace("_", " ")
        panel.errorbar(beta, value, yerr=stderr, label=label, linewidth=1.8, capsize=1, **style)
    panel.set_xlabel("β")
    panel.set_ylabel("log Z(β), nats")
    panel.legend(fontsize=8)


def _routes(panel: Axes, rows: Sequence[Row]) -> None:
    """Draw each route's distance from the first known one, whose value is in the axis' label."""
    known = [row for row in rows if row["value"] is not None]
    centre = known[0]["value"] if known else 0.0
    for index, row in enumerate(rows):
        if row["value"] is None:
            panel.text(0.5, index, "not determined", transform=panel.get_yaxis_transform(), ha="center")
            continue
        panel.errorbar(
            row["value"] - centre, index, xerr=row["stderr"], fmt=MARKERS[row["kind"]],
            color=COLOURS[row["kind"]], capsize=3,
        )  # fmt: skip
    panel.axvline(0.0, color=BLACK, linewidth=0.8, alpha=0.6)
    names = [row["name"].removeprefix("log_z.").replace("_", " ") for row in rows]
    panel.set_yticks(range(len(rows)), names)
    panel.set_ylim(-0.5, len(rows) - 0.5)
    panel.set_xlabel(f"log Z at β = 1, less {centre:.2f}, nats")
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.grid(axis="x", alpha=0.3)


def quality(rows: Sequence[Row], path: Path) -> None:
    """Draw every measure of samples with its error, a panel a measure; lines are what real images have."""
    names = [name for name in QUALITIES if any(row["name"] == name for row in rows)]
    models = list(dict.fromkeys(row["model"] for row in rows if row["model"] not in YARDSTICKS))
    figure, panels = _panels(len(names))
    for name, panel in zip(names, panels, strict=True):
        mine = {row["model"]: row for row in rows if row["name"] == name and row["value"] is not None}
        for model, row in mine.items():
            if model in models:
                y = len(models) - 1 - models.index(model)
                panel.errorbar(row["value"], y, xerr=row["stderr"], fmt="o", color=BLUE, capsize=2)
        for number, yardstick in enumerate(YARDSTICKS):
            if yardstick in mine:
                style = line(number + 1) | {"linestyle": ("solid", "dotted")[number]}
                panel.axvline(mine[yardstick]["value"], label=title(yardstick), linewidth=1.4, **style)
        panel.set_title(QUALITIES[name].title, fontsize=10)
        panel.set_yticks(range(len(models)), [title(model) for model in reversed(models)], fontsize=8)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.grid(axis="x", alpha=0.3)
    if panels:
        figure.legend(*panels[0].get_legend_handles_labels(), fontsize=10, loc="lower right")
    figure.tight_layout()
    save(figure, path)


def divergence(files: Mapping[str, Path], entropy: float, path: Path) -> bool:
    """Draw D(P‖q) = −H(P) − ⟨log q⟩_P over the steps of learning, ⟨⟩_P over validation images, which P drew.

    Of a lower bound on log q it is an upper bound, drawn dashed. Returns whether there was anything to draw.
    """
    figure, panel = plt.subplots(figsize=(8, 4.2))
    number = 0
    for model, file in files.items():
        rows = list(csv.DictReader(file.open()))
        for metric, dashes in (("log_likelihood_validation", "solid"), ("elbo_validation", "dashed")):
            points = [(float(row["step"]), -entropy - float(row[metric])) for row in rows if row.get(metric)]
            points = [(step, value) for step, value in points if step > 0]
            if points:
                style = line(number) | {"linestyle": dashes}
                panel.plot(*zip(*points, strict=True), label=title(model), linewidth=1.4, **style)
                number += 1
    panel.set_xscale("log")
    panel.set_xlabel("step of learning")
    panel.set_ylabel("D(P‖q), nats (dashed: at most)")
    panel.grid(alpha=0.3)
    if number:
        panel.legend(fontsize=9)
        save(figure, path)
    plt.close(figure)
    return number > 0
