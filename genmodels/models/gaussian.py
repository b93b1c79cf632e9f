"""One Gaussian with a full covariance."""

from typing import Any

import torch
from torch import Tensor, nn

from genmodels.densities import log_normal
from genmodels.protocols import Domain


class Gaussian(nn.Module):
    """q(x) = N(x; μ, Σ), a density over real x.

    In float64: the covariance of images is nearly singular, since pixels at the border hardly vary. `levels`
    is that of the images which it is fitted to, for those who make probabilities of the density.
    """

    domain: Domain = "grey"
    mean: Tensor
    covariance: Tensor

    def __init__(self, n_sites: int, levels: int = 2) -> None:
        """Start with a mean of 0 and the unit covariance."""
        super().__init__()
        self.n_sites, self.levels = n_sites, levels
        self.register_buffer("mean", torch.zeros(n_sites, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(n_sites, dtype=torch.float64))

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_sites": self.n_sites, "levels": self.levels}

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights (1,), means (1, site) and covariances (1, site, site)."""
        return torch.ones_like(self.mean[:1]), self.mean[None], self.covariance[None]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density  # (image, site) -> (image,), nats."""
        cholesky = torch.linalg.cholesky(self.covariance)
        return log_normal(x.to(self.mean), self.mean[None], cholesky[None])[:, 0]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n real-valued samples  # (n, site)."""
        noise = torch.randn(
            n, self.n_sites, generator=generator, dtype=torch.float64, device=self.mean.device
        )
        cholesky = torch.linalg.cholesky(self.covariance)
        return torch.addmm(self.mean, noise, cholesky.T).float()
