"""Bounds on the likelihood of a variational autoencoder by samples of its encoder."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.protocols import HasLogWeights
from genmodels.streams import Key

_SHARD = 16  # images that share a stream; on nothing else than its shard does an image's number depend
_ROUND = 250  # samples of z at once


class Bounds(NamedTuple):
    """Two lower bounds on log q_θ(x) of each image, at the same samples of z.

    Attributes:
        weighted: log (1/K) Σ_k w_k in nats, and by the delta method its variance var(w)/(K mean(w)²); its
            expectation rises with K. Burda, Grosse & Salakhutdinov 2016, eq. 8  # float64, (image,) each
        elbo: (1/K) Σ_k log w_k, the evidence lower bound, in nats, and its variance var(log w)/K. Kingma &
            Welling 2013, eq. 2  # float64, (image,) each
    """

    weighted: tuple[np.ndarray, np.ndarray]
    elbo: tuple[np.ndarray, np.ndarray]


def bounds(
    model: HasLogWeights,
    x: Tensor,
    key: Key,
    n_samples: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> Bounds:
    """Return both bounds by w_k = q_θ(x, z_k)/q_φ(z_k|x) with z_k ~ q_φ(z|x).

    Dropout is off, whatever the mode of `model`. A larger K draws the samples of a smaller one first, where
    that fills its rounds. The variances are independent between images.

    Args:
        model: A Model with log_weights.
        x: Images in the model's domain  # (image, site)
        key: The stream; images go by shards of 16 and samples by rounds of 250, each with its own.
        n_samples: K, at least 2.
        progress: Called with the images done and their total.

    Raises:
        InputError: fewer than 2 samples.
    """
    shards = []
    for log_w in _log_weights(model, x, key, n_samples):
        relative = log_w.softmax(1) * n_samples  # w / mean(w)
        weighted = log_w.logsumexp(1) - math.log(n_samples), relative.var(1) / n_samples
        shards.append(torch.stack([*weighted, log_w.mean(1), log_w.var(1) / n_samples]))
        if progress is not None:
            progress(min(len(shards) * _SHARD, len(x)), len(x))
    values, variances, means, noise = torch.cat(shards, 1).numpy()
    return Bounds((values, variances), (means, noise))


@torch.no_grad()
def _log_weights(model: HasLogWeights, x: Tensor, key: Key, n_samples: int) -> Iterator[Tensor]:
    """Yield log w of one shard of images after the other  # float64, (image, sample)."""
    if n_samples < 2:
        raise InputError(f"n_samples: {n_samples} sample of z has no error, give at least 2")
    evaluated = copy.deepcopy(model).eval()  # type: ignore[attr-defined]
    sizes = [min(_ROUND, n_samples - first) for first in range(0, n_samples, _ROUND)]
    for shard, images in enumerate(torch.split(x, _SHARD)):
        streams = [key.at(shard=shard, round=r).torch(x.device) for r in range(len(sizes))]
        rounds = [evaluated.log_weights(images, *each) for each in zip(sizes, streams, strict=True)]
        yield torch.cat(rounds, 1).double().cpu()
