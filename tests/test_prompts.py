"""Prompts on the command line: pictures of a seed, maps of words, and what cannot be asked for."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_wrong_images import complaint
from typer.testing import CliRunner

from genmodels import explain
from genmodels.artifacts import load_model, load_tensors, save_model, save_tensors
from genmodels.cli import app
from genmodels.denoising import between, film
from genmodels.errors import InputError
from genmodels.illustrate import illustrate
from genmodels.models.latent_diffusion import LatentDiffusion
from genmodels.networks.text_encoder import TextEncoder
from genmodels.prompts import LONGEST, paint
from genmodels.streams import Key, Streams

KEY, SHADE = Key(5, "prompts"), 1.0 / 255.0
ELSEWHERE = """
import sys

sys.modules["genmodels"] = None  # to import it is an error
import diffusers
import torch
from safetensors.torch import load_file, save_file

folder, states, out = sys.argv[1:]
pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
pipeline.set_progress_bar_config(disable=True)
found = {}
for name, negative, guidance in (("plain", "", 3.0), ("negative", "an octopus", 2.0)):
    generators = [torch.Generator().set_state(state) for _, state in sorted(load_file(states).items())]
    prompts = ["a purple heart", "a face with tears of joy"]
    found[name] = torch.from_numpy(
        pipeline(
            prompts, negative_prompt=[negative] * 2, num_inference_steps=6, guidance_scale=guidance,
            generator=generators, output_type="np",
        ).images
    ).contiguous()
