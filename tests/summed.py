"""Averages over a path from a reference to a model by summing all states; a kernel that is slightly wrong."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from machines import BoltzmannMachine, machine
from torch import Tensor

from genmodels import paths
from genmodels.estimators.enumeration import states
from genmodels.kernels.block_gibbs import BlockGibbs, BlockGibbsState
from genmodels.protocols import Info
from genmodels.streams import Key


class Summed:
    """log Z, ⟨E⟩ and ⟨x⟩ of the path of a model of ±1 sites, E what β multiplies."""

    def __init__(self, model: Any) -> None:
        self.model, self.x = model, torch.cat(list(states(model.n_sites))).float()
        with torch.no_grad():
            self.energy = model.energy(self.x).double()

    def log_p(self, beta: float) -> Tensor:
        with torch.no_grad():
            return -paths.potential(self.model, self.x, torch.tensor(beta)).double()

    def log_z(self, beta: float) -> float:
        return float(self.log_p(beta).logsumexp(0))

    def log_zs(self, betas: Tensor) -> np.ndarray:
        return np.array([self.log_z(beta) for beta in betas.tolist()])

    def energies(self, betas: Tensor) -> np.ndarray:
        return np.array([float(self.log_p(beta).softmax(0) @ self.energy) for beta in betas.tolist()])

    def moments(self, beta: float) -> np.ndarray:
        return (self.log_p(beta).softmax(0) @ self.x.double()).numpy()


TILT = torch.tensor([0.5, -0.3, 0.2, 0.4, -0.6, 0.1])
MODELS: dict[str, Any] = {
    "rbm": machine(),
    "boltzmann machine": BoltzmannMachine(6),
    "from base rates": paths.BaseRate(BoltzmannMachine(6), TILT),
}


def scores(values: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return by how many standard errors the means over independent rows are off  # (row, …), (…,)."""
    return (values.mean(0) - exact) / (values.std(0, ddof=1) / math.sqrt(len(values)))


def ratio_scores(values: np.ndarray, weights: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return the same of Σ w v/Σ w over independent rows  # (row, …), broadcast, (…,)."""
    mean = (weights * values).sum(0) / weights.sum(0)
    error = (weights * (values - mean)).std(0, ddof=1) * math.sqrt(len(values)) / weights.sum(0)
    return (mean - exact) / error


@dataclasses.dataclass(frozen=True)
class Warm(BlockGibbs):
    """A wrong kernel: its β is `factor` times the one it is given."""

    factor: float = 1.02

    def advance(
        self, model: Any, state: BlockGibbsState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[BlockGibbsState, Info]:
        return super().advance(model, state, self.factor * beta, n_sweeps, key)
