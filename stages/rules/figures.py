"""The figure of learning rules compared, as a PNG file with the same bytes for the same numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from stages.palette import line, save

Curves = Mapping[str, Sequence[Mapping[str, Any]]]  # of one rule, by distribution


def words(name: str) -> str:
    """Return a name of the params.yaml in words."""
    return name.replace("_", " ")


def divergence(rules: Mapping[str, Curves], path: Path) -> None:
    """Draw the exact D(P‖q) over the steps of learning, a panel a distribution and a line a rule."""
    targets = list(next(iter(rules.values())))
    figure, axes = plt.subplots(1, len(targets), figsize=(6.2 * len(targets), 4.4), squeeze=False)
    for target, panel in zip(targets, axes[0], strict=True):
        for number, (rule, curves) in enumerate(rules.items()):
            points = [point for point in curves[target] if point["value"] is not None]
            steps, values = [point["step"] for point in points], [point["value"] for point in points]
            best = min(points, key=lambda point: float(point["value"]))
            style = line(number)
            panel.loglog(steps, values, label=words(rule), linewidth=1.4, **style)
            panel.plot(best["step"], best["value"], marker="o", markersize=5, color=style["color"])
        panel.set_title(words(target), fontsize=11)
        panel.set_xlabel("steps of learning")
        panel.set_ylabel("D(P‖q), nats")
        panel.grid(alpha=0.3, which="both", linewidth=0.5)
    axes[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    save(figure, path)
