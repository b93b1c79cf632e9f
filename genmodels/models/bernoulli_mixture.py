"""Mixture of independent pixels."""

from typing import Any

import torch
from torch import Tensor, nn

from genmodels.densities import log_bernoulli
from genmodels.protocols import Domain


class BernoulliMixture(nn.Module):
    """q(v) = Σ_k c_k Π_i p_ki^{v_i} (1 − p_ki)^{1 − v_i}."""

    domain: Domain = "binary"
    weights: Tensor
    probabilities: Tensor

    def __init__(self, n_sites: int, components: int) -> None:
        """Start with equal weights, and every p at ½."""
        super().__init__()
        self.n_sites, self.n_components = n_sites, components
        self.register_buffer("weights", torch.full((components,), 1.0 / components, dtype=torch.float64))
        self.register_buffer("probabilities", torch.full((components, n_sites), 0.5, dtype=torch.float64))

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_sites": self.n_sites, "components": self.n_components}

    def log_joint(self, x: Tensor) -> Tensor:
        """Return log c_k q_k(v)  # (image, site) -> (image, component), nats."""
        return log_bernoulli(x.to(self.probabilities), self.probabilities) + self.weights.log()

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log q(v)  # (image, site) -> (image,), nats."""
        return self.log_joint(x).logsumexp(1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n images in {0, 1}  # (n, site)."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        uniform = torch.rand(
            n, self.n_sites, generator=generator, dtype=torch.float64, device=self.weights.device
        )
        return (uniform < self.probabilities[chosen]).float()
