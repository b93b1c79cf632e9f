"""Latent diffusion: its bound where it is exact, its guidance, and pictures that are their streams'."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_wrong_images import complaint
from torch import Tensor, nn

from genmodels.artifacts import load_model, save_model
from genmodels.estimators import variational
from genmodels.learners.fit import Shuffled, fit
from genmodels.learners.gradient import Gradient
from genmodels.models.latent_diffusion import LatentDiffusion, LatentTerms
from genmodels.networks.diagonal_normal import DiagonalNormal
from genmodels.networks.text_denoiser import TextDenoiser
from genmodels.networks.text_encoder import TextEncoder, Texts, stacked
from genmodels.prompts import paint, painting
from genmodels.streams import Key, Streams

KEY = Key(73, "latent diffusion")
# z ~ N(m, τ²) and x|z ~ N(az + b, r²), two coordinates unlike each other.
MEAN, SPREAD = torch.tensor([0.7, -1.1]).double(), torch.tensor([0.6, 1.5]).double()
SLOPE, SHIFT, REST = (torch.tensor(it).double() for it in ([1.3, -0.4], [0.2, 0.5], [0.5, 0.8]))
GENERATOR = KEY.child("x").torch()
PICTURES = torch.randn(24, 2, generator=GENERATOR, dtype=torch.float64) * 1.4
LOG_P = (
    torch.distributions.Normal(SLOPE * MEAN + SHIFT, (SLOPE**2 * SPREAD**2 + REST**2).sqrt())
    .log_prob(PICTURES)
    .sum(1)
)


class Linear(nn.Module):
    """The encoder is the posterior of a linear decoder."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = torch.tensor(scale).double()

    def encode(self, x: Tensor) -> DiagonalNormal:
        variance = 1.0 / (SPREAD**-2 + (SLOPE / REST) ** 2)
        mean = variance * (MEAN / SPREAD**2 + SLOPE * (x - SHIFT) / REST**2)
        return DiagonalNormal(mean, variance.log().expand_as(mean))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return torch.distributions.Normal(SLOPE * z + SHIFT, REST).log_prob(x).sum(1)


