"""Minimum probability flow."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from genmodels.learners.flips import Flips, flip_costs


@final
@dataclass(frozen=True)
class MinimumProbabilityFlow(Flips):
    """Descend K = (1/n) Σ_x Σ_{x'~x} exp(½(F(x) − F(x'))), x' one flip away, q ∝ exp(−F).

    The rate at which probability would leave the data under dynamics that have the model in equilibrium: no
    sampling, no Z. Metric `objective` is −K. Sohl-Dickstein, Battaglino & DeWeese 2011.

    Attributes:
        global_flip: Whether −x is a neighbour of x, too.
        leave_out_data: Whether neighbours that are in the batch are left out, as in the derivation. It helps
            where data are sparse in state space, and is not consistent where they cover it: K ends at 0.
    """

    global_flip: bool = False
    leave_out_data: bool = False

    def objective(self, model: Any, x: Tensor) -> Tensor:
        """Return −K  # (image, visible) -> ()."""
        costs = flip_costs(model, x)
        if self.global_flip:
            whole = model.log_unnormalised(x) - model.log_unnormalised(-x)
            costs = torch.cat([costs, whole[:, None]], 1)
        flow = torch.exp(-0.5 * costs)
        if self.leave_out_data:
            flow = flow.masked_fill(self._in_batch(x), 0.0)
        return -flow.sum(1).mean()

    def _in_batch(self, x: Tensor) -> Tensor:
        """Return whether each neighbour of an image is an image of the batch  # (image, neighbour)."""
        images = {row.tobytes() for row in (x > 0).cpu().numpy()}
        signs = 1.0 - 2.0 * torch.eye(x.shape[1]).to(x)
        if self.global_flip:
            signs = torch.cat([signs, -torch.ones_like(signs[:1])])
        rows = [[row.tobytes() in images for row in (x * sign > 0).cpu().numpy()] for sign in signs]
        return torch.tensor(rows, device=x.device).T
