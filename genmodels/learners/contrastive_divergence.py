"""Contrastive divergence."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.kernels.block_gibbs import BlockGibbs, compiled
from genmodels.kernels.choose import kernel_for
from genmodels.learners.contrast import Contrast, Fantasy
from genmodels.protocols import Chained, HasSides, Kernel
from genmodels.streams import Key


@final
@dataclass(frozen=True)
class ContrastiveDivergence(Contrast):
    """The model's averages come from chains of k sweeps that start at the data: CD-k.

    Not the gradient of anything: it is biased towards the data, the less the larger k. Hinton 2002.

    Attributes:
        n_sweeps: k.
        kernel: What moves the chains; None for what suits the model.
    """

    n_sweeps: int = 1
    kernel: Kernel[Any] | None = None

    def chained(self, chains: Any, batch: Tensor) -> Chained | None:
        """Return chains from the batch, if nobody asked for another kernel: it is what suits two blocks."""
        blocks = self.kernel is None or type(self.kernel) is BlockGibbs
        return Chained(batch, self.n_sweeps, False) if blocks else None

    def fantasy(self, model: Any, chains: Any, batch: Tensor, key: Key) -> Fantasy:
        """Return where k sweeps lead from the images of the batch."""
        kernel = self.kernel or kernel_for(model)
        one_layer = isinstance(model, HasSides)  # a deep machine's is not drawn given its visible units alone
        if type(kernel) is BlockGibbs and one_layer and compiled(model, batch):
            x, first = kernel.reconstructions(model, batch, self.n_sweeps, key)
            return Fantasy(x, None, None, {"acceptance": 1.0}, first)
        particles = kernel.start(model, _completed(model, batch, key.child("hidden")))
        beta = torch.ones(len(batch), device=batch.device)
        particles, info = kernel.advance(model, particles, beta, self.n_sweeps, key)
        return Fantasy(kernel.configuration(particles), None, None, {"acceptance": info.acceptance})


def _completed(model: Any, x: Tensor, key: Key) -> Tensor:
    """Return x with its hidden units drawn given x  # (image, visible) -> (image, site)."""
    if model.n_sites == x.shape[1]:
        return x
    if not isinstance(model, HasSides):
        raise InputError(
            f"ContrastiveDivergence: the hidden units of {type(model).__name__} cannot be drawn given an "
            "image: use persistent chains"
        )
    blank = torch.cat([x, torch.zeros(len(x), model.n_hidden).to(x)], 1)
    up: Tensor = model.conditional(1, blank, torch.ones(len(x)).to(x))  # type: ignore[attr-defined]
    drawn = torch.rand(up.shape, generator=key.torch(x.device), device=x.device)
    return torch.cat([x, torch.where(drawn < up, 1.0, -1.0).to(x)], 1)