class Exact(TextDenoiser):
    """The posterior mean of y = sz, z ~ N(m, τ²)."""

    s: float

    def denoise(self, z: Tensor, t: Tensor, labels: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        signal, spread = self.noise.scales(t, z)
        own = (self.s * SPREAD) ** 2
        share = signal * own / (signal**2 * own + spread**2)
        return self.s * MEAN + share * (z - signal * self.s * MEAN)


class WithoutScale(LatentDiffusion):
    """Takes a density of sz for one of z."""

    def terms(self, *given: Any, **more: Any) -> LatentTerms:
        terms = super().terms(*given, **more)
        return terms._replace(scale=torch.zeros_like(terms.scale))


class WithoutEntropy(LatentDiffusion):
    """Forgets what the encoder's spread is worth."""

    def terms(self, *given: Any, **more: Any) -> LatentTerms:
        terms = super().terms(*given, **more)
        return terms._replace(entropy=torch.zeros_like(terms.entropy))


def gaussian(scale: float, T: int | None, kind: type[LatentDiffusion] = LatentDiffusion) -> LatentDiffusion:
    """Return a model whose autoencoder and denoiser are exact, its noise levels those of sz."""
    turn = 2.0 * math.log(scale)
    model = kind(
        (1, 2, 1), (8,), 1, 2, (8,), T, -3.0 + turn, 13.0 + turn, text_width=4, empty_tokens=1
    ).double()
    model.space = Linear(scale)
    model.prior.__class__ = Exact
    model.prior.s = scale
    signal, spread = model.prior.noise.scales(model.prior.noise.least(PICTURES[:1]), PICTURES)
    own = (scale * SPREAD) ** 2
    model.prior.variance = (own * spread**2 / (signal**2 * own + spread**2))[0]
    return model


def gap(model: LatentDiffusion, n_times: int = 32, n_repeats: int = 500) -> tuple[float, float]:
    """Return the mean of log p(x) − bound and its error."""
    values, variances, _ = variational.bound(model, PICTURES, KEY.child("gap"), n_times, n_repeats)
    return float(LOG_P.mean() - values.mean()), math.sqrt(float(variances.sum())) / len(PICTURES)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_bound_is_exact_where_all_is_gaussian(scale: float) -> None:
    found, error = gap(gaussian(scale, None))
    assert error < 0.02
    assert abs(found) < 4.0 * error
    for broken in (WithoutScale, WithoutEntropy):
        found, error = gap(gaussian(scale, None, broken), n_repeats=40)
        assert scale == 1.0 and broken is WithoutScale or abs(found) > 20.0 * error


def test_the_gap_falls_as_one_over_the_number_of_levels() -> None:
    (coarse, error), (fine, smaller) = (gap(gaussian(2.0, T), T - 1) for T in (21, 41))
    assert coarse > fine > 5.0 * smaller
    assert abs(coarse - 2.0 * fine) < 3.0 * math.hypot(error, 2.0 * smaller) + 0.15 * coarse


def test_the_bound_does_not_depend_on_the_scale_draw_by_draw() -> None:
    whole = [gaussian(scale, 50).bound_terms(PICTURES, KEY.torch(), 4) for scale in (1.0, 0.3, 4.0)]
    for other in whole[1:]:
        torch.testing.assert_close(other.elbo(), whole[0].elbo(), rtol=0.0, atol=1e-4)
    broken = gaussian(4.0, 50, WithoutScale).bound_terms(PICTURES, KEY.torch(), 4)
    torch.testing.assert_close(
        whole[0].elbo() - broken.elbo(), torch.full((24,), 2 * math.log(4.0)).double(), rtol=0.0, atol=1e-4
    )


def texts(*lengths: int, width: int = 4) -> Texts:
    return stacked([torch.randn(n, width, generator=KEY.at(shard=n).torch()) for n in lengths])


def small(**changes: Any) -> LatentDiffusion:
    settings: dict[str, Any] = {
        "shape": (8, 8, 3), "first_channels": (8, 8), "latent": 2, "channels": (8, 16), "T": 50,
        "text_width": 4, "empty_tokens": 1,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = LatentDiffusion(**(settings | changes)).eval()
        model.prior.empty.normal_()
    return model


@torch.no_grad()
def test_the_network_reads_its_own_caption_only() -> None:
    prior = small().prior
    z, t = torch.randn(3, prior.n_sites, generator=KEY.torch()), torch.full((3,), 20.0)
    prior.tell(texts(2, 5, 3))
    outputs = prior.network(z, t, torch.tensor([0, 1, -1]))
    assert not torch.allclose(prior.network(z, t, torch.tensor([2, 1, -1]))[0], outputs[0])
    torch.testing.assert_close(prior.network(z, t)[2], outputs[2])
    prior.tell(texts(2))
    alone = prior.network(z[:1], t[:1], torch.tensor([0]))
    torch.testing.assert_close(alone[0], outputs[0], rtol=1e-4, atol=1e-5)
    assert "1 captions are known" in complaint(lambda: prior.network(z, t, torch.tensor([0, 1, 0])))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@torch.no_grad()
def test_guidance_goes_from_no_caption_through_the_caption(prediction: Any) -> None:
    prior = small(prediction=prediction).prior
    z, t = torch.randn(2, prior.n_sites, generator=KEY.torch()), torch.tensor([10.0, 30.0])
    labels = torch.tensor([1, 0])
    prior.tell(texts(2, 5))
    without, given = prior.eps(z, t), prior.eps(z, t, labels)
    torch.testing.assert_close(prior.eps(z, t, labels, 0.0), without)
    torch.testing.assert_close(
        prior.eps(z, t, labels, 3.0), without + 3.0 * (given - without), rtol=1e-4, atol=1e-5
    )
    with prior.told(texts(2, 5), negative=texts(3)):
        negative = prior.eps(z, t)
        guided = prior.eps(z, t, labels, 3.0)
    assert not torch.allclose(negative, without)
    torch.testing.assert_close(guided, negative + 3.0 * (given - negative), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prior.eps(z, t), without)
    signal, spread = prior.noise.scales(t, z)
    torch.testing.assert_close(signal * prior.denoise(z, t, labels) + spread * given, z, rtol=1e-4, atol=1e-5)


def test_captions_are_dropped_in_training_and_what_is_predicted_is_what_is_said() -> None:
    moments = torch.randn(40, 2 * small().prior.n_sites, generator=KEY.torch())
    labels = torch.arange(40) % 2
    always, never = (small(text_drop=share).prior for share in (0.9999, 0.0))
    for prior in (always, never):
        prior.tell(texts(2, 5))
    without = never.loss(moments, KEY.torch())[0]
    torch.testing.assert_close(always.loss(moments, KEY.torch(), labels)[0], without)
    assert abs(float((never.loss(moments, KEY.torch(), labels)[0] - without).detach())) > 1e-4

    class Right(TextDenoiser):
        def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            signal, spread = self.noise.scales(t, z)  # of y = 0
            return z / spread if self.prediction == "eps" else signal * z / spread

    certain = torch.cat([torch.zeros(8, 32), torch.full((8, 32), -60.0)], 1)
    for prediction in ("eps", "v"):
        prior = small(prediction=prediction).prior
        assert float(prior.loss(certain, KEY.torch())[0].detach()) > 0.1
        prior.__class__ = Right
        assert float(prior.loss(certain, KEY.torch())[0]) < 1e-8


@torch.no_grad()
def test_the_density_of_the_least_noise_is_the_best_it_can_be() -> None:
    prior = small().prior
    moments = torch.randn(300, 2 * prior.n_sites, generator=KEY.torch()) - 1.0
    prior.measure(moments, KEY.torch())
    y, eps = (torch.randn(300, prior.n_sites, generator=KEY.at(round=k).torch()) for k in (1, 2))
    y = DiagonalNormal.of(moments).draw(y)
    best = prior.log_density(y, eps).mean()
    for factor in (0.7, 1.4):
        kept = prior.variance.clone()
        prior.variance.mul_(factor)
        assert float(prior.log_density(y, eps).mean()) < float(best)
        prior.variance.copy_(kept)


def test_it_learns_what_captions_say() -> None:
    model = small(shape=(4, 4, 1), first_channels=(8, 8), latent=1, channels=(16, 16), gamma_min=-4.0)
    prior = model.prior
    prior.tell(texts(2, 5))
    labels = torch.arange(64) % 2
    sign = 2.0 * labels.float()[:, None] - 1.0
    moments = torch.cat([sign.expand(-1, 4), torch.full((64, 4), -4.0)], 1)
    batches = Shuffled(moments, 32, KEY, labels)
    list(fit(prior, Gradient(6e-3, 80, warm_up=10, ema=0.9), batches, KEY, 80))
    prior.eval()
    streams = Streams(KEY, 16)
    wanted = torch.arange(16) % 2
    *_, (_, _, drawn) = prior.descend(lambda: streams.normal(4), "ddim", 20, wanted, 2.0)
    assert float(((drawn.mean(1) > 0) == (wanted == 1)).float().mean()) > 0.85
    prior.measure(moments, KEY.torch(), labels)
    assert float(prior.variance) < 0.05


@torch.no_grad()
def test_a_picture_is_its_streams_whatever_the_others_are(tmp_path: Path) -> None:
    model, prompts, negative = small(), texts(2, 5, 3, 2), texts(3)
    model.space.scale.fill_(1.7)
    model.prior.variance.fill_(0.01)
    save_model(tmp_path / "model", "latent_diffusion", model, {"shape": [8, 8, 3]})
    again = load_model(tmp_path / "model")
    for method in ("ddim", "ancestral", "dpm"):
        settings: dict[str, Any] = {"guidance": 3.0, "n_steps": 6, "method": method}
        pixels, means = model.paint(Streams(KEY, 4), prompts, negative, **settings)
        assert pixels.shape == means.shape == (4, 192)
        assert bool(((pixels >= 0) & (pixels <= 255)).all())
        for first in range(4):
            alone = again.paint(
                Streams(KEY, 1, first=first), prompts.select(torch.tensor([first])), negative, **settings
            )
            assert float((alone[1][0] - means[first]).abs().max()) * 255 <= 1.0
        assert not torch.allclose(model.paint(Streams(KEY, 4), prompts, **settings)[1], means)
        assert not torch.allclose(means[0], means[3]), "one prompt, two streams"
    torch.testing.assert_close(
        again.elbo(pixels, KEY.torch()), model.elbo(pixels, KEY.torch()), rtol=1e-5, atol=1e-3
    )
    assert "none of" in complaint(lambda: model.paint(Streams(KEY, 3), method="euler"))
    assert "for 3 pictures" in complaint(lambda: model.paint(Streams(KEY, 3), prompts))
    assert model.pictures(Streams(KEY, 2))[0].shape == (2, 192)


def test_what_is_drawn_is_decoded_from_around_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, decoded = small(), []
    model.space.scale.fill_(1.7)
    model.prior.variance.fill_(0.04)
    decode = model.space.decode
    monkeypatch.setattr(model.space, "decode", lambda z: decoded.append(z) or decode(z))
    model.paint(Streams(KEY, 30), n_steps=2)
    drawn, seen = decoded
    eps = (drawn - seen) * 1.7 / 0.2
    assert eps.numel() > 200
    assert float(eps.std()) == pytest.approx(1.0, abs=4.0 / math.sqrt(2.0 * eps.numel()))
    assert abs(float(eps.mean())) < 4.0 / math.sqrt(eps.numel())


def test_what_cannot_be_built_is_said() -> None:
    assert "below gamma_max" in complaint(lambda: small(gamma_min=7.0))
    assert "too few" in complaint(lambda: small(T=1))
    assert "none of eps, v" in complaint(lambda: small(prediction="x"))
    assert "text_drop" in complaint(lambda: small(text_drop=1.0))
    assert "halve" in complaint(lambda: small(channels=(8, 8, 8, 8)))


def test_prompts_become_pictures_by_the_encoder_that_was_learnt_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Words(TextEncoder):
        """Encodes a prompt as the lengths of its words."""

        def __init__(self, name: str, max_tokens: int, padded: bool) -> None:
            self.name, self.max_tokens, self.padded, self.digest = name, max_tokens, padded, "d" * 64

        def encode(self, prompts: list[str], emphasised: bool) -> Texts:  # type: ignore[override]
            assert emphasised
            counts = [[len(word) for word in prompt.split()] or [0] for prompt in prompts]
            return stacked([torch.tensor(it).float()[:, None].expand(-1, 4) for it in counts])

        def cut_off(self, prompt: str, emphasised: bool) -> str:  # type: ignore[override]
            return " ".join(prompt.split()[self.max_tokens :])

    monkeypatch.setattr("genmodels.prompts.TextEncoder", Words)
    known = {"name": "words", "digest": "d" * 64, "max_tokens": 3}
    model, said = small(text_encoder=known), []
    prompts = ["a purple heart", "", "a b c d e", "a purple heart"]
    settings: dict[str, Any] = {"n_steps": 4, "said": said.append}
    pixels, means = paint(model, prompts, KEY, tmp_path, **settings)
    assert pixels.shape == means.shape == (4, 192)
    assert said == ["prompt 'a b c d e…': beyond 3 tokens, not read: 'd e'"]
    monkeypatch.setattr("genmodels.prompts._AT_ONCE", 3)
    torch.testing.assert_close(
        paint(model, prompts, KEY, tmp_path, **settings)[1], means, rtol=0, atol=1 / 255
    )
    sketches = list(painting(model, prompts, KEY, tmp_path, **settings))
    assert [(first, len(latents)) for first, latents in sketches] == [(0, 3)] * 4 + [(3, 1)] * 4
    seen = [model.seen(latents) for _, latents in sketches[:4]]
    assert all(0.0 <= float(it.min()) < float(it.max()) <= 1.0 for it in seen)
    errors = [float((it - means[:3]).square().mean()) for it in seen]
    assert errors[3] < errors[0], "the last sketch is the picture, but for the least noise"
    away = paint(model, prompts, KEY, tmp_path, "ugly", **settings)[1]
    assert not torch.allclose(away[0], means[0])
    assert "at least one" in complaint(lambda: paint(model, [], KEY, tmp_path, **settings))
    other = small(text_encoder=known | {"digest": "e" * 64})
    assert "not the one" in complaint(lambda: paint(other, prompts, KEY, tmp_path, **settings))
    assert "without captions" in complaint(lambda: paint(small(), prompts, KEY, tmp_path, **settings))
