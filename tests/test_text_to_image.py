"""The pipeline pipelines/text_to_image, on digits and in small."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SPY, Checkout
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
    "evaluate_captions.images": 16,
    "evaluate_captions.noise_levels": 4,
    "evaluate_captions.noise_repeats": 2,
    "paint_captions.prompts": ["a ((handwritten)) three", ""],
    "paint_captions.negative": "a handwritten zero",
    "paint_captions.n": 3,
    "paint_captions.steps": 5,
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
    assert [(row["kind"], row["unit"]) for row in rows] == [("upper", "bits per dimension")] * 6
    assert all(0.0 < row["value"] < 30.0 and row["stderr"] > 0.0 for row in rows)
    painted = np.load(out / "paint_captions/pictures.npz")
    assert painted["pixels"].shape == (9, 64)
    prompts = json.loads((out / "paint_captions/prompts.json").read_text())
    assert prompts["held_out"] == ["a handwritten seven"]
    assert prompts["prompts"] == ["a ((handwritten)) three", "", "a handwritten seven"]
    assert (out / "report_captions/report.html").read_text().count("data:image/png;base64") == 3
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
