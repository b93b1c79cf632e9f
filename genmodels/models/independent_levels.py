"""Independent grey pixels."""

from typing import Any

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.protocols import Domain


class IndependentLevels(nn.Module):
    """q(x) = Π_i p_i(x_i), a table of K levels a pixel: what every other model of grey images has to beat.

    Raises:
        InputError: fewer than 2 levels.
    """

    domain: Domain = "grey"
    probabilities: Tensor  # (site, level)

    def __init__(self, n_sites: int, levels: int) -> None:
        """Start with all levels alike."""
        super().__init__()
        if levels < 2:
            raise InputError(f"levels: {levels} leaves nothing to tell apart, give at least 2")
        self.n_sites, self.levels = n_sites, levels
        self.register_buffer(
            "probabilities", torch.full((n_sites, levels), 1.0 / levels, dtype=torch.float64)
        )

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_sites": self.n_sites, "levels": self.levels}

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log q(x) of levels 0 … K − 1  # (image, site) -> (image,), nats."""
        chosen = self.probabilities.log().expand(len(x), -1, -1).gather(2, x.long()[:, :, None])
        return chosen.sum((1, 2))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n images of levels 0 … K − 1  # (n, site)."""
        uniform = torch.rand(
            n, self.n_sites, generator=generator, dtype=torch.float64, device=self.probabilities.device
        )
        below = self.probabilities.cumsum(1)[:, :-1]  # P(x_i ≤ u) at every level but the last
        return (uniform[:, :, None] >= below).sum(2).float()
