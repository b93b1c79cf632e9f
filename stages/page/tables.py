"""The cells of the page's tables."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from genmodels.estimate import Estimate, joint_z_score
from stages.page.names import QUALITIES, TRACKS, YARDSTICKS, title

Row = Mapping[str, Any]
DIVERGENCES = {"kl": "D(P‖q)", "reverse_kl": "D(q‖P)", "mass_on_support": "q(supp P)"}
RECOGNISED = {"recognised": "shows the class asked for", "classifier": "the classifier on real images"}
_WIDTH, _HEIGHT = 130, 14  # of a bar, in CSS pixels


def likelihoods(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the cells of ranked rows, each with its value and error drawn."""
    main = [row for row in rows if "." not in row["name"] and row["value"] is not None]
    ends = [row["value"] + side * 2.0 * (row["stderr"] or 0.0) for row in main for side in (-1, 1)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    return [cells(row) | {"bar": _bar(row, low, high)} for row in rows]


def cells(row: Row) -> dict[str, Any]:
    """Return what a row's cells say."""
    quantity, _, route = row["name"].partition(".")
    words = route.replace("_", " ")
    further = bool(route) and quantity in TRACKS
    return {
        "title": title(row["model"]) + (f", {words}" if further else ""),
        "quantity": f"{(DIVERGENCES | RECOGNISED).get(quantity, '')} {words}".strip(),
        "further": further,
        "value": "not determined" if row["value"] is None else f"{row['value']:.3f}".replace("-", "−"),
        "stderr_images": _error(row["stderr_images"]),
        "stderr_estimator": _error(row["stderr_estimator"]),
        "kind": row["kind"],
        "method": row["method"] if row["value"] is not None else row["reason"],
    }


def _bar(row: Row, low: float, high: float) -> str:
    """Return a value with two standard errors each way, drawn on the scale of all models; empty if off it."""
    value, stderr = row["value"], row["stderr"] or 0.0
    if value is None or high <= low or not low <= value <= high:
        return ""
    left, middle, right = (
        6 + (_WIDTH - 12) * (min(max(at, low), high) - low) / (high - low)
        for at in (value - 2.0 * stderr, value, value + 2.0 * stderr)
    )
    y, said = _HEIGHT / 2, f"{value:.3f} ± {stderr:.2g}"
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{said}">'
        f'<line x1="0" x2="{_WIDTH}" y1="{y}" y2="{y}" stroke="#ddd"/>'
        f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}" stroke="#0072b2" stroke-width="3"/>'
        f'<circle cx="{middle:.1f}" cy="{y}" r="4" fill="#0072b2"/></svg>'
    )


def _error(value: float | None) -> str:
    return "" if not value else f"{value:.2g}"


def quality(rows: Sequence[Row], order: Sequence[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the measures there are, and a line a model: ranked as its likelihood is, real images last."""
    names = [name for name in QUALITIES if any(row["name"] == name for row in rows)]
    by_name = {(row["model"], row["name"]): row for row in rows}
    lines = []
    for model in (*order, *YARDSTICKS):
        mine = [by_name.get((model, name)) for name in names]
        if any(mine):
            said = [_short(row) for row in mine]
            lines.append({"title": title(model), "numbers": said, "yardstick": model in YARDSTICKS})
    return names, lines


def _short(row: Row | None) -> str:
    if row is None:
        return ""
    return "not determined" if row["value"] is None else f"{row['value']:.3g} ± {row['stderr'] or 0.0:.1g}"


def agreement(rows: Sequence[Row]) -> str:
    """Return a sentence on how far the routes to one log Z lie apart."""
    known = [row for row in rows if row["name"].startswith("log_z") and row["value"] is not None]
    pairs = [
        f"{title(a['model'])}, {_route(a)} and {_route(b)}: "
        f"{joint_z_score(Estimate.from_dict(dict(a)), Estimate.from_dict(dict(b))):.1f}"
        for a, b in combinations(known, 2)
        if a["model"] == b["model"]
    ]
    if not pairs:
        return ""
    return (
        "Distance in joint standard errors, of which more than 3, or more than ½ nat, would leave log Z "
        "undetermined. " + "; ".join(pairs) + "."
    )


def _route(row: Row) -> str:
    return str(row["name"].removeprefix("log_z.").replace("_", " "))