save_file(found, out)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, with random weights large enough for prompts to matter."""
    encoder = TextEncoder("minilm", 12, padded=True)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = LatentDiffusion(
            (16, 16, 3), (8, 8), 4, channels=(16, 16), text_encoder=encoder.description(), empty_tokens=12
        ).eval()
    model.prior.empty.copy_(encoder.encode([""]).states[0])
    model.space.scale.fill_(1.3)
    made = tmp_path_factory.mktemp("painter") / "model"
    data = {"name": "emoji", "shape": [16, 16, 3], "levels": 256, "binarisation": "none"}
    save_model(made, "latent_diffusion", model, data)
    return made


@pytest.fixture
def command(folder: Path, tmp_path: Path) -> tuple[list[str], Path]:
    return ["sample", str(folder), "--steps", "3"], tmp_path / "out.png"


def said(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def drawn(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_the_same_seed_gives_the_same_pictures_and_a_new_one_is_printed(
    command: tuple[list[str], Path], tmp_path: Path
) -> None:
    start, out = command
    asked = [*start, "--prompt", "a purple heart", "--out", str(out)]
    assert "4 pictures of seed 3" in said([*asked, "-n", "4", "--seed", "3"])
    four = drawn(out)
    said([*asked, "-n", "4", "--seed", "3"])
    assert np.array_equal(drawn(out), four)
    said([*asked, "-n", "4", "--seed", "3", "--negative", "an octopus"])
    assert not np.array_equal(drawn(out), four)
    seeds = [re.findall(r"seed (\d+)", said([*asked, "-n", "1"]))[0] for _ in range(2)]
    assert seeds[0] != seeds[1]


def test_a_picture_does_not_depend_on_the_batch(folder: Path) -> None:
    model = load_model(folder)
    many = illustrate(model, "a purple heart", 40, KEY, steps=2).means
    few = illustrate(model, "a purple heart", 3, KEY, steps=2).means
    assert many is not None
    assert few is not None
    assert float((many[:3] - few).abs().max()) <= SHADE
    assert float((many[0] - many[1]).abs().max()) > 5 * SHADE, "another seed, another picture"


def test_what_cannot_be_asked_for(folder: Path, command: tuple[list[str], Path]) -> None:
    model = load_model(folder)
    assert "give at most 1000" in complaint(lambda: illustrate(model, "x" * 10_000, 1, KEY))
    assert "give at most 1000" in complaint(lambda: illustrate(model, "x", 1, KEY, "y" * (LONGEST + 1)))
    assert "not finite" in complaint(lambda: illustrate(model, "x", 1, KEY, guidance=float("nan")))
    assert "takes 1 to 1000" in complaint(lambda: illustrate(model, "x", 1, KEY, steps=1001))
    assert "reads none" in complaint(lambda: illustrate(torch.nn.Identity(), "x", 1, KEY))
    assert "nothing to explain" in complaint(lambda: explain.explain(model, " ", 1, KEY))
    assert "not read" in complaint(lambda: explain.explain(model, "x", 1, KEY, guidance=0.0))
    start, out = command
    with pytest.raises(InputError, match="label"):
        CliRunner().invoke(app, [*start, "--label", "3", "--out", str(out)], catch_exceptions=False)


def test_an_empty_prompt_is_no_prompt(command: tuple[list[str], Path]) -> None:
    start, out = command
    rest = ["--seed", "3", "-n", "2", "--out", str(out)]
    said([*start, "--prompt", "", *rest])
    empty = drawn(out)
    said([*start, *rest])
    assert np.array_equal(drawn(out), empty)
    said([*start, "--prompt", "a heart", "--guidance", "0", *rest])
    assert np.abs(drawn(out) - empty).max() <= 1, "guidance 0 does not read"


def test_attention_is_shared_among_tokens(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    found = explain.explain(model, "a ((purple)) heart", 2, KEY, steps=3)
    assert found.words == ("a", "purple", "heart")
    assert found.maps.shape == (2, 3, 8, 8)
    assert bool((found.maps > 0.0).all())
    assert bool((found.maps.sum(1) < 1.0).all())
    again = illustrate(model, "a ((purple)) heart", 2, KEY, steps=3).means
    assert torch.equal(found.pictures, again), "listening changes nothing"
    names = [name for name, module in model.named_modules() if module._forward_hooks]
    assert names == [], "nobody listens any more"
    out = tmp_path / "maps.png"
    explain.draw(found, (16, 16, 3), out)
    assert Image.open(out).size[0] > 4 * 96


def test_every_token_together_has_all_the_attention(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [("all", list(range(12)))]
    monkeypatch.setattr(TextEncoder, "words", lambda *_, **__: everything)
    maps = explain.explain(load_model(folder), "a heart", 1, KEY, steps=2).maps
    torch.testing.assert_close(maps, torch.ones_like(maps))


def test_a_film_ends_in_the_picture_and_a_way_between_prompts_at_both(folder: Path) -> None:
    model = load_model(folder)
    encoder = TextEncoder.known(model.text_encoder)
    texts = encoder.encode(["a heart", "a fish"])
    *_, last = film(model, texts, Streams(KEY, 2), 3.0, 4)
    end = model.paint(Streams(KEY, 2), texts, None, 3.0, 4, "ddim")[1]
    torch.testing.assert_close(last, end, rtol=0, atol=1e-5)
    way = between(texts, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(way.states[0], texts.states[0])
    assert torch.equal(way.states[2], texts.states[1])
    torch.testing.assert_close(way.states[1], texts.states.mean(0))


@pytest.mark.slow
def test_diffusers_alone_draws_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    prompts = ["a purple heart", "a face with tears of joy"]
    states = {str(k): generator.get_state() for k, generator in enumerate(Streams(KEY, 2).generators)}
    save_tensors(tmp_path / "states.safetensors", states)
    out = tmp_path / "found.safetensors"
    arguments = [str(folder / "pipeline"), str(tmp_path / "states.safetensors"), str(out)]
    subprocess.run([sys.executable, "-I", "-c", ELSEWHERE, *arguments], cwd=tmp_path, check=True)
    found, model = load_tensors(out), load_model(folder)
    for name, negative, guidance in (("plain", "", 3.0), ("negative", "an octopus", 2.0)):
        ours = paint(model, prompts, KEY, tmp_path, negative, guidance, 6, "dpm")[1]
        assert float((ours - found[name].flatten(1)).abs().max()) <= SHADE
    assert float((found["plain"] - found["negative"]).abs().max()) > 5 * SHADE
