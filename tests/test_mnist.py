"""The pipeline pipelines/mnist, and the trained models that it leaves in the repository."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, SPY, Checkout
from PIL import Image
from test_dependencies import require_covered

from genmodels import cli
from genmodels.artifacts import load_model, load_tensors, read_config, read_json, read_log_z
from genmodels.data.sources import data_root
from genmodels.estimate import Estimate
from pipelines import dag

DVC_YAML, PARAMS = "pipelines/mnist/dvc.yaml", "pipelines/mnist/params.yaml"
OUT = Path("out/mnist")
PUBLISHED = ROOT / "pipelines/mnist/models"
ENERGY = {"boltzmann_machine", "rbm", "dbm"}
SMALL_LOG_Z = {
    "reference": "base_rate",
    "jarzynski": {
        "n_replicas": 200, "n_steps": 100, "n_sweeps": 1, "n_pilot": 50, "n_reverse": 200,
        "replicas_per_shard": 100,
        "exchange": {"n_ladders": 20, "n_rungs": 6, "burn_in": 20, "sweeps_per_round": 1},
    },
}  # fmt: skip
SMALL: dict[str, Any] = {
    "data.name": "digits",
    "data.limit": 400,
    "fit_baselines.gaussian.eigenvalue_floor": 0.12,
    "fit_baselines.mixture_10.iterations": 10,
    "fit_baselines.mixture_100.components": 20,
    "fit_baselines.mixture_100.iterations": 10,
    "fit_baselines.mixture_500.components": 30,
    "fit_baselines.mixture_500.iterations": 10,
    "train.rbm.n_hidden": 8,
    "train.rbm.steps": 200,
    "train.dbm.hidden": [6, 5],
    "train.dbm.pretraining.steps": 100,
    "train.dbm.steps": 200,
    "train.boltzmann_machine.steps": 100,
    "estimate_log_z.boltzmann_machine": SMALL_LOG_Z,
    "train.vae.steps": 300,
    "train.hvae.steps": 300,
    "train.diffusion.channels": [8, 8],
    "train.diffusion.steps": 30,
    "estimate_log_z.rbm": SMALL_LOG_Z,
    "estimate_log_z.dbm": SMALL_LOG_Z,
    "evaluate.images": 40,
    "evaluate.importance_samples": 50,
    "evaluate.more_samples": 100,
    "evaluate.posterior_steps": 20,
    "sample.n": 14,
}


def names() -> list[str]:
    values = yaml.safe_load((ROOT / PARAMS).read_text())
    return [*values["fit_baselines"], *values["train"]]


@pytest.fixture(scope="module")
def small(checkout: Callable[..., Checkout]) -> Checkout:
    """A checkout after the pipeline ran on digits; what its stages imported is in "mnist-spy" beside it."""
    one = checkout("mnist")
    one.change(SMALL, PARAMS)
    spy = one.folder.with_name("mnist-spy")
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(SPY)
    one.repro(DVC_YAML, GENMODELS_WORKERS="0", PYTHONPATH=f"{one.folder}:{spy}")
    return one


@pytest.mark.slow
def test_every_model_is_in_the_table_once_and_log_z_is_the_exact_one(small: Checkout) -> None:
    table = json.loads((small.folder / OUT / "report/table.json").read_text())
    assert [row["model"] for row in table["rows"] if row["name"] == "log_likelihood"] == names()
    for model in ENERGY:
        log_z = {
            row["name"].removeprefix("log_z."): Estimate.from_dict(row)
            for row in table["rows"]
            if row["model"] == model and row["name"].startswith("log_z.")
        }
        assert set(log_z) == {"enumeration", "jarzynski_forward", "jarzynski_reverse"}
        exact = log_z.pop("enumeration").value
        for estimate in log_z.values():
            assert 0.0 < estimate.stderr < 0.3
            assert abs(estimate.value - exact) < 4.0 * estimate.stderr
            assert abs(estimate.value + 1.5 - exact) > 4.0 * estimate.stderr
    kinds = {row["model"]: row["kind"] for row in table["rows"] if row["name"] == "log_likelihood"}
    assert (kinds["mixture_10"], kinds["rbm"], kinds["dbm"]) == ("exact", "exact", "lower")


@pytest.mark.slow
def test_deps_cover_what_the_stages_imported(small: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    require_covered(small.folder.with_name("mnist-spy"), dag.entries(Path(DVC_YAML)))


@pytest.mark.slow
def test_a_published_model_is_all_that_a_user_needs(small: Checkout, tmp_path: Path) -> None:
    folder = small.folder / "pipelines/mnist/models/rbm"
    expected = {
        "config.json",
        "model.safetensors",
        "log_z.json",
        "evaluation.json",
        "samples.png",
        "filters.png",
    }
    assert {path.name for path in folder.iterdir()} == expected
    assert set(read_log_z(folder)) == {"jarzynski_forward", "jarzynski_reverse"}
    said = small.run("genmodels", "evaluate", str(folder), "--data", "digits", "--json").stdout
    first = read_json(folder / "evaluation.json")["rows"][0]
    assert json.loads(said)["kind"] == first["kind"] == "exact"
    small.run("genmodels", "sample", str(folder), "-n", "4", "--out", str(tmp_path / "four.png"))
    assert Image.open(tmp_path / "four.png").size[0] > 16


@pytest.mark.slow
def test_published_models_stand_for_what_training_would_give(small: Checkout) -> None:
    twin = small.copy("adopted")
    code = twin.folder / "genmodels/learners/fit.py"  # of which every training depends
    code.write_text(code.read_text() + "\n# A remark.\n")
    assert len(twin.repro(DVC_YAML, "--dry", GENMODELS_WORKERS="0")) > len(names())
    for name in set(names()) & {path.name for path in (twin.folder / OUT / "train").iterdir()}:
        shutil.rmtree(twin.folder / OUT / "train" / name)  # but for its learning curve, which git keeps
    twin.run("python", "-m", "pipelines.adopt", PARAMS)
    assert twin.repro(DVC_YAML, GENMODELS_WORKERS="0") == [f"{DVC_YAML}:track"]
    weights = twin.folder / "pipelines/mnist/models/rbm/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    done = twin.run("python", "-m", "pipelines.adopt", PARAMS, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("genmodels: error: pipelines/mnist/models/rbm/")


@pytest.mark.slow
@pytest.mark.parametrize(("model", "part"), [("rbm", "fit"), ("dbm", "layer-2"), ("dbm", "fit")])
def test_a_training_that_is_killed_goes_on_to_the_same_bytes(
    checkout: Callable[..., Checkout], model: str, part: str
) -> None:
    one = checkout(f"killed-{model}-{part}")
    one.change(SMALL | {f"train.{model}.steps": 600, "train.dbm.pretraining.steps": 600}, PARAMS)
    # Checkpoints come every few seconds; here at every chance, so that the test need not last so long.
    training = one.folder / "pipelines/training.py"
    seldom, often = "seconds: float | None = 15.0", "seconds: float | None = 0.0"
    assert seldom in training.read_text()
    training.write_text(training.read_text().replace(seldom, often))
    one.run("python", "-m", "stages.prepare", "--params", PARAMS)
    command = ("python", "-m", "stages.train", "--params", PARAMS, "--model", model)
    curve = f".scratch/stages/*/{part}/curve.json"
    process = subprocess.Popen(
        command, cwd=one.folder, env=one.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 240
    while not list(one.folder.glob(curve)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    process.kill()
    process.wait()
    (saved,) = one.folder.glob(curve)
    assert 0 < read_json(saved)["rows"][-1]["step"] < 600
    assert not (one.folder / OUT / "train" / model).exists()
    written = []
    for _ in range(2):  # resumed, and without a stop
        one.run(*command)
        out = one.folder / OUT / "train"
        written.append({path.name: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()})
        shutil.rmtree(out)
    assert {"model.safetensors", f"{model}.csv"} <= set(written[0])
    assert written[0] == written[1]


@pytest.mark.parametrize("name", names())
def test_what_is_in_the_repository_loads_and_is_small(name: str) -> None:
    folder = PUBLISHED / name
    if not folder.exists():
        pytest.skip(f"{name} is not trained yet")
    assert (folder / "model.safetensors").stat().st_size <= 4 * 2**20
    config, model = read_config(folder), load_model(folder)
    assert config["data"] == {
        "name": "binarized_mnist", "shape": [28, 28, 1], "levels": 2, "binarisation": "given",
    }  # fmt: skip
    stored = load_tensors(folder / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in stored.values())
    assert set(stored) == set(model.state_dict())
    rows = read_json(folder / "evaluation.json")["rows"]
    first = Estimate.from_dict(rows[0])
    assert (rows[0]["name"], first.n, first.unit) == ("log_likelihood", 10000, "nats per image")
    assert (folder / "log_z.json").exists() == (name in ENERGY)
    if name in ENERGY:  # of these very weights, and both ways agree
        forward, reverse = read_log_z(folder).values()
        assert abs(forward.value - reverse.value) < 0.5


@pytest.mark.parametrize("name", ["independent", "mixture_10", "rbm"])
def test_the_figures_in_the_repository_are_those_of_the_weights_beside_them(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = PUBLISHED / name
    if not folder.exists() or not (data_root() / "binarized_mnist").exists():
        pytest.skip("needs the binarised MNIST under GENMODELS_DATA, and the trained model")
    cli.evaluate(folder, "binarized_mnist", seed=3, as_json=True)
    printed = capsys.readouterr()
    assert printed.err == ""  # these test images are nobody's training images
    found, published = json.loads(printed.out), read_json(folder / "evaluation.json")["rows"][0]
    assert (found["n"], found["kind"]) == (10000, published["kind"])
    assert found["value"] == pytest.approx(published["value"], abs=1e-3)
