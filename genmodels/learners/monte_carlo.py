"""Boltzmann machine learning with fresh Markov chains for every step."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from genmodels.kernels.choose import kernel_for
from genmodels.learners.contrast import Contrast, Fantasy
from genmodels.protocols import Kernel
from genmodels.streams import Key


@final
@dataclass(frozen=True)
class MonteCarlo(Contrast):
    """The model's averages come from chains that start anew at β = 0 before each step.

    Unbiased once the chains are long enough to forget that. Ackley, Hinton & Sejnowski 1985.

    Attributes:
        n_chains: Chains.
        n_sweeps: Sweeps of each.
        kernel: What moves them; None for what suits the model.
    """

    n_chains: int = 500
    n_sweeps: int = 100
    kernel: Kernel[Any] | None = None

    def fantasy(self, model: Any, chains: Any, batch: Tensor, key: Key) -> Fantasy:
        """Return where the chains end."""
        kernel = self.kernel or kernel_for(model)
        particles = kernel.init(model, self.n_chains, key.child("chains"))
        beta = torch.ones(self.n_chains, device=batch.device)
        particles, info = kernel.advance(model, particles, beta, self.n_sweeps, key)
        return Fantasy(kernel.configuration(particles), None, None, {"acceptance": info.acceptance})
