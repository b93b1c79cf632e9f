"""Which parameters of a training are kept: the last, or the best by a held-out figure."""

import math
from typing import Any

import torch
from torch import Tensor

METRIC = "log_likelihood_validation"


class EarlyStopping:
    """Keeps the parameters with the highest held-out likelihood; tells when it has long been reached.

    Args:
        patience: Points of the curve with a figure, none of them the best, after which to stop; None: never.
        metric: The figure.
    """

    def __init__(self, patience: int | None, metric: str = METRIC) -> None:
        """Start with nothing seen."""
        self.patience, self.metric, self.waited, self.value = patience, metric, 0, -math.inf
        self.best: dict[str, Tensor] = {}

    def see(self, figures: dict[str, float], model: Any) -> bool:
        """Note the figures of a model; return whether to stop."""
        if self.metric not in figures:
            return False
        self.waited += 1
        if figures[self.metric] > self.value:
            self.value, self.waited = figures[self.metric], 0
            self.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        return self.patience is not None and self.waited >= self.patience

    def put_back(self, model: Any) -> None:
        """Give `model` the best parameters, if any figure was seen."""
        if self.best:
            model.load_state_dict(self.best)

    def tensors(self) -> dict[str, Tensor]:
        """Return what is known so far, for a checkpoint."""
        best = {f"best.{name}": tensor for name, tensor in self.best.items()}
        seen = {"waited": torch.tensor(self.waited), "value": torch.tensor(self.value, dtype=torch.float64)}
        return seen | best

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned."""
        self.waited, self.value = int(tensors["waited"]), float(tensors["value"])
        prefix = "best."
        self.best = {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}
