"""Averages of models whose every state can be listed, and independent draws from them."""

import numpy as np
import torch
from torch import Tensor, nn

from genmodels.estimators.enumeration import states
from genmodels.streams import Key


class Exact:
    """log Z, ⟨E⟩, C and ⟨x⟩ of a model of ±1 sites by summing all its states."""

    def __init__(self, model: nn.Module) -> None:
        self.x = torch.cat(list(states(model.n_sites)))
        with torch.no_grad():
            self.energy = model.energy(self.x.float()).double()

    def log_z(self, beta: float) -> float:
        return float((-beta * self.energy).logsumexp(0))

    def p(self, beta: float) -> Tensor:
        return torch.softmax(-beta * self.energy, 0)

    def mean_energy(self, beta: float) -> float:
        return float(self.p(beta) @ self.energy)

    def specific_heat(self, beta: float) -> float:
        return beta**2 * float(self.p(beta) @ (self.energy - self.mean_energy(beta)) ** 2)

    def moments(self, beta: float) -> np.ndarray:
        return (self.p(beta) @ self.x).numpy()

    def energies(self, betas: np.ndarray, n_batches: int, n_draws: int, key: Key) -> np.ndarray:
        """Return independent energies at each β  # (batch, draw, rung)."""
        random, levels = key.numpy(), self.energy.numpy()
        rungs = [random.choice(levels, (n_batches, n_draws), p=self.p(beta).numpy()) for beta in betas]
        return np.stack(rungs, axis=2)

    def draws(self, beta: float, n: int, key: Key) -> Tensor:
        """Return n independent configurations  # (n, site), float32."""
        return self.x[key.numpy().choice(len(self.x), n, p=self.p(beta).numpy())].float()
