"""Variational autoencoder, for binary and for grey images."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genmodels.networks import convolutional
from genmodels.networks.diagonal_normal import DiagonalNormal
from genmodels.networks.evidence import Loss, evidence_loss
from genmodels.networks.pixels import pixels
from genmodels.protocols import Domain
from genmodels.streams import Streams, normal, uniform

_AT_ONCE = 2**24  # numbers in the layers of the decoder


class VAE(nn.Module):
    """q_θ(x) = ∫ N(z; 0, I) Π_i q(x_i|y_i(z)) dz with the encoder q_φ(z|x) = N(μ(x), diag σ²(x)).

    Both maps are perceptrons, with convolutions next to the image if `channels` are given. Kingma & Welling
    2013; importance-weighted bound: Burda et al. 2015.

    Args:
        shape: Height, width and perhaps channels of the images.
        latent: Dimensions of z.
        hidden: Units of the encoder's hidden layers, and of the decoder's in reverse.
        dropout: Share of hidden units silenced in training.
        channels: Features of the convolutions, each half as wide as the one before; none: perceptrons alone.
        levels: K, the number of grey levels; 2 for binary images.
        decoder: Distribution of a pixel: bernoulli, discretised_logistic, or gaussian, which is a density;
            None: the first for 2 levels, the second for more.
        free_bits: Nats of each coordinate that the loss does not push down; the bound knows nothing of it.
        kl_warm_up: Steps in which the divergence's weight in the loss rises to 1.

    Raises:
        InputError: an unknown decoder, one that does not fit `levels`, or too many `channels` for the image.
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        channels: Sequence[int] = (),
        levels: int = 2,
        decoder: str | None = None,
        free_bits: float = 0.0,
        kl_warm_up: int = 0,
    ) -> None:
        """Build both networks, with torch's random first weights."""
        super().__init__()
        self._args = {
            "shape": list(shape), "latent": latent, "hidden": list(hidden), "dropout": dropout,
            "channels": list(channels), "levels": levels, "decoder": decoder, "free_bits": free_bits,
            "kl_warm_up": kl_warm_up,
        }  # fmt: skip
        self.latent, self.free_bits, self.kl_warm_up = latent, free_bits, kl_warm_up
        self.n_latent = latent
        self.n_sites = math.prod(shape)
        self.pixels = pixels(decoder, levels)
        self.domain: Domain = self.pixels.domain
        self.is_density: bool = self.pixels.is_density
        self.encoder = convolutional.encoder(shape, channels, [*hidden, 2 * latent], dropout)
        down = (shape, channels, [latent, *reversed(hidden)], self.pixels.n_outputs)
        self.decoder = convolutional.decoder(*down, dropout)
        self._footprint = convolutional.footprint(*down)

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._args)

    def encode(self, x: Tensor) -> DiagonalNormal:
        """Return q(z|x)  # (image, site) -> (image, latent)."""
        return DiagonalNormal.of(self.encoder(self.pixels.scaled(x)))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log q(x|z) = Σ_i log q(x_i|y_i(z))  # (…, site), (…, latent) -> (…), nats."""
        total: Tensor = self.pixels.log_prob(x, self.decoder(z))
        return total

    def terms(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return log q(x|z) at one z per image, and D(q(z_j|x) ‖ N(0, 1))  # (image,), (image, latent)."""
        encoded = self.encode(x)
        eps = normal(generator, *encoded.mean.shape, dtype=x.dtype)
        divergence = encoded.divergence(DiagonalNormal.standard(x))
        return self.log_likelihood(x, encoded.draw(eps)), divergence

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return log q(x|z) − D(q(z|x) ‖ N(0, I)), one z per image  # (image, site) -> (image,), nats."""
        likelihood, divergence = self.terms(x, generator)
        return likelihood - divergence.sum(1)

    def log_weights(self, x: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        """Return log q_θ(x, z) − log q_φ(z|x) at samples of z  # (image, site) -> (image, sample), nats."""
        encoded = DiagonalNormal(*(part[:, None, :] for part in self.encode(x)))
        z = encoded.draw(normal(generator, len(x), n_samples, self.latent, dtype=x.dtype))
        at_once = max(1, _AT_ONCE // (len(x) * self._footprint))
        parts = [self.log_likelihood(x[:, None, :], part) for part in torch.split(z, at_once, 1)]
        return torch.cat(parts, 1) + DiagonalNormal.standard(x).log_prob(z) - encoded.log_prob(z)

    def log_weight(self, x: Tensor, encoded: DiagonalNormal, eps: Tensor) -> Tensor:
        """Return log q_θ(x, z) − log q_φ(z|x) at z = μ + σε  # (image, site), (image, latent) -> (image,)."""
        z = encoded.draw(eps)
        prior = DiagonalNormal.standard(x).log_prob(z)
        return self.log_likelihood(x, z) + prior - encoded.log_prob(z)

    def loss(self, x: Tensor, generator: torch.Generator, step: int = 0) -> Loss:
        """Return what is minimised after `step` steps, and the terms of the bound  # (image, site)."""
        likelihood, divergence = self.terms(x, generator)
        return evidence_loss(likelihood, [divergence], self.free_bits, self.kl_warm_up, step)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, radius: float = 1.0) -> Tensor:
        """Return n pictures in the model's domain, z ~ N(0, radius² I): below 1 typical  # (n, site)."""
        output = self.decoder(radius * normal(generator, n, self.latent))
        drawn: Tensor = self.pixels.draw(output, uniform(generator, n, self.n_sites))
        return drawn

    @torch.no_grad()
    def pictures(self, streams: Streams, radius: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return a picture a stream, in the model's domain, and its means in [0, 1]  # (picture, site)."""
        output = self.decoder(radius * streams.normal(self.latent))
        return self.pixels.draw(output, streams.uniform(self.n_sites)), self.pixels.means(output)
