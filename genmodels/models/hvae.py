"""Hierarchical variational autoencoder whose encoder comes down the ladder that its prior comes down."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks import convolutional
from genmodels.networks.diagonal_normal import DiagonalNormal
from genmodels.networks.evidence import Loss, evidence_loss
from genmodels.networks.mlp import mlp
from genmodels.networks.pixels import pixels
from genmodels.protocols import Domain
from genmodels.streams import Streams, normal, uniform

_AT_ONCE = 2**24  # numbers in the layers of the decoder


class Rung(NamedTuple):
    """One layer on the way down, z a draw from its posterior  # (…, latent)."""

    posterior: DiagonalNormal  # q(z_t|z_{t+1}, x)
    prior: DiagonalNormal  # q(z_t|z_{t+1})
    z: Tensor


class HVAE(nn.Module):
    """q_θ(x, z_{1:L}) = N(z_L; 0, I) Π_t q_θ(z_{t−1}|z_t), z_0 = x: Gaussian layers, and pixels below them.

    A deterministic network goes up from the image to features u_t of each layer. The posterior comes down:
    q(z_L|x) is read off u_L, and q(z_t|z_{t+1}, x) = N(μ + σΔμ, σ²Δσ²) is the prior q_θ(z_t|z_{t+1}) =
    N(μ, σ²), moved by what is read off u_t and the prior's features of z_{t+1}. One layer is a VAE.
    Sønderby et al. 2016 (up, then down); Vahdat & Kautz 2020, section 3.2 (relative to the prior).

    Args:
        shape: Height, width and perhaps channels of the images.
        latents: Dimensions of z_1, next to the image, … z_L.
        hidden: Units of the perceptrons at each layer, as many entries as `latents`.
        depth: Hidden layers of each perceptron.
        dropout: Share of hidden units silenced in training.
        channels: Features of convolutions next to the image, each half as wide as the one before; none:
            perceptrons alone.
        levels: K, the number of grey levels; 2 for binary images.
        decoder: Distribution of a pixel: bernoulli, discretised_logistic, or gaussian, which is a density;
            None: the first for 2 levels, the second for more.
        free_bits: Nats of each coordinate that the loss does not push down; the bound knows nothing of it.
        kl_warm_up: Steps in which the divergences' weight in the loss rises to 1.

    Raises:
        InputError: no layer, not as many `hidden` as `latents`, an unknown decoder, one that does not fit
            `levels`, or too many `channels` for the image.
    """

    def __init__(
        self,
        shape: Sequence[int],
        latents: Sequence[int],
        hidden: Sequence[int],
        depth: int = 2,
        dropout: float = 0.0,
        channels: Sequence[int] = (),
        levels: int = 2,
        decoder: str | None = None,
        free_bits: float = 0.0,
        kl_warm_up: int = 0,
    ) -> None:
        """Build all networks, with torch's random first weights."""
        super().__init__()
        if not latents or len(latents) != len(hidden):
            raise InputError(
                f"hidden: {len(hidden)} entries for {len(latents)} layers of latents; give one for each layer"
            )
        self._args = {
            "shape": list(shape), "latents": list(latents), "hidden": list(hidden), "depth": depth,
            "dropout": dropout, "channels": list(channels), "levels": levels, "decoder": decoder,
            "free_bits": free_bits, "kl_warm_up": kl_warm_up,
        }  # fmt: skip
        self.latents, self.free_bits, self.kl_warm_up = tuple(latents), free_bits, kl_warm_up
        self.n_latent = sum(latents)
        self.n_sites = math.prod(shape)
        self.pixels = pixels(decoder, levels)
        self.domain: Domain = self.pixels.domain
        self.is_density: bool = self.pixels.is_density
        self._build(shape, channels, [[units] * depth for units in hidden], dropout)

    def _build(
        self, shape: Sequence[int], channels: Sequence[int], widths: list[list[int]], dropout: float
    ) -> None:
        first, upper = widths[0], list(zip(self.latents[1:], widths[1:], strict=True))
        self.up = nn.ModuleList([convolutional.encoder(shape, channels, first, dropout)])
        self.read, self.down, self.priors = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for layer, (latent, units) in enumerate(upper):
            below, n = widths[layer][-1], 2 * self.latents[layer]
            self.up.append(mlp([below, *units], dropout))
            self.down.append(mlp([latent, *units], dropout))
            self.priors.append(nn.Linear(units[-1], n))
            self.read.append(mlp([below + units[-1], units[-1], n], dropout))
        self.read.append(nn.Linear(widths[-1][-1], 2 * self.latents[-1]))
        down = (shape, channels, [self.latents[0], *first], self.pixels.n_outputs)
        self.decoder = convolutional.decoder(*down, dropout)
        self._footprint = convolutional.footprint(*down) + 3 * sum(
            sum(units) + units[-1] for _, units in upper
        )

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._args)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the features of each layer, from the image up  # (image, site) -> (image, unit) each."""
        features = [self.pixels.scaled(x)]
        for up in self.up:
            features.append(nn.functional.silu(up(features[-1])))
        return features[1:]

    def prior(self, layer: int, above: Tensor) -> DiagonalNormal:
        """Return q_θ(z_t|z_{t+1}), t = `layer` + 1  # (…, latents[layer + 1]) -> (…, latents[layer])."""
        return DiagonalNormal.bounded(self.priors[layer](nn.functional.silu(self.down[layer](above))))

    def descend(self, features: Sequence[Tensor], eps: Sequence[Tensor]) -> Iterator[Rung]:
        """Yield the posterior's layers from the top down; both arguments are from the image up.

        Args:
            features: What `encode` returned  # (…, unit) each
            eps: Standard normal numbers  # (…, latent) each
        """
        posterior = DiagonalNormal.of(self.read[-1](features[-1]))
        z = posterior.draw(eps[-1])
        yield Rung(posterior, DiagonalNormal.standard(z), z)
        for layer in reversed(range(len(self.latents) - 1)):
            above = nn.functional.silu(self.down[layer](z))
            prior = DiagonalNormal.bounded(self.priors[layer](above))
            below = features[layer].expand(*above.shape[:-1], -1)
            posterior = prior.moved(DiagonalNormal.bounded(self.read[layer](torch.cat([below, above], -1))))
            z = posterior.draw(eps[layer])
            yield Rung(posterior, prior, z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log q(x|z_1) = Σ_i log q(x_i|y_i(z_1))  # (…, site), (…, latents[0]) -> (…), nats."""
        total: Tensor = self.pixels.log_prob(x, self.decoder(z))
        return total

    def _eps(self, generator: torch.Generator, *shape: int) -> list[Tensor]:
        return [normal(generator, *shape, n) for n in self.latents]

    def terms(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Return log q(x|z_1), and D(q(z_t|z_{t+1}, x) ‖ q_θ(z_t|z_{t+1})) by coordinate, t from 1 up.

        There is one z per image, and given the layer above a divergence is in closed form
        # (image, site) -> (image,), (image, latent) each, nats.
        """
        rungs = list(self.descend(self.encode(x), self._eps(generator, len(x))))
        divergences = [rung.posterior.divergence(rung.prior) for rung in reversed(rungs)]
        return self.log_likelihood(x, rungs[-1].z), divergences

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return log q(x|z_1) − Σ_t D_t, one z per image  # (image, site) -> (image,), nats."""
        likelihood, divergences = self.terms(x, generator)
        return likelihood - torch.cat(divergences, 1).sum(1)

    def log_weights(self, x: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        """Return log q_θ(x, z_{1:L}) − log q_φ(z_{1:L}|x) at samples of z, in nats.

        # (image, site) -> (image, sample)
        """
        features = [each[:, None, :] for each in self.encode(x)]
        eps = self._eps(generator, len(x), n_samples)
        at_once = max(1, _AT_ONCE // (len(x) * self._footprint))
        parts = []
        for some in zip(*(torch.split(each, at_once, 1) for each in eps), strict=True):
            rungs = list(self.descend(features, some))
            weights = [rung.prior.log_prob(rung.z) - rung.posterior.log_prob(rung.z) for rung in rungs]
            parts.append(sum(weights, self.log_likelihood(x[:, None, :], rungs[-1].z)))
        return torch.cat(parts, 1)

    def log_weight(self, x: Tensor, encoded: Sequence[Tensor], eps: Tensor) -> Tensor:
        """Return log q_θ(x, z_{1:L}) − log q_φ(z_{1:L}|x) at z(ε), ε of all layers from the image up.

        # (image, site), (image, n_latent) -> (image,), nats
        """
        rungs = list(self.descend(encoded, torch.split(eps, list(self.latents), -1)))
        weights = [rung.prior.log_prob(rung.z) - rung.posterior.log_prob(rung.z) for rung in rungs]
        return sum(weights, self.log_likelihood(x, rungs[-1].z))

    def loss(self, x: Tensor, generator: torch.Generator, step: int = 0) -> Loss:
        """Return what is minimised after `step` steps, and the terms of the bound  # (image, site)."""
        likelihood, divergences = self.terms(x, generator)
        return evidence_loss(likelihood, divergences, self.free_bits, self.kl_warm_up, step)

    def _from_prior(self, eps: Sequence[Tensor], radius: float) -> Tensor:
        """Return the decoder's output at z_L = radius · ε_L, the layers below drawn as they are."""
        z = radius * eps[-1]
        for layer in reversed(range(len(self.latents) - 1)):
            z = self.prior(layer, z).draw(eps[layer])
        output: Tensor = self.decoder(z)
        return output

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, radius: float = 1.0) -> Tensor:
        """Return n pictures in the model's domain, z_L ~ N(0, radius² I): below 1 typical  # (n, site)."""
        output = self._from_prior(self._eps(generator, n), radius)
        drawn: Tensor = self.pixels.draw(output, uniform(generator, n, self.n_sites))
        return drawn

    @torch.no_grad()
    def pictures(self, streams: Streams, radius: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return a picture a stream, in the model's domain, and its means in [0, 1]  # (picture, site)."""
        output = self._from_prior([streams.normal(n) for n in self.latents], radius)
        return self.pixels.draw(output, streams.uniform(self.n_sites)), self.pixels.means(output)
