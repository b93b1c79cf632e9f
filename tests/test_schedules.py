"""Schedules of noise: what holds of any of them, and what the learned one learns."""

import math
from typing import Any

import optimal
import pytest
import torch
from optimal import MEAN, SPREADS, STATES, Gaussian, Levels
from torch import Tensor

from genmodels.learners.fit import Shuffled, fit
from genmodels.learners.gradient import Gradient
from genmodels.networks.noise import Noise
from genmodels.networks.schedules import Cosine, Learned, Linear
from genmodels.streams import Key

S = torch.linspace(0.0, 1.0, 1001).double()


def warped(
    continuous: bool = True, strength: float = 1.5, ends: tuple[float, float] = (-6.0, 7.0)
) -> Learned:
    schedule = Learned(*ends, continuous)
    generator = Key(1, "warp").torch()
    with torch.no_grad():
        schedule.durations.copy_(strength * torch.randn(schedule.durations.shape, generator=generator))
    return schedule


@pytest.mark.parametrize("schedule", [Linear(-6.0, 7.0), Cosine(-6.0, 7.0), warped(), warped(strength=30.0)])
def test_noise_rises_from_end_to_end_and_time_is_its_inverse(schedule: Any) -> None:
    with torch.no_grad():
        gamma, slope = schedule.at(S), schedule.slope(S)
        assert gamma.dtype == slope.dtype == torch.float64
        torch.testing.assert_close(gamma[[0, -1]], torch.tensor([-6.0, 7.0]).double(), rtol=0, atol=1e-5)
        assert bool((gamma.diff() > 0).all())
        torch.testing.assert_close(schedule.time(gamma), S, rtol=0, atol=1e-9)
        middle = (S[1:] + S[:-1]) / 2
        secant = (schedule.at(middle + 1e-7) - schedule.at(middle - 1e-7)) / 2e-7
        tangent = schedule.slope(middle)
        # But where two pieces meet a secant sees both.
        assert float(((secant / tangent - 1).abs() < 1e-4).double().mean()) > 0.95


def test_the_cosine_schedule_is_a_cosine() -> None:
    schedule = Cosine(-9.0, 9.0)
    ends = [2.0 / math.pi * math.acos(math.sqrt(1.0 / (1.0 + math.exp(gamma)))) for gamma in (-9.0, 9.0)]
    u = ends[0] + (ends[1] - ends[0]) * S
    torch.testing.assert_close(torch.sigmoid(-schedule.at(S)).sqrt(), torch.cos(0.5 * math.pi * u))


def test_levels_and_times_are_places_of_one_schedule() -> None:
    schedule = warped(continuous=False)
    discrete, continuous = Noise(9, schedule), Noise(None, schedule)
    torch.testing.assert_close(discrete.table(), continuous.table(9))
    torch.testing.assert_close(discrete.level(discrete.table()), torch.arange(1, 10).double())
    torch.testing.assert_close(continuous.level(continuous.table(9)), torch.linspace(0, 1, 9).double())


def expected_bound(ends: tuple[float, float], error: float) -> float:
    """Return E of prior and matching of Gaussian data in continuous time, by quadrature in γ."""
    gamma = torch.linspace(*ends, 20001, dtype=torch.float64)
    second = MEAN.square().sum() + SPREADS.sum()
    remaining = (SPREADS / (1.0 + torch.exp(-gamma)[:, None] * SPREADS)).sum(1)
    missed = remaining + error**2 * (second - remaining)
    noise = Noise(None, Linear(*ends))
    prior = float(noise.prior(second.sqrt()[None, None] * torch.tensor([[1.0, 0.0, 0.0]])))
    return prior + float(torch.trapezoid(0.5 * torch.exp(-gamma) * missed, gamma))


def estimated_bound(schedule: Any, T: int | None = None) -> tuple[float, float]:
    model, x, n_times = Gaussian(T=T, network="compact", error=0.2), optimal.data(3000, Key(2, "x")), 40
    model.noise.schedule = schedule
    terms = model.bound_terms(x, Key(2, "noise").torch(), n_times)
    costs = (terms.prior + terms.matching).detach()
    return float(costs.mean()), float(costs.std()) / math.sqrt(len(x))


