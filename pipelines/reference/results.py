"""docs/results.md: every table of results in the repository, with the command that makes it.

The numbers are read from the tables that the pipelines' reports leave in git, so that the page and the runs
cannot part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genmodels.artifacts import read_json
from genmodels.ranking import ranked
from genmodels.table import number

Row = Mapping[str, Any]

# Salakhutdinov & Murray 2008 (a), Salakhutdinov & Hinton 2009 (b): another draw of the same grey pictures.
LITERATURE = {
    "mixture_10": "−168.95 (b)",
    "mixture_100": "−142.63 (b)",
    "mixture_500": "−137.64 (b)",
    "rbm": "−86.3 (a, CD-25)",
    "dbm": "−84.6 (b, bound)",
}
_SOURCES = """
Literature: (a) Salakhutdinov & Murray, "On the quantitative analysis of deep belief networks", ICML 2008;
(b) Salakhutdinov & Hinton, "Deep Boltzmann machines", AISTATS 2009. Their images are binarised by another
draw of the same grey pictures, so that a few tenths of a nat mean nothing. How the models were trained, and
why some stay behind, is in [Binarised MNIST](mnist.md); these are their learning curves:

![learning curves of the models of binarised MNIST](mnist/curves.png)
"""
_INTRODUCTION = """# Results

