"""Restricted Boltzmann machine."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genmodels.couplings import Couplings
from genmodels.protocols import Domain


def _log_2cosh(u: Tensor) -> Tensor:
    return torch.logaddexp(u, -u)


class RBM(nn.Module):
    """q(x, z) ∝ exp(xᵀWz + bᵀx + cᵀz), visible x and hidden z in ±1.

    A configuration is x and z side by side, (replica, n_visible + n_hidden). Given the other side all units
    are independent: P_β(z_l = +1 | x) = sigmoid(2βν_l), ν = Wᵀx + c. Smolensky 1986; Hinton 2002.
    """

    domain: Domain = "spin"

    def __init__(self, n_visible: int, n_hidden: int) -> None:
        """Start with all parameters 0: the uniform distribution."""
        super().__init__()
        self.n_visible, self.n_hidden = n_visible, n_hidden
        self.n_sites = n_visible + n_hidden
        self.blocks = (slice(0, n_visible), slice(n_visible, self.n_sites))
        self.W = nn.Parameter(torch.zeros(n_visible, n_hidden))
        self.b = nn.Parameter(torch.zeros(n_visible))
        self.c = nn.Parameter(torch.zeros(n_hidden))

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_visible": self.n_visible, "n_hidden": self.n_hidden}

    def couplings(self) -> Couplings:
        """Return it as a quadratic energy of all sites: an edge from each x_i to each z_l, fields (b, c)."""
        W, b, c = (p.detach().double().cpu().numpy().copy() for p in (self.W, self.b, self.c))
        i, j = np.indices(W.shape).reshape(2, -1)
        return Couplings(self.n_sites, i, j + self.n_visible, W.ravel(), np.concatenate([b, c]))

    def filters(self) -> Tensor:
        """Return the weights of each hidden unit  # (hidden, visible)."""
        return self.W.detach().T

    def energy(self, x: Tensor) -> Tensor:
        """Return E(x, z) = −(xᵀWz + bᵀx + cᵀz)  # (replica, site) -> (replica,), nats."""
        visible, hidden = x[:, self.blocks[0]], x[:, self.blocks[1]]
        return -((visible @ self.W * hidden).sum(1) + visible @ self.b + hidden @ self.c)

    def field(self, block: int, other: Tensor) -> Tensor:
        """Return the field on block 0 (x, given z) or 1 (z, given x)  # (replica, sites of the block)."""
        return other @ self.W.T + self.b if block == 0 else other @ self.W + self.c

    def conditional(self, block: int, x: Tensor, beta: Tensor) -> Tensor:
        """Return P_β(+1 | the other block) for each site of `block`  # (replica, sites of the block)."""
        return torch.sigmoid(2.0 * beta[:, None] * self.field(block, x[:, self.blocks[1 - block]]))

    def log_marginal(self, block: int, side: Tensor, beta: float = 1.0) -> Tensor:
        """Return log Σ exp(−βE) over the block other than `block`, given its values `side`.

        For block 0: β bᵀx + Σ_l log 2cosh(β ν_l)  # (replica, sites of the block) -> (replica,), nats.
        """
        bias = self.b if block == 0 else self.c
        return beta * (side @ bias) + _log_2cosh(beta * self.field(1 - block, side)).sum(1)

    def log_unnormalised(self, x: Tensor) -> Tensor:
        """Return log Σ_z exp(−E(x, z))  # (image, visible) -> (image,), nats."""
        return self.log_marginal(0, x)
