"""Distributions of pixels: they sum to 1, their draws and means are their own."""

import math

import pytest
import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks.pixels import DiscretisedLogistic, Gaussian, pixels
from genmodels.streams import Key


def outputs(n: int, n_outputs: int) -> Tensor:
    """Return what a network may say of n pixels, locations beyond the range and small scales included."""
    output = torch.randn(n, n_outputs, generator=Key(30, "outputs").torch())
    output[:, 0] *= 1.5
    if n_outputs > 1:
        output[:, 1] = 2.0 * output[:, 1] - 3.0
    return output.double()


def masses(decoder: DiscretisedLogistic, output: Tensor) -> Tensor:
    """Return P(x = k) of pixels that stand alone  # (pixel, level)."""
    levels = torch.arange(decoder.levels, dtype=output.dtype)[:, None]
    return torch.stack([decoder.log_prob(levels, each).exp() for each in output])


class NoTails(DiscretisedLogistic):
    """Gives the outermost levels their bin only."""

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        location, scale = self._location_and_scale(output)
        edges = [(self.scaled(x) + side / self.levels - location) / scale for side in (1, -1)]
        return (torch.sigmoid(edges[0]) - torch.sigmoid(edges[1])).log().sum(-1)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_a_discretised_logistic_sums_to_one_and_the_edges_take_the_tails(levels: int) -> None:
    decoder, output = DiscretisedLogistic(levels), outputs(200, 2)
    p = masses(decoder, output)
    assert torch.allclose(p.sum(1), torch.ones(200).double(), rtol=0.0, atol=1e-12)
    location, scale = output[:, :1], output[:, 1:].clamp(min=-7.0).exp()
    edges = torch.linspace(-1.0, 1.0, levels + 1, dtype=torch.float64)
    below = torch.sigmoid((edges - location) / scale)
    below[:, 0], below[:, -1] = 0.0, 1.0
    assert torch.allclose(p, below.diff(dim=1), rtol=1e-6, atol=1e-12)
    means = (p * torch.arange(levels)).sum(1) / (levels - 1)
    assert torch.allclose(decoder.means(output)[:, 0], means, rtol=0.0, atol=1e-10)
    assert float((masses(NoTails(levels), output).sum(1) - 1.0).abs().max()) > 0.1


def test_a_discretised_logistic_stays_finite_in_float32() -> None:
    decoder = DiscretisedLogistic(256)
    location = torch.tensor([-40.0, -1.0, 0.0, 1.0, 40.0])
    output = torch.cartesian_prod(location, torch.tensor([-30.0, -7.0, 0.0, 20.0])).requires_grad_()
    for level in (0.0, 1.0, 128.0, 255.0):
        log_prob = decoder.log_prob(torch.full((len(output), 1), level), output)
        gradient = torch.autograd.grad(log_prob.sum(), output)[0]
        assert torch.isfinite(log_prob).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("name", "levels"), [("discretised_logistic", 5), ("bernoulli", 2), ("gaussian", 9)])
def test_draws_follow_the_distribution(name: str, levels: int) -> None:
    decoder, n = pixels(name, levels), 40_000
    output = torch.tensor([0.3, -1.2])[: decoder.n_outputs]
    uniform = torch.rand(n, 1, generator=Key(31, "uniform").torch())
    drawn = decoder.draw(output.expand(n, -1), uniform)
    counts = torch.bincount(drawn[:, 0].long(), minlength=levels).double()
    if name == "gaussian":
        edges = torch.linspace(-1.0, 1.0, levels + 1, dtype=torch.float64)[1:-1]
        below = torch.distributions.Normal(float(output), 1.0).cdf(edges)
        p = torch.cat([torch.zeros(1), below, torch.ones(1)]).diff().double()
    else:
        p = (
            torch.stack([decoder.log_prob(torch.tensor([float(k)]), output) for k in range(levels)])
            .exp()
            .double()
        )
        assert float((p * torch.arange(levels)).sum()) / (levels - 1) == pytest.approx(
            float(decoder.means(output))
        )
    chi = float(((counts - n * p) ** 2 / (n * p)).sum())
    assert abs(chi - (levels - 1)) / math.sqrt(2.0 * (levels - 1)) < 3.5
    chi = float(((counts - n * p.flip(0)) ** 2 / (n * p.flip(0))).sum())
    assert chi > 1000.0
    extremes = decoder.draw(output.expand(2, -1), torch.tensor([[0.0], [1.0 - 2**-24]]))
    assert bool(((extremes >= 0.0) & (extremes <= levels - 1.0)).all())


def test_the_gaussian_is_a_density_of_levels() -> None:
    decoder = Gaussian(9)
    decoder.log_variance = nn.Parameter(torch.tensor(-2.0), requires_grad=False)
    x = torch.linspace(-40.0, 50.0, 20_001, dtype=torch.float64)[:, None]
    density = decoder.log_prob(x, torch.tensor([0.4])).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1.0, abs=1e-6)
    mean = float(torch.trapezoid(density * x[:, 0], x[:, 0]))
    assert float(decoder.means(torch.tensor([0.4]))) == pytest.approx(mean / 8.0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "levels", "message"),
    [("bernoulli", 17, "17"), ("logistic", 17, "discretised_logistic"), (None, 1, "levels: 1")],
)
def test_a_distribution_that_does_not_fit_is_refused(name: str | None, levels: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pixels(name, levels)


def test_levels_choose_the_distribution() -> None:
    assert [pixels(None, levels).domain for levels in (2, 17)] == ["binary", "grey"]
    assert [pixels(name, 2).is_density for name in (None, "discretised_logistic", "gaussian")] == [0, 0, 1]
