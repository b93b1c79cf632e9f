"""The comparison table in the terminal: a line a model, its number, the error, and the kind."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from genmodels.ranking import ranked

_TEXTS, _NUMBERS = ("model", "name", "kind", "method", "reason", "unit"), ("value", "stderr")
# What a likelihood is called, by its quantity: binary and grey images never share a column.
HEADINGS = {"log_likelihood": "log-likelihood", "bits_per_dimension": "bits per dimension"}
# Measures of samples, and what heads their columns: a name's last part is the space that it is measured in.
_QUALITIES = {
    "frechet_distance.classifier": "Fréchet\nfeatures",
    "precision.classifier": "precision\nfeatures",
    "recall.classifier": "recall\nfeatures",
    "density.classifier": "density\nfeatures",
    "coverage.classifier": "coverage\nfeatures",
    "adversarial_accuracy_held_out.pixels": "told from\nheld out",
    "adversarial_accuracy_training.pixels": "told from\ntraining",
    "copying.pixels": "copying\npixels",
}
_SPACES = (".classifier", ".pixels")
_SIDES = {
    "log_likelihood": "held-out log-likelihood of binary images, nats per image, larger is better",
    "bits_per_dimension": "held-out grey images, bits per dimension, smaller is better",
}


def show(tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one table in full, or the likelihoods of several side by side; binary and grey ones apart.

    Tables without likelihoods, as those of samplers, are printed one after the other.
    """
    console = Console(width=None if Console().is_terminal else 120)
    ranking = {name: table for name, table in tables.items() if _quantities(table)}
    shown = list(_side_by_side(ranking)) if len(ranking) > 1 else []
    for name, table in tables.items():
        if len(ranking) < 2 or name not in ranking:
            shown += _of_one(table, name if len(tables) > 1 else "")
    for part in shown:
        if part.row_count:
            console.print(part)


def is_row(entry: Any) -> bool:
    """Return whether an entry of a table's rows says what every row says, in the types that it has."""
    return (
        isinstance(entry, dict)
        and entry.keys() >= {*_TEXTS, *_NUMBERS}
        and all(isinstance(entry[key], str) for key in _TEXTS)
        and all(isinstance(entry[key], int | float | None) for key in _NUMBERS)
    )


def number(row: Mapping[str, Any]) -> str:
    """Return "−17.32 ± 0.11", or why there is no number."""
    if row["value"] is None:
        return "not determined"
    places = 2 if row["unit"].startswith("nats") else 4 if row["unit"] == "probability" else 3
    error = f" ± {_error(row['stderr'], places)}" if row["stderr"] else ""
    return f"{row['value']:.{places}f}{error}".replace("-", "−")


def described(row: Mapping[str, Any]) -> str:
    """Return of what model a row is, and by which way or of which pictures: "latent diffusion, test"."""
    return ", ".join([row["model"], *row["name"].split(".")[1:]]).replace("_", " ")


def _error(stderr: float, places: int) -> str:
    return f"{stderr:.{places}f}" if stderr >= 9.5 * 10.0**-places else f"{stderr:.2g}"


def _title(data: Mapping[str, Any], quantity: str) -> str:
    if quantity == "log_likelihood":
        pixels = f"binary images ({data['binarisation']} binarisation), nats per image"
    else:
        pixels = f"grey images ({data['levels']} levels), bits per dimension, smaller is better"
    return f"{data['name']}, held-out {pixels}"


def _quantities(table: Mapping[str, Any]) -> list[str]:
    """Return which likelihoods a table has."""
    names = {row["name"].partition(".")[0] for row in table["rows"]}
    return [quantity for quantity in HEADINGS if quantity in names]


def _of_one(table: Mapping[str, Any], name: str) -> Iterator[Table]:
    yield from (_full(table, quantity) for quantity in _quantities(table))
    yield _rest(table, name)
    yield _samples(table)


def _full(table: Mapping[str, Any], wanted: str) -> Table:
    shown = Table(title=_title(table["data"], wanted), title_justify="left", header_style="bold")
    for heading in ("model", HEADINGS[wanted], "kind", "how"):
        shown.add_column(heading, justify="right" if heading == HEADINGS[wanted] else "left")
    ranking = ranked(table["rows"], wanted)
    headed = {row["model"] for row in ranking if row["name"] == wanted}
    for row in ranking:
        route = row["name"].partition(".")[2]
        below = route and row["model"] in headed
        words = f"  by {route.replace('_', ' ')}" if below else described(row)
        how = row["method"] if row["value"] is not None else row["reason"]
        shown.add_row(words, number(row), row["kind"], how, style="dim" if below else "")
    return shown


def _rest(table: Mapping[str, Any], name: str) -> Table:
    shown = Table(title=name or None, title_justify="left", header_style="bold")
    for heading in ("model", "quantity", "value", "kind", "how"):
        shown.add_column(heading, justify="right" if heading == "value" else "left")
    for row in table["rows"]:
        if row["name"].partition(".")[0] not in HEADINGS and not row["name"].endswith(_SPACES):
            how = row["method"] if row["value"] is not None else row["reason"]
            words = row["name"].replace("_", " ").replace(".", ", ")
            shown.add_row(row["model"].replace("_", " "), words, number(row), row["kind"], how)
    return shown


def _samples(table: Mapping[str, Any]) -> Table:
    """Return what is measured of samples, a line a model, as ranked by likelihood; real images below."""
    by_name = {(row["model"], row["name"]): row for row in table["rows"] if row["name"] in _QUALITIES}
    order = [row["model"] for quantity in _quantities(table) for row in ranked(table["rows"], quantity)]
    title = "samples beside real images (½ is best of the last three); the report says what is what"
    shown = Table(title=title, title_justify="left", header_style="bold")
    shown.add_column("model", no_wrap=True)
    for heading in _QUALITIES.values():
        shown.add_column(heading, justify="right")
    for model in dict.fromkeys([*order, *(model for model, _ in by_name)]):
        cells = [_of_samples(by_name.get((model, name))) for name in _QUALITIES]
        if any(cells):
            shown.add_row(model.replace("_", " "), *cells)
    return shown


def _of_samples(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return "–" if row["value"] is None else f"{row['value']:.2f}±{row['stderr'] or 0.0:.2f}"


def _side_by_side(tables: Mapping[str, Mapping[str, Any]]) -> Iterator[Table]:
    for quantity, title in _SIDES.items():
        columns = {
            name: {row["model"]: row for row in table["rows"] if row["name"] == quantity}
            for name, table in tables.items()
        }
        columns = {name: column for name, column in columns.items() if column}
        shown = Table(title=title, title_justify="left", header_style="bold")
        shown.add_column("model")
        for name in columns:
            data = tables[name]["data"]
            pixels = data["binarisation"] if quantity == "log_likelihood" else f"{data['levels']} levels"
            shown.add_column(f"{name}\n{data['name']}, {pixels}", justify="right")
        rows = [row for name in columns for row in ranked(tables[name]["rows"], quantity)]
        for model in dict.fromkeys(row["model"] for row in rows if row["name"] == quantity):
            cells = [
                f"{number(column[model])} {column[model]['kind']}" if model in column else ""
                for column in columns.values()
            ]
            shown.add_row(model.replace("_", " "), *cells)
        yield shown
