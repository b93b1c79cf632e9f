"""The variational bound on the likelihood of a diffusion model, of discrete levels or in continuous time."""

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimate import Estimate, over_images
from genmodels.protocols import HasBoundTerms
from genmodels.streams import Key

_SHARD = 32  # images that share a stream; on nothing else than its shard does an image's number depend


@torch.no_grad()
def bound(
    model: HasBoundTerms,
    x: Tensor,
    key: Key,
    n_times: int = 16,
    n_repeats: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, Estimate]]:
    """Return −reconstruction − prior − matching for each image, each term a mean over independent repeats.

    log q(x) ≥ E log q(x|z_1) − D(q(z_T|x) ‖ N(0, I)) − Σ_{t≥2} E D(q(z_{t−1}|z_t, x) ‖ q_θ(z_{t−1}|z_t)),
    in continuous time with ½ ∫ γ'(t) E‖ε − ε̂‖² dt for the sum. The mean is unbiased: by its error it may pass
    what it bounds. Dropout is off, whatever the mode of `model`. Kingma, Salimans, Poole & Ho 2021, eq. 11–13
    and section 4.2.

    Args:
        model: A Model with bound_terms.
        x: Images in the model's domain  # (image, site)
        key: The stream; images go by shards of 32, each repeat is a round.
        n_times: Strata of noise levels in a draw; each costs a call of the network, as does z_1.
        n_repeats: Draws, at least 2.
        progress: Called with the images done and their total.

    Returns:
        The bound of each image in nats, and its variance from noise and levels, which is independent between
        images  # float64, (image,) each
        The three terms by name, as costs: means over images with their errors.

    Raises:
        InputError: n_times < 1 or n_repeats < 2.
    """
    if n_times < 1 or n_repeats < 2:
        raise InputError(f"n_times: {n_times}, n_repeats: {n_repeats}: give at least 1 and 2, for an error")
    evaluated = copy.deepcopy(model).eval()  # type: ignore[attr-defined]
    shards: list[Tensor] = []
    for shard, images in enumerate(torch.split(x, _SHARD)):
        keys = [key.at(shard=shard, round=repeat) for repeat in range(n_repeats)]
        terms = [torch.stack(list(evaluated.bound_terms(images, k.torch(x.device), n_times))) for k in keys]
        shards.append(torch.stack(terms, 1).double().cpu())  # (term, repeat, image)
        if progress is not None:
            progress(min(len(shards) * _SHARD, len(x)), len(x))
    draws = torch.cat(shards, 2).numpy()
    names = ("reconstruction", "prior", "matching")
    means = {name: _mean(draw, name) for name, draw in zip(names, draws, strict=True)}
    values = -draws.sum(0)
    return values.mean(0), _variance(values), means


def _variance(draws: np.ndarray) -> np.ndarray:  # (repeat, image) -> (image,), of the mean over repeats
    variance: np.ndarray = draws.var(0, ddof=1) / len(draws)
    return variance


def _mean(draws: np.ndarray, name: str) -> Estimate:
    stderr = math.sqrt(float(_variance(draws).sum())) / draws.shape[1]
    return over_images(
        draws.mean(0), kind="estimate", method=name, stderr_estimator=stderr, own_variance=stderr**2
    )
