"""The comparison's figures, as PNG files with the same bytes for the same numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from genmodels.estimate import Estimate
from stages.palette import COLOURS, save

Answers = Mapping[str, Any]  # of one method, or what is exact, for one instance
_EXACT = "#222222"


def words(name: str) -> str:
    """Return a name of the params.yaml in words."""
    return name.replace("_", " ")


def overview(
    instances: Mapping[str, Any], answers: Mapping[str, Mapping[str, Answers]], path: Path
) -> None:
    """Draw a line of panels an instance: lowest energies, log Z with errors, mean energies over β.

    Args:
        instances: What is known of each.
        answers: Of every instance, of every method.
        path: The PNG.
    """
    figure, axes = plt.subplots(len(instances), 3, figsize=(13, 2.7 * len(instances)), squeeze=False)
    for (name, instance), line in zip(instances.items(), axes, strict=True):
        n, exact = instance["n_sites"], instance["exact"]
        line[0].set_title(f"{words(name)}, {n} spins", loc="left", fontsize=10, fontweight="bold")
        _lowest(line[0], n, exact, answers[name])
        _log_z(line[1], exact, answers[name], instance["beta_max"])
        _energies(line[2], n, answers[name], instance["beta_max"])
    axes[0, 2].legend(fontsize=7)
    figure.tight_layout()
    save(figure, path)


def _lowest(axes: Axes, n: int, exact: Answers, methods: Mapping[str, Answers]) -> None:
    energies = {method: answer["best_energy"]["value"] for method, answer in methods.items()}
    best = min([*energies.values(), *([exact["best_energy"]["value"]] if "best_energy" in exact else [])])
    _named(axes, methods)
    for index, energy in enumerate(energies.values()):
        axes.barh(index, (energy - best) / n, color=COLOURS[index], height=0.6)
        axes.text((energy - best) / n, index, f" {energy / n:.4f}", va="center", fontsize=8)
    known = "the ground state's" if "best_energy" in exact else "the lowest of all"
    axes.set_xlabel(f"lowest energy per spin, above {known} {best / n:.4f}", fontsize=8)
    axes.set_xlim(0.0, max(1e-3, 1.35 * (max(energies.values()) - best) / n))


def _log_z(axes: Axes, exact: Answers, methods: Mapping[str, Answers], beta: float) -> None:
    given = {method: Estimate.from_dict(answer["log_z"]) for method, answer in methods.items()}
    known = [estimate for estimate in given.values() if estimate.value is not None and estimate.stderr]
    centre, of = 0.0, ""
    if "log_z" in exact:
        centre, of = exact["log_z"]["value"], "the exact"
    elif known:
        best = min(known, key=lambda estimate: estimate.stderr or 0.0)
        centre, of = best.value or 0.0, f"{best.method}:"
    axes.axvline(0.0, color=_EXACT, linewidth=0.8)
    _named(axes, methods)
    for index, estimate in enumerate(given.values()):
        if estimate.value is None:
            axes.text(0.5, index, "not determined", transform=axes.get_yaxis_transform(), ha="center",
                      va="center", fontsize=8, color="#888888")  # fmt: skip
        else:
            apart = estimate.value - centre
            axes.errorbar(apart, index, xerr=estimate.stderr, fmt="o", capsize=3, color=COLOURS[index])
    axes.set_xlabel(f"log Z at β = {beta:g}, less {of} {centre:.3f}, nats", fontsize=8)
    axes.set_yticklabels([])


def _energies(axes: Axes, n: int, methods: Mapping[str, Answers], beta_max: float) -> None:
    for index, (method, answer) in enumerate(methods.items()):
        points = [(point["beta"], point["value"] / n) for point in answer["energies"]]
        if points:
            # Where methods agree, each shows through the gaps of the next.
            dashes = (0, (6, index)) if index else "solid"
            axes.plot(*zip(*points, strict=True), color=COLOURS[index], label=words(method), linestyle=dashes)
    axes.set_xlim(0.0, 1.05 * beta_max)
    axes.set_xlabel("β", fontsize=8)
    axes.set_ylabel("mean energy per spin", fontsize=8)
    axes.grid(alpha=0.3)


def times(seconds: Mapping[str, Mapping[str, float]], methods: Sequence[str], path: Path) -> None:
    """Draw the seconds that each method took on each instance."""
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.45 * len(seconds) * max(1, len(methods)) / 2))
    height = 0.8 / max(1, len(methods))
    for index, method in enumerate(methods):
        places = [line + index * height for line in range(len(seconds))]
        lengths = [of.get(method, 0.0) for of in seconds.values()]
        axes.barh(places, lengths, height, label=words(method), color=COLOURS[index])
    middles = [line + 0.4 - height / 2 for line in range(len(seconds))]
    axes.set_yticks(middles, [words(name) for name in seconds])
    axes.set_xlabel("seconds, on the machine that ran it")
    axes.invert_yaxis()
    axes.legend(fontsize=7)
    save(figure, path)


def _named(axes: Axes, methods: Mapping[str, Answers]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks(range(len(methods)), [words(method) for method in methods], fontsize=8)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
