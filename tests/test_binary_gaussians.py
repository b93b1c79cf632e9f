"""Gaussians as distributions over binary images: sequential conditionals, and the bound by dequantisation."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad
from scipy.stats import multivariate_normal
from torch import Tensor

from genmodels.estimators import dequantised, sequential
from genmodels.models.gaussian import Gaussian
from genmodels.models.gaussian_mixture import GaussianMixture
from genmodels.streams import Key

KEY = Key(31, "binary gaussians")


def images(n_sites: int) -> Tensor:
    """Return all of {0, 1}^N, the first pixel the highest digit."""
    return ((torch.arange(2**n_sites)[:, None] >> torch.arange(n_sites - 1, -1, -1)) & 1).float()


def mixture(n_sites: int, n_components: int) -> GaussianMixture:
    """Return a mixture of unequal shares, means inside the unit cube and strong correlations."""
    model = GaussianMixture(n_sites, n_components)
    generator = KEY.child("model").torch()
    shares = torch.arange(1, n_components + 1).double()
    model.weights.copy_(shares / shares.sum())
    model.means.copy_(torch.rand(n_components, n_sites, generator=generator))
    roots = 0.3 * torch.randn(n_components, n_sites, n_sites, generator=generator, dtype=torch.float64)
    model.covariances.copy_(0.1 * torch.eye(n_sites) + roots @ roots.transpose(1, 2))
    return model


def one(n_sites: int) -> Gaussian:
    model, components = Gaussian(n_sites), mixture(n_sites, 1)
    model.mean.copy_(components.means[0])
    model.covariance.copy_(components.covariances[0])
    return model


def conditional(mean: np.ndarray, covariance: np.ndarray, v: np.ndarray, i: int) -> float:
    """Return P(v_i = 1 | v_<i) from the Gaussian's density at v_i = 0 and at v_i = 1, by scipy."""
    ends = []
    for value in (0.0, 1.0):
        point = np.append(v[:i], value)
        ends.append(multivariate_normal(mean[: i + 1], covariance[: i + 1, : i + 1]).pdf(point))
    return float(ends[1] / (ends[0] + ends[1]))


def by_hand(model: GaussianMixture, v: Tensor) -> np.ndarray:
    total = np.zeros(len(v))
    for weight, mean, covariance in zip(*(part.numpy() for part in model.components()), strict=True):
        for row, image in enumerate(v.numpy()):
            product = float(weight)
            for i, pixel in enumerate(image):
                p = conditional(mean, covariance, image, i)
                product *= p if pixel == 1.0 else 1.0 - p
            total[row] += product
    return np.log(total)


@pytest.mark.parametrize("n_components", [1, 3])
def test_sequential_conditionals_are_ratios_of_densities(n_components: int) -> None:
    model, v = mixture(6, n_components), images(6)[::5]
    expected = by_hand(model, v)
    assert np.allclose(sequential.log_prob(model, v), expected, atol=1e-10)
    assert not np.allclose(sequential.log_prob(model, 1.0 - v), expected, atol=0.1)
    model.covariances.mul_(1.1)
    assert not np.allclose(sequential.log_prob(model, v), expected, atol=0.01)


@pytest.mark.parametrize("model", [one(6), mixture(6, 1), mixture(6, 4)])
def test_sequential_probabilities_sum_to_1(model: Gaussian | GaussianMixture) -> None:
    assert float(sequential.log_prob(model, images(6)).exp().sum()) == pytest.approx(1.0, abs=1e-12)
    density = model.log_prob(images(6)).exp().sum()
    assert float(density) != pytest.approx(1.0, abs=0.01)  # the density itself does not


def test_sequential_is_the_mixture_of_its_components() -> None:
    model, v = mixture(6, 3), images(6)
    parts = torch.zeros(64, dtype=torch.float64)
    for k, weight in enumerate(model.weights):
        alone = Gaussian(6)
        alone.mean.copy_(model.means[k])
        alone.covariance.copy_(model.covariances[k])
        parts += weight * sequential.log_prob(alone, v).exp()
    assert torch.allclose(sequential.log_prob(model, v).exp(), parts, atol=1e-12)


