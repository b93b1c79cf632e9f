"""The pipeline pipelines/text_to_image, on digits and in small."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SPY, Checkout
from PIL import Image
from test_dependencies import require_covered

from genmodels.artifacts import load_model
from genmodels.prompts import paint
from genmodels.streams import Key
from pipelines import dag

DVC_YAML, PARAMS = "pipelines/text_to_image/dvc.yaml", "pipelines/text_to_image/params.yaml"
SMALL = {
    "prepare_captions.name": "digits",
    "prepare_captions.limit": 200,
    "prepare_captions.held_out": ["a handwritten seven"],
    "train_autoencoder.channels": [8, 8],
    "train_autoencoder.steps": 30,
    "train_latent_diffusion.channels": [8, 8],
    "train_latent_diffusion.T": 50,
    "train_latent_diffusion.steps": 30,
    "train_latent_diffusion.precision": "single",
    "evaluate_captions.images": 16,
    "evaluate_captions.noise_levels": 4,
    "evaluate_captions.noise_repeats": 2,
    "paint_captions.prompts": ["a ((handwritten)) three", ""],
    "paint_captions.negative": "a handwritten zero",
    "paint_captions.n": 3,
    "paint_captions.steps": 5,
    "paint_captions.method": "ddim",
    "show_captions.prompts": ["a handwritten three", "a handwritten two"],
    "show_captions.seeds": 2,
    "show_captions.guidance": [0.0, 2.0],
    "show_captions.steps": 4,
    "show_captions.columns": 3,
    "show_captions.film_steps": 4,
}


@pytest.mark.slow
def test_from_captions_to_pictures(
    checkout: Callable[..., Checkout], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = checkout("text")
    one.change(SMALL, PARAMS)
    spy = one.folder.with_name("text-spy")
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(SPY)
    one.repro(DVC_YAML, GENMODELS_WORKERS="0", HF_HUB_OFFLINE="1", PYTHONPATH=f"{one.folder}:{spy}")
    out = one.folder / "out/text_to_image"
    rows = json.loads((out / "report_captions/table.json").read_text())["rows"]
    bounds = [row for row in rows if row["name"].startswith("bits_per_dimension")]
    assert [(row["kind"], row["unit"]) for row in bounds] == [("upper", "bits per dimension")] * 12
    assert all(0.0 < row["value"] < 30.0 and row["stderr"] > 0.0 for row in bounds)
    judged = {row["name"] for row in rows} - {row["name"] for row in bounds}
    lost = {f"nats.lost_by_shuffling.{split}" for split in ("train", "test", "held_out")}
    known = {f"{what}.{group}" for what in ("subject", "nearest") for group in ("held_out", "new", "real")}
    assert judged == lost | known | {"diversity.held_out", "diversity.new"}
    painted = np.load(out / "paint_captions/pictures.npz")
    assert painted["pixels"].shape == (9, 64)
    prompts = json.loads((out / "paint_captions/prompts.json").read_text())
    assert prompts["held_out"] == ["a handwritten seven"]
    assert prompts["prompts"] == ["a ((handwritten)) three", "", "a handwritten seven"]
    assert (out / "report_captions/report.html").read_text().count("data:image/png;base64") == 6
    assert Image.open(out / "show_captions/film.gif").n_frames == 4
    published = one.folder / "pipelines/text_to_image/models/latent_diffusion"
    assert {it.name for it in published.iterdir()} == {
        "config.json", "evaluation.json", "model.safetensors", "samples.png",
    }  # fmt: skip
    assert load_model(published).text_encoder["padded"]
    model = load_model(out / "train_latent_diffusion/latent_diffusion")
    assert bool(model.prior.empty.any())
    assert float(model.space.scale) != 1.0
    first = load_model(out / "train_autoencoder/autoencoder")
    for name, tensor in first.space.state_dict().items():
        assert torch.equal(tensor, model.space.state_dict()[name]), "the first stage learns nothing more"
    key = Key(2026, "paint_captions")
    again = paint(model, ["a ((handwritten)) three"], key, tmp_path, "a handwritten zero", 3.0, 5)[1]
    assert np.abs(again[0].numpy() - painted["means"][0]).max() <= 1.0 / 255.0
    assert one.repro(DVC_YAML, GENMODELS_WORKERS="0") == [f"{DVC_YAML}:track"]
    monkeypatch.chdir(one.folder)
    require_covered(spy, dag.entries(Path(DVC_YAML)))
