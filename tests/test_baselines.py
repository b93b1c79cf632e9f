"""Independent pixels and one Gaussian: densities, their maximum-likelihood fit, their samples."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from genmodels.errors import InputError
from genmodels.learners import covariance
from genmodels.learners.closed_form import ClosedForm
from genmodels.models.bernoulli_mixture import BernoulliMixture
from genmodels.models.gaussian import Gaussian
from genmodels.models.independent import Independent
from genmodels.models.independent_gaussian import IndependentGaussian
from genmodels.streams import Key

KEY = Key(11, "baselines")


def correlated(n: int, n_sites: int) -> Tensor:
    """Return points of unequal means and variances, all correlated  # (point, site)."""
    generator = KEY.child("points").torch()
    mixing = torch.randn(n_sites, n_sites, generator=generator, dtype=torch.float64)
    shift = torch.linspace(-2.0, 3.0, n_sites, dtype=torch.float64)
    return torch.randn(n, n_sites, generator=generator, dtype=torch.float64) @ mixing + shift


def fitted(model: Any, x: Tensor, **settings: float) -> dict[str, float]:
    return ClosedForm(**settings).step(model, None, x, KEY)[1]


def test_a_gaussian_is_scipys() -> None:
    model = Gaussian(4)
    fitted(model, correlated(50, 4), eigenvalue_floor=1e-9)
    points = correlated(7, 4) * 1.5
    mean, scatter = model.mean.numpy(), model.covariance.numpy()
    assert np.allclose(model.log_prob(points), multivariate_normal(mean, scatter).logpdf(points), rtol=1e-12)
    wrong = multivariate_normal(mean, 1.01 * scatter).logpdf(points)
    assert not np.allclose(model.log_prob(points), wrong, rtol=1e-6)


def test_gaussian_pixels_are_scipys_one_by_one() -> None:
    model, x = IndependentGaussian(4), correlated(50, 4)
    x[:, 2] = 3.0
    metrics = fitted(model, x, eigenvalue_floor=0.02)
    points = correlated(7, 4) * 1.5
    deviations = np.sqrt(np.maximum(x.numpy().var(0), 0.02))
    one_by_one = norm(x.numpy().mean(0), deviations).logpdf(points.numpy()).sum(1)
    assert np.allclose(model.log_prob(points), one_by_one, rtol=1e-12)
    assert metrics["n_floored"] == 1.0
    whole = Gaussian(4)
    fitted(whole, x, eigenvalue_floor=0.02)
    assert not np.allclose(model.log_prob(points), whole.log_prob(points), rtol=1e-3)
    drawn = model.sample(40_000, KEY.child("pixels").torch()).double()
    assert float(((drawn.mean(0) - model.mean) / (model.variance / 40_000).sqrt()).abs().max()) < 4.0
    assert float((drawn.var(0) / model.variance - 1.0).abs().max()) < 4.0 * math.sqrt(2.0 / 40_000)


@pytest.mark.parametrize("kind", [Gaussian, IndependentGaussian])
def test_one_normal_is_its_own_only_component(kind: type) -> None:
    model = kind(4)
    fitted(model, correlated(50, 4), eigenvalue_floor=1e-9)
    weights, means, covariances = (part.numpy() for part in model.components())
    assert weights.tolist() == [1.0]
    points = correlated(7, 4)
    density = multivariate_normal(means[0], covariances[0]).logpdf(points)
    assert np.allclose(model.log_prob(points), density, rtol=1e-12)


def test_the_fit_divides_by_n() -> None:
    x = correlated(20, 3)
    model = Gaussian(3)
    metrics = fitted(model, x, eigenvalue_floor=1e-9)
    assert np.allclose(model.mean, x.mean(0), rtol=1e-12)
    assert np.allclose(model.covariance, np.cov(x.numpy(), rowvar=False, bias=True), rtol=1e-12)
    assert not np.allclose(model.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-3)
    assert metrics["n_floored"] == 0.0
    assert metrics["log_likelihood"] == pytest.approx(float(model.log_prob(x).mean()))


def test_no_other_gaussian_is_likelier() -> None:
    x = correlated(30, 3)
    model = Gaussian(3)
    best = fitted(model, x, eigenvalue_floor=1e-9)["log_likelihood"]
    generator = KEY.child("shifts").torch()
    for _ in range(20):
        other = Gaussian(3)
        noise = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        other.mean.copy_(model.mean + 0.05 * noise[0])
        other.covariance.copy_(model.covariance + 0.01 * (noise + noise.T))
        assert float(other.log_prob(x).mean()) < best


def test_weighted_moments_count_an_image_as_often_as_its_weight() -> None:
    x, counts = correlated(6, 3), torch.tensor([1, 3, 0, 2, 5, 1])
    mean, scatter = covariance.moments(x, counts.double() * 0.7)
    repeated = x.repeat_interleave(counts, dim=0)
    assert torch.allclose(mean, repeated.mean(0))
    assert np.allclose(scatter, np.cov(repeated.numpy(), rowvar=False, bias=True))


