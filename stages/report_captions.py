"""Latent diffusion from text on one page: the pictures, what they were to show, and the bounds."""

import base64
import math
from pathlib import Path
from typing import Any

import jinja2

from genmodels.artifacts import new_file, read_json, write_json
from pipelines.stage import Stage, main

_SHARES = {
    "subject": "show the subject",
    "colour": "have the colour",
    "both": "show both",
    "nearest": "difference from the nearest training picture",
    "diversity": "difference between seeds of a prompt",
}
_GROUPS = {
    "seen": "captions that were learnt",
    "held_out": "captions never learnt",
    "new": "other words",
    "real": "real pictures",
}
_WORDS = {
    "with_captions": "given the caption",
    "with_shuffled_captions": "given another picture's caption",
    "lost_by_shuffling": "lost where captions are shuffled",
    "without_captions": "without a caption",
    "standard_normal": "with a standard normal prior",
    "held_out": "captions never learnt",
    "test": "things never learnt",
    "train": "pictures that were learnt",
}


def work(stage: Stage) -> None:
    """Write out/<pipeline>/report_captions: table.json and report.html."""
    out = stage.out / "report_captions"
    rows = read_json(stage.out / "evaluate_captions.json")["rows"]
    recognised = read_json(stage.out / "recognise_captions.json")
    facts = read_json(stage.out / "prepare_captions" / "statistics.json")
    painted = read_json(stage.out / "paint_captions" / "prompts.json")
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "captions"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("page.html")
    page = template.render(
        preview=_picture(stage.out / "prepare_captions" / "preview.png"),
        reconstructions=_picture(stage.out / "train_autoencoder" / "reconstructions.png"),
        pictures=_picture(stage.out / "paint_captions" / "pictures.png"),
        guided=_picture(stage.out / "show_captions" / "guidance.png"),
        between=_picture(stage.out / "show_captions" / "between.png"),
        film=_picture(stage.out / "show_captions" / "film.png"),
        moving=_picture(stage.out / "show_captions" / "film.gif"),
        shows=stage.params.show_captions.model_dump(),
        agreement=[_judged(row) for row in recognised["rows"]],
        prompts=[_hits(it) for it in recognised["prompts"]],
        held_out=painted["held_out"],
        facts=facts,
        guidance=f"{stage.params.paint_captions.guidance:g}",
        rows=[_cells(row) for row in rows],
    )
    data = {"name": facts["name"], "levels": facts["levels"], "binarisation": "none"}
    write_json(out / "table.json", {"data": data, "rows": [*rows, *recognised["rows"]]})
    with new_file(out / "report.html") as path:
        path.write_text(page)
    stage.run.file(out / "report.html", "report")


def _picture(path: Path) -> str:
    return f"data:image/{path.suffix[1:]};base64," + base64.b64encode(path.read_bytes()).decode()


def _number(row: dict[str, Any]) -> str:
    stderr = row["stderr"]
    digits = 2 if stderr is None else max(2, 1 - math.floor(math.log10(stderr or 1.0)))
    return f"{row['value']:.{digits}f}" + ("" if stderr is None else f" ± {stderr:.{digits}f}")


def _judged(row: dict[str, Any]) -> dict[str, str]:
    what, group = row["name"].split(".")
    return {
        "what": _SHARES[what],
        "group": _GROUPS[group],
        "n": str(row["n"]),
        "value": _number(row),
        "method": row["method"],
    }


def _hits(of: dict[str, Any]) -> dict[str, str]:
    """Return a prompt and how many of its pictures show what it says."""
    counts = [f"{name} {sum(of[name])}/{len(of[name])}" for name in ("subject", "colour") if of[name]]
    return {"prompt": of["prompt"] or "(no prompt)", "hits": ", ".join(counts)}


def _cells(row: dict[str, Any]) -> dict[str, str]:
    _, of, split = row["name"].split(".")
    return {
        "model": row["model"].replace("_", " "),
        "of": _WORDS[of],
        "split": _WORDS[split],
        "n": str(row["n"]),
        "value": _number(row),
        "unit": row["unit"],
        "kind": row["kind"],
    }


if __name__ == "__main__":
    main("report_captions", work)
