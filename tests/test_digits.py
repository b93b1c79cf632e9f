"""The pipeline pipelines/digits: grey digits in bits per dimension, and digits on demand."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, SPY, Checkout
from PIL import Image
from test_dependencies import require_covered

from genmodels.artifacts import load_model
from genmodels.data.prepare import prepare_dataset
from genmodels.errors import InputError
from genmodels.estimators import selection, variational
from genmodels.models.diffusion import Diffusion
from genmodels.streams import Key
from pipelines import dag

DVC_YAML, PARAMS = "pipelines/digits/dvc.yaml", "pipelines/digits/params.yaml"
OUT = Path("out/digits")
KEY = Key(17, "digits")
ENDS = [-6.0, -2.0, 4.0]
SMALL: dict[str, Any] = {
    "data.limit": 400,
    "fit_baselines.gaussian_mixture.components": 3,
    "fit_baselines.gaussian_mixture.iterations": 5,
    "fit_baselines.gaussian_mixture.restarts": 1,
    "train.vae.hidden": [32],
    "train.vae.steps": 40,
    "train.hvae.hidden": [32, 16],
    "train.hvae.steps": 40,
    "train.diffusion.channels": [8, 8],
    "train.diffusion.steps": 40,
    "train.diffusion.gamma_min": ENDS,
    "evaluate.images": 30,
    "evaluate.importance_samples": 20,
    "evaluate.more_samples": 40,
    "evaluate.posterior_images": 10,
    "evaluate.posterior_steps": 10,
    "evaluate.noise_levels": 4,
    "evaluate.noise_repeats": 2,
    "sample.n": 10,
    "sample.per_class": 3,
}


def names() -> list[str]:
    values = yaml.safe_load((ROOT / PARAMS).read_text())
    return [*values["fit_baselines"], *values["train"]]


def diffusion(gamma_min: float, network: str = "compact") -> Diffusion:
    with torch.random.fork_rng():
        torch.manual_seed(KEY.counter())
        T = None if network == "compact" else 50
        ends = {"gamma_min": gamma_min, "gamma_max": 5.0}
        settings = {"levels": 17, "prediction": "residual", "objective": "eps", "network": network}
        return Diffusion((8, 8, 1), (8, 8), T, **ends, **settings).eval()


def held_out() -> torch.Tensor:
    prepared, _ = prepare_dataset("digits", None, 100, None, 1, 0.0, validation=0.3, test=0.2, seed=1)
    return torch.from_numpy(prepared.splits["validation"].grey).float()


# The least noise


def test_the_bound_on_other_images_chooses_the_least_noise() -> None:
    model, x = diffusion(-8.0), held_out()
    ends = selection.by_least_noise(model, [-8.0, 3.0, -5.0])
    chosen, scores = selection.likeliest(ends, x, KEY)
    for gamma, end in ends.items():
        assert end.args() == model.args() | {"gamma_min": gamma}
        values, _, _ = variational.bound(diffusion(gamma), x, KEY, 16, 2)  # the same weights, built anew
        assert scores[gamma].mean == pytest.approx(values.mean())
    assert scores[chosen].mean == max(score.mean for score in scores.values())
    # The untrained network's best is to leave the pixels in noise, where all levels are alike.
    assert chosen == 3.0
    assert abs(scores[3.0].mean + 64 * math.log(17.0)) < 20.0
    assert scores[-5.0].mean < scores[3.0].mean - 4.0 * scores[-5.0].stderr


def test_several_ends_are_for_a_network_that_is_told_the_noise() -> None:
    with pytest.raises(InputError, match="network: compact"):
        selection.by_least_noise(diffusion(-8.0, "diffusers"), [-7.0])
    with pytest.raises(InputError, match="below -8"):
        selection.by_least_noise(diffusion(-8.0), [-9.0, -7.0])


# The pipeline


@pytest.fixture(scope="module")
def small(checkout: Callable[..., Checkout]) -> Checkout:
    """A checkout after the pipeline ran; what its stages imported is in "digits-spy" beside it."""
    one = checkout("digits")
    one.change(SMALL, PARAMS)
    spy = one.folder.with_name("digits-spy")
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(SPY)
    one.repro(DVC_YAML, GENMODELS_WORKERS="0", PYTHONPATH=f"{one.folder}:{spy}")
    return one


def rows_of(one: Checkout) -> list[dict[str, Any]]:
    return list(json.loads((one.folder / OUT / "report/table.json").read_text())["rows"])


@pytest.mark.slow
def test_every_model_is_in_the_table_in_bits_and_nothing_in_nats(small: Checkout) -> None:
    rows = rows_of(small)
    main = [row for row in rows if row["name"] == "bits_per_dimension"]
    assert [row["model"] for row in main] == names()
    assert not any(row["name"].startswith("log_likelihood") for row in rows)
    kinds = {row["model"]: row["kind"] for row in main}
    exact = {"independent_levels", "gaussian", "gaussian_mixture"}
    assert {name for name, kind in kinds.items() if kind == "exact"} == exact
    assert {kinds[name] for name in set(kinds) - exact} == {"upper"}
    for row in main:
        assert (row["unit"], row["n"]) == ("bits per dimension", SMALL["evaluate.images"])
        assert row["method"].endswith("17 levels")
        with np.load(small.folder / OUT / f"evaluate/{row['model']}.npz") as nats:
            bits = -nats["log_likelihood"].mean() / (64 * math.log(2.0))
        assert row["value"] == pytest.approx(bits)
    # An importance-weighted bound is the tighter one: fewer bits.
    by_name = {(row["model"], row["name"]): row["value"] for row in rows}
    for model in ("vae", "hvae"):
        assert by_name[model, "bits_per_dimension"] < by_name[model, "bits_per_dimension.elbo"]


@pytest.mark.slow
def test_the_best_of_the_listed_ends_is_the_models(small: Checkout) -> None:
    last = (small.folder / OUT / "train/diffusion.csv").read_text().splitlines()
    figures = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    scores = {gamma: float(figures[f"validation_from_gamma_{gamma:g}"]) for gamma in ENDS}
    model = load_model(small.folder / OUT / "train/diffusion")
    assert model.args()["gamma_min"] == max(scores, key=lambda gamma: scores[gamma])
    assert (model.args()["n_classes"], model.args()["levels"]) == (10, 17)


@pytest.mark.slow
def test_pictures_are_levels_and_those_of_classes_are_judged(small: Checkout) -> None:
    for model in names():
        with np.load(small.folder / OUT / f"sample/{model}.npz") as drawn:
            pixels = drawn["pixels"]
            assert pixels.dtype == np.uint8
            assert 1 < pixels.max() < 17
            assert ("labels" in drawn) == (model == "diffusion")
    with np.load(small.folder / OUT / "sample/diffusion.npz") as drawn:
        assert drawn["labels"].tolist() == [label for label in range(10) for _ in range(3)]
        assert len(np.unique(drawn["pixels"], axis=0)) == 30
    width, height = Image.open(small.folder / OUT / "sample/diffusion.png").size
    assert height > 3 * width  # ten rows of three
    rows = {row["name"]: row for row in rows_of(small) if row["unit"] == "share"}
    assert (rows["recognised"]["n"], rows["classifier"]["n"]) == (30, 66)
    assert rows["classifier"]["value"] > 0.85
    taken_for = json.loads((small.folder / OUT / "recognise/diffusion.json").read_text())["taken_for"]
    assert np.trace(taken_for) == pytest.approx(30 * rows["recognised"]["value"])


@pytest.mark.slow
def test_the_page_and_the_command_tell_bits(small: Checkout) -> None:
    page = (small.folder / OUT / "report/report.html").read_text()
    assert "Held-out bits per dimension" in page
    assert "nats per image" not in page
    assert "shows the class asked for" in page
    printed = " ".join(small.run("genmodels", "compare", "digits").stdout.split())
    assert "held-out grey images (17 levels), bits per dimension, smaller is better" in printed
    said = small.run("genmodels", "evaluate", str(OUT / "train/vae"), "--data", "digits", "--json").stdout
    estimate = json.loads(said)
    assert (estimate["unit"], estimate["kind"]) == ("bits per dimension", "upper")


@pytest.mark.slow
def test_a_second_run_does_nothing_and_deps_cover_what_the_stages_imported(
    small: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small.repro(DVC_YAML, GENMODELS_WORKERS="0") == [f"{DVC_YAML}:track"]
    monkeypatch.chdir(ROOT)
    require_covered(small.folder.with_name("digits-spy"), dag.entries(Path(DVC_YAML)))
