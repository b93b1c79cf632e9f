"""Small energy models whose every state can be listed, lopsided so that a wrong sign or β shows."""

from typing import Any

import torch
from torch import Tensor, nn

from genmodels.kernels.block_gibbs import BlockGibbs, BlockGibbsState
from genmodels.models.rbm import RBM
from genmodels.protocols import Info
from genmodels.streams import Key


class BoltzmannMachine(nn.Module):
    """E = −Σ_{k<l} J_kl x_k x_l − Σ h_k x_k, every site a block."""

    def __init__(self, n_sites: int, strength: float = 0.6) -> None:
        super().__init__()
        coupling = torch.randn(n_sites, n_sites, generator=Key(1, "J").torch()).triu(1) * strength
        self.J = nn.Parameter(coupling + coupling.T)
        self.h = nn.Parameter(torch.linspace(-0.3, 0.6, n_sites))
        self.n_sites = n_sites
        self.blocks = tuple(slice(i, i + 1) for i in range(n_sites))

    def energy(self, x: Tensor) -> Tensor:
        return -0.5 * ((x @ self.J) * x).sum(1) - x @ self.h

    def conditional(self, block: int, x: Tensor, beta: Tensor) -> Tensor:
        return torch.sigmoid(2.0 * beta[:, None] * (x @ self.J + self.h)[:, self.blocks[block]])


def machine(n_visible: int = 6, n_hidden: int = 4) -> RBM:
    rbm, generator = RBM(n_visible, n_hidden), Key(2, "machine").torch()
    with torch.no_grad():
        rbm.W.copy_(torch.randn(n_visible, n_hidden, generator=generator))
        rbm.b.copy_(torch.linspace(-0.5, 0.8, n_visible))
        rbm.c.copy_(torch.linspace(0.6, -0.2, n_hidden))
    return rbm


class DoubledBeta(BlockGibbs):
    """A wrong kernel: it leaves exp(−2βE) invariant."""

    def advance(
        self, model: Any, state: BlockGibbsState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[BlockGibbsState, Info]:
        return super().advance(model, state, 2.0 * beta, n_sweeps, key)
