"""Rules that need neither samples nor log Z: they compare each image with those one flip away."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.learners.ascent import Ascent, Climb, Direction
from genmodels.protocols import HasFlipCosts, HasLogUnnormalised, HasStatistics
from genmodels.streams import Key


@dataclass(frozen=True)
class Flips(Ascent):
    """Ascent of an objective made of log q(x) − log q(x'), by automatic differentiation; log Z cancels."""

    @abstractmethod
    def objective(self, model: Any, x: Tensor) -> Tensor:
        """Return what is to be raised, differentiable  # (image, visible) -> ()."""

    def direction(self, model: Any, state: Climb, batch: Tensor, key: Key) -> Direction:
        """Return the gradient less the decay; metric `objective`."""
        energy_model = isinstance(model, HasStatistics) and isinstance(model, HasLogUnnormalised)
        if not energy_model or model.domain != "spin":
            raise InputError(
                f"{self.name}: {type(model).__name__} is no energy model of spins whose hidden units can "
                "be summed out: use another rule"
            )
        names, parameters = zip(*model.named_parameters(), strict=True)
        penalty = self.penalty(model)
        with torch.enable_grad():
            # A learning rule is handed models whose parameters do not ask for gradients, too.
            required = [parameter.requires_grad for parameter in parameters]
            model.requires_grad_(True)
            objective = self.objective(model, batch)
            gradients = torch.autograd.grad(objective, parameters, allow_unused=True, materialize_grads=True)
            for parameter, was in zip(parameters, required, strict=True):
                parameter.requires_grad_(was)
        ascent = {name: g - penalty[name] for name, g in zip(names, gradients, strict=True)}
        return Direction(ascent, None, {}, {"objective": float(objective.detach())})


def flip_costs(model: Any, x: Tensor) -> Tensor:
    """Return log q(x) − log q(x^i) of every image and site, in nats  # (image, visible) twice."""
    if isinstance(model, HasFlipCosts):
        return model.flip_costs(x)
    here = model.log_unnormalised(x)
    signs = 1.0 - 2.0 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return torch.stack([here - model.log_unnormalised(x * sign) for sign in signs], 1)
