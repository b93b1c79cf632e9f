"""The table in the terminal: best first, refusals below with their reason, tables of other kinds too."""

import json
from pathlib import Path
from typing import Any

import pytest

from genmodels import cli, table
from genmodels.errors import InputError
from genmodels.estimate import Estimate, of_scalar, undetermined
from genmodels.ranking import ranked

DATA = {"name": "digits", "binarisation": "fixed-stochastic", "levels": 17}


def row(model: str, name: str, value: float | None, unit: str = "nats per image") -> dict[str, Any]:
    number: Estimate = (
        undetermined("the estimates disagree; more rounds would settle it", unit=unit, n=3, method="m")
        if value is None
        else of_scalar(value, stderr=0.1, kind="estimate", unit=unit, n=3, method="m")
    )
    return {"model": model, "name": name} | number.to_dict()


ROWS = [
    row("worst", "log_likelihood", -30.0),
    row("refused", "log_likelihood", None),
    row("refused", "log_likelihood.exchange", -1.0),
    row("best", "log_likelihood", -20.0),
    row("best", "log_likelihood.elbo", -40.0),
    row("best", "log_z.exchange", 7.0, "nats"),
]


def test_the_best_stand_first_and_what_is_refused_last() -> None:
    order = [(each["model"], each["name"].partition(".")[2]) for each in ranked(ROWS, "log_likelihood")]
    assert order == [("best", ""), ("best", "elbo"), ("worst", ""), ("refused", ""), ("refused", "exchange")]
    bits = [row(name, "bits_per_dimension", value) for name, value in (("a", 2.0), ("b", 1.0), ("c", None))]
    assert [each["model"] for each in ranked(bits, "bits_per_dimension")] == ["b", "a", "c"]


def test_a_refusal_is_printed_with_its_reason_and_never_ranked(capsys: pytest.CaptureFixture[str]) -> None:
    table.show({"main": {"data": DATA, "rows": ROWS}})
    printed = capsys.readouterr().out
    assert printed.index("best") < printed.index("worst") < printed.index("refused")
    (line,) = (line for line in printed.splitlines() if line.startswith("│ refused"))
    assert "not determined" in line
    assert "the estimates disagree" in line
    table.show({"one": {"data": DATA, "rows": ROWS}, "other": {"data": DATA, "rows": ROWS[:4]}})
    printed = capsys.readouterr().out
    assert printed.index("best") < printed.index("worst") < printed.index("refused")
    assert printed.count("not determined") == 2


def test_bounds_of_a_model_that_has_no_single_number_name_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        row("autoencoder", "bits_per_dimension.standard_normal.test", 2.0),
        row("latent_diffusion", "bits_per_dimension.with_captions.test", 1.5),
    ]
    table.show({"main": {"data": DATA, "rows": rows}})
    printed = capsys.readouterr().out
    assert "│ autoencoder, standard normal, test" in printed
    assert "│ latent diffusion, with captions, test" in printed
    assert "by with captions" not in printed


def test_samples_are_a_line_a_model_with_real_images_below(capsys: pytest.CaptureFixture[str]) -> None:
    judged = [
        row(model, name, value, "share")
        for model, value in (("validation_images", 0.5), ("worst", 0.25), ("best", None))
        for name in ("recall.classifier", "copying.pixels")
    ]
    table.show({"main": {"data": DATA, "rows": ROWS + judged}})
    printed = capsys.readouterr().out
    below = printed[printed.index("samples beside real images") :]
    lines = [line for line in below.splitlines() if line.startswith("│")]
    assert [line.split("│")[1].strip() for line in lines] == ["best", "worst", "validation images"]
    assert "0.25±0.10" in lines[1]
    assert "–" in lines[0]
    assert "recall.classifier" not in printed


def test_a_table_of_samplers_needs_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    glass = {"rows": [row("glass", "log_z.exchange", 12.25, "nats"), row("glass", "log_z.descent", None)]}
    (tmp_path / "compare_samplers").mkdir()
    (tmp_path / "compare_samplers" / "table.json").write_text(json.dumps(glass))
    cli.compare([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "12.25 ± 0.10" in printed
    assert "not determined" in printed
    cli.compare([str(tmp_path)], as_json=True)
    assert json.loads(capsys.readouterr().out) == {str(tmp_path): glass}
    table.show({"main": {"data": DATA, "rows": ROWS}, "glass": glass})
    printed = capsys.readouterr().out
    assert printed.index("best") < printed.index("glass")


def test_likelihoods_need_to_say_of_which_images(tmp_path: Path) -> None:
    for data, rows in (
        ({}, ROWS),
        ({"name": "digits", "binarisation": "native"}, [row("a", "bits_per_dimension", 2.0)]),
        (DATA, [{"model": "a"}]),
        (DATA, [ROWS[0] | {"name": 3}]),
        (DATA, [ROWS[0] | {"value": "many"}]),
    ):
        path = tmp_path / "table.json"
        path.write_text(json.dumps({"data": data, "rows": rows}))
        with pytest.raises(InputError, match="not a table of this program"):
            cli.compare([str(path)])
