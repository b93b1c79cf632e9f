"""Variational autoencoder for binary images."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genmodels.networks.mlp import mlp
from genmodels.protocols import Domain
from genmodels.streams import Streams, normal

_LOG_2PI = math.log(2.0 * math.pi)


def _log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    return -0.5 * ((z - mean).square() * torch.exp(-log_variance) + log_variance + _LOG_2PI).sum(-1)


class VAE(nn.Module):
    """q_θ(x) = ∫ N(z; 0, I) Π_i Bernoulli(x_i; y_i(z)) dz with the encoder q_φ(z|x) = N(μ(x), diag σ²(x)).

    Both maps are perceptrons. Kingma & Welling 2013; importance-weighted bound: Burda et al. 2015.

    Args:
        shape: Height, width and perhaps channels of the images.
        latent: Dimensions of z.
        hidden: Units of the encoder's hidden layers, and of the decoder's in reverse.
        dropout: Share of hidden units silenced in training.
    """

    domain: Domain = "binary"

    def __init__(
        self, shape: Sequence[int], latent: int, hidden: Sequence[int], dropout: float = 0.0
    ) -> None:
        """Build both perceptrons, with torch's random first weights."""
        super().__init__()
        self._args = {"shape": list(shape), "latent": latent, "hidden": list(hidden), "dropout": dropout}
        self.latent = latent
        self.n_sites = math.prod(shape)
        self.encoder = mlp([self.n_sites, *hidden, 2 * latent], dropout)
        self.decoder = mlp([latent, *reversed(hidden), self.n_sites], dropout)

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._args)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and log σ² of q(z|x)  # (image, site) -> (image, latent) twice."""
        mean, log_variance = self.encoder(2.0 * x - 1.0).chunk(2, dim=1)
        return mean, log_variance

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log q(x|z) = Σ_i x_i log y_i + (1−x_i) log(1−y_i)  # (…, site), (…, latent) -> (…), nats."""
        logits = self.decoder(z)
        total: Tensor = (x * logits - nn.functional.softplus(logits)).sum(-1)
        return total

    def _terms(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.encode(x)
        z = mean + torch.exp(0.5 * log_variance) * normal(generator, *mean.shape, dtype=x.dtype)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)
        return self.log_likelihood(x, z), divergence

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return log q(x|z) − D(q(z|x) ‖ N(0, I)), one z per image  # (image, site) -> (image,), nats."""
        likelihood, divergence = self._terms(x, generator)
        return likelihood - divergence

    def log_weights(self, x: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        """Return log q_θ(x, z) − log q_φ(z|x) at samples of z  # (image, site) -> (image, sample), nats."""
        mean, log_variance = (part[:, None, :] for part in self.encode(x))
        shape = (len(x), n_samples, self.latent)
        eps = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        z = mean + torch.exp(0.5 * log_variance) * eps
        zero = torch.zeros((), device=x.device, dtype=x.dtype)
        prior = _log_normal(z, zero, zero)
        return self.log_likelihood(x[:, None, :], z) + prior - _log_normal(z, mean, log_variance)

    def loss(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean of −elbo over the batch, and its two terms."""
        likelihood, divergence = (part.mean() for part in self._terms(x, generator))
        loss = divergence - likelihood
        metrics = {"loss": loss, "reconstruction": -likelihood, "divergence": divergence}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def means(self, z: Tensor) -> Tensor:
        """Return the pixel probabilities y(z)  # (image, latent) -> (image, site) in [0, 1]."""
        return torch.sigmoid(self.decoder(z))

    @torch.no_grad()
    def sample_means(self, n: int, generator: torch.Generator, radius: float = 1.0) -> Tensor:
        """Return y(z) of z ~ N(0, radius² I): below 1 typical pictures, above 1 unusual ones  # (n, site)."""
        device = next(self.parameters()).device
        z = radius * torch.randn(n, self.latent, generator=generator, device=device)
        return self.means(z)

    def sample(self, n: int, generator: torch.Generator, radius: float = 1.0) -> Tensor:
        """Return n pictures drawn from `sample_means`  # (n, site) in {0, 1}."""
        return torch.bernoulli(self.sample_means(n, generator, radius), generator=generator)

    @torch.no_grad()
    def pictures(self, streams: Streams, radius: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return a picture a stream and its pixels' probabilities  # (picture, site) twice."""
        means = self.means(radius * streams.normal(self.latent))
        return (streams.uniform(self.n_sites) < means).to(means.dtype), means
