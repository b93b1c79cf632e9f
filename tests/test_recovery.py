"""Known couplings of 20 spins, learnt back from exact samples without samples or sums of the model."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from exact import Exact
from torch import Tensor

from genmodels.learners.fit import Whole, fit
from genmodels.learners.flips import flip_costs
from genmodels.learners.minimum_probability_flow import MinimumProbabilityFlow
from genmodels.learners.pseudo_likelihood import PseudoLikelihood
from genmodels.models.boltzmann_machine import BoltzmannMachine
from genmodels.streams import Key

KEY = Key(83, "recovery")
N = 20
FIGURES = {1000: 0.056, 10_000: 0.015, 100_000: 0.005}  # root mean square errors not to be exceeded
RULES: dict[str, Any] = {
    "minimum probability flow": MinimumProbabilityFlow(learning_rate=0.15),
    "pseudo-likelihood": PseudoLikelihood(learning_rate=0.15),
}


@pytest.fixture(scope="module")
def known() -> BoltzmannMachine:
    model, generator = BoltzmannMachine(N), KEY.child("known").torch()
    with torch.no_grad():
        model.J.copy_((0.65 * torch.randn(N, N, generator=generator) / math.sqrt(N)).triu(1))
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


class Doubled(MinimumProbabilityFlow):
    """A wrong rule: the whole difference of energies in the exponent instead of half of it."""

    def objective(self, model: Any, x: Tensor) -> Tensor:
        return -torch.exp(-flip_costs(model, x)).sum(1).mean()


@pytest.mark.parametrize("rule", RULES)
def test_the_error_falls_with_the_root_of_the_number_of_samples(
    rule: str, known: BoltzmannMachine, samples: Tensor
) -> None:
    (few, _), (many, norm) = (error(RULES[rule], samples[:n], known) for n in (1000, 10_000))
    assert norm < 0.05 * many
    assert few < FIGURES[1000]
    assert many < FIGURES[10_000]
    # From 210 parameters an error is known to 5 %, and more as they correlate: 0.04 of the exponent.
    assert math.log(few / many) / math.log(10.0) == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_the_error_of_a_hundred_thousand_samples(rule: str, known: BoltzmannMachine, samples: Tensor) -> None:
    assert error(RULES[rule], samples, known)[0] < FIGURES[100_000]


def test_a_wrong_flow_is_not_consistent(known: BoltzmannMachine, samples: Tensor) -> None:
    wrong = Doubled(learning_rate=0.02)
    (few, _), (many, _) = (error(wrong, samples[:n], known, 400) for n in (1000, 10_000))
    assert many > 3.0 * FIGURES[10_000]
    assert math.log(few / many) / math.log(10.0) < 0.3
