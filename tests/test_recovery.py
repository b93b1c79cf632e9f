"""Known couplings of 20 spins, learnt back from exact samples without samples or sums of the model."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from exact import Exact
from torch import Tensor

from genmodels.learners.fit import Whole, fit
from genmodels.learners.minimum_probability_flow import MinimumProbabilityFlow
from genmodels.learners.pseudo_likelihood import PseudoLikelihood
from genmodels.models.boltzmann_machine import BoltzmannMachine
from genmodels.streams import Key

KEY = Key(83, "recovery")
N = 20
# Rates at which gradient ascent comes to rest: the flow is the steeper, having more terms of order 1.
RULES: dict[str, Any] = {
    "minimum probability flow": MinimumProbabilityFlow(learning_rate=0.15),
    "pseudo-likelihood": PseudoLikelihood(learning_rate=0.15),
}


@pytest.fixture(scope="module")
def known() -> BoltzmannMachine:
    model, generator = BoltzmannMachine(N), KEY.child("known").torch()
    with torch.no_grad():
        model.J.copy_((torch.randn(N, N, generator=generator) / math.sqrt(N)).triu(1))
        model.h.copy_(0.2 * torch.randn(N, generator=generator) + 0.1)
    return model


@pytest.fixture(scope="module")
def samples(known: BoltzmannMachine) -> Tensor:
    """100,000 independent draws  # (draw, site)."""
    return Exact(known).draws(1.0, 100_000, KEY.child("draws"))


def parameters(model: BoltzmannMachine) -> Tensor:
    i, j = np.triu_indices(N, 1)
    return torch.cat([model.J[i, j], model.h]).detach()


def error(rule: Any, x: Tensor, known: BoltzmannMachine, n_steps: int = 250) -> tuple[float, float]:
    """Return the root mean square error of what the rule learns from x, and the last gradient's norm."""
    model = BoltzmannMachine(N)
    *_, last = fit(model, rule, Whole(x), KEY, n_steps)
    off = parameters(model) - parameters(known)
    return float(off.square().mean().sqrt()), last.metrics["gradient_norm"]


@pytest.mark.parametrize("rule", RULES)
def test_the_error_falls_with_the_root_of_the_number_of_samples(
    rule: str, known: BoltzmannMachine, samples: Tensor
) -> None:
    sizes = (1000, 10_000)
    found, norms = zip(*(error(RULES[rule], samples[:n], known) for n in sizes), strict=True)
    print(rule, found, norms)
