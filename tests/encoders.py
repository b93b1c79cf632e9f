"""What the tests of both autoencoders share: all images, weights at random, differences in errors."""

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from genmodels.streams import Key, Streams

M = TypeVar("M", bound=nn.Module)


def all_images(n_sites: int) -> Tensor:
    return (torch.arange(2**n_sites)[:, None] >> torch.arange(n_sites) & 1).float()


def scrambled(model: M, seed: int = 3, encoder: float = 0.3, decoder: float = 0.9, priors: float = 0.4) -> M:
    """Return the model with weights at random of these sizes; its encoder is wider than the posterior."""
    generator, sizes = Key(seed, "weights").torch(), {"decoder": decoder, "down": priors, "priors": priors}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = sizes.get(name.split(".")[0], encoder)
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def z_score(values: np.ndarray, variances: np.ndarray, exact: Tensor) -> float:
    """Return the mean difference from the exact values in standard errors."""
    difference = values - exact.numpy()
    return float(difference.sum() / math.sqrt(variances.sum()))


def chi_square(pictures: Tensor, probabilities: np.ndarray) -> float:
    """Return the z-score of Pearson's χ² of binary pictures of few pixels."""
    n, n_states = len(pictures), len(probabilities)
    places = 2 ** torch.arange(pictures.shape[1])
    counts = torch.bincount((pictures.long() * places).sum(1), minlength=n_states).numpy()
    expected = probabilities * n
    assert expected.min() > 5.0
    chi = ((counts - expected) ** 2 / expected).sum()
    return float((chi - (n_states - 1)) / math.sqrt(2.0 * (n_states - 1)))


def differ_by_batch(model: Any, key: Key, radius: float) -> float:
    """Return how much a picture's pixels or means depend on how many are drawn with it, in levels' range."""
    whole = model.pictures(Streams(key, 64), radius)
    top = float(max(1.0, whole[0].max()))
    worst = 0.0
    for n, first in ((1, 0), (1, 41), (3, 0), (3, 20)):
        part = model.pictures(Streams(key, n, first), radius)
        for some, all_of_them, scale in zip(part, whole, (top, 1.0), strict=True):
            worst = max(worst, float((some - all_of_them[first : first + n]).abs().max()) / scale)
    return worst
