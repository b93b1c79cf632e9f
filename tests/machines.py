"""Small energy models whose every state can be listed, lopsided so that a wrong sign or β shows."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genmodels.couplings import Couplings
from genmodels.kernels.block_gibbs import BlockGibbs, BlockGibbsState
from genmodels.models.ising import Ising
from genmodels.models.rbm import RBM
from genmodels.protocols import Info
from genmodels.streams import Key


def BoltzmannMachine(n_sites: int, strength: float = 0.6) -> Ising:
    """Return spins that are all coupled, every site a block."""
    i, j = np.triu_indices(n_sites, 1)
    J = torch.randn(n_sites, n_sites, generator=Key(1, "J").torch()).double().numpy()[i, j] * strength
    return Ising.of(Couplings(n_sites, i, j, J, np.linspace(-0.3, 0.6, n_sites)))


class Quadratic(nn.Module):
    """E = ½(x − μ)ᵀΛ(x − μ) of four real x, curved from 1.3 to 4: P_β ∝ exp(−βE) is N(μ, (βΛ)⁻¹)."""

    def __init__(self) -> None:
        super().__init__()
        turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=Key(3, "turn").torch(), dtype=torch.float64))
        self.precision = nn.Parameter(turn @ torch.tensor([1.3, 2.0, 3.0, 4.0]).double().diag() @ turn.T)
        self.mean = nn.Parameter(torch.tensor([1.0, -0.5, 0.3, 2.0], dtype=torch.float64))
        self.n_sites = 4

    def energy(self, x: Tensor) -> Tensor:
        away = x - self.mean.to(x.dtype)
        return 0.5 * ((away @ self.precision.to(x.dtype)) * away).sum(1)


class Network(nn.Module):
    """The energy of ±1 sites that a perceptron of two layers gives: nothing quadratic about it."""

    def __init__(self, n_sites: int, hidden: int = 12) -> None:
        super().__init__()
        generator = Key(4, "network").torch()
        self.W = nn.Parameter(torch.randn(n_sites, hidden, generator=generator) / n_sites**0.5)
        self.c = nn.Parameter(torch.randn(hidden, generator=generator))
        self.a = nn.Parameter(torch.randn(hidden, generator=generator))
        self.n_sites = n_sites

    def energy(self, x: Tensor) -> Tensor:
        W, c, a = (parameter.to(x.dtype) for parameter in (self.W, self.c, self.a))
        return nn.functional.softplus(2.0 * (x @ W + c)) @ a


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
