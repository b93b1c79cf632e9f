"""Independent pixels."""

from typing import Any

import torch
from torch import Tensor, nn

from genmodels.densities import log_bernoulli
from genmodels.protocols import Domain


class Independent(nn.Module):
    """q(v) = Π_i p_i^{v_i} (1 − p_i)^{1 − v_i}: the likelihood that every other model has to beat."""

    domain: Domain = "binary"
    probabilities: Tensor

    def __init__(self, n_sites: int) -> None:
        """Start with every p at ½."""
        super().__init__()
        self.n_sites = n_sites
        self.register_buffer("probabilities", torch.full((n_sites,), 0.5, dtype=torch.float64))

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_sites": self.n_sites}

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log q(v)  # (image, site) -> (image,), nats."""
        return log_bernoulli(x.to(self.probabilities), self.probabilities[None])[:, 0]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n images in {0, 1}  # (n, site)."""
        uniform = torch.rand(
            n, self.n_sites, generator=generator, dtype=torch.float64, device=self.probabilities.device
        )
        return (uniform < self.probabilities).float()
