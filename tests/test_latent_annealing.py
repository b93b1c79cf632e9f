"""Annealing of latent variables against integrals on a grid, and ways that lead elsewhere."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from encoders import all_images, scrambled, z_score
from faults import fault_of
from test_hvae import ladder, on_a_grid
from test_vae import quadrature, small
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimators import importance_weighted, latent_annealing, likelihood
from genmodels.estimators.route import Effort
from genmodels.models.hvae import HVAE
from genmodels.models.vae import VAE
from genmodels.streams import Key

KEY = Key(92, "anneal")


def exact_of(model: Any, x: Tensor) -> Tensor:
    return on_a_grid(model, x) if isinstance(model, HVAE) else quadrature(model, x)


def of_weights(model: Any, x: Tensor, key: Key, n_steps: int) -> float:
    """Return by how many errors the mean weight is off q(x), over many particles."""
    found = latent_annealing.anneal(model, x, key, 3000, n_steps)
    return z_score(found.log_prob, found.variances, exact_of(model, x))


@pytest.mark.parametrize("make", [lambda: small(VAE, 2), ladder], ids=["vae", "hvae"])
@pytest.mark.parametrize("n_steps", [1, 8])
def test_the_mean_weight_is_the_likelihood_at_any_speed(make: Any, n_steps: int) -> None:
    model = make()
    x = all_images(model.n_sites)[::7]
    assert abs(of_weights(model, x, KEY, n_steps)) < 4.0


def test_more_steps_make_better_weights_and_raise_the_bound_towards_the_truth() -> None:
    model, x = scrambled(VAE((3, 2), 2, (8,)), encoder=0.5, decoder=1.2), all_images(6)
    exact = quadrature(model, x).numpy()
    few, many = (latent_annealing.anneal(model, x, KEY, 16, n_steps) for n_steps in (1, 60))
    assert many.ess.mean() > few.ess.mean() + 2.0
    below = exact - few.log_prob, exact - many.log_prob
    assert below[0].mean() > 2.0 * abs(below[1].mean())
    assert below[1].mean() > -3.0 * math.sqrt(many.variances.sum()) / len(x)


class Doubled(VAE):
    """β twice: its energy is charged double."""

    def log_weight(self, x: Tensor, encoded: Any, eps: Tensor) -> Tensor:
        return 2.0 * super().log_weight(x, encoded, eps)


class NoPrior(VAE):
    """Forgets log N(z; 0, I)."""

    def log_weight(self, x: Tensor, encoded: Any, eps: Tensor) -> Tensor:
        z = encoded.draw(eps)
        return self.log_likelihood(x, z) - encoded.log_prob(z)


@pytest.mark.parametrize("kind", [Doubled, NoPrior])
def test_a_wrong_weight_is_seen(kind: type[VAE]) -> None:
    model = small(kind, 2)
    assert abs(of_weights(model, all_images(6)[::7], KEY, 8)) > 10.0


def test_a_way_without_its_reference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self: Any, eps: Tensor) -> Tensor:
        return torch.zeros(len(eps))

    monkeypatch.setattr(latent_annealing.Encoded, "reference_energy", nothing)
    assert abs(of_weights(small(VAE, 2), all_images(6)[::7], KEY, 8)) > 10.0


def test_an_image_depends_on_its_shard_only_and_dropout_is_off() -> None:
    model, x = small(VAE, 1, dropout=0.5).train(), all_images(6)[:25]
    every = latent_annealing.anneal(model, x, KEY, 4, 5)
    some = latent_annealing.anneal(model, x[:10], KEY, 4, 5)
    assert model.training
    assert np.array_equal(every.log_prob[:10], some.log_prob)
    assert not np.array_equal(every.log_prob, latent_annealing.anneal(model, x, Key(1, "o"), 4, 5).log_prob)


def test_sizes_that_have_no_error_are_refused() -> None:
    for sizes in ((1, 5), (4, 0)):
        with pytest.raises(InputError, match="give at least 2 and 1"):
            latent_annealing.anneal(small(VAE, 1), all_images(6), KEY, *sizes)


def test_what_is_done_for_some_images_moves_the_mean_by_its_gap() -> None:
    model, v, n = small(VAE, 2), all_images(6), 40
    effort = Effort(importance_samples=250, more_samples=1000, more_images=n, posterior_images=n)
    first, _, more, annealed = likelihood.routes(model, v, KEY, effort=effort)
    assert (first.name, more.name, annealed.name) == ("", "more_samples", "annealed")
    better = importance_weighted.bounds(model, v[:n], KEY.child("weights"), 1000).weighted[0]
    gaps = better - first.values[:n]
    assert more.mean().value == pytest.approx(first.mean().value + gaps.mean())
    assert more.shared == pytest.approx(gaps.std(ddof=1) / math.sqrt(n))
    assert more.shared < 0.2 * first.mean().stderr_images  # far better than a mean over these few
    assert (more.kind, more.mean().n) == ("lower", 64)
    assert "K = 1000 adds for 40 images" in more.method
    exact = float(quadrature(model, v).mean())
    for route in (more, annealed):
        assert abs(route.mean().value - exact) < 4.0 * route.mean().stderr_estimator
    left_out = Effort(importance_samples=250, more_images=0, posterior_images=0)
    assert [each.name for each in likelihood.routes(model, v, KEY, effort=left_out)] == ["", "elbo"]


@pytest.mark.slow
def test_the_error_of_annealing_over_many_seeds() -> None:
    model, x = small(VAE, 2), all_images(6)
    exact = quadrature(model, x)

    def z(seed: int) -> float:
        """Return the error of the mean weights, which have no bias: their logarithms have one of −var/2."""
        found = latent_annealing.anneal(model, x, Key(seed, "coverage"), 200, 4)
        ratio = np.exp(found.log_prob - exact.numpy())
        return float((ratio - 1.0).sum() / math.sqrt((ratio**2 * found.variances).sum()))

    scores = np.array([z(seed) for seed in range(200)])
    assert fault_of(scores) is None
    assert fault_of(1.6 * scores) is not None
