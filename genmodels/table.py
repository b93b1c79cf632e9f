"""The comparison table in the terminal: a line a model, its number, the error, and the kind."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one table in full, or the log-likelihoods of several side by side."""
    console = Console(width=None if Console().is_terminal else 120)
    if len(tables) == 1:
        (table,) = tables.values()
        console.print(_full(table))
        console.print(_rest(table))
    else:
        console.print(_side_by_side(tables))


def number(row: Mapping[str, Any]) -> str:
    """Return "−17.32 ± 0.11", or why there is no number."""
    if row["value"] is None:
        return "not determined"
    error = "" if row["stderr"] is None else f" ± {row['stderr']:.2g}" if row["stderr"] else ""
    return f"{row['value']:.2f}{error}".replace("-", "−")


def _title(data: Mapping[str, Any]) -> str:
    return f"{data['name']}, held-out binary images ({data['binarisation']} binarisation), nats per image"


def _full(table: Mapping[str, Any]) -> Table:
    shown = Table(title=_title(table["data"]), title_justify="left", header_style="bold")
    for heading in ("model", "log-likelihood", "kind", "how"):
        shown.add_column(heading, justify="right" if heading == "log-likelihood" else "left")
    for row in table["rows"]:
        quantity, _, route = row["name"].partition(".")
        if quantity == "log_likelihood":
            words = f"  by {route.replace('_', ' ')}" if route else row["model"].replace("_", " ")
            how = row["method"] if row["value"] is not None else row["reason"]
            shown.add_row(words, number(row), row["kind"], how, style="dim" if route else "")
    return shown


def _rest(table: Mapping[str, Any]) -> Table:
    shown = Table(header_style="bold")
    for heading in ("model", "quantity", "value", "kind", "how"):
        shown.add_column(heading, justify="right" if heading == "value" else "left")
    for row in table["rows"]:
        if not row["name"].startswith("log_likelihood"):
            how = row["method"] if row["value"] is not None else row["reason"]
            words = row["name"].replace("_", " ").replace(".", ", ")
            value = (
                number(row) if row["unit"] != "probability" or row["value"] is None else f"{row['value']:.4f}"
            )
            shown.add_row(row["model"].replace("_", " "), words, value, row["kind"], how)
    return shown


def _side_by_side(tables: Mapping[str, Mapping[str, Any]]) -> Table:
    shown = Table(title="held-out log-likelihood, nats per image", title_justify="left", header_style="bold")
    shown.add_column("model")
    columns = [
        {row["model"]: row for row in table["rows"] if row["name"] == "log_likelihood"}
        for table in tables.values()
    ]
    for name, table in tables.items():
        shown.add_column(f"{name}\n{table['data']['name']}, {table['data']['binarisation']}", justify="right")
    for model in dict.fromkeys(model for column in columns for model in column):
        cells = [
            f"{number(column[model])} {column[model]['kind']}" if model in column else ""
            for column in columns
        ]
        shown.add_row(model.replace("_", " "), *cells)
    return shown
