"""Maximum likelihood where it has a formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.learners import covariance
from genmodels.protocols import levels_of
from genmodels.streams import Key

if TYPE_CHECKING:
    from genmodels.models.gaussian import Gaussian
    from genmodels.models.independent import Independent
    from genmodels.models.independent_gaussian import IndependentGaussian
    from genmodels.models.independent_levels import IndependentLevels

    Closed = Independent | IndependentLevels | IndependentGaussian | Gaussian


@dataclass(frozen=True)
class ClosedForm:
    """Fits independent pixels and one Gaussian in one step, which has to see all the data.

    Pixels of K levels, two or more: p_i(u) = (#{x_i = u} + a) / (n + K a). Gaussian: the data's mean and
    covariance (divided by n), its eigenvalues raised to the floor, without covariances its variances; the
    metric `n_floored` says how many.

    Attributes:
        pseudo_count: a > 0, imagined images at every level of a pixel.
        eigenvalue_floor: Smallest eigenvalue of a covariance, in squared grey levels.

    Raises:
        InputError: a setting is not positive, or the model has no closed form.
    """

    pseudo_count: float = 0.5
    eigenvalue_floor: float = 1e-2

    def __post_init__(self) -> None:
        """Refuse settings under which a constant pixel gives log 0."""
        for name in ("pseudo_count", "eigenvalue_floor"):
            if not (value := getattr(self, name)) > 0:
                raise InputError(f"{name}: {value} gives log 0 at constant pixels, make it positive")

    def init(self, model: Closed) -> None:
        """Return no state: there is none."""
        return

    def step(self, model: Any, state: None, batch: Tensor, key: Key) -> tuple[None, dict[str, float]]:
        """Set the likeliest parameters on `batch`  # (image, site); its tensors tell which it is."""
        metrics: dict[str, float] = {}
        x = batch.double()
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        n_sites = x.shape[1]
        if shapes == {"probabilities": (n_sites,)}:
            model.probabilities.copy_((x.sum(0) + self.pseudo_count) / (len(x) + 2.0 * self.pseudo_count))
        elif shapes == {"probabilities": (n_sites, levels_of(model))}:
            counts = torch.stack([(x == u).sum(0) for u in range(model.levels)], 1)
            model.probabilities.copy_(
                (counts + self.pseudo_count) / (len(x) + model.levels * self.pseudo_count)
            )
        elif shapes == {"mean": (n_sites,), "variance": (n_sites,)}:
            variance = x.var(0, correction=0)
            model.mean.copy_(x.mean(0))
            model.variance.copy_(variance.clamp(min=self.eigenvalue_floor))
            metrics["n_floored"] = float((variance < self.eigenvalue_floor).sum())
        elif shapes == {"mean": (n_sites,), "covariance": (n_sites, n_sites)}:
            mean, scatter = covariance.moments(x, torch.ones_like(x[:, 0]))
            raised, n_floored = covariance.floored(scatter, self.eigenvalue_floor)
            model.mean.copy_(mean)
            model.covariance.copy_(raised)
            metrics["n_floored"] = float(n_floored)
        else:
            raise InputError(f"no closed form for {type(model).__name__}: use another learner")
        metrics["log_likelihood"] = float(model.log_prob(x).mean())
        return None, metrics

    def tensors(self, state: None) -> dict[str, Tensor]:
        """Return nothing: there is no state."""
        return {}

    def restore(self, model: Any, tensors: dict[str, Tensor]) -> None:
        """Return no state: there is none."""
        return