def test_in_continuous_time_the_bound_depends_on_the_ends_alone() -> None:
    for ends in ((-6.0, 7.0), (-4.0, 7.0), (-6.0, 2.0)):
        expected = expected_bound(ends, 0.2)
        for schedule in (Linear(*ends), Cosine(*ends), warped(True, 1.0, ends)):
            value, error = estimated_bound(schedule)
            assert abs(value - expected) < 3.0 * error
            assert error < 0.02 * expected
    assert expected_bound((-4.0, 7.0), 0.2) < expected_bound((-6.0, 7.0), 0.2) - 1.0
    # With few levels how they are spread matters.
    straight, warped_gap = (Gaussian(T=8, gamma_min=-6.0, gamma_max=7.0, error=0.2) for _ in range(2))
    warped_gap.noise.schedule = warped(continuous=False)
    with torch.no_grad():
        assert abs(straight.gap() - warped_gap.gap()) > 0.1


def test_the_scatter_has_the_gradient_of_the_mean_square() -> None:
    schedule = warped(strength=0.5).double()
    s = (torch.arange(200_000) + 0.5).double() / 200_000

    def cost(gamma: Tensor) -> Tensor:  # per unit of γ
        return torch.exp(-0.5 * (gamma - 2.0).square() / 4.0) + 0.1

    draws = schedule.slope(s) * cost(schedule.at(s))
    schedule.scatter(s, draws).backward()
    found = schedule.durations.grad.clone()  # type: ignore[union-attr]
    # E[c²] = Σ_k A_k/π_k, A_k from the costs over each piece of γ.
    shares = schedule.shares()
    height = 13.0 / len(shares)
    inside = -6.0 + height * (torch.arange(len(shares))[:, None] + (torch.arange(4000) + 0.5) / 4000).double()
    squares = cost(inside).square().mean(1) * height**2
    (expected,) = torch.autograd.grad((squares / shares).sum(), schedule.durations)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    assert float(expected.abs().max()) > 1.0


class Taught(Levels):
    """Its network is the optimum already: there is only the schedule to learn."""

    def __init__(self, T: int | None, ends: tuple[float, float]) -> None:
        learned = {"network": "compact", "schedule": "learned", "objective": "bound"}
        super().__init__(*ends, T=T, **learned)
        del self.unet


@pytest.mark.parametrize("T", [None, 12])
def test_training_moves_the_ends_and_the_inside_to_a_better_bound(T: int | None) -> None:
    model = Taught(T, (-1.0, 2.0))
    first = torch.nn.utils.parameters_to_vector(model.parameters()).clone()

    def bound() -> float:
        with torch.no_grad():
            draws = model.bound_terms(STATES.repeat(400, 1), Key(3, "bound").torch(), 16).elbo()
        return float((draws.view(400, 9) @ torch.softmax(optimal.LOG_P, 0)).mean())

    before = bound()
    x = STATES.repeat_interleave((torch.exp(optimal.LOG_P) * 28).round().long(), 0)
    learner = Gradient(0.03, 250, warm_up=1, ema=0.0, clip=None)
    seen = [
        step.metrics for step in fit(model, learner, Shuffled(x, 28, Key(3, "order")), Key(3, "fit"), 250)
    ]
    after = bound()
    assert after > before + 0.3
    assert seen[-1]["gamma_min"] < -2.0
    assert bool((torch.nn.utils.parameters_to_vector(model.parameters()) != first).all())
    exact = float((optimal.LOG_P.exp() * optimal.LOG_P).sum())
    assert after < exact + 0.05
    if T is None:
        # Its direction is flat here: wherever it goes, the bound is within 0.03 of the exact value.
        assert abs(seen[-1]["gamma_max"] - 2.0) > 0.1
        assert after > exact - 0.25


def test_a_learned_schedule_scatters_less() -> None:
    learned = {"schedule": "learned", "objective": "bound", "gamma_min": -6.0, "gamma_max": 7.0}
    model, x = Gaussian(T=None, network="compact", **learned), optimal.data(2000, Key(4, "x"))
    del model.unet
    schedule: Any = model.noise.schedule
    schedule.log_ends.requires_grad_(False)

    @torch.no_grad()
    def scatter() -> float:
        draws = model.noise.matching(x, model.denoise, Key(4, "scatter").torch(), 1)
        return float(draws.std() / draws.mean())

    straight = scatter()
    learner = Gradient(0.05, 150, warm_up=1, ema=0.0)
    list(fit(model, learner, Shuffled(x, 64, Key(4, "order")), Key(4, "fit"), 150))
    assert scatter() < 0.75 * straight
