"""Diffusion's bound and samples against Gaussian data and levels, where all is known."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import optimal
import pytest
import torch
from optimal import COVARIANCE, EXACT, LOG_P, MEAN, STATES, Gaussian, Levels
from torch import Tensor

from genmodels.estimators import variational
from genmodels.networks.noise import BoundTerms, Noise
from genmodels.streams import Key

KINDS = ("eps", "residual", "x", "v")


class OneLevelOff(Noise):
    """Charges each level with the weight of the next."""

    def weight(self, t: Tensor) -> Tensor:
        return super().weight((t + 1).clamp(max=self.T))


def test_the_gap_of_gaussian_data_is_one_over_the_number_of_levels() -> None:
    gaps = [Gaussian(T=T, gamma_max=12.0).gap() for T in (50, 100, 200, 400)]
    for coarse, fine in pairwise(gaps):
        assert 0.95 < math.log2(coarse / fine) < 1.15
    assert 0.0 < gaps[-1] < 0.3
    charged = Gaussian(T=400, gamma_max=12.0, error=0.1)
    assert charged.gap() > gaps[-1] + 1.0, "a denoiser that is off"


def mean_gap(model: Gaussian, n: int, n_times: int) -> tuple[float, float]:
    """Return the mean of log p(x) − bound(x) as it is estimated, and its standard error."""
    x = optimal.data(n, Key(1, "x"))
    values, _, _ = variational.bound(model, x, Key(1, "noise"), n_times, 2)
    off = EXACT.log_prob(x).numpy() - values
    return float(off.mean()), float(off.std() / math.sqrt(n))


@pytest.mark.parametrize("error", [0.0, 0.1])
def test_the_estimated_bound_has_this_gap(error: float) -> None:
    model = Gaussian(T=30, error=error)
    gap, noise = mean_gap(model, 4000, 29)
    assert abs(gap - model.gap()) < 3.0 * noise
    assert noise < 0.02 * model.gap()
    model.noise.__class__ = OneLevelOff
    assert abs(mean_gap(model, 4000, 29)[0] - gap) > 10.0 * noise


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_in_continuous_time_nothing_is_lost(schedule: str) -> None:
    model = Gaussian(T=None, network="compact", schedule=schedule, gamma_max=10.0)
    gap, noise = mean_gap(model, 4000, 60)
    assert abs(gap) < 3.0 * noise
    assert noise < 0.04
    model.noise.prior = lambda x: torch.ones(len(x))  # type: ignore[method-assign]
    assert mean_gap(model, 300, 60)[0] > 0.5


def test_all_predictions_of_one_denoiser_have_the_same_bound_and_noise() -> None:
    x, key, z = optimal.data(6, Key(2, "x")), Key(2, "noise"), optimal.data(6, Key(2, "z"))
    models = [Gaussian(prediction=kind, error=0.2) for kind in KINDS]
    for t in (1, 20, 50):
        level = torch.full((6,), t)
        signal, spread = models[0].noise.scales(level, z)
        for model in models:
            denoised, eps = model.denoise(z, level), model.eps(z, level)
            torch.testing.assert_close(denoised, models[0].denoise(z, level))
            torch.testing.assert_close(signal * denoised + spread * eps, z)
    terms = [model.bound_terms(x, key.torch(), 5) for model in models]
    for one, other in pairwise(terms):
        torch.testing.assert_close(torch.stack(list(one)), torch.stack(list(other)))
    swapped = Gaussian(prediction="x", error=0.2)
    swapped.prediction = "v"
    swapped.network = models[2].network  # type: ignore[method-assign]
    assert not torch.allclose(swapped.elbo(x, key.torch()), models[0].elbo(x, key.torch()))


@pytest.mark.parametrize("error", [0.0, 0.2])
def test_the_loss_of_noise_is_what_is_left_of_it(error: float) -> None:
    model = Gaussian(error=error)
    t = torch.arange(1, 51)
    remaining = model.moments(torch.zeros(50, 3).double(), model.noise.at(t))[1].sum(1)
    second = MEAN.square().sum() + COVARIANCE.trace()
    missed = torch.exp(-model.noise.at(t)) * (remaining + error**2 * (second - remaining))
    losses = torch.stack(
        [model.loss(optimal.data(500, Key(6, "x", r)), Key(6, "t", r).torch())[0] for r in range(40)]
    )
    noise = float(losses.std()) / math.sqrt(40)
    assert abs(float(losses.mean() - missed.mean() / 3)) < 3.0 * noise
    assert noise < 0.02 * float(losses.mean())


def path_terms(model: Levels, x: Tensor, key: Key) -> Tensor:
    """Return log [q(x|z_1) q(z_T) Π q(z_{t−1}|z_t) / q(z_1, …, z_T|x)] along paths z_1 … z_T  # (image,).

    z_1, …, z_T are drawn in this order from the encoder's own steps; nothing is integrated.
    """
    generator, f = key.torch(), model.encode(x)
    alphas = torch.sigmoid(-model.noise.table())  # ᾱ
    steps = torch.cat([alphas[:1], alphas[1:] / alphas[:-1]])  # α
    z, path = f, []
    for step in steps:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        z = step.sqrt() * z + (1.0 - step).sqrt() * noise
        path.append(z)
    total = model.log_reconstruction(x, path[0]) + normal(path[-1], 0.0, 1.0)
    total = total - normal(path[0], alphas[0].sqrt() * f, 1.0 - alphas[0])
    for t in range(2, len(path) + 1):
        earlier, later, step = alphas[t - 2], alphas[t - 1], steps[t - 1]
        guess = model.denoise(path[t - 1], torch.full((len(x),), t))
        total = total - normal(path[t - 1], step.sqrt() * path[t - 2], 1.0 - step)
        mean = step.sqrt() * (1 - earlier) * path[t - 1] + earlier.sqrt() * (1 - step) * guess
        total = total + normal(path[t - 2], mean / (1 - later), (1 - step) * (1 - earlier) / (1 - later))
    return total


def normal(z: Tensor, mean: Any, variance: Any) -> Tensor:
    variance = torch.as_tensor(variance, dtype=z.dtype)
    return -0.5 * ((z - mean).square() / variance + variance.log() + math.log(2.0 * math.pi)).sum(1)


def test_the_three_terms_add_up_to_the_mean_log_ratio_of_whole_paths() -> None:
    model, copies = Levels(-2.0, 1.0, error=0.3, T=6), 4000
    x = STATES.repeat(copies, 1)
    paths = path_terms(model, x, Key(3, "paths")).view(copies, 9)

    def off(change: Callable[[BoundTerms], BoundTerms]) -> float:
        terms = change(model.bound_terms(x, Key(3, "terms").torch(), 5)).elbo().view(copies, 9)
        error = math.hypot(float(paths.std(0).norm()), float(terms.std(0).norm())) / math.sqrt(copies)
        return abs(float((terms.mean(0) - paths.mean(0)).sum())) / error

    assert off(lambda terms: terms) < 3.0
    assert off(lambda terms: terms._replace(prior=torch.zeros_like(terms.prior))) > 6.0
    assert off(lambda terms: terms._replace(reconstruction=0.5 * terms.reconstruction)) > 6.0
    model.noise.__class__ = OneLevelOff
    assert off(lambda terms: terms) > 6.0


def test_the_bound_of_levels_is_below_their_probability_and_near_it() -> None:
    model, copies = Levels(-5.5, T=400), 12
    values, variances, _ = variational.bound(model, STATES.repeat(copies, 1), Key(4, "levels"), 399, 4)
    weights = LOG_P.exp().repeat(copies).numpy() / copies
    gap = float(weights @ (LOG_P.repeat(copies).numpy() - values))
    error = math.sqrt(float(weights**2 @ variances))
    assert -3.0 * error < gap < 0.25
    assert error < 0.1


class StepsWithTooMuchNoise(Noise):
    """Draws z_s with the noise of q(z_s|x), forgetting z_t's."""

    def step_down(self, z: Tensor, x: Tensor, t: float, s: float, eps: Tensor, eta: float = 1.0) -> Tensor:
        signal, spread = self.scales(torch.full((len(z),), s, dtype=torch.float64), z)
        return signal * x + spread * eps


