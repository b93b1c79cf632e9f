"""Fantasy particles: what a Boltzmann machine sees in noise, sweep after sweep."""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from genmodels.generate import visible
from genmodels.kernels.choose import kernel_for
from genmodels.streams import Key

_FRAMES = 40


@torch.no_grad()
def particles(
    model: Any, n: int, key: Key, beta: float, n_sweeps: int
) -> Generator[tuple[int, Tensor, Tensor | None], None, None]:
    """Yield sweeps done, pixels, and their means given the other sites, forty times and at the end.

    β rises from 0 to the one asked for in the first half of the sweeps, and stays there: the chains are those
    of simulated annealing, and then those that learning calls fantasy particles. They are no independent
    samples, for a chain may not leave the mode that it fell into.

    Args:
        model: An energy model of spins.
        n: Number of chains.
        key: Their stream.
        beta: The last inverse temperature.
        n_sweeps: Sweeps of all sites.
    """
    kernel = kernel_for(model)
    state = kernel.init(model, n, key)
    rising = beta * torch.linspace(0.0, 2.0, n_sweeps + 1, dtype=torch.float64)[1:].clamp(max=1.0)
    done = 0
    for round, some in enumerate(torch.split(rising, max(1, n_sweeps // _FRAMES))):
        betas, its = some[:, None].repeat(1, n), key.at(round=round + 1)
        state, info = kernel.advance(model, state, betas, len(some), its)
        if info.n_nonfinite:
            raise FloatingPointError("energies of the particles are not finite")
        done += len(some)
        yield done, *visible(model, kernel.configuration(state), float(some[-1]))
