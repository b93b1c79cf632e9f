"""The variational autoencoder's bounds against the exact likelihood by quadrature over its latent space."""

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from encoders import all_images, chi_square, differ_by_batch, scrambled, z_score
from inputs import digits
from sklearn.decomposition import PCA
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.estimators import importance_weighted
from genmodels.learners.fit import Shuffled, Whole, fit
from genmodels.learners.gradient import Gradient
from genmodels.models import vae
from genmodels.models.vae import VAE
from genmodels.networks.evidence import Loss
from genmodels.streams import Key, Streams


def small(kind: type[VAE], latent: int, dropout: float = 0.0) -> VAE:
    """Return a VAE of 3×2 pixels, weights at random."""
    return scrambled(kind((3, 2), latent, (8,), dropout))


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
        likelihood, divergence = self.terms(x, generator)
        return likelihood + divergence.sum(1)


@pytest.mark.parametrize("latent", [1, 2])
def test_elbo_below_the_importance_weighted_bound_below_the_truth(latent: int) -> None:
    model, x, key = small(VAE, latent), all_images(6), Key(4, "iw")
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
    model, x = small(NoEncoderTerm, 2), all_images(6)
    values, variances = importance_weighted.bounds(model, x, Key(4, "iw"), 20_000).weighted
    assert abs(z_score(values, variances, quadrature(model, x))) > 30.0


def test_one_draw_of_the_elbo_is_unbiased_and_the_wrong_sign_is_rejected() -> None:
    x, generator = all_images(6), Key(5, "elbo").torch()
    model, wrong = small(VAE, 2), small(WrongSign, 2)
    expected, noise = importance_weighted.bounds(model, x, Key(6, "elbo"), 20_000).elbo
    with torch.no_grad():
        draws = torch.stack([model.elbo(x, generator) for _ in range(2000)]).double()
        wrongs = torch.stack([wrong.elbo(x, generator) for _ in range(100)]).double()
    variances = draws.var(0).numpy() / len(draws) + noise
    assert abs(z_score(draws.mean(0).numpy(), variances, torch.from_numpy(expected))) < 3.0
    variances = wrongs.var(0).numpy() / len(wrongs) + noise
    assert abs(z_score(wrongs.mean(0).numpy(), variances, torch.from_numpy(expected))) > 10.0


def test_the_divergence_agrees_with_torch_and_with_samples() -> None:
    model, x = small(VAE, 3), all_images(6)
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


def test_a_weight_is_prior_and_likelihood_over_the_encoder() -> None:
    model, x = small(VAE, 3), all_images(6)
    eps = torch.randn(len(x), 3, generator=Key(9, "weight").torch())
    with torch.no_grad():
        encoded = model.encode(x)
        encoder = torch.distributions.Normal(encoded.mean, torch.exp(0.5 * encoded.log_variance))
        z = encoder.mean + encoder.stddev * eps
        ratio = torch.distributions.Normal(0.0, 1.0).log_prob(z) - encoder.log_prob(z)
        expected = model.log_likelihood(x, z) + ratio.sum(1)
        assert torch.allclose(model.log_weight(x, encoded, eps), expected, atol=1e-4)


def test_the_error_of_the_bound_is_its_spread_over_keys() -> None:
    model, x = small(VAE, 2), all_images(6)
    runs = [importance_weighted.bounds(model, x, Key(seed, "iw"), 400).weighted for seed in range(40)]
    values, variances = (np.stack(part) for part in zip(*runs, strict=True))
    stated = math.sqrt(variances.mean(0).sum()) / len(x)
    spread = values.mean(1).std(ddof=1)
    # The relative error of a standard deviation from 40 runs is 1/√78; the heavy tail of w adds to it.
    assert abs(spread / stated - 1.0) < 3.0 / math.sqrt(78)


def test_an_image_depends_on_its_shard_only_and_samples_come_in_rounds() -> None:
    model, x, key = small(VAE, 2), all_images(6), Key(9, "iw")
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
    model, x, key = small(VAE, 2, dropout=0.5), all_images(6), Key(10, "iw")
    quiet = importance_weighted.bounds(model, x, key, 50).weighted[0]
    model.train()
    assert np.array_equal(importance_weighted.bounds(model, x, key, 50).weighted[0], quiet)
    assert model.training
    with torch.no_grad():
        assert not torch.equal(model.elbo(x, key.torch()), model.elbo(x, key.torch())), "dropout was on here"


def test_one_sample_has_no_error() -> None:
    with pytest.raises(InputError, match="n_samples: 1"):
        importance_weighted.bounds(small(VAE, 1), all_images(6), Key(0, "iw"), 1)


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
    model, n = small(VAE, 1), 20_000
    probabilities = quadrature(model, all_images(6)).exp().numpy()
    assert abs(chi_square(model.sample(n, Key(13, "sample").torch()), probabilities)) < 3.5
    assert chi_square(model.sample(n, Key(13, "sample").torch(), radius=0.5), probabilities) > 10.0


