"""Block Gibbs sampling: all sites of a block at once, given the others."""

from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from genmodels.compiled import bipartite
from genmodels.compiled.bipartite import Precision
from genmodels.errors import InputError
from genmodels.paths import device, draw_0
from genmodels.protocols import HasBipartite, HasReference, Info
from genmodels.streams import Key


class BlockGibbsState(NamedTuple):
    """Configurations and their energies."""

    x: Tensor  # (replica, site), ±1, float32
    energy: Tensor  # (replica,), nats at β = 1


def unmeasured(x: Tensor) -> BlockGibbsState:
    """Return the state of configurations whose energies nobody asks for, which are not numbers then."""
    return BlockGibbsState(x, x.new_full((len(x),), torch.nan))


def uniforms(n: int, generator: torch.Generator) -> Tensor:
    """Return n uniform numbers in [0, 1] at a resolution of 2⁻²⁵  # (n,), float32.

    Two a draw of 64 bits: half the cost of `torch.rand`, which takes as much time as all the rest of a sweep.
    """
    bits = torch.empty((n + 1) // 2, dtype=torch.int64, device=generator.device)
    bits.random_(-(2**63), None, generator=generator)
    return torch.add(0.5, bits.view(torch.int32)[:n], alpha=2.0**-32)


def compiled(model: Any, x: Tensor) -> bool:
    """Return whether compiled loops can draw configurations like x of this model  # (replica, site)."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and isinstance(model, HasBipartite)


@dataclass(frozen=True)
class BlockGibbs:
    """Draw every block from P_β(block | rest), block after block; leaves exp(−βE − E_0) invariant.

    P_β(x_i = +1 | rest) comes from `model.conditional`. A sweep goes from the last block to the first: hidden
    units before visible ones, so that a start of which only the visible sites mean anything is a proper one
    (contrastive divergence). One block satisfies detailed balance, the sweep as a whole balance only.
    Two sides of spins on a CPU, as an RBM has, are drawn by compiled loops; elsewhere random numbers are
    drawn on the device of the configurations. Geman & Geman 1984.

    Attributes:
        precision: "bfloat16" for matrices and fields of three digits, on a CPU and for two sides of spins so
            many that this is faster: the distribution is then that of a machine with couplings so rounded.

    Raises:
        InputError: no such precision.
    """

    precision: Precision = "float32"

    def __post_init__(self) -> None:
        """Refuse a precision that does not exist."""
        if self.precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise InputError(f"BlockGibbs: precision is '{self.precision}', expected one of {known}")

    @property
    def detailed_balance(self) -> bool:
        """Return True: a draw from a conditional distribution is reversible."""
        return True

    def init(self, model: Any, n_replicas: int, key: Key) -> BlockGibbsState:
        """Return independent replicas at β = 0: of the reference, else each site ±1 with probability ½."""
        generator = key.torch(device(model))
        if isinstance(model, HasReference):
            return self.start(model, draw_0(model, n_replicas, generator))
        drawn = uniforms(n_replicas * model.n_sites, generator).view(n_replicas, model.n_sites)
        return self.start(model, (drawn < 0.5).to(torch.float32) * 2.0 - 1.0)

    def start(self, model: Any, x: Tensor) -> BlockGibbsState:
        """Return the state of given configurations  # (replica, site), ±1."""
        with torch.no_grad():
            return BlockGibbsState(x, model.energy(x))

    def advance(
        self, model: Any, state: BlockGibbsState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[BlockGibbsState, Info]:
        """Advance every replica by `n_sweeps` sweeps at beta (replica,) or (sweep, replica)."""
        with torch.no_grad():
            sweep = self._sweep_sides if compiled(model, state.x) else self._sweep_blocks
            x, energy = sweep(model, state.x, beta, n_sweeps, key)
            x = x.to(state.x.dtype)
            energy = model.energy(x) if energy is None else energy
        n_nonfinite = len(x) - int(energy.isfinite().sum())
        return BlockGibbsState(x, energy), Info(n_sweeps * x.numel(), 1.0, n_nonfinite)

    def reconstructions(
        self, model: HasBipartite, visible: Tensor, n_sweeps: int, key: Key
    ) -> tuple[Tensor, Tensor]:
        """Return where sweeps at β = 1 lead from images, and the fields by W of these on the hidden units.

        Both in the precision of the products, without energies: what contrastive divergence needs.

        Args:
            model: On a CPU, as is all else.
            visible: Images  # (image, visible), ±1, float32
            n_sweeps: Number of sweeps.
            key: The stream.
        """
        machine, n_images = model.bipartite(), len(visible)
        dtype = bipartite.dtype_of(machine, self.precision)
        x = visible.new_empty(n_images, len(machine.h), dtype=dtype)
        x[:, : visible.shape[1]] = visible
        first = x.new_empty(n_images, machine.W.shape[1])
        bipartite.sweep(machine, x, visible.new_ones(1, n_images), n_sweeps, key, first)
        return x, first

    def moved(self, model: HasBipartite, x: Tensor, beta: Tensor, n_sweeps: int, key: Key) -> Tensor:
        """Return where sweeps lead, in the precision of the products, without energies  # (replica, site).

        What persistent chains need. On a CPU; x is float32, beta as in `advance`.
        """
        return self._sweep_sides(model, x, beta, n_sweeps, key)[0]

    def _sweep_sides(
        self, model: HasBipartite, x: Tensor, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[Tensor, Tensor | None]:
        machine = model.bipartite()
        moved = x.to(bipartite.dtype_of(machine, self.precision), copy=True).contiguous()
        betas = beta.detach().float().reshape(-1, len(x)).contiguous()
        return moved, bipartite.sweep(machine, moved, betas, n_sweeps, key)

    def _sweep_blocks(
        self, model: Any, x: Tensor, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[Tensor, None]:
        blocks, generator = model.blocks, key.torch(x.device)
        ranges = all(isinstance(sites, slice) for sites in blocks)
        # Where a block is a list of sites, memory is [site, replica]: a site is then a row to be picked.
        x = x.clone() if ranges else x.T.clone(memory_format=torch.contiguous_format).T
        n_replicas = len(x)
        sizes = [n_replicas * _width(sites) for sites in blocks]
        for now in beta.to(x.device).expand(n_sweeps, n_replicas):
            noise = torch.split(uniforms(x.numel(), generator), sizes)
            for block in reversed(range(len(blocks))):
                p = model.conditional(block, x, now)
                _draw(x, blocks[block], p, noise[block])
        return x, None

    def configuration(self, state: BlockGibbsState) -> Tensor:
        """Return the configurations  # (replica, site)."""
        return state.x

    def select(self, state: BlockGibbsState, index: Tensor) -> BlockGibbsState:
        """Return the state whose replica r is `state`'s replica index[r]."""
        return BlockGibbsState(state.x[index], state.energy[index])


def _width(sites: slice | Tensor) -> int:
    return int(sites.stop - sites.start) if isinstance(sites, slice) else len(sites)


def _draw(x: Tensor, sites: slice | Tensor, p: Tensor, noise: Tensor) -> None:
    """Set `sites` of x to +1 with probability p, else to −1  # (replica, site), (replica, sites)."""
    if isinstance(sites, slice):
        torch.lt(noise.view_as(p), p, out=x[:, sites])
        x[:, sites].mul_(2.0).sub_(1.0)
    else:
        up = torch.lt(noise.view_as(p.T), p.T)
        x.T.index_copy_(0, sites, up.to(x.dtype).mul_(2.0).sub_(1.0))
