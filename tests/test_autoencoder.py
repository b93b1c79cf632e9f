"""The autoencoder of latent diffusion: a bound on a normalised distribution, and a scale that is measured."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_wrong_images import complaint
from torch import Tensor, nn

from genmodels.artifacts import load_model, save_model
from genmodels.learners.fit import Whole, fit
from genmodels.learners.gradient import Gradient
from genmodels.models.autoencoder import Autoencoder
from genmodels.networks.diagonal_normal import DiagonalNormal
from genmodels.networks.latent_space import LatentSpace
from genmodels.streams import Key, Streams

KEY = Key(71, "autoencoder")
EVERY = torch.cartesian_prod(*[torch.arange(3.0)] * 4)  # all pictures of 2×2 pixels in 3 levels


def built(**changes: Any) -> Autoencoder:
    settings: dict[str, Any] = {"shape": (2, 2, 1), "channels": (8, 8), "latent": 2, "levels": 3}
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return Autoencoder(**(settings | changes)).eval()


class WithoutPrior(Autoencoder):
    """Forgets what z costs."""

    def log_weights(self, x: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        encoded = self.space.encode(x)
        z = encoded.draw(torch.randn(encoded.mean.shape, generator=generator))
        return (super().log_weights(x, n_samples, generator).T - DiagonalNormal.standard(x).log_prob(z)).T


@pytest.mark.parametrize("kind", [Autoencoder, WithoutPrior])
@torch.no_grad()
def test_its_weights_are_those_of_a_normalised_distribution(kind: type[Autoencoder]) -> None:
    model = built()
    model.__class__ = kind
    weights = model.log_weights(EVERY, 150, KEY.torch()).double().exp()
    total, error = float(weights.mean(1).sum()), math.sqrt(float((weights.var(1) / 150).sum()))
    if kind is Autoencoder:
        assert error < 0.1
        assert abs(total - 1.0) < 4.0 * error
    else:
        assert total > 1.0 + 8.0 * error


@torch.no_grad()
def test_the_bound_is_the_mean_of_log_weights_and_sums_to_less_than_one() -> None:
    model = built()
    draws = torch.stack([model.elbo(EVERY, KEY.at(round=k).torch()) for k in range(100)], 1).double()
    weights = model.log_weights(EVERY, 100, KEY.child("weights").torch()).double()
    difference = draws.mean(1) - weights.mean(1)
    error = ((draws.var(1) + weights.var(1)) / 100).sqrt()
    assert bool((difference.abs() < 4.5 * error).all())
    assert float(draws.mean(1).exp().sum()) < 1.0


def test_the_loss_weighs_the_divergence_and_nothing_else() -> None:
    plain, heavy = built(), built(kl_weight=3.0)
    loss, metrics = plain.loss(EVERY, KEY.torch())
    torch.testing.assert_close(loss, -plain.elbo(EVERY, KEY.torch()).mean())
    weighed, _ = heavy.loss(EVERY, KEY.torch())
    torch.testing.assert_close(weighed, loss + 2.0 * metrics["divergence"])
    torch.testing.assert_close(heavy.elbo(EVERY, KEY.torch()), plain.elbo(EVERY, KEY.torch()))


class Places(nn.Module):
    """Says of each output, channel, row and column where it is, and keeps what it sees."""

    def decode(self, z: Tensor, return_dict: bool) -> tuple[Tensor]:
        output, channel, row, column = torch.meshgrid(*map(torch.arange, (2, 3, 8, 8)), indexing="ij")
        return ((1000 * output + 100 * channel + 10 * row + column).float().view(1, 6, 8, 8),)

    def encode(self, x: Tensor, return_dict: bool) -> tuple[Any]:
        self.seen = x
        at = torch.arange(2 * 2 * 2.0).view(1, 2, 2, 2)
        return (SimpleNamespace(mean=at, logvar=-at),)


def test_sites_go_by_row_column_and_channel_and_margins_are_cut_off() -> None:
    space = LatentSpace((5, 6, 3), (8, 8, 8), latent=2)
    assert space.shape == (2, 2, 2)
    space.net = Places()
    told = space.decode(torch.zeros(1, 8))[0].view(2, 5, 6, 3)
    assert told[1, 2, 4, 0].item() == 1000 + 10 * (2 + 1) + 4 + 1
    assert told[0, 0, 0, 2].item() == 200 + 10 + 1
    x = torch.arange(90.0)[None]
    encoded = space.encode(x)
    assert encoded.mean.tolist() == [[0, 4, 1, 5, 2, 6, 3, 7]], "channels last"
    assert torch.equal(encoded.log_variance, -encoded.mean)
    planes = space.net.seen
    assert planes.shape == (1, 3, 8, 8)
    assert not planes[:, :, 0].any()
    torch.testing.assert_close(planes[0, 2, 1, 1], space.pixels.scaled(x)[0, 2])
    torch.testing.assert_close(planes[0, 0, 3, 5], space.pixels.scaled(x)[0, (2 * 6 + 4) * 3])


@torch.no_grad()
def test_the_scale_is_measured_from_latents_and_kept(tmp_path: Path) -> None:
    model = built()
    x = EVERY[torch.randint(81, (400,), generator=KEY.torch())]
    model.space.measure(x)
    encoded = model.space.encode(x)
    z = encoded.draw(torch.randn(400, model.space.n_latent, generator=KEY.torch()))
    n = z.numel()
    assert float((model.space.scale * z).var()) == pytest.approx(1.0, abs=4.0 * math.sqrt(2.0 / n))
    again = DiagonalNormal.of(model.space.moments(x))
    torch.testing.assert_close(again.mean, model.space.scale * encoded.mean)
    torch.testing.assert_close(again.log_variance.exp(), model.space.scale**2 * encoded.log_variance.exp())
    before = float(model.space.scale)
    model.space.measure(x)
    assert float(model.space.scale) == before, "measured twice, the same"
    save_model(tmp_path / "model", "autoencoder", model, {"shape": [2, 2, 1]})
    assert float(load_model(tmp_path / "model").space.scale) == before


def test_it_learns_and_its_pictures_are_their_own() -> None:
    model = built(shape=(8, 8, 3), levels=256, channels=(8, 16))
    x = torch.randint(40, 60, (32, 1, 3), generator=KEY.torch()).float().repeat(1, 64, 1).flatten(1)
    first = float(model.elbo(x, KEY.torch()).detach().mean())
    list(fit(model, Gradient(2e-2, 30, warm_up=5, ema=0.0), Whole(x), KEY, 30))
    model.eval()
    assert float(model.elbo(x, KEY.torch()).detach().mean()) > first + 50.0
    assert model.reconstruct(x).shape == x.shape
    many, means = model.pictures(Streams(KEY, 5))
    few, few_means = model.pictures(Streams(KEY, 2, first=2))
    assert bool(((means[2:4] - few_means).abs() * 255 <= 1).all())
    assert float(((many[2:4] - few).abs() > 1).float().mean()) == 0.0
    assert bool(((many >= 0) & (many <= 255)).all())


def test_what_cannot_be_built_is_said() -> None:
    assert "halve" in complaint(lambda: built(channels=(8, 8, 8, 8)))
    assert "kl_weight" in complaint(lambda: built(kl_weight=-1.0))
    assert "levels" in complaint(lambda: built(levels=1))


def test_the_default_is_small() -> None:
    model = Autoencoder((32, 32, 3))
    assert model.space.shape == (8, 8, 4)
    assert 0.4e6 < sum(p.numel() for p in model.parameters()) < 0.55e6