What the pipelines in this repository gave, from the tables that their reports left in `out/`. A number is
the mean over the held-out images, its error one standard error, images and estimator taken together.
*exact* is the model's own number; *lower* says that the model is at least that good, *upper* that it needs
at most so many bits; *estimate* has the error that is given; what is *undetermined* has no place in the
ranking. What has routes of its own stands in italics below its model. Written by `make reference`.
"""


class Part(NamedTuple):
    """A section: what heads it, where its table is, the command that fills it, what makes lines of rows."""

    heading: str
    table: str
    command: str
    words: str
    lines: Callable[[Sequence[Row]], Iterator[str]]
    after: str = ""


def page(root: Path) -> str:
    """Return the page, with the parts whose tables are there."""
    text = [_INTRODUCTION]
    for part in PARTS:
        path = root / "out" / part.table
        if path.exists():
            text.append(f"\n## {part.heading}\n\n    {part.command}\n\n{part.words}\n\n")
            text.append("\n".join(part.lines(read_json(path)["rows"])) + "\n" + part.after)
    return "".join(text)


def _title(row: Row) -> str:
    route = row["name"].partition(".")[2].replace("_", " ")
    words = row["model"].replace("_", " ")
    return f"*{words}, {route}*" if route else words


def _likelihoods(quantity: str, heading: str, literature: Mapping[str, str]) -> Any:
    def lines(rows: Sequence[Row]) -> Iterator[str]:
        more = " literature |" if literature else ""
        yield f"| model | {heading} | kind | how |{more}"
        yield f"| --- | ---: | --- | --- |{' --- |' if literature else ''}"
        for row in ranked(rows, quantity):
            known = literature.get(row["model"], "") if "." not in row["name"] else ""
            how = row["method"] if row["value"] is not None else row["reason"]
            cells = f"| {_title(row)} | {number(row)} | {row['kind']} | {how} |"
            yield f"{cells} {known} |" if literature else cells

    return lines


def _log_z(rows: Sequence[Row]) -> Iterator[str]:
    found = [row for row in rows if row["name"].startswith("log_z")]
    if found:
        yield "\n| log Z of | by | nats | kind |\n| --- | --- | ---: | --- |"
    for row in found:
        way = row["name"].partition(".")[2].replace("_", " ")
        yield f"| {row['model'].replace('_', ' ')} | {way} | {number(row)} | {row['kind']} |"


def _binary(literature: Mapping[str, str]) -> Any:
    def lines(rows: Sequence[Row]) -> Iterator[str]:
        yield from _likelihoods("log_likelihood", "nats per image", literature)(rows)
        yield from _log_z(rows)

    return lines


def _rules(rows: Sequence[Row]) -> Iterator[str]:
    yield "| rule | bars and stripes, best | at the end | Ising, best | at the end |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    values = {(row["model"], row["name"]): row["value"] for row in rows}
    for model in dict.fromkeys(row["model"] for row in rows):
        names = (f"kl.{data}.{when}" for data in ("bars_and_stripes", "ising") for when in ("best", "last"))
        cells = " | ".join(f"{values[model, name]:.3f}" for name in names)
        yield f"| {model.replace('_', ' ')} | {cells} |"


def _glasses(rows: Sequence[Row]) -> Iterator[str]:
    methods = dict.fromkeys(row["name"].split(".")[1] for row in rows)
    for quantity, heading in (("log_z", "log Z, nats"), ("best_energy", "lowest energy")):
        yield f"\n| {heading} | {' | '.join(method.replace('_', ' ') for method in methods)} |"
        yield "| --- |" + " ---: |" * len(methods)
        values = {(row["model"], row["name"]): row for row in rows}
        for model in dict.fromkeys(row["model"] for row in rows):
            found = (values.get((model, f"{quantity}.{method}")) for method in methods)
            cells = " | ".join("" if row is None else _short(row) for row in found)
            yield f"| {model.replace('_', ' ')} | {cells} |"


def _short(row: Row) -> str:
    return number(row) if row["value"] is not None else "–"


def _captions(rows: Sequence[Row]) -> Iterator[str]:
    yield "| | pictures | n | value | kind |\n| --- | --- | ---: | ---: | --- |"
    for row in rows:
        *what, group = row["name"].split(".")
        words = ", ".join(each.replace("_", " ") for each in what)
        cells = (
            f"{words} | {group.replace('_', ' ')} | {row['n']} | {number(row)} {_unit(row)} | {row['kind']}"
        )
        yield f"| {cells} |"


def _unit(row: Row) -> str:
    return {"bits per dimension": "bits/dim", "nats per image": "nats"}.get(row["unit"], "")


PARTS = (
    Part(
        "Binary 8×8 digits",
        "main/report/table.json",
        "make repro",
        "scikit-learn's digits, binarised once; parameters in `params.yaml`.",
        _binary({}),
    ),
    Part(
        "Fixed binarised MNIST",
        "mnist/report/table.json",
        "python -m pipelines.adopt pipelines/mnist/params.yaml && dvc repro pipelines/mnist/dvc.yaml",
        "All 10,000 test images, from the weights in `pipelines/mnist/models`; without the first command\n"
        "everything is trained anew. Parameters in `pipelines/mnist/params.yaml`.",
        _binary(LITERATURE),
        _SOURCES,
    ),
    Part(
        "Grey 8×8 digits",
        "digits/report/table.json",
        "dvc repro pipelines/digits/dvc.yaml",
        "The 17 levels themselves, in bits per dimension, where smaller is better: [Grey digits](digits.md).",
        _likelihoods("bits_per_dimension", "bits per dimension", {}),
    ),
    Part(
        "Digits from text",
        "main/report_captions/table.json",
        "make repro",
        "Bounds with and without captions, and shares of pictures that show what was asked for:\n"
        "[Pictures from text](text_to_image.md).",
        _captions,
    ),
    Part(
        "Emoji from text",
        "text_to_image/report_captions/table.json",
        "dvc repro pipelines/text_to_image/dvc.yaml",
        "The same of emoji; *held out* are captions whose colour and shape were never seen together.",
        _captions,
    ),
    Part(
        "Learning rules where P is known",
        "learning_rules/compare_rules/table.json",
        "dvc repro pipelines/learning_rules/dvc.yaml",
        "D(P‖q) in nats, summed over all 65,536 states, of an RBM with 16 hidden units.",
        _rules,
    ),
    Part(
        "Samplers of spin glasses",
        "spin_glass/compare_samplers/table.json",
        "dvc repro pipelines/spin_glass/dvc.yaml",
        "Every method with the same number of attempted updates; *exact* where theory has it.",
        _glasses,
    ),
)
