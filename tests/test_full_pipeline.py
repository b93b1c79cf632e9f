"""The pipeline as it ships: two clones, the same bytes, sensible numbers."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT, Checkout, offline_repro

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def clone(folder: Path) -> Checkout:
    one = Checkout.__new__(Checkout)
    one.folder, one.home = folder, folder.with_name(f"{folder.name}-home")
    one.home.mkdir()
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    (one.folder / "dvc.lock").unlink(missing_ok=True)
    return one


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, Checkout]:
    base = tmp_path_factory.mktemp("full")
    first, second = clone(base / "first"), clone(base / "second")
    for one in (first, second):
        start = time.monotonic()
        one.run(*(offline_repro() if one is first else ["dvc", "repro"]))
        print(f"{one.folder.name}: {time.monotonic() - start:.0f} s")
    return first, second


def test_two_clones_write_the_same_lock(clones: tuple[Checkout, Checkout]) -> None:
    first, second = clones
    assert (first.folder / "dvc.lock").read_bytes() == (second.folder / "dvc.lock").read_bytes()


def test_likelihoods_make_sense_together(clones: tuple[Checkout, Checkout]) -> None:
    table = json.loads((clones[0].folder / "out/main/report/table.json").read_text())["rows"]
    rows = {(row["model"], row["name"]): row for row in table}
    value = {model: row["value"] for (model, name), row in rows.items() if name == "log_likelihood"}
    assert value["bernoulli_mixture"] > value["independent"] + 2
    assert value["gaussian_mixture"] > value["gaussian"] > value["independent"]
    assert min(value["rbm"], value["vae"], value["hvae"], value["diffusion"]) > value["independent"] + 2
    exact = rows["rbm", "log_z.enumeration"]["value"]
    routes = [rows["rbm", f"log_z.{name}"] for name in ("replica_exchange", "population_annealing")]
    for route in routes:
        assert abs(route["value"] - exact) < 3 * route["stderr"]
    joint = (routes[0]["stderr"] ** 2 + routes[1]["stderr"] ** 2) ** 0.5
    assert abs(routes[0]["value"] - routes[1]["value"]) < 3 * joint
