"""Mixture of Gaussians with full covariances."""

from typing import Any

import torch
from torch import Tensor, nn

from genmodels.densities import log_normal, log_normal_by_products
from genmodels.protocols import Domain


class GaussianMixture(nn.Module):
    """q(x) = Σ_k c_k N(x; μ_k, Σ_k), a density over real x, in float64.

    `levels` is that of the images which it is fitted to, for those who make probabilities of the density.
    """

    domain: Domain = "grey"
    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __init__(self, n_sites: int, components: int, levels: int = 2) -> None:
        """Start with equal weights, means of 0 and unit covariances."""
        super().__init__()
        self.n_sites, self.n_components, self.levels = n_sites, components, levels
        self.register_buffer("weights", torch.full((components,), 1.0 / components, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(components, n_sites, dtype=torch.float64))
        identity = torch.eye(n_sites, dtype=torch.float64)
        self.register_buffer("covariances", identity.repeat(components, 1, 1))

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_sites": self.n_sites, "components": self.n_components, "levels": self.levels}

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights (component,), means (component, site), covariances (component, site, site)."""
        return self.weights, self.means, self.covariances

    def log_joint(self, x: Tensor, fast: bool = False) -> Tensor:
        """Return log c_k q_k(x), `fast` by products in the precision of x  # (image, site), nats."""
        choleskys = torch.linalg.cholesky(self.covariances)
        if fast:
            return log_normal_by_products(x, self.means, choleskys) + self.weights.log()
        return log_normal(x.to(self.means), self.means, choleskys) + self.weights.log()

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density  # (image, site) -> (image,), nats."""
        return self.log_joint(x).logsumexp(1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n real-valued samples  # (n, site)."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(
            n, self.n_sites, generator=generator, dtype=torch.float64, device=self.means.device
        )
        choleskys = torch.linalg.cholesky(self.covariances)
        x = self.means[chosen]
        for k in range(self.n_components):
            x[chosen == k] += noise[chosen == k] @ choleskys[k].T
        return x.float()
