"""One table of all models, its figures, and a page that carries them all."""

import base64
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from genmodels.artifacts import new_file, read_json, write_json
from genmodels.data import images
from genmodels.estimate import Estimate, joint_z_score
from pipelines.stage import Stage, main
from stages.page import figures
from stages.page.names import TRACKS, title

Row = dict[str, Any]
DIVERGENCES = {"kl": "D(P‖q)", "reverse_kl": "D(q‖P)", "mass_on_support": "q(supp P)"}
RECOGNISED = {"recognised": "shows the class asked for", "classifier": "the classifier on real images"}
_SHOWN = 14


def work(stage: Stage) -> None:
    """Write out/<pipeline>/report: table.json, report.html and the PNGs in it."""
    out = stage.out / "report"
    results = [read_json(stage.out / "evaluate" / f"{model}.json") for model in stage.models()]
    looked_at = [read_json(path) for path in sorted((stage.out / "recognise").glob("*.json"))]
    rows: list[Row] = [
        {"model": result["model"]} | row for result in results + looked_at for row in result["rows"]
    ]
    tracks = tracks_of(rows)
    figures.likelihood(tracks, out / "likelihood.png")
    prepared = images.load(stage.out / "prepare" / "images")
    levels = {result["model"]: result["data"]["levels"] for result in results}
    figures.samples(_pictures(stage, prepared, levels), prepared.shape, out / "samples.png")
    figures.curves(_curves(stage), out / "curves.png")
    chains = {path.stem: read_json(path) for path in sorted((stage.out / "estimate_log_z").glob("*.json"))}
    if chains:
        paths = {model: _log_z(model, rows, methods) for model, methods in chains.items()}
        figures.log_z(paths, out / "log_z.png")
    described = {"name": prepared.name, "shape": prepared.shape, "levels": prepared.levels}
    data = described | {"binarisation": prepared.binarisation, "split": "test"}
    write_json(out / "table.json", {"data": data, "rows": rows})
    with new_file(out / "report.html") as path:
        path.write_text(_page(stage, data, rows, tracks))
    for picture in sorted(out.glob("*.png")):
        stage.run.picture(picture)
    stage.run.file(out / "report.html", "report")


def tracks_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the likelihoods by their quantity, of binary images and of grey ones, where there are any."""
    found = {name: [row for row in rows if row["name"].partition(".")[0] == name] for name in TRACKS}
    return {name: mine for name, mine in found.items() if mine}


def _log_z(model: str, rows: Sequence[Row], methods: Mapping[str, Any]) -> figures.LogZ:
    """Return log Z of a model by every route, and its values on the way there."""
    mine = [row for row in rows if row["model"] == model and row["name"].startswith("log_z")]
    known = {
        name: [point for point in method["curve"] if point["value"] is not None]
        for name, method in methods.items()
    }
    return figures.LogZ(mine, known)


def _pictures(
    stage: Stage, prepared: images.Images, levels: Mapping[str, int]
) -> list[tuple[str, np.ndarray]]:
    test = prepared.splits["test"]
    lines = [("held-out, grey", test.grey[:_SHOWN] / max(1, prepared.levels - 1))]
    if 2 in levels.values():
        lines.append(("held-out, binary", test.binary[:_SHOWN].astype(np.float64)))
    for model in stage.models():
        with np.load(stage.out / "sample" / f"{model}.npz") as drawn:
            chosen = np.arange(min(_SHOWN, len(drawn["pixels"])))
            if "labels" in drawn:  # one of each class
                chosen = np.unique(drawn["labels"], return_index=True)[1][:_SHOWN]
            lines.append((title(model), drawn["pixels"][chosen] / (levels[model] - 1)))
            if "means" in drawn:
                words = "probabilities" if levels[model] == 2 else "means"
                lines.append((f"{title(model)}, {words}", drawn["means"][chosen]))
    return lines


def _curves(stage: Stage) -> dict[str, Path]:
    files = {model: stage.model_folder(model).with_suffix(".csv") for model in stage.models()}
    return {model: path for model, path in files.items() if len(path.read_text().splitlines()) > 2}


def _page(
    stage: Stage, data: Mapping[str, Any], rows: Sequence[Row], tracks: Mapping[str, Sequence[Row]]
) -> str:
    statistics = read_json(stage.out / "prepare" / "statistics.json")
    report = stage.out / "report"
    shown = {name: report / f"{name}.png" for name in ("likelihood", "samples", "curves", "log_z")}
    shown["preview"] = stage.out / "prepare" / "preview.png"
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("page.html")
    return template.render(
        data={
            "name": data["name"], "binarisation": data["binarisation"], "levels": data["levels"],
            "height": data["shape"][0], "width": data["shape"][1], "n_images": rows[0]["n"],
            **{f"n_{name}": count for name, count in statistics["n"].items()},
        },
        tracks=[(name, TRACKS[name], [_cells(row) for row in mine]) for name, mine in tracks.items()],
        divergences=[_cells(row) for row in rows if row["name"].split(".")[0] in DIVERGENCES],
        log_z=[_cells(row) for row in rows if row["name"].startswith("log_z")],
        agreement=_agreement(rows),
        recognised=[_cells(row) for row in rows if row["name"].split(".")[0] in RECOGNISED],
        pictures={name: _embedded(path) for name, path in shown.items() if path.exists()},
        grids=[(title(model), _embedded(stage.out / "sample" / f"{model}.png")) for model in stage.models()],
    )  # fmt: skip


def _cells(row: Row) -> dict[str, Any]:
    quantity, _, route = row["name"].partition(".")
    words = route.replace("_", " ")
    further = bool(route) and quantity in TRACKS
    return {
        "title": title(row["model"]) + (f", {words}" if further else ""),
        "quantity": f"{(DIVERGENCES | RECOGNISED).get(quantity, '')} {words}".strip(),
        "further": further,
        "value": "not determined" if row["value"] is None else f"{row['value']:.3f}",
        "stderr_images": _error(row["stderr_images"]),
        "stderr_estimator": _error(row["stderr_estimator"]),
        "kind": row["kind"],
        "method": row["method"] if row["value"] is not None else row["reason"],
    }


def _error(value: float | None) -> str:
    return "" if value is None else "0" if value == 0.0 else f"{value:.2g}"


def _agreement(rows: Sequence[Row]) -> str:
    """Return a sentence on how far the routes to one log Z lie apart."""
    known = [row for row in rows if row["name"].startswith("log_z") and row["value"] is not None]
    pairs = [
        f"{title(a['model'])}, {_route(a)} and {_route(b)}: "
        f"{joint_z_score(Estimate.from_dict(a), Estimate.from_dict(b)):.1f}"
        for a, b in combinations(known, 2)
        if a["model"] == b["model"]
    ]
    return (
        "Distance in joint standard errors, of which 3 would be too many. " + "; ".join(pairs) + "."
        if pairs
        else ""
    )


def _route(row: Row) -> str:
    return str(row["name"].removeprefix("log_z.").replace("_", " "))


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


if __name__ == "__main__":
    main("report", work)
