"""Prompts in, pictures out."""

import math
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.networks.sketches import finished, numbered
from genmodels.networks.text_encoder import TextEncoder
from genmodels.protocols import ReadsPrompts
from genmodels.streams import Key, Streams
from genmodels.text_states import text_states

LONGEST = 1000  # characters of a prompt
_AT_ONCE = 32  # pictures


def reading(model: Any) -> None:
    """Check that a model reads prompts.

    Raises:
        InputError: it does not.
    """
    if not isinstance(model, ReadsPrompts):
        raise InputError(f"prompt: the model is a {type(model).__name__}, which reads none")


def encoder_of(model: Any) -> TextEncoder:
    """Return the text encoder that a LatentDiffusion was trained with.

    Raises:
        InputError: it was trained without one, or what has its name now is another one.
    """
    known = model.text_encoder
    if known is None:
        raise InputError(f"prompt: this {type(model).__name__} was trained without captions, give none")
    return TextEncoder.known(known)


def paint(
    model: Any,
    prompts: Sequence[str],
    key: Key,
    cache: Path,
    negative: str = "",
    guidance: float = 3.0,
    n_steps: int = 50,
    method: str = "ddim",
    said: Callable[[str], None] = print,
    encoder: TextEncoder | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a picture for each prompt in levels, and one to look at, in [0, 1]  # (picture, site) twice.

    Args:
        model: A LatentDiffusion.
        prompts: What they are to show; brackets are emphasis.
        key: Picture i draws from key.at(shard=i), whatever the others are.
        cache: The folder in which the prompts' states are kept.
        negative: What they are not to show.
        guidance: w of ε̂_u + w (ε̂_c − ε̂_u).
        n_steps: Noise levels visited.
        method: See `LatentDiffusion.paint`.
        said: Called with a line for each prompt of which not all can be read.
        encoder: What `encoder_of` returned, for those who paint often; to be found anew if None.

    Raises:
        InputError: no prompts, one of more than LONGEST characters, or see `encoder_of`,
            `TextEncoder.encode` and `LatentDiffusion.paint`.
    """
    return finished(painting(model, prompts, key, cache, negative, guidance, n_steps, method, said, encoder))


@torch.no_grad()
def painting(
    model: Any,
    prompts: Sequence[str],
    key: Key,
    cache: Path,
    negative: str = "",
    guidance: float = 3.0,
    n_steps: int = 50,
    method: str = "ddim",
    said: Callable[[str], None] = print,
    encoder: TextEncoder | None = None,
) -> Generator[tuple[int, Tensor], None, tuple[Tensor, Tensor]]:
    """Return what `paint` returns, which has the same arguments, and before yield latents so far.

    Each comes with the number of its first picture: pictures come in batches. `LatentDiffusion.seen` makes
    pictures of latents  # (picture, latent)
    """
    encoder = encoder or encoder_of(model)
    device = next(model.parameters()).device
    every = list(dict.fromkeys([negative, *prompts]))
    for prompt in every:
        if len(prompt) > LONGEST:
            raise InputError(f"prompt '{prompt[:30]}…': {len(prompt)} characters, give at most {LONGEST}")
        if rest := encoder.cut_off(prompt, emphasised=True):
            said(f"prompt '{prompt[:30]}…': beyond {encoder.max_tokens} tokens, not read: '{rest[:60]}'")
    if not math.isfinite(guidance):
        raise InputError(f"guidance: {guidance} is not finite, give a number such as 3")
    texts = text_states(encoder, every, cache, emphasised=True).to(device)
    rows = torch.tensor([every.index(prompt) for prompt in prompts], device=device)
    away = texts.select(rows.new_zeros(1)) if negative else None
    pixels, shown = [], []
    for first in range(0, len(prompts), _AT_ONCE):
        some = rows[first : first + _AT_ONCE]
        streams = Streams(key, len(some), first, device)
        way = model.painting(streams, texts.select(some), away, guidance, n_steps, method)
        drawn = yield from numbered(way, first)
        pixels.append(drawn[0].cpu())
        shown.append(drawn[1].cpu())
    if not pixels:
        raise InputError("prompts: there is none, give at least one")
    return torch.cat(pixels), torch.cat(shown)
