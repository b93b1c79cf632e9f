"""The hierarchical autoencoder's bounds against sums over a grid and against torch's own distributions."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from encoders import all_images, chi_square, differ_by_batch, scrambled, z_score
from inputs import digits
from torch import Tensor
from torch.distributions import Normal

from genmodels.errors import InputError
from genmodels.estimators import importance_weighted
from genmodels.learners.fit import Shuffled, Whole, fit
from genmodels.learners.gradient import Gradient
from genmodels.models import hvae
from genmodels.models.hvae import HVAE
from genmodels.models.vae import VAE
from genmodels.networks.diagonal_normal import DiagonalNormal
from genmodels.streams import Key, Streams


def ladder(kind: type[HVAE] = HVAE, latents: tuple[int, ...] = (1, 1), encoder: float = 0.3) -> HVAE:
    """Return a model of 3×2 pixels, weights at random."""
    hidden = (6, 5, 4)[: len(latents)]
    return scrambled(kind((3, 2), latents, hidden), 8, encoder, decoder=0.7, priors=0.8)


@torch.no_grad()
def on_a_grid(model: HVAE, x: Tensor) -> Tensor:
    """Return log Σ_z1 Σ_z2 q(x|z1) q(z1|z2) N(z2) dz1 dz2 of layers of one dimension  # (image,)."""
    wide = copied(model).double()
    low, high = (torch.linspace(-7.0, 7.0, n, dtype=torch.float64) for n in (1401, 561))
    mean, log_variance = wide.prior(0, high[:, None])
    conditional = Normal(mean, torch.exp(0.5 * log_variance)).log_prob(low)  # (z2, z1)
    joint = conditional + Normal(0.0, 1.0).log_prob(high)[:, None]
    marginal = joint.logsumexp(0) + math.log(float(high[1] - high[0]))
    log_cell = math.log(float(low[1] - low[0]))
    parts = [wide.log_likelihood(image, low[:, None]) + marginal for image in x.double()]
    return torch.stack(parts).logsumexp(1) + log_cell


def copied(model: HVAE) -> HVAE:
    again = type(model)(**model.args())
    again.load_state_dict(model.state_dict())
    return again.eval()


