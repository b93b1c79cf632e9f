"""All learning rules on known distributions side by side: the divergence while they learn, on one page."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from genmodels.artifacts import new_file, read_json, write_json
from genmodels.estimate import Estimate
from pipelines.stage import Stage, main
from stages.rules import figures
from stages.rules.figures import Curves, words


def work(stage: Stage) -> None:
    """Write out/<pipeline>/compare_rules: table.json, divergence.png and report.html."""
    out = stage.out / "compare_rules"
    names = stage.params.learn_rules.rules()
    rules = {name: read_json(stage.out / "learn_rules" / f"{name}.json") for name in names}
    figures.divergence(rules, out / "divergence.png")
    rows = [row for name, curves in rules.items() for row in _rows(name, curves)]
    write_json(out / "table.json", {"rows": rows})
    with new_file(out / "report.html") as path:
        path.write_text(_page(stage, rows))
    stage.run.picture(out / "divergence.png")
    stage.run.file(out / "report.html", "report")


def _rows(rule: str, curves: Curves) -> list[dict[str, Any]]:
    """Return an Estimate a row: the least D(P‖q) and the last, of each distribution."""
    rows = []
    for target, points in curves.items():
        known = [point for point in points if point["value"] is not None]
        best = min(known, key=lambda point: float(point["value"]))
        for name, point in {"best": best, "last": points[-1]}.items():
            estimate = Estimate.from_dict(dict(point)).to_dict()
            rows.append({"model": rule, "name": f"kl.{target}.{name}", "step": point["step"]} | estimate)
    return rows


def _page(stage: Stage, rows: list[dict[str, Any]]) -> str:
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "rules"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("page.html")
    settings = stage.params.learn_rules
    picture = (stage.out / "compare_rules" / "divergence.png").read_bytes()
    return template.render(
        n_hidden=settings.n_hidden,
        height=settings.size[0],
        width=settings.size[1],
        n_states=f"{2 ** (settings.size[0] * settings.size[1]):,}",
        steps=settings.steps,
        picture="data:image/png;base64," + base64.b64encode(picture).decode(),
        rows=[_cells(best, last) for best, last in zip(rows[::2], rows[1::2], strict=True)],
    )


def _cells(best: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, str]:
    return {
        "rule": words(best["model"]),
        "target": words(best["name"].split(".")[1]),
        "best": f"{best['value']:.3f}",
        "step": f"{best['step']}",
        "last": "infinite" if last["value"] is None else f"{last['value']:.3f}",
    }


if __name__ == "__main__":
    main("compare_rules", work)
