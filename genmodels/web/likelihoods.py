"""The likelihoods of the models that are served, from the tables of their pipelines."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from genmodels.artifacts import read_json
from genmodels.table import HEADINGS, described, is_row
from genmodels.web.shelf import Entry


class Line(NamedTuple):
    """A line of the table: of which images, of which model, and the Estimate."""

    title: str
    model: str
    row: dict[str, Any]


def likelihoods(entries: Iterable[Entry]) -> list[Line]:
    """Return the lines of all tables beside the models, each table once.

    Raises:
        InputError: a table is damaged.
    """
    found = dict.fromkeys(path for entry in entries for path in _tables(entry))
    return [line for path in found for line in _lines(path)]


def _tables(entry: Entry) -> Iterator[Path]:
    folder = entry.folder.resolve()
    pipeline = folder.parent.parent
    beside = (
        folder / "evaluation.json",
        pipeline / "report" / "table.json",
        pipeline / "report_captions" / "table.json",
    )
    return (path for path in beside if path.is_file())


def _lines(path: Path) -> Iterator[Line]:
    table = read_json(path)
    if not isinstance(table, dict) or not isinstance(table.get("rows"), list):
        return
    entries = [entry for entry in table["rows"] if isinstance(entry, dict)]
    rows = [entry | {"model": entry.get("model", table.get("model"))} for entry in entries]
    rows = [row for row in rows if is_row(row) and row["name"].split(".")[0] in HEADINGS]
    plain = {row["model"] for row in rows if row["name"] in HEADINGS}
    for row in rows:
        if row["name"] not in HEADINGS and row["model"] in plain:
            continue  # one of several routes to the same number
        yield Line(_title(table, row), described(row), row)


def _title(table: dict[str, Any], row: dict[str, Any]) -> str:
    better = "larger" if row["unit"].startswith("nats") else "smaller"
    data = table.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    said = str(name or "pictures with captions").replace("_", " ")
    return f"{said}, {row['unit']}, {better} is better"