class RunsHalfWay(Gaussian):
    """Its probability flow is half as fast."""

    def drift(self, z: Tensor, gamma: float, *rest: Any) -> Tensor:
        return 0.5 * super().drift(z, gamma, *rest)


def covariance_error(model: Gaussian, method: Any, n_steps: int, n: int = 4000) -> float:
    """Return the largest deviation of means and covariances of samples, in standard errors."""
    generator = Key(5, "sample").torch()

    def noise() -> Tensor:
        return torch.randn(n, 3, generator=generator, dtype=torch.float64)

    *_, (_, z, _) = model.descend(noise, method, n_steps)
    diagonal = COVARIANCE.diagonal()
    errors = ((COVARIANCE.square() + diagonal[:, None] * diagonal) / n).sqrt()
    deviation = ((torch.cov(z.T) - COVARIANCE) / errors).abs().max()
    shift = ((z.mean(0) - MEAN) / (diagonal / n).sqrt()).abs().max()
    return float(torch.maximum(deviation, shift))


@pytest.mark.parametrize(("method", "n_steps"), [("ancestral", 500), ("ddim", 300), ("flow", 15)])
@pytest.mark.parametrize("T", [500, None])
def test_samples_have_the_covariance_of_the_data(method: str, n_steps: int, T: int | None) -> None:
    settings: dict[str, Any] = {"T": T, "network": "compact", "gamma_max": 10.0}
    assert covariance_error(Gaussian(**settings), method, n_steps) < 3.5
    wrong = RunsHalfWay(**settings)
    wrong.noise.__class__ = StepsWithTooMuchNoise
    assert covariance_error(wrong, method, n_steps) > 6.0
