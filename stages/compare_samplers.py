"""All methods on all instances side by side: ground states, log Z and how well they agree, times."""

import base64
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from genmodels.artifacts import new_file, read_json, write_json
from genmodels.estimate import Estimate, joint_z_score
from pipelines.stage import Stage, costs_so_far, main
from stages.comparison import figures
from stages.comparison.figures import words

Row = dict[str, Any]
EXACT = "exact"


def work(stage: Stage) -> None:
    """Write out/<pipeline>/compare_samplers: table.json, overview.png, report.html; beside them times.png."""
    out = stage.out / "compare_samplers"
    instances = read_json(stage.out / "prepare_couplings" / "instances.json")
    methods = stage.params.sample_couplings.methods()
    found = {method: read_json(stage.out / "sample_couplings" / f"{method}.json") for method in methods}
    answers = {name: {method: found[method][name] for method in methods} for name in instances}
    rows = [row for name in instances for row in _rows(name, instances[name]["exact"], answers[name])]
    agreement = [pair for name in instances for pair in _agreement(name, rows)]
    write_json(out / "table.json", {"rows": rows, "agreement": agreement})
    figures.overview(instances, answers, out / "overview.png")
    seconds = _seconds(methods, list(instances))
    figures.times(seconds, methods, out / "times.png")  # no output: the clock is not reproducible
    with new_file(out / "report.html") as path:
        path.write_text(_page(stage, instances, answers, agreement))
    for picture in ("overview.png", "times.png"):
        stage.run.picture(out / picture)
    stage.run.file(out / "report.html", "report")


def _rows(name: str, exact: Mapping[str, Row], answers: Mapping[str, Any]) -> list[Row]:
    """Return an Estimate a row: "best_energy.<method>" and "log_z.<method>", what is exact first."""
    of = {EXACT: exact, **answers}
    return [
        {"model": name, "name": f"{quantity}.{method}"} | Estimate.from_dict(entries[quantity]).to_dict()
        for method, entries in of.items()
        for quantity in ("best_energy", "log_z")
        if quantity in entries
    ]


def _agreement(name: str, rows: list[Row]) -> list[Row]:
    """Return how many joint standard errors the methods' log Z of an instance lie apart, pair by pair."""
    known = {
        row["name"].removeprefix("log_z."): Estimate.from_dict(row)
        for row in rows
        if row["model"] == name and row["name"].startswith("log_z.") and row["value"] is not None
    }
    return [
        {"model": name, "one": one, "other": other, "z": joint_z_score(known[one], known[other])}
        for one, other in itertools.combinations(known, 2)
        if math.hypot(known[one].stderr or 0.0, known[other].stderr or 0.0) > 0.0
    ]


def _seconds(methods: list[str], instances: list[str]) -> dict[str, dict[str, float]]:
    """Return the seconds of each instance and method that this machine has measured."""
    costs = costs_so_far()
    return {
        name: {
            method: costs[key] for method in methods if (key := f"sample_couplings@{method}/{name}") in costs
        }
        for name in instances
    }


def _page(
    stage: Stage, instances: Mapping[str, Any], answers: Mapping[str, Any], agreement: list[Row]
) -> str:
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "comparison"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("page.html")
    picture = (stage.out / "compare_samplers" / "overview.png").read_bytes()
    shown = [
        dict(instance)
        | {"title": words(name), "kind": words(instance["kind"])}
        | {"rows": _lines(name, instance, answers[name], agreement)}
        for name, instance in instances.items()
    ]
    return template.render(
        budget=stage.params.sample_couplings.budget,
        overview="data:image/png;base64," + base64.b64encode(picture).decode(),
        instances=shown,
    )


def _lines(name: str, instance: Row, answers: Mapping[str, Row], agreement: list[Row]) -> list[Row]:
    n, exact = instance["n_sites"], instance["exact"]
    lines = [_line(EXACT, exact, n, "")] if exact else []
    for method, answer in answers.items():
        mine = [
            pair for pair in agreement if pair["model"] == name and method in (pair["one"], pair["other"])
        ]
        true = [pair for pair in mine if pair["one"] == EXACT]
        apart = max((pair["z"] for pair in true or mine), default=None)
        lines.append(_line(method, answer, n, "" if apart is None else f"{apart:.1f}"))
    return lines


def _line(method: str, entries: Row, n: int, distance: str) -> Row:
    """Return the cells of a line of the table; of what is exact there may be less."""
    energy = entries["best_energy"]["value"] if "best_energy" in entries else None
    log_z = Estimate.from_dict(entries["log_z"]) if "log_z" in entries else None
    value = None if log_z is None else log_z.value
    return {
        "method": words(method),
        "exact": method == EXACT,
        "energy": "" if energy is None else f"{energy:.4f}",
        "per_spin": "" if energy is None else f"{energy / n:.4f}",
        "log_z": "" if log_z is None else "not determined" if value is None else f"{value:.3f}",
        "stderr": "" if value is None or not log_z.stderr else f"{log_z.stderr:.2g}",
        "distance": distance,
        "how": "" if log_z is None else log_z.method if value is not None else log_z.reason,
        "updates": f"{entries['n_updates'] / n:.0f}" if "n_updates" in entries else "",
    }


if __name__ == "__main__":
    main("compare_samplers", work)
