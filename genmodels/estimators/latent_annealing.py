"""The likelihood of an autoencoder by annealing its latent variables from the encoder to the posterior."""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.kernels.mala import MALA
from genmodels.protocols import HasEncoded
from genmodels.samplers import work
from genmodels.streams import Key

_SHARD = 10  # images that share a stream; on nothing else than its shard does an image's number depend
_STEPS = (0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.02, 0.01)  # of Langevin dynamics, tried in turn
_ACCEPTED = 0.57  # of the proposals, where MALA is at its best in many dimensions
_PILOT_STEPS = 20


class Annealed(NamedTuple):
    """What annealing says of each image."""

    log_prob: np.ndarray  # log of the mean weight, in expectation below log q(x)  # (image,), nats
    variances: np.ndarray  # of it, by the delta method  # (image,)
    ess: np.ndarray  # particles that the weights are worth  # (image,)


class Encoded:
    """The path over the encoder's noise ε, from N(0, I) to the posterior, one fixed image a replica.

    With z = z(ε) as the encoder draws it, q(x) = ∫ N(ε; 0, I) w(ε) dε, w = q(x, z)/q(z|x). So
    P_β(ε) ∝ exp(−βE(ε) − E_0(ε)) with E = −log w and E_0 = ½|ε|² is the encoder at β = 0 and the posterior
    at β = 1. At once from one to the other it is importance sampling.
    """

    def __init__(self, model: HasEncoded, x: Tensor) -> None:
        """Hold the images fixed  # (replica, site)."""
        self.model, self.x, self.n_sites = model, x, model.n_latent
        with torch.no_grad():
            self.encoded = model.encode(x)
        self.log_z_reference = 0.5 * self.n_sites * math.log(2.0 * math.pi)

    def energy(self, eps: Tensor) -> Tensor:
        """Return −log w(ε)  # (replica, latent) -> (replica,), nats."""
        return -self.model.log_weight(self.x, self.encoded, eps)

    def reference_energy(self, eps: Tensor) -> Tensor:
        """Return ½|ε|²  # (replica, latent) -> (replica,), nats."""
        return 0.5 * eps.square().sum(1)

    def draw_reference(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n draws of ε  # (n, latent)."""
        return torch.randn(n, self.n_sites, generator=generator, device=generator.device)


def anneal(
    model: HasEncoded,
    x: Tensor,
    key: Key,
    n_particles: int = 16,
    n_steps: int = 200,
    progress: Callable[[int, int], None] | None = None,
) -> Annealed:
    """Return log q(x) of each image by annealed importance sampling from its encoder.

    The mean of the weights is unbiased, its logarithm a lower bound in expectation; more steps of β lead to
    the truth. Between two steps MALA moves ε, its step found by a pilot with random numbers of its own and
    then kept. Dropout is off, whatever the mode of `model`. Neal 2001; Wu et al. 2017.

    Args:
        model: A Model that says what its encoder's noise is worth.
        x: Images in the model's domain  # (image, site)
        key: The stream; images go by shards of 10.
        n_particles: Per image, at least 2.
        n_steps: Steps of β from 0 to 1, dense where they start; a sweep before each but the first.
        progress: Called with the images done and their total.

    Raises:
        InputError: fewer than 2 particles, or no step.
    """
    if n_particles < 2 or n_steps < 1:
        raise InputError(f"annealing: {n_particles} particles, {n_steps} steps: give at least 2 and 1")
    evaluated = copy.deepcopy(model).eval().requires_grad_(False)  # type: ignore[attr-defined]
    betas = torch.linspace(0.0, 1.0, n_steps + 1, dtype=torch.float64).square()
    kernel = MALA(_step(evaluated, x[:_SHARD], key.child("pilot")), 1)
    shards = []
    for shard, images in enumerate(torch.split(x, _SHARD)):
        path = Encoded(evaluated, images.repeat_interleave(n_particles, 0))
        state, _ = work.draw(None, shard, len(path.x), path, kernel, key)
        _, seen = work.advance(state, shard, (0, n_steps), path, kernel, betas, 1, key)
        shards.append(-seen.work[:, -1].view(len(images), n_particles))
        if progress is not None:
            progress(min(len(shards) * _SHARD, len(x)), len(x))
    log_w = torch.cat(shards)
    relative = log_w.softmax(1) * n_particles  # w / mean(w)
    mean = log_w.logsumexp(1) - math.log(n_particles)
    ess = n_particles**2 / relative.square().sum(1)
    return Annealed(mean.numpy(), (relative.var(1) / n_particles).numpy(), ess.numpy())


def _step(model: HasEncoded, x: Tensor, key: Key) -> float:
    """Return the largest step that accepts as many proposals as it should, on the way from 0 to 1."""
    path = Encoded(model, x)
    betas = torch.linspace(0.0, 1.0, _PILOT_STEPS)[:, None].expand(-1, len(x))
    for dt in _STEPS:
        kernel = MALA(dt, 1)
        state = kernel.init(path, len(x), key.child("start"))
        if kernel.advance(path, state, betas, _PILOT_STEPS, key.child("move"))[1].acceptance >= _ACCEPTED:
            return dt
    return _STEPS[-1]
