"""Expectation maximisation for mixtures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.learners import covariance, kmeans
from genmodels.protocols import HasComponents
from genmodels.streams import Key

if TYPE_CHECKING:
    from genmodels.models.bernoulli_mixture import BernoulliMixture
    from genmodels.models.gaussian_mixture import GaussianMixture

    Mixture = GaussianMixture | BernoulliMixture

_EMPTY = 1e-8  # images: a component with less keeps its shape, since none is left to tell it another

_NEGLIGIBLE = 1e-7  # of the mean share: all that is below has less than this of the component's weight


class Ascent(NamedTuple):
    """How far EM has come."""

    n_steps: int
    objective: float  # of the parameters before the last M-step, nats per image


@dataclass(frozen=True)
class ExpectationMaximisation:
    """One EM iteration a step, on all the data: Dempster, Laird & Rubin 1977.

    E-step γ_ik ∝ c_k q_k(x_i); M-step c_k = (1/n) Σ_i γ_ik and the weighted moments of each component. Of
    Gaussians the eigenvalues are raised to the floor, of Bernoullis the probabilities are the mode under
    a pseudo-count a: both only ever raise `objective`, the mean log-likelihood, for Bernoullis plus
    (a/n) Σ_ki log p_ki (1 − p_ki). The first step starts from k-means. Metrics belong to the parameters
    before the step's M-step, but n_floored (eigenvalues) and n_empty (components without data), which tell
    what the M-step did.

    Attributes:
        eigenvalue_floor: Smallest eigenvalue of a Gaussian's covariance, in squared grey levels.
        ridge: Added to the covariances' diagonal, as scikit-learn does; the likelihood may then fall.
        pseudo_count: a > 0, imagined images of each value at each pixel and component.
        tolerance: The metric `converged` is 1 once the objective gains less, in nats per image.
        kmeans_rounds: Rounds of k-means after k-means++.
        products: "float32" for those of Gaussians' data several times as fast; parameters and
            log-likelihoods are kept in float64, and rise to 10⁻⁶ of themselves. Images whose share of a
            component is below 10⁻⁷ of the mean share are then left out of its moments: less than 10⁻⁷ of
            its weight, which is what float32 rounds off.

    Raises:
        InputError: eigenvalue_floor or pseudo_count is not positive, or no such precision.
    """

    eigenvalue_floor: float = 1e-2
    ridge: float = 0.0
    pseudo_count: float = 0.5
    tolerance: float = 1e-4
    kmeans_rounds: int = 10
    products: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        """Refuse settings under which a constant pixel gives log 0."""
        for name in ("pseudo_count", "eigenvalue_floor"):
            if not (value := getattr(self, name)) > 0:
                raise InputError(f"{name}: {value} gives log 0 at constant pixels, make it positive")
        if self.products not in ("float64", "float32"):
            raise InputError(f"products: '{self.products}' is unknown, give float64 or float32")

    def init(self, model: Mixture) -> Ascent:
        """Return the state before the first step.

        Raises:
            InputError: the model is no mixture.
        """
        if not hasattr(model, "log_joint"):
            kind = type(model).__name__
            raise InputError(f"ExpectationMaximisation: {kind} is no mixture: use another learner")
        return Ascent(0, -math.inf)

    def step(self, model: Mixture, state: Ascent, batch: Tensor, key: Key) -> tuple[Ascent, dict[str, float]]:
        """Raise the objective on `batch`, which has to be all the data  # (image, site)."""
        x = batch.float() if self._fast(model) else batch.double()
        if state.n_steps == 0:
            self._start(model, x, key.child("kmeans"))
        log_joint = model.log_joint(x, **({"fast": True} if self._fast(model) else {}))
        log_prob = log_joint.logsumexp(1, keepdim=True)
        objective = log_likelihood = float(log_prob.mean())
        if not isinstance(model, HasComponents):
            p = model.probabilities
            objective += self.pseudo_count / len(x) * float((p.log() + torch.log1p(-p)).sum())
        metrics = self._maximise(model, x, (log_joint - log_prob).exp())
        metrics |= {
            "log_likelihood": log_likelihood,
            "objective": objective,
            "converged": float(objective - state.objective < self.tolerance),
        }
        return Ascent(state.n_steps + 1, objective), metrics

    def _fast(self, model: Mixture) -> bool:
        return self.products == "float32" and isinstance(model, HasComponents)

    def _start(self, model: Mixture, x: Tensor, key: Key) -> None:
        nearest = kmeans.assignments(x, model.n_components, self.kmeans_rounds, key.torch())
        self._maximise(model, x, torch.nn.functional.one_hot(nearest, model.n_components).double())

    def _maximise(self, model: Mixture, x: Tensor, shares: Tensor) -> dict[str, float]:
        """Do the M-step with responsibilities `shares`  # (image, component)."""
        counts = shares.sum(0)
        model.weights.copy_(counts / counts.sum())
        full = (counts > _EMPTY).nonzero()[:, 0].tolist()
        metrics = {"n_empty": float(model.n_components - len(full))}
        if not isinstance(model, HasComponents):
            numerator = (shares.T @ x + self.pseudo_count)[full]
            model.probabilities[full] = numerator / (counts[full, None] + 2.0 * self.pseudo_count)
            return metrics
        metrics["n_floored"] = 0.0
        for k in full:
            mean, scatter = covariance.moments(*_members(x, shares[:, k]))
            scatter = scatter.double()
            scatter.diagonal().add_(self.ridge)
            model.means[k] = mean
            model.covariances[k], n_floored = covariance.floored(scatter, self.eigenvalue_floor)
            metrics["n_floored"] += n_floored
        return metrics

    def tensors(self, state: Ascent) -> dict[str, Tensor]:
        """Return the state as named tensors."""
        return {
            "n_steps": torch.tensor(state.n_steps),
            "objective": torch.tensor(state.objective, dtype=torch.float64),
        }

    def restore(self, model: Mixture, tensors: dict[str, Tensor]) -> Ascent:
        """Return the state that `tensors` wrote."""
        return Ascent(int(tensors["n_steps"]), float(tensors["objective"]))


def _members(x: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return images and their shares in a component, of float32 without those that rounding would drop."""
    if x.dtype != torch.float32:
        return x, shares
    rows = (shares > _NEGLIGIBLE * shares.mean()).nonzero()[:, 0]
    return x[rows], shares[rows].to(x)
