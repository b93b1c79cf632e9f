"""Pictures from a model, with options, in batches, and from the command."""

import math
import re
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from genmodels import cli
from genmodels import generate as generating
from genmodels.artifacts import save_model
from genmodels.errors import InputError
from genmodels.generate import generate, watched
from genmodels.models.diffusion import Diffusion
from genmodels.models.gaussian import Gaussian
from genmodels.models.vae import VAE
from genmodels.placement.local import LocalPlacement
from genmodels.streams import Key
from genmodels.ways import METHODS, options_of

HERE, KEY = LocalPlacement(), Key(4, "pictures")
GREY = {"levels": 17, "prediction": "eps", "objective": "eps", "gamma_min": -7.0, "gamma_max": 5.0}
DATA = {"name": "digits", "shape": [4, 4, 1], "levels": 17, "binarisation": "none"}


def diffusion(**settings: Any) -> Diffusion:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return Diffusion((4, 4), (8, 8), **({"T": 40} | settings)).eval()


def vae() -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return VAE((4, 4), 3, (16,)).eval()


def test_a_model_has_the_options_that_are_true_of_it() -> None:
    assert options_of(diffusion()) == ("method", "steps")
    assert options_of(diffusion(n_classes=3)) == ("method", "steps", "label", "guidance")
    assert options_of(vae()) == ("radius",)
    assert options_of(Gaussian(16)) == ()


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (diffusion(), {"radius": 0.5}, "radius: the model is a Diffusion, its options are method, steps"),
        (diffusion(), {"label": 1}, "label: the model is a Diffusion, its options"),
        (vae(), {"steps": 3}, "steps: the model is a VAE, its options are radius"),
        (vae(), {"radius": -1.0}, "radius: -1.0"),
        (Gaussian(16), {"method": "dpm"}, "method: the model is a Gaussian, it has no options"),
        (diffusion(), {"method": "euler"}, "method: 'euler' is none of ancestral"),
        (diffusion(), {"steps": 0}, "steps: 0, but ancestral takes 2 to 40"),
        (diffusion(), {"steps": 41}, "steps: 41, but ancestral takes 2 to 40"),
        (diffusion(), {"steps": 41, "method": "dpm"}, "steps: 41, but dpm takes 1 to 40"),
        (diffusion(), {"steps": 0, "method": "ode"}, "steps: 0, but ode takes at least 1"),
        (diffusion(n_classes=3), {"label": 3}, "label: 3 is none of the model's classes, 0 to 2"),
        (diffusion(n_classes=3), {"guidance": 2.0}, "guidance: 2.0 towards which class"),
        (diffusion(n_classes=3), {"label": 0, "guidance": math.nan}, "guidance: nan"),
    ],
)
def test_what_a_model_cannot_follow_is_one_line(model: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        generate(model, 2, KEY, HERE, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("settings", [{}, GREY], ids=["binary", "grey"])
def test_batches_change_nothing(method: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = diffusion(**settings)
    calls: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        calls.append((done, total))

    whole = generate(model, 7, KEY, HERE, note, method=method, steps=5)
    assert whole.levels == settings.get("levels", 2)
    assert set(whole.pixels.unique().tolist()) <= set(range(whole.levels))
    assert calls[-1][0] == calls[-1][1] == 5 * METHODS[method].calls
    assert not model.unet._forward_hooks
    monkeypatch.setattr(generating, "_BATCH", 3)
    parts = generate(model, 7, KEY, HERE, method=method, steps=5)
    torch.testing.assert_close(parts.means, whole.means, atol=2e-4, rtol=0.0)
    # A pixel may fall on the other side of a random number or of a half, if it is that near.
    assert float((parts.pixels - whole.pixels).abs().mean()) < 0.02
    alone = generate(model, 1, KEY, HERE, method=method, steps=5)
    torch.testing.assert_close(alone.means, whole.means[:1], atol=2e-4, rtol=0.0)


def test_many_and_large_pictures_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = vae(), []
    draw = model.pictures

    def note(streams: Any, **options: Any) -> tuple[Tensor, Tensor]:
        sizes.append(len(streams))
        return draw(streams, **options)

    monkeypatch.setattr(model, "pictures", note)
    assert len(generate(model, 600, KEY, HERE).pixels) == 600
    assert sizes == [256, 256, 88]
    monkeypatch.setattr(generating, "_BATCH_SITES", 20)
    sizes.clear()
    generate(model, 3, KEY, HERE)
    assert sizes == [1, 1, 1]


def test_labels_guidance_and_radius_are_followed() -> None:
    model = diffusion(n_classes=3, **GREY)
    with torch.no_grad():
        model.unet.net.class_embedding.weight.mul_(20.0)
    for method in ("ancestral", "dpm", "ode"):
        drawn = [
            generate(model, 2, KEY, HERE, method=method, steps=6, **more).means
            for more in ({}, {"label": 0}, {"label": 2}, {"label": 2, "guidance": 5.0})
        ]
        for i, one in enumerate(drawn):
            assert all(not torch.allclose(one, other, atol=1e-3) for other in drawn[:i])
    quiet, wild = (generate(vae(), 50, KEY, HERE, radius=radius).means for radius in (0.0, 3.0))
    assert torch.equal(quiet, quiet[:1].expand_as(quiet))
    assert float(wild.std(0).mean()) > 0.02


def test_the_command_writes_grey_levels_and_says_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENMODELS_WORKERS", "0")
    folder, out = tmp_path / "model", tmp_path / "grid.png"
    save_model(folder, "diffusion", diffusion(n_classes=3, **GREY), DATA)
    few = ["-n", "4", "--method", "dpm", "--steps", "4", "--label", "1", "--guidance", "2"]

    def command(*options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["genmodels", "sample", str(folder), "--out", str(out), *options])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    status, said, _ = command(*few)
    assert status == 0
    seed = re.search(r"seed (\d+)", said)
    assert seed is not None
    grid = out.read_bytes()
    assert command(*few, "--seed", seed[1]) == (0, said, "")
    assert out.read_bytes() == grid
    shades = set(np.unique(np.asarray(Image.open(out))).tolist())
    assert len(shades & {round(v / 16 * 255) for v in range(17)}) > 3
    assert command(*few)[1] != said
    status, _, wrong = command("--radius", "2")
    assert status == 2
    assert wrong == (
        "genmodels: error: radius: the model is a Diffusion, its options are method, steps, label, guidance\n"
    )


@pytest.mark.parametrize("method", ["ancestral", "ddim", "dpm", "ode"])
def test_who_watches_gets_the_same_pictures(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generating, "_BATCH", 2)
    sketches: list[tuple[int, Tensor]] = []

    def kept() -> Generator[tuple[int, Tensor], None, None]:
        drawn.append((yield from watched(diffusion(), 3, KEY, method=method, steps=6)))

    drawn: list[Any] = []
    sketches.extend(kept())
    plain = generate(diffusion(), 3, KEY, HERE, method=method, steps=6)
    assert torch.equal(drawn[0].pixels, plain.pixels)
    assert torch.equal(drawn[0].means, plain.means)
    each = 1 if method == "ode" else 6  # sketches of each of two batches
    assert [first for first, _ in sketches] == [0] * each + [2] * each
    assert [len(means) for _, means in sketches] == [2] * each + [1] * each
    assert all(0.0 <= float(means.min()) <= float(means.max()) <= 1.0 for _, means in sketches)
    assert each == 1 or not torch.equal(sketches[0][1], sketches[each - 1][1])
