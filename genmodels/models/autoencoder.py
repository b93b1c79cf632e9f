"""The first stage of latent diffusion by itself: a convolutional autoencoder with a standard normal prior."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks.diagonal_normal import DiagonalNormal
from genmodels.networks.latent_space import LatentSpace
from genmodels.protocols import Domain
from genmodels.streams import Streams, normal, uniform

_AT_ONCE = 256  # pictures that the decoder makes


class Autoencoder(nn.Module):
    """q_θ(x) = ∫ N(z; 0, I) p(x|z) dz, z a small image, with the encoder and decoder of a LatentSpace.

    Rombach et al. 2022, section 3.1; Kingma & Welling 2013.

    Args:
        shape: Height, width and channels of the pictures.
        channels: Features of each resolution, half as wide as the one before.
        latent: Channels of z.
        levels: K, values of a pixel.
        kl_weight: Of the divergence in the loss; the bound knows nothing of it.

    Raises:
        InputError: the picture cannot be halved so often, or a weight below 0.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (16, 32, 48),
        latent: int = 4,
        levels: int = 256,
        kl_weight: float = 1.0,
    ) -> None:
        """Build both networks, with torch's random first weights."""
        super().__init__()
        if kl_weight < 0.0:
            raise InputError(f"kl_weight: {kl_weight} would reward a divergence, give at least 0")
        shape = (*shape, 1)[:3]
        self._args = {
            "shape": list(shape), "channels": list(channels), "latent": latent, "levels": levels,
            "kl_weight": kl_weight,
        }  # fmt: skip
        self.kl_weight = kl_weight
        self.n_sites = math.prod(shape)
        self.levels = levels
        self.space = LatentSpace(shape, channels, latent, levels)
        self.domain: Domain = self.space.pixels.domain

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._args)

    def _terms(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        encoded = self.space.encode(x)
        z = encoded.draw(normal(generator, *encoded.mean.shape, dtype=x.dtype))
        divergence = encoded.divergence(DiagonalNormal.standard(x)).sum(1)
        return self.space.log_likelihood(x, z), divergence

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return log p(x|z) − D(q(z|x) ‖ N(0, I)), one z per image  # (image, site) -> (image,), nats."""
        likelihood, divergence = self._terms(x, generator)
        return likelihood - divergence

    def log_weights(self, x: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        """Return log q_θ(x, z) − log q(z|x) at samples of z  # (image, site) -> (image, sample), nats."""
        encoded, prior = self.space.encode(x), DiagonalNormal.standard(x)
        weights = []
        for _ in range(n_samples):
            z = encoded.draw(normal(generator, *encoded.mean.shape, dtype=x.dtype))
            likelihood = self.space.log_likelihood(x, z)
            weights.append(likelihood + prior.log_prob(z) - encoded.log_prob(z))
        return torch.stack(weights, 1)

    def loss(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ⟨−log p(x|z)⟩ + w ⟨D⟩ over the batch, w = kl_weight, and the terms of the bound."""
        likelihood, divergence = (part.mean() for part in self._terms(x, generator))
        loss = self.kl_weight * divergence - likelihood
        metrics = {"loss": loss, "reconstruction": -likelihood, "divergence": divergence}
        return loss, {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the pixels' means at the mean of q(z|x), from 0 to 1  # (image, site) twice."""
        parts = [
            self.space.pixels.means(self.space.decode(self.space.encode(some).mean))
            for some in torch.split(x, _AT_ONCE)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n pictures in levels, z ~ N(0, I)  # (n, site)."""
        output = self.space.decode(normal(generator, n, self.space.n_latent))
        drawn: Tensor = self.space.pixels.draw(output, uniform(generator, n, self.n_sites))
        return drawn

    @torch.no_grad()
    def pictures(self, streams: Streams) -> tuple[Tensor, Tensor]:
        """Return a picture a stream in levels, and its pixels' means in [0, 1]  # (picture, site) twice."""
        output = self.space.decode(streams.normal(self.space.n_latent))
        return self.space.pixels.draw(output, streams.uniform(self.n_sites)), self.space.pixels.means(output)