def test_sequential_samples_follow_their_probabilities() -> None:
    n, model = 40_000, mixture(4, 3)
    v = sequential.sample(model, n, KEY.child("sample").torch())
    counts = torch.bincount((v @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long(), minlength=16)
    expected = n * sequential.log_prob(model, images(4)).exp()
    assert set(v.unique().tolist()) == {0.0, 1.0}
    assert abs(float(((counts - expected) ** 2 / expected).sum()) - 15.0) < 4.0 * math.sqrt(30.0)
    # The Gaussian's samples cut at ½ are another distribution.
    cut = (model.sample(n, KEY.child("cut").torch()) > 0.5).float()
    counts = torch.bincount((cut @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long(), minlength=16)
    assert float(((counts - expected) ** 2 / expected).sum()) > 200.0


def log_probabilities_by_quadrature(model: Gaussian | GaussianMixture, v: Tensor) -> np.ndarray:
    """Return log ∫ p(v + u) du over the unit square, p the model moved by ½ and widened by I/12."""
    weights, means, covariances = (part.numpy() for part in model.components())
    parts = [
        (weight, multivariate_normal(mean + 0.5, covariance + np.eye(2) / 12.0))
        for weight, mean, covariance in zip(weights, means, covariances, strict=True)
    ]
    integrals = []
    for a, b in v.tolist():
        integrals.append(
            dblquad(lambda y, x: sum(c * p.pdf((x, y)) for c, p in parts), a, a + 1, b, b + 1, epsabs=1e-7)[0]
        )
    return np.log(integrals)


def test_the_closed_form_is_the_mean_over_u() -> None:
    model, v = one(3), images(3)
    closed, variances = dequantised.bound(model, v, KEY.torch())
    u = torch.rand(40_000, 8, 3, generator=KEY.child("u").torch(), dtype=torch.float64)
    density = multivariate_normal(model.mean.numpy() + 0.5, model.covariance.numpy() + np.eye(3) / 12.0)
    draws = density.logpdf((v + u).numpy())
    z = (closed.numpy() - draws.mean(0)) / (draws.std(0) / math.sqrt(len(draws)))
    assert not variances.any()
    assert np.abs(z).max() < 4.0
    # Without the term tr C⁻¹/24 it would be the density in the middle of the pixel.
    middle = density.logpdf((v + 0.5).numpy())
    assert np.abs((middle - draws.mean(0)) / (draws.std(0) / math.sqrt(len(draws)))).min() > 10.0


@pytest.mark.parametrize("model", [one(2), mixture(2, 3)])
def test_dequantised_is_below_the_integral_and_near_it(model: Gaussian | GaussianMixture) -> None:
    v = images(2)
    exact = log_probabilities_by_quadrature(model, v)
    values, variances = dequantised.bound(model, v, KEY.child("bound").torch(), 2000)
    gaps = torch.from_numpy(exact) - values
    assert bool((gaps > 4.0 * variances.sqrt()).all())
    assert float(gaps.max()) < 0.5
    assert np.exp(exact).sum() < 1.0  # mass off the four squares is what the bound pays as well


def test_a_gaussian_as_a_mixture_of_one_or_of_two_halves_has_one_bound() -> None:
    single, halves, v = one(3), GaussianMixture(3, 2), images(3)
    for k in range(2):
        halves.means[k] = single.mean
        halves.covariances[k] = single.covariance
    closed, _ = dequantised.bound(single, v, KEY.torch())
    drawn, variances = dequantised.bound(halves, v, KEY.torch(), 4000)
    assert bool(((drawn - closed).abs() < 4.0 * variances.sqrt()).all())


def test_the_variances_are_those_of_the_values() -> None:
    model, v = mixture(3, 2), images(3)
    n = 200
    runs = [dequantised.bound(model, v, KEY.child("runs").at(round=i).torch(), 8) for i in range(n)]
    values = torch.stack([value for value, _ in runs])
    stated = torch.stack([variance for _, variance in runs])
    squared = (values - values.mean(0)).square() * n / (n - 1)
    error = ((squared.var(0) + stated.var(0)) / n).sqrt()
    assert bool(((squared.mean(0) - stated.mean(0)).abs() < 4.0 * error).all())
    # Of a single draw the variance is 8 times as large.
    assert bool(((squared.mean(0) - 8.0 * stated.mean(0)).abs() > 20.0 * error).all())
    # Images are independent, so that the variance of their mean is the sum over n².
    of_mean = values.mean(1).var()
    assert abs(float(of_mean / (stated.mean(0).sum() / 64.0)) - 1.0) < 4.0 * math.sqrt(2.0 / (n - 1))


def test_more_levels_than_two() -> None:
    # Of a wide Gaussian log p is linear over a level: the bound lacks half its variance, |∇ log p|²/24.
    model, v = Gaussian(2), torch.tensor([[3.0, 12.0], [7.0, 0.0]])
    model.mean.copy_(torch.tensor([6.0, 9.0]))
    model.covariance.copy_(torch.tensor([[25.0, 5.0], [5.0, 16.0]]))
    values, _ = dequantised.bound(model, v, KEY.torch())
    slopes = torch.linalg.solve(model.covariance + torch.eye(2) / 12.0, (v - model.mean).T).T
    expected = values + slopes.square().sum(1) / 24.0
    assert np.allclose(expected, log_probabilities_by_quadrature(model, v), atol=2e-5)
    assert not np.allclose(values, log_probabilities_by_quadrature(model, v), atol=2e-3)
