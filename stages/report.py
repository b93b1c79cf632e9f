"""One table of all models, its figures, and a page that carries them all."""

import base64
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from genmodels.artifacts import new_file, read_json, write_json
from genmodels.data import images
from genmodels.ranking import ranked
from pipelines.stage import Stage, main
from stages.page import figures, tables
from stages.page.names import QUALITIES, TRACKS, YARDSTICKS, title

Row = dict[str, Any]


def work(stage: Stage) -> None:
    """Write out/<pipeline>/report: table.json, report.html and the PNGs in it."""
    out = stage.out / "report"
    results = [read_json(stage.out / "evaluate" / f"{model}.json") for model in stage.models()]
    looked_at = [
        read_json(path)
        for made_by in ("recognise", "judge_samples")
        for path in sorted((stage.out / made_by).glob("*.json"))
        if path.stem in (*stage.models(), *YARDSTICKS)
    ]
    rows: list[Row] = [
        {"model": result["model"]} | row for result in results + looked_at for row in result["rows"]
    ]
    tracks = tracks_of(rows)
    prepared = images.load(stage.out / "prepare" / "images")
    levels = {result["model"]: result["data"]["levels"] for result in results}
    chains = {path.stem: read_json(path) for path in sorted((stage.out / "estimate_log_z").glob("*.json"))}
    figures.likelihood(tracks, out / "likelihood.png")
    figures.samples(_pictures(stage, prepared, levels), prepared.shape, out / "samples.png")
    figures.curves(_curves(stage), out / "curves.png")
    figures.quality(_judged(rows, _order(tracks)), out / "quality.png")
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
    """Return the likelihoods by their quantity, of binary images and of grey ones, best first."""
    found = {name: ranked(rows, name) for name in TRACKS}
    return {name: mine for name, mine in found.items() if mine}


def _order(tracks: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the models as they are ranked."""
    return list(dict.fromkeys(row["model"] for mine in tracks.values() for row in mine))


def _judged(rows: Sequence[Row], order: Sequence[str]) -> list[Row]:
    """Return what is measured of samples, models as they are ranked, real images last."""
    places = {model: place for place, model in enumerate((*order, *YARDSTICKS))}
    return sorted((row for row in rows if row["name"] in QUALITIES), key=lambda row: places[row["model"]])


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
    lines = [("held-out, grey", test.grey[: figures.SHOWN] / max(1, prepared.levels - 1))]
    if 2 in levels.values():
        lines.append(("held-out, binary", test.binary[: figures.SHOWN].astype(np.float64)))
    for model in stage.models():
        with np.load(stage.out / "sample" / f"{model}.npz") as drawn:
            chosen = np.arange(min(figures.SHOWN, len(drawn["pixels"])))
            if "labels" in drawn:  # one of each class
                chosen = np.unique(drawn["labels"], return_index=True)[1][: figures.SHOWN]
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
    report, order = stage.out / "report", _order(tracks)
    shown = {name: report / f"{name}.png" for name in ("likelihood", "samples", "curves", "log_z", "quality")}
    shown["preview"] = stage.out / "prepare" / "preview.png"
    shown["from_text"] = stage.out / "paint_captions" / "pictures.png"
    pictures = {name: _embedded(path) for name, path in shown.items() if path.exists()}
    if "target" in statistics:
        pictures |= _divergence(_curves(stage), statistics["target"]["entropy"])
    names, judged = tables.quality(_judged(rows, order), order)
    near = {title(model): stage.out / "judge_samples" / f"{model}.png" for model in (*order, *YARDSTICKS)}
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
        tracks=[(name, TRACKS[name], tables.likelihoods(mine)) for name, mine in tracks.items()],
        terms=[tables.cells(row) for row in rows if row["name"].startswith("bound_terms")],
        divergences=[tables.cells(row) for row in rows if row["name"].split(".")[0] in tables.DIVERGENCES],
        log_z=[tables.cells(row) for row in rows if row["name"].startswith("log_z")],
        agreement=tables.agreement(rows),
        recognised=[tables.cells(row) for row in rows if row["name"] in tables.RECOGNISED],
        qualities=[QUALITIES[name] for name in names], judged=judged, space=_space(stage),
        nearest=[(name, _embedded(path)) for name, path in near.items() if path.exists()],
        pictures=pictures,
        grids=[(title(model), _embedded(stage.out / "sample" / f"{model}.png")) for model in order],
    )  # fmt: skip


def _divergence(files: Mapping[str, Path], entropy: float) -> dict[str, str]:
    """Return the figure of D(P‖q) while models learn: in the page only, as most data have no known P."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "divergence.png"
        return {"divergence": _embedded(path)} if figures.divergence(files, entropy, path) else {}


def _space(stage: Stage) -> str:
    path = stage.out / "train_classifier" / "classifier.json"
    if not path.exists():
        return ""
    described = read_json(path)
    right = [f", right on {row['value']:.1%} of held-out images" for row in described["rows"]]
    return str(described["space"]) + "".join(right)


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


if __name__ == "__main__":
    main("report", work)
