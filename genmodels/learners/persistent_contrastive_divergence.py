"""Persistent contrastive divergence."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from genmodels.compiled.bipartite import Precision
from genmodels.kernels.block_gibbs import BlockGibbs, compiled, unmeasured
from genmodels.kernels.choose import kernel_for
from genmodels.learners.ascent import Tensors
from genmodels.learners.contrast import Chains, Contrast, Fantasy
from genmodels.protocols import Chained, HasContrast, Kernel
from genmodels.streams import Key

_SURE = {"acceptance": 1.0}


@final
@dataclass(frozen=True)
class PersistentContrastiveDivergence(Contrast):
    """Stochastic maximum likelihood: the model's averages come from chains that are never restarted.

    Younes 1989; Tieleman 2008.

    Attributes:
        n_chains: Persistent chains.
        n_sweeps: Sweeps of every chain before each step.
        kernel: What moves the chains; None for what suits the model.
        products: "bfloat16" for the matrix products behind the chains and both averages, where block Gibbs
            draws two sides of many spins on a CPU; the parameters keep their own precision.
    """

    n_chains: int = 500
    n_sweeps: int = 5
    kernel: Kernel[Any] | None = None
    products: Precision = "float32"

    def start(self, model: Any, batch: Tensor, key: Key) -> Chains:
        """Return the chains at β = 0."""
        kernel = self._kernel(model)
        return Chains(kernel, kernel.init(model, self.n_chains, key))

    def _kernel(self, model: Any) -> Kernel[Any]:
        kernel = self.kernel or kernel_for(model)
        return BlockGibbs(self.products) if kernel == BlockGibbs() else kernel

    def chained(self, chains: Chains, batch: Tensor) -> Chained | None:
        """Return the persistent chains, if their kernel is block Gibbs."""
        blocks = type(chains.kernel) is BlockGibbs
        return Chained(chains.particles.x, self.n_sweeps, True) if blocks else None

    def chains_at(self, chains: Chains, x: Tensor) -> Chains:
        """Return the chains at x."""
        return Chains(chains.kernel, unmeasured(x))

    def fantasy(self, model: Any, chains: Chains, batch: Tensor, key: Key) -> Fantasy:
        """Return where the chains are after some more sweeps."""
        kernel, beta = chains.kernel, torch.ones(self.n_chains, device=batch.device)
        if type(kernel) is BlockGibbs and compiled(model, chains.particles.x):
            x = kernel.moved(model, chains.particles.x, beta, self.n_sweeps, key)
            after = self.chains_at(chains, x.to(batch.dtype))  # a third of the products is for energies
            return Fantasy(x if isinstance(model, HasContrast) else after.particles.x, None, after, _SURE)
        particles, info = kernel.advance(model, chains.particles, beta, self.n_sweeps, key)
        after, metrics = Chains(kernel, particles), {"acceptance": info.acceptance}
        return Fantasy(kernel.configuration(particles), None, after, metrics)

    def chain_tensors(self, chains: Chains) -> Tensors:
        """Return the chains' configurations."""
        return {"x": chains.kernel.configuration(chains.particles)}

    def restart(self, model: Any, tensors: Tensors) -> Chains:
        """Return the chains that `chain_tensors` wrote."""
        kernel = self._kernel(model)
        return Chains(kernel, kernel.start(model, tensors["x"]))