def test_constant_pixels_are_floored_and_reported() -> None:
    x = correlated(100, 4)
    x[:, 1] = 5.0
    x[:, 3] = x[:, 0]
    model = Gaussian(4)
    metrics = fitted(model, x, eigenvalue_floor=0.03)
    eigenvalues = torch.linalg.eigvalsh(model.covariance)
    assert metrics["n_floored"] == 2.0
    assert eigenvalues[:2].tolist() == pytest.approx([0.03, 0.03])
    before = torch.linalg.eigvalsh(covariance.moments(x, torch.ones(100, dtype=torch.float64))[1])
    assert torch.allclose(eigenvalues[2:], before[2:])
    assert math.isfinite(metrics["log_likelihood"])


def test_raised_eigenvalues_are_the_likeliest_above_the_floor() -> None:
    # Every covariance C ≥ ε is ε + A Aᵀ: none of many random ones beats the clipped one, nor does a ridge.
    x = correlated(40, 3) * torch.tensor([1.0, 0.1, 0.1], dtype=torch.float64)
    floor = 0.3
    clipped, added = Gaussian(3), Gaussian(3)
    best = fitted(clipped, x, eigenvalue_floor=floor)["log_likelihood"]
    scatter = covariance.moments(x, torch.ones(40, dtype=torch.float64))[1]
    identity = torch.eye(3, dtype=torch.float64)
    generator = KEY.child("others").torch()
    for step in (1e-3, 1e-2, 0.1):
        root = torch.linalg.cholesky(clipped.covariance - floor * identity + 1e-12 * identity)
        for _ in range(20):
            noise = torch.randn(3, 3, generator=generator, dtype=torch.float64)
            other = Gaussian(3)
            other.mean.copy_(clipped.mean)
            other.covariance.copy_(floor * identity + (root + step * noise) @ (root + step * noise).T)
            assert float(other.log_prob(x).mean()) < best
    added.mean.copy_(clipped.mean)
    added.covariance.copy_(scatter + floor * identity)
    assert float(added.log_prob(x).mean()) < best - 0.01


def test_independent_pixels_multiply() -> None:
    model = Independent(3)
    model.probabilities.copy_(torch.tensor([0.2, 0.5, 0.9]))
    v = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    by_hand = torch.tensor([0.8 * 0.5 * 0.1, 0.2 * 0.5 * 0.9, 0.2 * 0.5 * 0.1], dtype=torch.float64)
    assert torch.allclose(model.log_prob(v), by_hand.log())


def test_the_pseudo_count_is_so_many_images_of_either_value() -> None:
    v = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    model = Independent(2)
    fitted(model, v, pseudo_count=0.5)
    assert model.probabilities.tolist() == pytest.approx([3.5 / 4.0, 1.5 / 4.0])
    assert torch.isfinite(model.log_prob(1.0 - v)).all()


def test_samples_have_the_models_moments() -> None:
    n = 40_000
    gaussian = Gaussian(3)
    fitted(gaussian, correlated(50, 3))
    x = gaussian.sample(n, KEY.child("gaussian").torch()).double()
    variances = gaussian.covariance.diagonal()
    assert bool(((x.mean(0) - gaussian.mean).abs() < 4.0 * (variances / n).sqrt()).all())
    products = (x - gaussian.mean)[:, :, None] * (x - gaussian.mean)[:, None, :]
    z = (products.mean(0) - gaussian.covariance).abs() / (products.std(0) / math.sqrt(n))
    assert float(z.max()) < 4.0
    # Lᵀ in place of L has another covariance.
    transposed = torch.linalg.cholesky(gaussian.covariance)
    wrong = (products.mean(0) - transposed.T @ transposed).abs() / (products.std(0) / math.sqrt(n))
    assert float(wrong.max()) > 20.0

    independent = Independent(3)
    p = torch.tensor([0.1, 0.5, 0.95])
    independent.probabilities.copy_(p)
    v = independent.sample(n, KEY.child("independent").torch())
    assert set(v.unique().tolist()) == {0.0, 1.0}
    z = (v.mean(0) - p).abs() / (p * (1.0 - p) / n).sqrt()
    assert float(z.max()) < 4.0


@pytest.mark.parametrize("setting", ["pseudo_count", "eigenvalue_floor"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_setting_that_gives_log_0_is_refused(setting: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{setting}: .* make it positive"):
        ClosedForm(**{setting: value})


def test_a_model_without_a_closed_form_is_refused() -> None:
    with pytest.raises(InputError, match="no closed form for BernoulliMixture"):
        ClosedForm().step(BernoulliMixture(3, 2), None, torch.ones(4, 3), KEY)  # type: ignore[arg-type]
