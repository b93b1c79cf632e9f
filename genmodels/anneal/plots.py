"""Pictures of a run, as PNG files with the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genmodels.anneal.answer import Answer
from genmodels.anneal.curves import Curves
from genmodels.artifacts import new_file
from genmodels.estimate import Estimate
from genmodels.samplers.population_annealing import Annealed
from genmodels.samplers.replica_exchange import Exchanged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILES = {"energy.png", "log_z.png", "swap_rates.png", "replica_flow.png", "family_entropy.png"}
_COLOUR, _OTHER = "#1b6ca8", "#b5651d"


def draw(answer: Answer, measured: Curves, folder: Path) -> None:
    """Draw what the run has measured, a file a subject."""
    betas = np.asarray(answer.result.betas)
    n = answer.file.couplings.n_sites
    panels: list[Callable[[Axes], None]] = []
    for name, label in (("energy", "⟨E⟩ per spin"), ("specific_heat", "specific heat per spin")):
        if name in measured:
            panels.append(_curve(betas, measured[name], n, label))
    if panels:
        _save(folder / "energy.png", panels)
    if answer.curve is not None:
        _save(folder / "log_z.png", [_curve(betas, answer.curve, n, "log Z per spin, nats")])
    if isinstance(answer.result, Exchanged):
        _save(folder / "swap_rates.png", [_swap_rates(answer.result)])
        _save(folder / "replica_flow.png", [_flow(answer.result)])
    if isinstance(answer.result, Annealed):
        _save(folder / "family_entropy.png", [_families(answer.result)])


def _save(path: Path, panels: Sequence[Callable[[Axes], None]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, place in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        place.set_xlabel("inverse temperature β")
        panel(place)
        place.grid(alpha=0.3)
    with new_file(path) as temporary:
        # Without the metadata that would tell releases apart.
        figure.savefig(temporary, dpi=110, metadata={"Software": None})


def _curve(betas: np.ndarray, estimates: Sequence[Estimate], n: int, label: str) -> Callable[[Axes], None]:
    def panel(axes: Axes) -> None:
        known = [(b, e.value / n, (e.stderr or 0.0) / n) for b, e in zip(betas, estimates, strict=True)
                 if e.value is not None]  # fmt: skip
        if known:
            x, y, error = np.array(known).T
            axes.errorbar(x, y, yerr=error, fmt="o-", markersize=3, linewidth=1, capsize=2, color=_COLOUR)
        axes.set_ylabel(label)

    return panel


def _swap_rates(result: Exchanged) -> Callable[[Axes], None]:
    betas = np.asarray(result.betas)

    def panel(axes: Axes) -> None:
        middles = 0.5 * (betas[1:] + betas[:-1])
        axes.plot(middles, 1.0 - np.asarray(result.rejection), "o-", markersize=3, linewidth=1, color=_COLOUR)
        axes.set_ylim(0.0, 1.0)
        axes.set_ylabel("swaps accepted")
        axes.set_title(f"barrier Λ = {float(result.rejection.sum()):.2f}", fontsize=9)

    return panel


def _families(result: Annealed) -> Callable[[Axes], None]:
    def panel(axes: Axes) -> None:
        for entropy in np.asarray(result.entropy):
            axes.plot(np.asarray(result.betas), entropy, linewidth=0.8, alpha=0.6, color=_COLOUR)
        axes.set_ylabel("family entropy, nats")
        axes.set_ylim(bottom=0.0)
        axes.set_title(f"a line a population of {result.family.shape[1]} walkers", fontsize=9)

    return panel


def _flow(result: Exchanged) -> Callable[[Axes], None]:
    def panel(axes: Axes) -> None:
        betas, flow = np.asarray(result.betas), np.asarray(result.flow)
        axes.plot(np.arange(len(betas)), flow, "o-", markersize=3, linewidth=1, color=_COLOUR)
        axes.plot([0, len(betas) - 1], [1, 0], "--", linewidth=1, color=_OTHER, label="no bottleneck")
        axes.set_xlabel("rung")
        axes.set_ylabel("share that met β = 0 last")
        axes.set_title(f"{int(result.round_trips.sum())} round trips", fontsize=9)
        axes.legend(fontsize=8)

    return panel
