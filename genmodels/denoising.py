"""A latent diffusion model at work: what it sees in the noise at each step, and between two prompts."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from genmodels.networks.text_encoder import Texts
from genmodels.streams import Streams


@torch.no_grad()
def film(
    model: Any, texts: Texts, streams: Streams, guidance: float = 3.0, n_steps: int = 30
) -> Iterator[Tensor]:
    """Yield what the decoder makes of ŷ(z_t) at each level t, the noisiest first  # (picture, site).

    Args:
        model: A LatentDiffusion.
        texts: A prompt a picture.
        streams: One a picture.
        guidance: w of ε̂_u + w (ε̂_c − ε̂_u).
        n_steps: Levels visited, by DDIM.

    Raises:
        InputError: too few steps.
    """
    for y in model.painting(streams, texts, None, guidance, n_steps, "ddim"):
        yield model.seen(y)


def between(texts: Texts, shares: Tensor) -> Texts:
    """Return (1 − λ) a + λ b of the states of two prompts a and b, padded to one length  # (λ,) -> (λ, …).

    A token that only one of them has stays, with the other's part of it 0.
    """
    first, second = texts.states
    share = shares.to(first)[:, None, None]
    mask = texts.mask.any(0).expand(len(shares), -1)
    return Texts((1.0 - share) * first + share * second, mask)
