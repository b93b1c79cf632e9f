"""The variational autoencoder's bounds against the exact likelihood by quadrature over its latent space."""

import math

import numpy as np
import pytest
import torch
from inputs import digits
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.estimators import importance_weighted
from genmodels.learners.fit import Shuffled, Whole, fit
from genmodels.learners.gradient import Gradient
from genmodels.models.vae import VAE
from genmodels.streams import Key


def all_images(n_sites: int) -> Tensor:
    return (torch.arange(2**n_sites)[:, None] >> torch.arange(n_sites) & 1).float()


def scrambled(kind: type[VAE], latent: int, seed: int = 3, dropout: float = 0.0) -> VAE:
    """Return a VAE of 3×2 pixels, weights at random; its encoder is wider than the posterior."""
    model = kind((3, 2), latent, (8,), dropout).eval()
    generator = Key(seed, "weights").torch()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if name.startswith("encoder") else 0.9
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def quadrature(model: VAE, x: Tensor) -> Tensor:
    """Return log ∫ N(z; 0, I) q(x|z) dz by the trapezoidal rule on [−8, 8]^latent."""
    line = torch.linspace(-8.0, 8.0, 801 if model.latent == 1 else 101)
    z = torch.cartesian_prod(*[line] * model.latent).view(-1, model.latent)
    log_prior = -0.5 * (z.double().square() + math.log(2.0 * math.pi)).sum(1)
    log_cell = model.latent * math.log(float(line[1] - line[0]))
    parts = [model.log_likelihood(image, z).double() + log_prior for image in x]
    return torch.stack(parts).logsumexp(1) + log_cell


