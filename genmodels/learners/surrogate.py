"""How long a step may be: from the curvature of the log-likelihood, everywhere or here."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from genmodels.errors import InputError
from genmodels.learners.ascent import Tensors
from genmodels.protocols import HasCurvatureBound
from genmodels.streams import Key

_ITERATIONS = 20  # of power iteration: the rate is checked afterwards
_HALVINGS = 30


class Samples(NamedTuple):
    """What the likelihood is measured on."""

    data: Tensor  # (image, visible)
    model: Tensor  # of the negative phase  # (replica, visible)
    weights: Tensor | None  # of those, summing to 1; equal if None  # (replica,)


def global_rate(model: Any, weight_decay: float) -> float:
    """Return 1/sup_θ λ_max of the Hessian of −log-likelihood: f ≤ its quadratic surrogate everywhere.

    With hidden units the Hessian is Cov_θ[s] − ⟨Cov[s|x]⟩_data ⪯ Cov_θ[s].

    Raises:
        InputError: the model has no such bound.
    """
    if not isinstance(model, HasCurvatureBound):
        raise InputError(
            f"surrogate: the curvature of {type(model).__name__} has no global bound: use 'local' or 'none'"
        )
    return 1.0 / (model.curvature_bound + weight_decay)


def local_rate(
    model: Any, ascent: Tensors, samples: Samples, weight_decay: float, key: Key
) -> tuple[float, float]:
    """Return 1/λ_max(Cov_θ[s̄]) at the parameters, halved until the objective rises, and its rise.

    0 and 0 if it never does. The covariance is that of s̄(x), hidden units averaged out: a heuristic, hence
    the check, by log Z' − log Z = log⟨exp(F(x) − F'(x))⟩_θ, F = −log unnormalised q(x). Both are exact where
    the negative phase is all states with their probabilities.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    rate = 1.0 / (largest_curvature(model, samples, key) + weight_decay + 1e-30)
    before = _values(model, parameters, samples)
    for _ in range(_HALVINGS):
        moved = {name: p + rate * ascent[name] for name, p in parameters.items()}
        gain = _gain(before, _values(model, moved, samples), samples.weights)
        longer = [moved[n].square().sum() - parameters[n].square().sum() for n in model.weight_names]
        gain -= 0.5 * weight_decay * sum(map(float, longer))
        if gain > 0.0:
            return rate, gain
        rate *= 0.5
    return 0.0, 0.0


def largest_curvature(model: Any, samples: Samples, key: Key) -> float:
    """Return λ_max(Cov[∂ log q̃(x)/∂θ]) over the negative phase by power iteration, from below."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    x = samples.model
    w = torch.full((len(x),), 1.0 / len(x)) if samples.weights is None else samples.weights

    def values(at: Tensors) -> Tensor:
        found: Tensor = functional_call(_LogUnnormalised(model), _inner(at), (x,))
        return found

    back = vjp(values, parameters)[1]
    generator = key.torch()
    v = {name: torch.randn(p.shape, generator=generator).to(p) for name, p in parameters.items()}
    size = 0.0
    for _ in range(_ITERATIONS):
        length = _norm(v)
        if length == 0.0:
            return 0.0
        v = {name: part / length for name, part in v.items()}
        along = jvp(values, (parameters,), (v,))[1]
        along = (along - w.to(along) @ along) * w.to(along)
        (v,) = back(along)
        size = _norm(v)
    return size


class _LogUnnormalised(nn.Module):
    """log q̃ as a forward pass, which is what can be called with other parameters."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model.log_unnormalised(x)
        return found


def _inner(parameters: Tensors) -> Tensors:
    return {f"model.{name}": tensor for name, tensor in parameters.items()}


def _values(model: Any, parameters: Tensors, samples: Samples) -> tuple[Tensor, Tensor]:
    call = _LogUnnormalised(model)
    at = _inner(parameters)
    return functional_call(call, at, (samples.data,)), functional_call(call, at, (samples.model,))


def _gain(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], weights: Tensor | None) -> float:
    data, model = ((new - old).double() for new, old in zip(after, before, strict=True))
    log_w = torch.full_like(model, -math.log(len(model))) if weights is None else weights.double().log()
    return float(data.mean() - (log_w + model).logsumexp(0))


def _norm(tensors: Tensors) -> float:
    return math.sqrt(sum(float(part.square().sum()) for part in tensors.values()))
