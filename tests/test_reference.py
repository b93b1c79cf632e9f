"""The pages of docs/reference say what schemas and parser check, and nothing else."""

import json
from pathlib import Path
from typing import Literal

import pytest
from conftest import ROOT
from pydantic import Field

from genmodels.data.captioned_sources import CAPTIONED
from genmodels.data.sources import SOURCES
from pipelines.reference import blocks, command, pages, results
from pipelines.reference.words import WORDS
from pipelines.schema.block import Block, Count


def test_the_committed_pages_are_those_that_are_made() -> None:
    folder = ROOT / "docs/reference"
    made = pages.pages()
    assert {path.name for path in folder.iterdir()} == set(made)
    for name, text in made.items():
        assert (folder / name).read_text() == text, f"{name}: run `make reference`"


def test_names_of_sources_are_all_told() -> None:
    assert all(f"`{name}`" in WORDS["Data.name"] for name in SOURCES)
    assert all(f"`{name}`" in WORDS["PrepareCaptions.name"] for name in CAPTIONED)


def test_no_words_are_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    used = set()

    class Noting(dict[str, str]):
        def __getitem__(self, key: str) -> str:
            used.add(key)
            return super().__getitem__(key)

    monkeypatch.setattr(blocks, "WORDS", Noting(WORDS))
    pages.pages()
    assert set(WORDS) - used == set()


class Inner(Block):
    """What is inside."""

    batch: Count
    channels: list[Count] = Field(min_length=1)


class Outer(Block):
    """A schema."""

    seed: int | None
    track: Literal["binary", "grey"]
    train: Inner


def test_every_key_has_its_row_with_type_and_bounds() -> None:
    page = blocks.page("a.yaml", Outer)
    for row in (
        "| `seed` | integer, or null | Of every random number of the run. |",
        "## `train`\n\nWhat is inside.\n",
        "| `batch` | integer ≥ 1 | ",
        "| `channels` | list of at least 1 of: integer ≥ 1 | ",
        "| `track` | `binary`, `grey` | ",
    ):
        assert row in page


def test_a_key_without_words_is_noticed() -> None:
    class New(Block):
        """A schema with a key that nobody has described."""

        undescribed: int

    with pytest.raises(KeyError, match="undescribed"):
        blocks.page("a.yaml", New)


def test_the_command_has_all_its_options() -> None:
    page = command.page()
    for row in ("| `--method` | `annealing`, ", "| `--replicas` | integer ≥ 4 | ", "| `--json` | none | "):
        assert row in page


def test_the_folder_of_the_pages_is_written(tmp_path: Path) -> None:
    import runpy
    import sys

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["reference", str(tmp_path / "new")])
        runpy.run_module("pipelines.reference", run_name="__main__")
    assert {path.name for path in (tmp_path / "new/reference").iterdir()} == set(pages.pages())
    assert (tmp_path / "new/results.md").read_text().startswith("# Results\n")


def test_results_are_those_of_the_tables_best_first(tmp_path: Path) -> None:
    def row(model: str, value: float | None, name: str = "log_likelihood") -> dict[str, object]:
        kind = "lower" if value is not None else "undetermined"
        said = {
            "stderr": 0.25,
            "kind": kind,
            "method": "a bound",
            "reason": "too few",
            "unit": "nats per image",
        }
        return {"model": model, "name": name, "value": value} | said

    rows = [row("rbm", None), row("vae", -12.5), row("vae", -13.25, "log_likelihood.elbo"), row("dbm", -11.0)]
    table = tmp_path / "out/mnist/report/table.json"
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps({"rows": rows}))
    lines = [line for line in results.page(tmp_path).splitlines() if line.startswith("| ")]
    assert lines == [
        "| model | nats per image | kind | how | literature |",
        "| --- | ---: | --- | --- | --- |",
        "| dbm | −11.00 ± 0.25 | lower | a bound | −84.6 (b, bound) |",
        "| vae | −12.50 ± 0.25 | lower | a bound |  |",
        "| *vae, elbo* | −13.25 ± 0.25 | lower | a bound |  |",
        "| rbm | not determined | undetermined | too few | −86.3 (a, CD-25) |",
    ]
    assert "dvc repro pipelines/mnist/dvc.yaml" in results.page(tmp_path)
    assert "dvc repro pipelines/digits/dvc.yaml" not in results.page(tmp_path)
