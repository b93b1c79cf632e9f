"""Independent Gaussian pixels."""

from typing import Any

import torch
from torch import Tensor, nn

from genmodels.densities import log_normal
from genmodels.protocols import Domain


class IndependentGaussian(nn.Module):
    """q(x) = Π_i N(x_i; μ_i, σ_i²), a density over real x, one Gaussian a pixel, in float64."""

    domain: Domain = "grey"
    mean: Tensor
    variance: Tensor

    def __init__(self, n_sites: int) -> None:
        """Start with means of 0 and variances of 1."""
        super().__init__()
        self.n_sites = n_sites
        self.register_buffer("mean", torch.zeros(n_sites, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(n_sites, dtype=torch.float64))

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_sites": self.n_sites}

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights (1,), means (1, site) and covariances (1, site, site)."""
        return torch.ones_like(self.mean[:1]), self.mean[None], self.variance.diag()[None]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density  # (image, site) -> (image,), nats."""
        return log_normal(x.to(self.mean), self.mean[None], self.variance.sqrt().diag()[None])[:, 0]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n real-valued samples  # (n, site)."""
        noise = torch.randn(
            n, self.n_sites, generator=generator, dtype=torch.float64, device=self.mean.device
        )
        return (self.mean + self.variance.sqrt() * noise).float()
