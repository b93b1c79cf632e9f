"""Diffusions whose optimal denoiser is known in closed form: Gaussian data, and pixels of three levels."""

import math
from typing import Any

import torch
from torch import Tensor

from genmodels.models.diffusion import Diffusion
from genmodels.streams import Key

MEAN = torch.tensor([0.6, -0.4, 0.1]).double()
ROOT = torch.tensor([[1.1, 0.0, 0.0], [0.7, 0.5, 0.0], [-0.2, 0.3, 0.9]]).double()
COVARIANCE = ROOT @ ROOT.T
SPREADS, AXES = torch.linalg.eigh(COVARIANCE)
EXACT = torch.distributions.MultivariateNormal(MEAN, COVARIANCE)


def data(n: int, key: Key) -> Tensor:
    return MEAN + torch.randn(n, 3, generator=key.torch(), dtype=torch.float64) @ ROOT.T


class Gaussian(Diffusion):
    """x ~ N(MEAN, COVARIANCE), real; the reconstruction is the exact posterior of x given z_1.

    `error` moves x̂ off the optimum, by a share of it.
    """

    def __init__(self, error: float = 0.0, **settings: Any) -> None:
        defaults = {"T": 50, "gamma_min": -8.0, "gamma_max": 8.0, "prediction": "eps", "objective": "eps"}
        super().__init__((3, 1), (8,), **(defaults | settings))
        self.error = error
        self.reach = float("inf")
        self.double()

    def moments(self, z: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of x given z  # (image, site), and its variances along AXES, at γ (image,)."""
        snr = torch.exp(-gamma)[:, None]
        variances = SPREADS / (1.0 + snr * SPREADS)
        signal, noise = torch.sigmoid(-gamma).sqrt()[:, None], torch.sigmoid(gamma)[:, None]
        return MEAN + ((z - signal * MEAN) @ AXES * variances * signal / noise) @ AXES.T, variances

    def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        signal, spread = self.noise.scales(t, z)
        x = (1.0 + self.error) * self.moments(z, self.noise.at(t))[0]
        eps = (z - signal * x) / spread
        outputs = {"x": x, "eps": eps, "residual": eps - spread * z, "v": signal * eps - spread * x}
        return outputs[self.prediction]

    def encode(self, x: Tensor) -> Tensor:
        return x

    def log_reconstruction(self, x: Tensor, z: Tensor, labels: Tensor | None = None) -> Tensor:
        mean, variances = self.moments(z, self.noise.at(self.noise.least(z)))
        along = (x - mean) @ AXES
        return -0.5 * (along.square() / variances + variances.log() + math.log(2.0 * math.pi)).sum(1)

    def gap(self) -> float:
        """Return E[log p(x) − bound(x)] of a discrete schedule, exactly, x ~ N(MEAN, COVARIANCE)."""
        t = torch.arange(1, self.T + 1).double()
        _, variances = self.moments(torch.zeros(self.T, 3).double(), self.noise.at(t))
        remaining = variances.sum(1)
        second = MEAN.square().sum() + SPREADS.sum()  # E|x|²
        missed = remaining + self.error**2 * (second - remaining)  # E|x − x̂|²
        matching = float((self.noise.weight(t[1:]) * missed[1:]).sum())
        prior = float(self.noise.prior(second.sqrt()[None, None] * torch.tensor([[1.0, 0.0, 0.0]])))
        return prior + matching + 0.5 * float((variances[0].log() - SPREADS.log()).sum())

    def density(self, t: Tensor) -> torch.distributions.MultivariateNormal:
        """Return the distribution of z_t."""
        gamma = self.noise.at(t)
        noise = torch.sigmoid(gamma) * torch.eye(3).double()
        covariance = torch.sigmoid(-gamma) * COVARIANCE + noise
        return torch.distributions.MultivariateNormal(torch.sigmoid(-gamma).sqrt() * MEAN, covariance)


STATES = (torch.arange(9)[:, None] // torch.tensor([1, 3]) % 3).double()  # two pixels of three levels
LOG_P = torch.tensor([5.0, 1.0, 2.0, 1.0, 8.0, 1.0, 3.0, 1.0, 6.0]).double().log_softmax(0)


class Levels(Diffusion):
    """The exact posterior mean of P over pixels of three levels, as ε̂; `error` moves it off by a share."""

    def __init__(self, gamma_min: float, gamma_max: float = 9.0, error: float = 0.0, **settings: Any) -> None:
        defaults = {"T": 200, "levels": 3, "prediction": "eps", "objective": "eps"}
        super().__init__((2, 1), (8,), gamma_min=gamma_min, gamma_max=gamma_max, **(defaults | settings))
        self.error = error
        self.double()

    def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        signal, spread = self.noise.scales(t, z)
        f = self.encode(STATES)
        distance = (z[:, None] - signal[:, None] * f).square().sum(2)
        posterior = torch.softmax(LOG_P - 0.5 * distance / spread.square(), 1)
        return (z - (1.0 + self.error) * signal * posterior @ f) / spread