class NoEncoderTerm(VAE):
    """Forgets −log q(z|x)."""

    def log_weights(self, x: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        log_w = super().log_weights(x, n_samples, generator)
        mean, log_variance = self.encode(x)
        return log_w - 0.5 * (log_variance + math.log(2.0 * math.pi) + 1.0).sum(1)[:, None]


class WrongSign(VAE):
    """Adds the divergence instead of subtracting it."""

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        likelihood, divergence = self._terms(x, generator)
        return likelihood + divergence


def z_score(values: np.ndarray, variances: np.ndarray, exact: Tensor) -> float:
    """Return the mean difference from the exact values in standard errors."""
    difference = values - exact.numpy()
    return float(difference.sum() / math.sqrt(variances.sum()))


@pytest.mark.parametrize("latent", [1, 2])
def test_elbo_below_the_importance_weighted_bound_below_the_truth(latent: int) -> None:
    model, x, key = scrambled(VAE, latent), all_images(6), Key(4, "iw")
    exact = quadrature(model, x)
    assert float(exact.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    (tight, variances), (elbo, elbo_variances) = importance_weighted.bounds(model, x, key, 20_000)
    loose, noise = importance_weighted.bounds(model, x.repeat(100, 1), key, 5).weighted
    # The bias of log mean w is −var/2, far below the error here: equality is to be expected.
    assert variances.sum() / 2.0 < 0.1 * math.sqrt(variances.sum())
    assert abs(z_score(tight, variances, exact)) < 3.0
    assert z_score(loose, noise, exact.repeat(100)) < -5.0
    assert z_score(elbo, elbo_variances, exact) < -30.0
    assert (elbo <= tight).all()
    assert loose.mean() > elbo.mean()


def test_a_weight_without_the_encoder_term_is_rejected() -> None:
    model, x = scrambled(NoEncoderTerm, 2), all_images(6)
    values, variances = importance_weighted.bounds(model, x, Key(4, "iw"), 20_000).weighted
    assert abs(z_score(values, variances, quadrature(model, x))) > 30.0


def test_one_draw_of_the_elbo_is_unbiased_and_the_wrong_sign_is_rejected() -> None:
    x, generator = all_images(6), Key(5, "elbo").torch()
    model, wrong = scrambled(VAE, 2), scrambled(WrongSign, 2)
    expected, noise = importance_weighted.bounds(model, x, Key(6, "elbo"), 20_000).elbo
    with torch.no_grad():
        draws = torch.stack([model.elbo(x, generator) for _ in range(2000)]).double()
        wrongs = torch.stack([wrong.elbo(x, generator) for _ in range(100)]).double()
    variances = draws.var(0).numpy() / len(draws) + noise
    assert abs(z_score(draws.mean(0).numpy(), variances, torch.from_numpy(expected))) < 3.0
    variances = wrongs.var(0).numpy() / len(wrongs) + noise
    assert abs(z_score(wrongs.mean(0).numpy(), variances, torch.from_numpy(expected))) > 10.0


def test_the_divergence_agrees_with_torch_and_with_samples() -> None:
    model, x = scrambled(VAE, 3), all_images(6)
    with torch.no_grad():
        mean, log_variance = model.encode(x)
        _, metrics = model.loss(x, Key(7, "loss").torch())
    encoder = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    prior = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    exact = float(torch.distributions.kl_divergence(encoder, prior).sum(1).mean())
    assert float(metrics["divergence"]) == pytest.approx(exact, rel=1e-5)
    assert float(metrics["loss"]) == pytest.approx(float(metrics["reconstruction"]) + exact, rel=1e-5)
    eps = torch.randn(4000, *mean.shape, generator=Key(8, "z").torch())
    z = mean + torch.exp(0.5 * log_variance) * eps
    draws = (encoder.log_prob(z) - prior.log_prob(z)).sum(2).mean(1).double()
    assert abs(float(draws.mean()) - exact) < 3.0 * float(draws.std()) / math.sqrt(len(draws))


def test_the_error_of_the_bound_is_its_spread_over_keys() -> None:
    model, x = scrambled(VAE, 2), all_images(6)
    runs = [importance_weighted.bounds(model, x, Key(seed, "iw"), 400).weighted for seed in range(40)]
    values, variances = (np.stack(part) for part in zip(*runs, strict=True))
    stated = math.sqrt(variances.mean(0).sum()) / len(x)
    spread = values.mean(1).std(ddof=1)
    # The relative error of a standard deviation from 40 runs is 1/√78; the heavy tail of w adds to it.
    assert abs(spread / stated - 1.0) < 3.0 / math.sqrt(78)


def test_an_image_depends_on_its_shard_only_and_samples_come_in_rounds() -> None:
    model, x, key = scrambled(VAE, 2), all_images(6), Key(9, "iw")
    (values, variances), (elbo, noise) = importance_weighted.bounds(model, x[:40], key, 500)
    for whole, part in zip(
        (values, variances, elbo, noise),
        [array for pair in importance_weighted.bounds(model, x[:32], key, 500) for array in pair],
        strict=True,
    ):
        assert np.array_equal(whole[:32], part)
    seen: list[tuple[int, int]] = []
    importance_weighted.bounds(model, x[:40], key, 2, lambda done, total: seen.append((done, total)))
    assert seen == [(16, 40), (32, 40), (40, 40)]
    with torch.no_grad():
        rounds = [model.log_weights(x[32:40], 250, key.at(shard=2, round=r).torch()) for r in (0, 1)]
    log_w = torch.cat(rounds, 1).double()
    assert np.array_equal(values[32:], (log_w.logsumexp(1) - math.log(500)).numpy())
    assert np.array_equal(elbo[32:], log_w.mean(1).numpy())


def test_dropout_is_off_in_the_bounds_and_the_model_keeps_its_mode() -> None:
    model, x, key = scrambled(VAE, 2, dropout=0.5), all_images(6), Key(10, "iw")
    quiet = importance_weighted.bounds(model, x, key, 50).weighted[0]
    model.train()
    assert np.array_equal(importance_weighted.bounds(model, x, key, 50).weighted[0], quiet)
    assert model.training
    with torch.no_grad():
        assert not torch.equal(model.elbo(x, key.torch()), model.elbo(x, key.torch())), "dropout was on here"


def test_one_sample_has_no_error() -> None:
    with pytest.raises(InputError, match="n_samples: 1"):
        importance_weighted.bounds(scrambled(VAE, 1), all_images(6), Key(0, "iw"), 1)


def trained(kind: type[VAE]) -> VAE:
    """Return a VAE trained on three patterns of 3×2 pixels of unequal weight."""
    patterns = torch.tensor([[1.0, 1, 0, 0, 1, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]])
    x = patterns.repeat_interleave(torch.tensor([6, 3, 1]), 0)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = kind((3, 2), 2, (16,))
    list(fit(model, Gradient(1e-2, 400, ema=0.0), Whole(x), Key(11, "train"), 400))
    return model.eval()


def test_a_trained_model_bounds_a_probability() -> None:
    x, key = all_images(6), Key(12, "iw")
    model = trained(VAE)
    values, variances = importance_weighted.bounds(model, x, key, 2000).weighted
    weights = np.exp(values)
    error = math.sqrt((weights**2 * variances).sum())
    assert weights.sum() < 1.0 + 3.0 * error
    assert weights.sum() > 0.95 - 3.0 * error
    best = x[int(values.argmax())].tolist()
    assert best == [1.0, 1, 0, 0, 1, 0]
    assert abs(float(values.max()) - math.log(0.6)) < 0.3
    broken = NoEncoderTerm((3, 2), 2, (16,))
    broken.load_state_dict(model.state_dict())
    false, _ = importance_weighted.bounds(broken, x, key, 2000).weighted
    assert abs(np.exp(false).sum() - 1.0) > 0.3


def test_samples_follow_the_model() -> None:
    model, n = scrambled(VAE, 1), 20_000
    probabilities = quadrature(model, all_images(6)).exp().numpy()
    assert probabilities.min() * n > 5.0
    places = 2 ** torch.arange(6)

    def chi_square(pictures: Tensor) -> float:
        counts = torch.bincount((pictures.long() * places).sum(1), minlength=64).numpy()
        expected = probabilities * n
        return float((((counts - expected) ** 2 / expected).sum() - 63.0) / math.sqrt(2.0 * 63.0))

    assert abs(chi_square(model.sample(n, Key(13, "sample").torch()))) < 3.5
    assert chi_square(model.sample(n, Key(13, "sample").torch(), radius=0.5)) > 10.0


def test_a_radius_of_zero_is_the_centre_of_the_prior() -> None:
    model = scrambled(VAE, 2)
    means = model.sample_means(5, Key(14, "sample").torch(), radius=0.0)
    with torch.no_grad():
        assert torch.equal(means, model.means(torch.zeros(5, 2)))
    assert bool(((means > 0) & (means < 1)).all())


@pytest.mark.parametrize("shape", [(28, 28, 1), (4, 4), (5, 3)])
def test_any_size_trains_and_samples(shape: tuple[int, ...]) -> None:
    x = torch.bernoulli(torch.full((20, math.prod(shape)), 0.3), generator=Key(15, "x").torch())
    model = VAE(shape, 3, (12, 8), 0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    steps = list(fit(model, Gradient(1e-3, 3), Whole(x), Key(15, "train"), 3))
    assert steps[-1].step == 3
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.sample(6, Key(16, "sample").torch()).shape == (6, math.prod(shape))
    again: nn.Module = VAE(**model.args())
    again.load_state_dict(model.state_dict())


@pytest.mark.slow
def test_held_out_digits_are_likelier_than_under_independent_pixels() -> None:
    train, held_out = digits()
    with torch.random.fork_rng():
        torch.manual_seed(20)
        model = VAE((8, 8), 16, (128,), 0.1)
    learner = Gradient(2e-3, 1500, weight_decay=0.1)
    *_, done = fit(model, learner, Shuffled(train, 100, Key(20, "order")), Key(20, "train"), 1500)
    learner.export(model, done.state)
    values, _ = importance_weighted.bounds(model, held_out, Key(20, "iw"), 500).weighted
    rates = (train.sum(0) + 0.5) / (len(train) + 1.0)
    independent = (held_out * rates.log() + (1 - held_out) * (1 - rates).log()).sum(1).numpy()
    gain = values - independent
    assert gain.mean() - 3.0 * gain.std() / math.sqrt(len(gain)) > 2.0