def test_a_radius_of_zero_is_the_centre_of_the_prior() -> None:
    model = small(VAE, 2)
    means = model.pictures(Streams(Key(14, "sample"), 5), radius=0.0)[1]
    with torch.no_grad():
        assert torch.equal(means, torch.sigmoid(model.decoder(torch.zeros(5, 2))))
    assert bool(((means > 0) & (means < 1)).all())


NETWORKS: list[dict[str, Any]] = [
    {"shape": (28, 28, 1)},
    {"shape": (5, 3)},
    {"shape": (5, 6), "channels": [4, 6]},
    {"shape": (4, 3, 3), "channels": [4], "levels": 17},
    {"shape": (3, 3), "levels": 256, "decoder": "gaussian"},
]


@pytest.mark.parametrize("settings", NETWORKS)
def test_any_size_trains_samples_and_is_its_arguments(settings: dict[str, Any]) -> None:
    n_sites, levels = math.prod(settings["shape"]), settings.get("levels", 2)
    x = (levels * torch.rand(20, n_sites, generator=Key(15, "x").torch()).square()).floor()
    model = VAE(latent=3, hidden=(12, 8), dropout=0.1, **settings)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    steps = list(fit(model, Gradient(1e-3, 3), Whole(x), Key(15, "train"), 3))
    assert steps[-1].step == 3
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    sampled = model.eval().sample(6, Key(16, "sample").torch())
    assert sampled.shape == (6, n_sites)
    assert bool(((sampled == sampled.round()) & (sampled >= 0) & (sampled <= levels - 1)).all())
    again: nn.Module = VAE(**json.loads(json.dumps(model.args())))
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("settings", [*NETWORKS[1:], {"shape": (8, 8), "levels": 17}])
@pytest.mark.parametrize("radius", [1.0, 2.5])
def test_a_picture_is_the_same_however_many_are_drawn(settings: dict[str, Any], radius: float) -> None:
    model = scrambled(VAE(latent=3, hidden=(12, 8), **settings), decoder=0.4)
    assert differ_by_batch(model, Key(17, "pictures"), radius) <= 1.0 / 255.0
    assert differ_by_batch(model, Key(17, "pictures"), -radius) <= 1.0 / 255.0
    key = Key(17, "pictures").at(shard=5)
    drawn, means = model.pictures(Streams(key, 1, first=5), radius)
    generator = key.torch()
    z = radius * torch.randn(1, 3, generator=generator)
    uniform = torch.rand(1, model.n_sites, generator=generator)
    with torch.no_grad():
        assert torch.allclose(means, model.pixels.means(model.decoder(z)), atol=1e-6)
        assert torch.equal(drawn, model.pixels.draw(model.decoder(z), uniform))
    assert bool(((means >= 0.0) & (means <= 1.0)).all())


@pytest.mark.parametrize("levels", [2, 3])
def test_convolutions_are_bounded_by_the_truth_too(levels: int) -> None:
    model = scrambled(VAE((3, 2), 2, (4,), channels=[3], levels=levels), decoder=0.5)
    line = torch.arange(levels).float()
    x = torch.cartesian_prod(*[line] * 6)[:: 3 if levels == 2 else 30]
    exact = quadrature(model, x)
    if levels == 2:
        assert float(quadrature(model, all_images(6)).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    (tight, variances), (elbo, _) = importance_weighted.bounds(model, x, Key(18, "iw"), 4000)
    assert variances.sum() / 2.0 < 0.3 * math.sqrt(variances.sum())
    assert abs(z_score(tight, variances, exact)) < 3.0
    assert (elbo <= tight).all()


def test_the_bound_rises_with_the_number_of_samples_towards_the_truth() -> None:
    model, x = small(VAE, 2), all_images(6).repeat(40, 1)
    bounds = [importance_weighted.bounds(model, x, Key(19, str(n)), n).weighted for n in (2, 8, 32, 128)]
    for (low, low_noise), (high, high_noise) in pairwise(bounds):
        noise = low.reshape(40, -1).var(0).sum() / 40 + high.reshape(40, -1).var(0).sum() / 40
        assert (high - low).sum() / 40 > 3.0 * math.sqrt(noise)
        assert low_noise.sum() > high_noise.sum()
    assert bounds[-1][0].sum() < float(quadrature(model, all_images(6)).sum()) * 40


def test_many_samples_and_large_images_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, key = small(VAE, 2), all_images(6)[:16], Key(21, "iw")
    seen: list[int] = []
    model.decoder.register_forward_hook(lambda _, __, output: seen.append(output.numel()))
    with torch.no_grad():
        whole = model.log_weights(x, 5000, key.torch())
        assert seen == [16 * 5000 * 6]
        seen.clear()
        monkeypatch.setattr(vae, "_AT_ONCE", 10_000)
        parts = model.log_weights(x, 5000, key.torch())
    assert torch.allclose(whole, parts, atol=1e-5)
    assert max(seen) <= 10_000
    assert sum(seen) == 16 * 5000 * 6


def test_free_bits_and_warm_up_change_the_loss_and_not_the_bound() -> None:
    x, key = all_images(6), Key(22, "loss")
    plain = scrambled(VAE((3, 2), 3, (8,)), encoder=0.5)
    changed = VAE((3, 2), 3, (8,), free_bits=1.0, kl_warm_up=10)
    changed.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.elbo(x, key.torch()), changed.elbo(x, key.torch()))
        mean_elbo = float(plain.elbo(x, key.torch()).mean())
        loss, metrics = plain.loss(x, key.torch())
        assert float(loss) == pytest.approx(-mean_elbo, rel=1e-5)
        likelihood, divergence = plain.terms(x, key.torch())
        charged = float(divergence.mean(0).clamp(min=1.0).sum())
        # The average over the batch comes first: image by image the floor would cost more.
        assert float(divergence.mean(0).min()) < 1.0 < float(divergence.mean(0).max())
        assert charged < float(divergence.clamp(min=1.0).mean(0).sum()) - 0.01
        for step, weight in ((0, 0.1), (4, 0.5), (9, 1.0), (500, 1.0)):
            loss, seen = changed.loss(x, key.torch(), step=step)
            assert float(loss) == pytest.approx(-float(likelihood.mean()) + weight * charged, rel=1e-5)
            assert {name: seen[name] for name in ("reconstruction", "divergence")} == {
                name: metrics[name] for name in ("reconstruction", "divergence")
            }


