"""Block Gibbs sampling: all sites of a block at once, given the others."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.protocols import Info
from genmodels.streams import Key


class BlockGibbsState(NamedTuple):
    """Configurations and their energies."""

    x: Tensor  # (replica, site), ±1, float32
    energy: Tensor  # (replica,), nats at β = 1


def uniforms(n: int, generator: torch.Generator) -> Tensor:
    """Return n uniform numbers in [0, 1] at a resolution of 2⁻²⁵  # (n,), float32.

    Two a draw of 64 bits: half the cost of `torch.rand`, which takes as much time as all the rest of a sweep.
    """
    bits = torch.empty((n + 1) // 2, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return torch.add(0.5, bits.view(torch.int32)[:n], alpha=2.0**-32)


@dataclass(frozen=True)
class BlockGibbs:
    """Draw every block from P_β(block | rest), block after block; leaves exp(−βE) invariant.

    P_β(x_i = +1 | rest) comes from `model.conditional`. A sweep goes from the last block to the first: hidden
    units before visible ones, so that a start of which only the visible sites mean anything is a proper one
    (contrastive divergence). The sweep satisfies balance, not detailed balance. Geman & Geman 1984.
    """

    def init(self, model: Any, n_replicas: int, key: Key) -> BlockGibbsState:
        """Return independent replicas at β = 0: every site ±1 with probability ½."""
        drawn = uniforms(n_replicas * model.n_sites, key.torch()).view(n_replicas, model.n_sites)
        return self.start(model, (drawn < 0.5).to(torch.float32) * 2.0 - 1.0)

    def start(self, model: Any, x: Tensor) -> BlockGibbsState:
        """Return the state of given configurations  # (replica, site), ±1."""
        with torch.no_grad():
            return BlockGibbsState(x, model.energy(x))

    def advance(
        self, model: Any, state: BlockGibbsState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[BlockGibbsState, Info]:
        """Advance every replica by `n_sweeps` sweeps, replica r at beta[r]; `state` is left untouched."""
        x, generator = state.x.clone(), key.torch()
        n_replicas, n_sites = x.shape
        sizes = [n_replicas * _width(block) for block in model.blocks]
        with torch.no_grad():
            for _ in range(n_sweeps):
                noise = torch.split(uniforms(x.numel(), generator), sizes)
                for block in reversed(range(len(model.blocks))):
                    p = model.conditional(block, x, beta)
                    torch.lt(noise[block].view_as(p), p, out=x[:, model.blocks[block]])
                    x[:, model.blocks[block]].mul_(2.0).sub_(1.0)
            energy = model.energy(x)
        n_nonfinite = n_replicas - int(energy.isfinite().sum())
        return BlockGibbsState(x, energy), Info(n_sweeps * n_replicas * n_sites, 1.0, n_nonfinite)

    def configuration(self, state: BlockGibbsState) -> Tensor:
        """Return the configurations  # (replica, site)."""
        return state.x

    def select(self, state: BlockGibbsState, index: Tensor) -> BlockGibbsState:
        """Return the state whose replica r is `state`'s replica index[r]."""
        return BlockGibbsState(state.x[index], state.energy[index])


def _width(block: slice) -> int:
    return int(block.stop - block.start)
