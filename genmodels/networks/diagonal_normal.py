"""Normal distributions of independent coordinates, as encoders and priors of latent variables are."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_LOG_2PI = math.log(2.0 * math.pi)
_BOUND = 8.0  # of |log σ²|, where it is bounded


class DiagonalNormal(NamedTuple):
    """N(μ, diag σ²) over the last axis.

    Attributes:
        mean: μ  # (…, latent)
        log_variance: log σ²  # (…, latent)
    """

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, output: Tensor) -> "DiagonalNormal":
        """Return what a network's output stands for, μ before log σ²  # (…, 2 · latent)."""
        mean, log_variance = output.chunk(2, dim=-1)
        return cls(mean, log_variance)

    @classmethod
    def bounded(cls, output: Tensor) -> "DiagonalNormal":
        """Return the same with b tanh(log σ²/b), b = 8: what has σ of a draw in it cannot run away."""
        mean, log_variance = output.chunk(2, dim=-1)
        return cls(mean, _BOUND * torch.tanh(log_variance / _BOUND))

    @classmethod
    def standard(cls, like: Tensor) -> "DiagonalNormal":
        """Return N(0, I), of any number of coordinates, on the device of `like`."""
        zero = like.new_zeros(())
        return cls(zero, zero)

    def draw(self, eps: Tensor) -> Tensor:
        """Return μ + σε  # (…, latent), ε standard normal."""
        return self.mean + torch.exp(0.5 * self.log_variance) * eps

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log N(z; μ, diag σ²)  # (…, latent) -> (…), nats."""
        squared = (z - self.mean).square() * torch.exp(-self.log_variance)
        return -0.5 * (squared + self.log_variance + _LOG_2PI).sum(-1)

    def divergence(self, prior: "DiagonalNormal") -> Tensor:
        """Return D(self ‖ prior) = ½[(μ − μ_p)²/σ_p² + r − 1 − log r], r = σ²/σ_p²  # (…, latent), nats."""
        squared = (self.mean - prior.mean).square() * torch.exp(-prior.log_variance)
        log_ratio = self.log_variance - prior.log_variance
        return 0.5 * (squared + log_ratio.exp() - 1.0 - log_ratio)

    def moved(self, by: "DiagonalNormal") -> "DiagonalNormal":
        """Return N(μ + σμ', σ²σ'²), `by` being N(μ', σ'²) in units of this one."""
        mean = self.mean + torch.exp(0.5 * self.log_variance) * by.mean
        return DiagonalNormal(mean, self.log_variance + by.log_variance)