@torch.no_grad()
def by_torch(model: HVAE, x: Tensor, n: int, key: Key) -> Tensor:
    """Return log q(x, z) − log q(z|x) at n samples by torch's distributions  # (sample, image)."""
    features, above, total = model.encode(x), None, torch.zeros(())
    for layer in reversed(range(len(model.latents))):
        if above is None:
            prior = Normal(torch.zeros(()), torch.ones(()))
            mean, log_variance = model.read[layer](features[layer]).expand(n, -1, -1).chunk(2, -1)
            posterior = Normal(mean, torch.exp(0.5 * log_variance))
        else:
            seen = torch.nn.functional.silu(model.down[layer](above))
            mean, log_variance = model.priors[layer](seen).chunk(2, -1)
            prior = Normal(mean, torch.exp(4.0 * torch.tanh(log_variance / 8.0)))
            both = torch.cat([features[layer].expand(n, -1, -1), seen], -1)
            shift, log_factor = model.read[layer](both).chunk(2, -1)
            posterior = Normal(
                mean + prior.scale * shift, prior.scale * torch.exp(4.0 * torch.tanh(log_factor / 8.0))
            )
        z = posterior.loc + posterior.scale * torch.randn(posterior.loc.shape, generator=key.torch())
        key = key.child("below")
        total = total + (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
        above = z
    logits = model.decoder(above)
    pixels = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    return (total + pixels.log_prob(x).sum(-1)).double()


class NoEncoderTerm(HVAE):
    """Forgets −log q(z_1|z_2, x)."""

    def log_weights(self, x: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        state = generator.get_state()
        log_w = super().log_weights(x, n_samples, generator)
        generator.set_state(state)
        features = [each[:, None] for each in self.encode(x)]
        *_, last = self.descend(features, self._eps(generator, len(x), n_samples))
        return log_w + last.posterior.log_prob(last.z)


class LayerLeftOut(HVAE):
    """Does not charge the lowest layer's divergence."""

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        likelihood, divergences = self.terms(x, generator)
        return likelihood - torch.cat(divergences[1:], 1).sum(1)


class WrongSign(HVAE):
    """Adds the divergences instead of subtracting them."""

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        likelihood, divergences = self.terms(x, generator)
        return likelihood + torch.cat(divergences, 1).sum(1)


def test_elbo_below_the_importance_weighted_bound_below_the_grid() -> None:
    model, x, key = ladder(), all_images(6), Key(40, "iw")
    exact = on_a_grid(model, x)
    assert float(exact.exp().sum()) == pytest.approx(1.0, abs=1e-6)
    (tight, variances), (elbo, noise) = importance_weighted.bounds(model, x, key, 20_000)
    assert variances.sum() / 2.0 < 0.1 * math.sqrt(variances.sum())
    assert abs(z_score(tight, variances, exact)) < 3.0
    assert z_score(elbo, noise, exact) < -30.0
    assert (elbo <= tight).all()
    loose = [importance_weighted.bounds(model, x.repeat(60, 1), key, n).weighted[0] for n in (2, 10)]
    spread = [each.reshape(60, -1).sum(1).std() / math.sqrt(60) for each in loose]
    assert (loose[1] - loose[0]).sum() / 60 > 3.0 * math.hypot(*spread)
    assert float(exact.sum()) - loose[1].sum() / 60 > 3.0 * spread[1]
    broken, _ = importance_weighted.bounds(ladder(NoEncoderTerm), x, key, 1000).weighted
    assert abs(z_score(broken, variances, exact)) > 30.0


@pytest.mark.parametrize(("kind", "right"), [(HVAE, True), (LayerLeftOut, False), (WrongSign, False)])
def test_one_draw_of_the_elbo_is_unbiased(kind: type[HVAE], right: bool) -> None:
    model, x, n = ladder(kind, (3, 2, 2), encoder=0.45), all_images(6), 10_000
    brute = by_torch(model, x, n, Key(41, "brute"))
    generator = Key(41, "elbo").torch()
    with torch.no_grad():
        draws = model.elbo(x.repeat(20_000, 1), generator).view(20_000, -1).double()
    variances = brute.var(0) / n + draws.var(0) / len(draws)
    z = z_score(draws.mean(0).numpy(), variances.numpy(), brute.mean(0))
    assert (abs(z) < 3.0) if right else (abs(z) > 20.0)


def test_weights_agree_with_torch_distributions() -> None:
    model, x, n = ladder(latents=(3, 2, 2)), all_images(6), 3000
    brute = by_torch(model, x, n, Key(42, "brute"))
    with torch.no_grad():
        log_w = model.log_weights(x, n, Key(42, "weights").torch()).double()
    for moment in (1, 2):
        ours, theirs = log_w.T**moment, brute**moment
        variances = (ours.var(0) + theirs.var(0)) / n
        assert abs(z_score(ours.mean(0).numpy(), variances.numpy(), theirs.mean(0))) < 3.0


def test_layers_add_up_to_what_the_bound_charges() -> None:
    model, x, key = ladder(latents=(3, 2, 2)), all_images(6), Key(43, "loss")
    with torch.no_grad():
        elbo, (likelihood, divergences) = model.elbo(x, key.torch()), model.terms(x, key.torch())
        by_layer = torch.stack([each.sum(1) for each in divergences], 1)
        loss, metrics = model.loss(x, key.torch())
    assert by_layer.shape == (64, 3)
    assert bool((by_layer > 0.0).all())
    assert torch.allclose(likelihood - by_layer.sum(1), elbo, atol=1e-5)
    assert float(loss) == pytest.approx(-float(elbo.mean()), rel=1e-5)
    layers = [float(metrics[f"divergence_{layer}"]) for layer in (1, 2, 3)]
    assert layers == pytest.approx(by_layer.mean(0).tolist(), rel=1e-5)
    assert float(metrics["divergence"]) == pytest.approx(sum(layers), rel=1e-5)


def test_the_divergence_of_two_normals_agrees_with_torch() -> None:
    draws = torch.randn(4, 50, 1, generator=Key(44, "normals").torch()).double()
    one, two = DiagonalNormal(draws[0], draws[1]), DiagonalNormal(draws[2], draws[3])
    theirs = [Normal(each.mean, torch.exp(0.5 * each.log_variance)) for each in (one, two)]
    assert torch.allclose(one.divergence(two), torch.distributions.kl_divergence(*theirs))
    # Moved, it is as far from where it was as what moved it is from the standard normal distribution.
    away = one.moved(two).divergence(one)
    assert torch.allclose(away, two.divergence(DiagonalNormal.standard(draws)))
    assert not torch.allclose(away, one.divergence(one.moved(two)))


def test_one_layer_is_a_vae() -> None:
    model, x = ladder(latents=(2,)), all_images(6)
    twin = VAE((3, 2), 2, (6, 6))
    weights = {name.replace("up.0", "encoder"): tensor for name, tensor in model.state_dict().items()}
    twin.load_state_dict({name.replace("read.0", "encoder.4"): tensor for name, tensor in weights.items()})
    key = Key(45, "bound")
    with torch.no_grad():
        assert torch.allclose(model.elbo(x, key.torch()), twin.elbo(x, key.torch()), atol=1e-5)
        pair = [each.log_weights(x, 50, key.torch()) for each in (model, twin)]
    assert torch.allclose(*pair, atol=1e-5)


def test_samples_follow_the_model_and_the_radius_is_that_of_the_top() -> None:
    model, n = ladder(), 20_000
    probabilities = on_a_grid(model, all_images(6)).exp().numpy()
    assert abs(chi_square(model.sample(n, Key(46, "sample").torch()), probabilities)) < 3.5
    assert chi_square(model.sample(n, Key(46, "sample").torch(), radius=2.0), probabilities) > 10.0
    centre = model.pictures(Streams(Key(46, "means"), 3), radius=0.0)[1]
    eps = Streams(Key(46, "means"), 3).normal(1)
    with torch.no_grad():
        z = model.prior(0, torch.zeros(3, 1)).draw(eps)
        assert torch.equal(centre, torch.sigmoid(model.decoder(z)))


NETWORKS: list[dict[str, Any]] = [
    {"shape": (5, 3), "latents": [3, 2], "hidden": [8, 6]},
    {"shape": (5, 6), "latents": [4, 3, 2], "hidden": [12, 8, 4], "depth": 1, "channels": [4, 6]},
    {"shape": (4, 3, 3), "latents": [3, 2], "hidden": [8, 8], "channels": [4], "levels": 17},
    {"shape": (3, 3), "latents": [2], "hidden": [8], "levels": 256, "decoder": "gaussian"},
]


@pytest.mark.parametrize("settings", NETWORKS)
def test_any_size_trains_and_is_its_arguments(settings: dict[str, Any]) -> None:
    n_sites, levels = math.prod(settings["shape"]), settings.get("levels", 2)
    x = (levels * torch.rand(20, n_sites, generator=Key(47, "x").torch()).square()).floor()
    model = HVAE(**settings, dropout=0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    list(fit(model, Gradient(1e-3, 3), Whole(x), Key(47, "train"), 3))
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    sampled = model.eval().sample(6, Key(47, "sample").torch())
    assert sampled.shape == (6, n_sites)
    assert bool(((sampled == sampled.round()) & (sampled >= 0) & (sampled <= levels - 1)).all())
    again = HVAE(**json.loads(json.dumps(model.args())))
    again.load_state_dict(model.state_dict())
    bounds = importance_weighted.bounds(again, x, Key(47, "iw"), 20)
    assert np.isfinite(bounds.weighted[0]).all()


@pytest.mark.parametrize("settings", NETWORKS)
@pytest.mark.parametrize("radius", [1.0, 2.5])
def test_a_picture_is_the_same_however_many_are_drawn(settings: dict[str, Any], radius: float) -> None:
    model = scrambled(HVAE(**settings), decoder=0.3)
    assert differ_by_batch(model, Key(48, "pictures"), radius) <= 1.0 / 255.0
    drawn, means = model.pictures(Streams(Key(48, "pictures"), 3), radius)
    assert drawn.shape == means.shape == (3, model.n_sites)
    assert bool(((means >= 0.0) & (means <= 1.0)).all())
    other, _ = model.pictures(Streams(Key(49, "pictures"), 3), radius)
    assert not torch.equal(drawn, other)


def test_many_samples_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, key = ladder(latents=(3, 2)), all_images(6)[:16], Key(50, "iw")
    seen: list[int] = []
    model.decoder.register_forward_hook(lambda _, __, output: seen.append(output.numel()))
    with torch.no_grad():
        whole = model.log_weights(x, 5000, key.torch())
        assert seen == [16 * 5000 * 6]
        seen.clear()
        monkeypatch.setattr(hvae, "_AT_ONCE", 10_000)
        parts = model.log_weights(x, 5000, key.torch())
    assert torch.allclose(whole, parts, atol=1e-5)
    assert max(seen) <= 10_000
    assert sum(seen) == 16 * 5000 * 6


def test_free_bits_and_warm_up_change_the_loss_and_not_the_bound() -> None:
    x, key, plain = all_images(6), Key(51, "loss"), ladder(latents=(3, 2), encoder=0.6)
    changed = HVAE(**plain.args() | {"free_bits": 0.4, "kl_warm_up": 4})
    changed.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.elbo(x, key.torch()), changed.elbo(x, key.torch()))
        likelihood, divergences = plain.terms(x, key.torch())
        means = torch.cat([each.mean(0) for each in divergences])
        assert float(means.min()) < 0.4 < float(means.max())
        for step, weight in ((0, 0.25), (3, 1.0), (90, 1.0)):
            expected = float(weight * means.clamp(min=0.4).sum() - likelihood.mean())
            assert float(changed.loss(x, key.torch(), step=step)[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("latents", "hidden"), [([], []), ([4, 2], [8])])
def test_layers_without_units_are_refused(latents: list[int], hidden: list[int]) -> None:
    with pytest.raises(InputError, match="hidden: "):
        HVAE((3, 2), latents, hidden)


@pytest.mark.slow
def test_every_layer_says_something_of_digits_and_the_bound_beats_independent_pixels() -> None:
    train, held_out = digits()
    with torch.random.fork_rng():
        torch.manual_seed(52)
        model = HVAE((8, 8), (16, 8), (128, 64), dropout=0.1, kl_warm_up=300)
    learner = Gradient(2e-3, 1500, weight_decay=0.1)
    *_, done = fit(model, learner, Shuffled(train, 100, Key(52, "order")), Key(52, "train"), 1500)
    learner.export(model, done.state)
    values, _ = importance_weighted.bounds(model, held_out, Key(52, "iw"), 500).weighted
    rates = (train.sum(0) + 0.5) / (len(train) + 1.0)
    independent = (held_out * rates.log() + (1 - held_out) * (1 - rates).log()).sum(1).numpy()
    gain = values - independent
    assert gain.mean() - 3.0 * gain.std() / math.sqrt(len(gain)) > 2.0
    with torch.no_grad():
        _, divergences = model.terms(held_out, Key(52, "layers").torch())
    assert min(float(each.sum(1).mean()) for each in divergences) > 0.5
