"""The diffusers pipeline beside a model: loaded where this package is not, it draws the same pictures."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genmodels.artifacts import load_model, load_tensors, read_config, save_model, save_tensors, sha256
from genmodels.models.diffusion import Diffusion
from genmodels.networks import schedulers
from genmodels.streams import Key, Streams

KEY, STEPS, N = Key(5, "pictures"), 9, 3
SHADE = 1.0 / 255.0
ELSEWHERE = """
import sys

sys.modules["genmodels"] = None  # to import it is an error
import diffusers
import torch
from safetensors.torch import load_file, save_file

*folders, states, out = sys.argv[1:]
found = {}
for folder in folders:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert all(p.dtype == torch.float32 for p in pipeline.unet.parameters())
    pipeline.set_progress_bar_config(disable=True)

    def pictures():
        generators = [torch.Generator() for _ in load_file(states)]
        for generator, (_, state) in zip(generators, sorted(load_file(states).items())):
            generator.set_state(state)
        return pipeline(len(generators), generators, num_inference_steps=STEPS, output_type="pt").images

    found[folder] = pictures().contiguous()
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, trained_betas=None)
    found[folder + "/wrong"] = pictures().contiguous()
save_file(found, out)
"""


def model(**settings: Any) -> Diffusion:
    given = {"shape": (4, 6, 1), "T": 100, "levels": 17, "objective": "eps", "gamma_min": -7.0} | settings
    with torch.random.fork_rng():
        torch.manual_seed(8)
        return Diffusion(**({"channels": (8, 8)} | given)).eval()


def saved(folder: Path, of: Diffusion, precision: str | None = None) -> Path:
    data = {"name": "digits", "shape": [4, 6, 1], "levels": 17, "binarisation": "none"}
    save_model(folder, "diffusion", of, data, precision)
    return folder


def test_it_draws_the_same_pictures_without_this_package(tmp_path: Path) -> None:
    models = {
        "eps": model(prediction="eps"),
        "x": model(prediction="x", shape=(4, 6, 3)),
        "v": model(prediction="v", schedule="cosine", T=40),
        "half": model(prediction="v"),
    }
    folders = {
        name: saved(tmp_path / name, it, "half" if name == "half" else None) for name, it in models.items()
    }
    states = [generator.get_state() for generator in Streams(KEY, N).generators]
    save_tensors(tmp_path / "states.safetensors", {str(i): state for i, state in enumerate(states)})
    pipelines = [str(folder / "pipeline") for folder in folders.values()]
    script = ELSEWHERE.replace("STEPS", str(STEPS))
    out = tmp_path / "pictures.safetensors"
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(
        [sys.executable, "-I", "-c", script, *pipelines, str(tmp_path / "states.safetensors"), str(out)],
        cwd=tmp_path / "elsewhere",
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | {"HF_HUB_OFFLINE": "1"},
        check=True,
    )
    found = load_tensors(out)
    for folder in folders.values():
        mine = ours(load_model(folder))
        theirs = found[str(folder / "pipeline")]
        assert mine.shape == theirs.shape
        assert float((mine - theirs).abs().max()) < SHADE
        assert float((mine - found[str(folder / "pipeline" / "wrong")]).abs().max()) > 5.0 * SHADE


def ours(of: Diffusion) -> Tensor:
    """Return pictures from 0 to 1, ½ + f/2  # (picture, channel, height, width)."""
    x0 = schedulers.descend(of, Streams(KEY, N), "ddim", STEPS)
    image = x0.view(N, of.height, of.width, of.depth).permute(0, 3, 1, 2)
    return (image / 2 + 0.5).clamp(0, 1)


def test_its_files_are_safe_the_same_each_time_and_in_the_digests(tmp_path: Path) -> None:
    one, other = (saved(tmp_path / name, model(prediction="v")) for name in ("a", "elsewhere"))
    files = {path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file()}
    assert {Path(name).suffix for name in files} == {".json", ".safetensors"}
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in files)
    assert all((one / name).stat().st_mode & 0o777 == 0o644 for name in files)
    listed = read_config(one)["sha256"]
    assert listed == {name: sha256(one / name) for name in files - {"config.json"}}
    assert "pipeline/unet/diffusion_pytorch_model.safetensors" in listed
    tensors = load_tensors(one / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


@pytest.mark.parametrize(
    "settings",
    [
        {"prediction": "eps", "network": "compact"},
        {"prediction": "residual"},
        {"prediction": "logits", "levels": 2, "objective": "weighted"},
        {"prediction": "eps", "n_classes": 3},
        {"prediction": "eps", "shape": (5, 6)},
    ],
)
def test_other_models_are_exempt(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", model(**settings))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