def test_a_coordinate_within_its_free_bits_is_not_pushed() -> None:
    model, x = VAE((3, 2), 3, (8,), free_bits=50.0), all_images(6)
    model.decoder.requires_grad_(False)
    for parameter in model.decoder.parameters():
        parameter.zero_()
    model.loss(x, Key(23, "loss").torch())[0].backward()
    assert all(not parameter.grad.any() for parameter in model.encoder.parameters())
    model = VAE((3, 2), 3, (8,), free_bits=0.0)
    model.loss(x, Key(23, "loss").torch())[0].backward()
    assert all(parameter.grad.any() for parameter in model.encoder.parameters())


def linear(n: int, seed: int) -> tuple[Tensor, float, float]:
    """Return n points of 6 coordinates, and the nats of probabilistic PCA with 2 components and with 1."""
    generator = Key(seed, "data").torch()
    scales = torch.tensor([2.0, 1.2, 0.5, 0.45, 0.4, 0.35])
    mixing = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    x = (torch.randn(n, 6, generator=generator) * scales) @ mixing + torch.linspace(-1.0, 2.0, 6)
    values = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0)

    def nats(k: int) -> float:
        """Tipping & Bishop 1999, eq. 4 at its maximum."""
        noise = values[k:].mean()
        return -0.5 * float(values[:k].log().sum() + (6 - k) * noise.log() + 6 * (1 + math.log(2 * math.pi)))

    assert PCA(2).fit(x.numpy()).score(x.numpy()) == pytest.approx(nats(2), abs=1e-4)
    return x, nats(2), nats(1)


class Sharper(VAE):
    """Charges half of the divergence, as a β-VAE that is called a VAE."""

    def loss(self, x: Tensor, generator: torch.Generator, step: int = 0) -> Loss:
        likelihood, divergence = self.terms(x, generator)
        loss = 0.5 * divergence.sum(1).mean() - likelihood.mean()
        return loss, {"loss": loss.detach()}


def test_a_linear_model_reaches_probabilistic_pca() -> None:
    x, exact, with_one = linear(500, 24)
    gaps = {}
    for kind in (VAE, Sharper):
        with torch.random.fork_rng():
            torch.manual_seed(24)
            model = kind((3, 2), 2, [], decoder="gaussian")
        learner = Gradient(5e-2, 500, ema=0.98)
        *_, done = fit(model, learner, Whole(x), Key(24, "train"), 500)
        learner.export(model, done.state)
        (tight, variances), (elbo, noise) = importance_weighted.bounds(model, x, Key(24, "iw"), 60)
        error = math.sqrt(noise.sum()) / len(x)
        assert error < 1e-3 * 6
        assert elbo.mean() < exact + 3.0 * error
        assert tight.mean() < exact + 3.0 * math.sqrt(variances.sum()) / len(x)
        gaps[kind] = exact - elbo.mean()
    assert gaps[VAE] < 3e-3 * 6
    assert gaps[Sharper] > 10e-3 * 6
    assert exact - with_one > 0.3


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
