"""Where the truth is known every model's distance from it is reported, exact wherever the model allows."""

import json
import math
from collections.abc import Callable

import pytest
from conftest import Checkout

pytestmark = pytest.mark.slow  # the whole pipeline, once

EXACT = ("independent", "gaussian", "gaussian_mixture", "bernoulli_mixture", "rbm")
BOUNDED = ("vae", "hvae", "diffusion")


@pytest.fixture(scope="module")
def bars(checkout: Callable[..., Checkout]) -> Checkout:
    """Return a checkout after the pipeline ran on 4×4 bars and stripes."""
    changes = {
        "data.name": "bars_and_stripes", "data.size": [4, 4], "data.limit": None,
        "evaluate.importance_samples": 500,
        "train.rbm.steps": 2000, "fit_baselines.bernoulli_mixture.iterations": 50,
    }  # fmt: skip
    one = checkout("bars", changes)
    one.repro(GENMODELS_WORKERS="0")
    return one


def rows(one: Checkout) -> dict[tuple[str, str], dict]:
    table = json.loads((one.folder / "out/main/report/table.json").read_text())["rows"]
    return {(row["model"], row["name"]): row for row in table}


def test_every_divergence_is_there_and_exact_where_it_can_be(bars: Checkout) -> None:
    table = rows(bars)
    assert {table[model, "kl"]["kind"] for model in EXACT} == {"exact"}
    assert {table[model, "kl"]["kind"] for model in BOUNDED} == {"upper"}
    assert all(table[model, "kl"]["value"] >= 0 for model in EXACT + BOUNDED)
    assert all(table[model, "kl"]["stderr"] > 0 for model in BOUNDED)


def test_divergence_and_likelihood_tell_the_same(bars: Checkout) -> None:
    # All 30 pictures are held out and P is uniform, so D(P‖q) = −log 30 − ⟨log q⟩.
    table = rows(bars)
    for model in EXACT:
        expected = -math.log(30) - table[model, "log_likelihood"]["value"]
        assert table[model, "kl"]["value"] == pytest.approx(expected, abs=1e-6)
        assert table[model, "kl"]["n"] == table[model, "log_likelihood"]["n"] == 30


def test_independent_pixels_are_as_far_as_theory_says(bars: Checkout) -> None:
    # Every pixel of bars and stripes is white in half of the pictures: q = 2⁻¹⁶, D = 16 log 2 − log 30.
    expected = 16 * math.log(2) - math.log(30)
    assert rows(bars)["independent", "kl"]["value"] == pytest.approx(expected, abs=1e-6)


def test_models_that_can_learn_come_nearer(bars: Checkout) -> None:
    table = rows(bars)
    nearest = table["independent", "kl"]["value"]
    for model in ("gaussian_mixture", "bernoulli_mixture", "rbm"):
        assert table[model, "kl"]["value"] < nearest - 2.0, model


def test_the_share_on_possible_pictures_is_a_probability(bars: Checkout) -> None:
    table = rows(bars)
    for model in EXACT:
        share = table[model, "mass_on_support"]["value"]
        # log Σ q over 30 pictures is at least log 30 + their mean log q (Jensen).
        least = math.exp(math.log(30) + table[model, "log_likelihood"]["value"])
        assert least * (1 - 1e-9) <= share <= 1.0


def test_the_page_shows_the_distance(bars: Checkout) -> None:
    page = (bars.folder / "out/main/report/report.html").read_text()
    assert "D(P‖q)" in page
    assert "q(supp P)" in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.name": "folder", "data.path": "no/such/folder"}, ("no/such/folder",)),
        ({"data.name": "folder", "data.path": "params.yaml"}, ("params.yaml",)),
        ({"data.name": "mnist", "data.path": "no/such/folder"}, ("no/such/folder",)),
        ({"data.name": "binarized_mnist", "data.path": "params.yaml"}, ("params.yaml",)),
        ({"data.name": "bars_and_stripes", "data.limit": None, "data.size": None}, ("data.size",)),
        ({"data.name": "ising", "data.limit": None, "data.size": [6, 6]}, ("6", "20")),
        ({"data.limit": 2}, ("2",)),
    ],
)
def test_a_stage_refuses_what_it_cannot_read_and_writes_nothing(
    bars: Checkout, changes: dict, words: tuple[str, ...]
) -> None:
    other = bars.copy(f"refused-{abs(hash(str(changes)))}")
    before = {path: path.read_bytes() for path in (other.folder / "out").rglob("*") if path.is_file()}
    other.change({"data.name": "digits", "data.size": None, "data.limit": 400} | changes)
    done = other.run("python", "-m", "stages.prepare", "--params", "params.yaml", check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("genmodels: error: ")
    assert all(word in done.stderr for word in words), done.stderr
    assert {path: path.read_bytes() for path in (other.folder / "out").rglob("*") if path.is_file()} == before
