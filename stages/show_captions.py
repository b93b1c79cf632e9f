"""Latent diffusion at work: prompts, seeds and guidance; between prompts; the denoising step by step."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genmodels import runs
from genmodels.artifacts import load_model, new_file
from genmodels.data import captions, pictures
from genmodels.denoising import between, film
from genmodels.networks.text_encoder import TextEncoder, Texts
from genmodels.prompts import encoder_of, paint
from genmodels.streams import Key, Streams
from genmodels.text_states import text_states
from pipelines.stage import Stage, main

_FRAME, _LAST_FRAME = 120, 1500  # milliseconds
_TIMED = 16  # pictures


class _Show(NamedTuple):
    """What all pictures of this stage are made with."""

    stage: Stage
    settings: Any
    model: Any
    encoder: TextEncoder
    shape: tuple[int, int, int]
    out: Path
    cache: Path

    def key(self, of: str) -> Key:
        return Key(self.stage.params.seed, f"show_captions/{of}")

    def texts(self, prompts: list[str]) -> Texts:
        return text_states(self.encoder, prompts, self.cache, emphasised=True)

    def sheet(self, name: str, rows: np.ndarray, columns: int) -> None:
        with new_file(self.out / name) as path:
            pictures.grid(rows, self.shape, path, columns=columns)
        self.stage.run.picture(self.out / name)


def work(stage: Stage) -> None:
    """Write out/<pipeline>/show_captions: guidance.png, between.png, film.png and film.gif."""
    shape = captions.load(stage.out / "prepare_captions" / "images").shape
    model = load_model(stage.out / "train_latent_diffusion" / "latent_diffusion")
    show = _Show(
        stage, stage.params.show_captions, model, encoder_of(model), shape, stage.out / "show_captions",
        runs.root() / ".scratch" / "text",
    )  # fmt: skip
    _guidance(show)
    _between(show)
    _film(show)
    _cost(show)


def _guidance(show: _Show) -> None:
    """Draw a row a prompt; in it a block a guidance, from the same seeds each time."""
    settings = show.settings
    prompts = [prompt for prompt in settings.prompts for _ in range(settings.seeds)]
    blocks = [
        _of_seeds(show, prompts, guidance).reshape(len(settings.prompts), settings.seeds, -1)
        for guidance in settings.guidance
    ]
    rows = np.concatenate(blocks, 1)
    show.sheet("guidance.png", rows.reshape(-1, rows.shape[-1]), rows.shape[1])


def _of_seeds(show: _Show, prompts: list[str], guidance: float) -> np.ndarray:
    """Return pictures whose streams begin anew with each prompt  # (picture, site)."""
    n, drawn = show.settings.seeds, []
    for first in range(0, len(prompts), n):
        some = prompts[first : first + n]
        shown = paint(
            show.model, some, show.key("guidance"), show.cache, "", guidance, show.settings.steps,
            show.settings.method,
        )[1]  # fmt: skip
        drawn.append(shown.numpy())
    return np.concatenate(drawn)


def _between(show: _Show) -> None:
    """Draw a row a seed, from the first prompt's text states to the second's."""
    settings = show.settings
    texts = between(show.texts(list(settings.between)), torch.linspace(0.0, 1.0, settings.columns))
    rows = []
    for seed in range(settings.seeds):
        streams = [Streams(show.key("between"), 1, seed) for _ in range(settings.columns)]
        for column, stream in enumerate(streams):
            one = texts.select(torch.tensor([column]))
            rows.append(_painted(show, stream, one))
    show.sheet("between.png", np.concatenate(rows), settings.columns)


def _painted(show: _Show, streams: Streams, texts: Texts) -> np.ndarray:
    settings = show.settings
    drawn: tuple[Tensor, Tensor] = show.model.paint(
        streams, texts, None, settings.film_guidance, settings.steps, settings.method
    )
    return drawn[1].numpy()


def _film(show: _Show) -> None:
    """Draw a row a prompt, from noise on; and the same as frames."""
    settings = show.settings
    prompts = list(settings.prompts)
    frames = film(
        show.model, show.texts(prompts), Streams(show.key("film"), len(prompts)), settings.film_guidance,
        settings.film_steps,
    )  # fmt: skip
    seen = np.stack([frame.numpy() for frame in frames])  # (frame, picture, site)
    kept = np.linspace(0, len(seen) - 1, settings.columns).round().astype(int)
    show.sheet("film.png", seen[kept].swapaxes(0, 1).reshape(-1, seen.shape[-1]), settings.columns)
    sheets = [pictures.grid(frame, show.shape, columns=len(prompts)) for frame in seen]
    palettes = [sheet.convert("P", palette=Image.Palette.ADAPTIVE, colors=256) for sheet in sheets]
    with new_file(show.out / "film.gif") as path:
        durations = [_FRAME] * (len(palettes) - 1) + [_LAST_FRAME]
        palettes[0].save(path, save_all=True, append_images=palettes[1:], duration=durations, loop=0)
    show.stage.run.file(show.out / "film.gif")


@torch.no_grad()
def _cost(show: _Show) -> None:
    """Note how long a picture takes, by part: reading, denoising and decoding of a batch, over its size."""
    model, settings = show.model, show.settings
    prompts = [f"{prompt} {k}" for k, prompt in enumerate(_TIMED * [settings.prompts[0]])]
    start = time.monotonic()
    texts = show.encoder.encode(prompts)
    read = time.monotonic()
    streams = Streams(show.key("cost"), _TIMED)
    model.paint(streams, texts, None, settings.film_guidance, settings.steps, settings.method)
    painted = time.monotonic()
    model.space.picture(torch.zeros(_TIMED, model.space.n_latent))
    decoded = time.monotonic() - painted
    parts = {
        "text": read - start,
        "denoising": painted - read - 2.0 * decoded,  # `paint` decodes twice: a draw, and what is shown
        "decoding": 2.0 * decoded,
    }
    for part, seconds in parts.items():
        show.stage.cost(seconds / _TIMED, f"picture/{part}")


if __name__ == "__main__":
    main("show_captions", work)
