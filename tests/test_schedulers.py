"""diffusers' schedulers driven by our denoisers, beside diffusers' own loops."""

import math
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.models.diffusion import Diffusion
from genmodels.networks import schedulers
from genmodels.networks.noise import Noise
from genmodels.networks.schedules import Cosine, Linear
from genmodels.streams import Key, Streams

KEY = Key(3, "pictures")
SHADE = 1.0 / 255.0


def denoiser(prediction: str = "eps", **settings: Any) -> Diffusion:
    """Return a small model with random weights, grey levels 0 … 16."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        defaults = {"T": 100, "gamma_min": -7.0, "gamma_max": 5.0, "levels": 17, "objective": "eps"}
        model = Diffusion((6, 4), (8, 8), prediction=prediction, **(defaults | settings)).eval()
        for parameter in model.unet.parameters():
            if parameter.ndim == 4 and not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("schedule", [Linear(-13.0, 6.0), Cosine(-9.0, 9.0)])
def test_the_betas_are_those_of_the_table(schedule: Any) -> None:
    noise = Noise(1000, schedule)
    betas = schedulers.trained_betas(noise)
    alpha_bar = torch.cumprod(1.0 - betas, 0)
    torch.testing.assert_close(torch.log((1.0 - alpha_bar) / alpha_bar), noise.table(), rtol=1e-8, atol=1e-8)
    seen = schedulers.scheduler("ddim", noise, "sample", 1.0).alphas_cumprod.double()
    torch.testing.assert_close(seen, torch.sigmoid(-noise.table()), rtol=3e-5, atol=1e-6)


def by_hand(model: Diffusion, name: str, n_steps: int, z: Tensor, **call: Any) -> tuple[list[Tensor], Tensor]:
    """Return z after each step of diffusers' scheduler of that name, written as its documentation does.

    The network's ε̂ goes in, as it stands.
    """
    kind = {
        "ddim": diffusers.DDIMScheduler,
        "dpm": diffusers.DPMSolverMultistepScheduler,
        "unipc": diffusers.UniPCMultistepScheduler,
        "ddpm": diffusers.DDPMScheduler,
    }[name]
    gamma = model.noise.table()
    alpha_bar = torch.cat([torch.ones(1).double(), torch.sigmoid(-gamma)])
    betas = (1.0 - alpha_bar[1:] / alpha_bar[:-1]).tolist()
    clip = {"clip_sample_range": model.reach} if name in ("ddim", "ddpm") else {}
    steps = kind(len(betas), trained_betas=betas, timestep_spacing="trailing", **clip)
    steps.set_timesteps(n_steps)
    assert steps.config.prediction_type == "epsilon"
    path, guided = [], {key: call.pop(key) for key in ("labels", "guidance") if key in call}
    for t in steps.timesteps:
        eps = model.eps(z.flatten(1), torch.full((len(z),), int(t) + 1), **guided).view(z.shape)
        z = steps.step(eps, t, z, **call).prev_sample
        path.append(z)
    return path, z


@pytest.mark.parametrize("method", ["ddim", "dpm", "unipc", "ddpm"])
@pytest.mark.parametrize("prediction", ["eps", "v"])
@torch.no_grad()
def test_every_step_is_that_of_diffusers(method: str, prediction: str) -> None:
    model = denoiser(prediction)
    path = [z for z, _ in schedulers.path(model, Streams(KEY, 3), method, 12)]
    end = schedulers.descend(model, Streams(KEY, 3), method, 12)
    generators = [KEY.at(shard=i).torch() for i in range(3)]
    start = torch.stack([torch.randn(1, 6, 4, generator=g) for g in generators])
    more = {"generator": generators} if method == "ddpm" else {}
    expected, last = by_hand(model, method, 12, start, **more)
    assert len(path) == 12
    for mine, theirs in zip(path, expected, strict=True):
        torch.testing.assert_close(mine, theirs.flatten(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(end, last.flatten(1).clamp(-model.reach, model.reach), rtol=1e-4, atol=1e-4)
    right = model.denoise
    model.denoise = lambda z, t, *more: right(z, (t - 1).clamp(min=1), *more)  # type: ignore[method-assign]
    off_by_one = [z for z, _ in schedulers.path(model, Streams(KEY, 3), method, 12)]
    assert float((off_by_one[6] - expected[6].flatten(1)).abs().max()) > 10 * 1e-4


@torch.no_grad()
def test_labels_and_guidance_reach_the_network() -> None:
    model, labels = denoiser(n_classes=3), torch.tensor([0, 2, -1])
    start = Streams(KEY, 3).normal(1, 6, 4)
    for guidance in (0.0, 1.0, 4.0):
        end = schedulers.descend(model, Streams(KEY, 3), "dpm", 8, labels, guidance)
        _, expected = by_hand(model, "dpm", 8, start, labels=labels, guidance=guidance)
        clipped = expected.flatten(1).clamp(-model.reach, model.reach)
        torch.testing.assert_close(end, clipped, rtol=1e-4, atol=1e-4)
    plain = schedulers.descend(model, Streams(KEY, 3), "dpm", 8)
    weak, strong = (schedulers.descend(model, Streams(KEY, 3), "dpm", 8, labels, w) for w in (1.0, 4.0))
    assert float((weak - strong)[:2].abs().max()) > SHADE
    torch.testing.assert_close(strong[2], plain[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", sorted(schedulers.SCHEDULERS))
@pytest.mark.parametrize("network", ["diffusers", "compact"])
def test_a_picture_is_its_streams_own(method: str, network: str) -> None:
    model, n = denoiser(network=network), 64
    together = schedulers.descend(model, Streams(KEY, n), method, 10)
    shade = 2.0 * model.reach * SHADE  # pictures are from −reach to reach
    for size in (1, 3):
        for first in (0, 61):
            some = schedulers.descend(model, Streams(KEY, size, first=first), method, 10)
            assert float((some - together[first : first + size]).abs().max()) < shade
    assert float((together[0] - together[1]).abs().max()) > 5.0 * shade


def test_continuous_time_is_cut_into_levels() -> None:
    model = denoiser(T=None, network="compact")
    end = schedulers.descend(model, Streams(KEY, 2), "dpm", 20)
    assert bool(torch.isfinite(end).all())
    finer = schedulers.descend(model, Streams(KEY, 2), "dpm", 100)
    assert float((end - finer).abs().mean()) < 0.1


class Normal(Diffusion):
    """Data N(m, s²) a pixel, of which the best x̂ is known."""

    mean, variance = 0.3, 0.04

    def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        signal, spread = self.noise.scales(t, z)
        gain = signal * self.variance / (signal.square() * self.variance + spread.square())
        return self.mean + gain * (z - signal * self.mean)


class Shrunk(Normal):
    """Its x̂ is a little too near to the mean."""

    def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.mean + 0.9 * (super().network(z, t) - self.mean)


@pytest.mark.parametrize("method", sorted(schedulers.SCHEDULERS))
def test_the_exact_denoiser_of_a_normal_distribution_draws_from_it(method: str) -> None:
    settings = {"T": 1000, "gamma_min": -8.0, "gamma_max": 10.0, "levels": 256, "objective": "eps"}

    def moments(kind: type[Normal]) -> tuple[float, float]:
        """Return how far mean and variance are off, in standard errors."""
        model, n = kind((4, 4), (8,), prediction="x", **settings), 400
        x = schedulers.descend(model, Streams(KEY, n), method, 200).double().flatten()
        mean_error = math.sqrt(model.variance / len(x))
        variance_error = model.variance * math.sqrt(2.0 / len(x))
        return (float(x.mean()) - 0.3) / mean_error, (float(x.var()) - 0.04) / variance_error

    mean, variance = moments(Normal)
    assert abs(mean) < 3.5
    assert abs(variance) < 3.5 + 0.03 / math.sqrt(2.0 / 6400)  # 200 steps of first order lose up to 3 %
    assert abs(moments(Shrunk)[1]) > 8.0


@pytest.mark.parametrize(
    ("method", "steps", "message"),
    [
        ("euler", 10, "method: 'euler' is none of ddpm, ddim, dpm, unipc"),
        ("dpm", 0, "steps: 0, but dpm takes 1 to 100"),
        ("ddim", 101, "steps: 101, but ddim takes 1 to 100"),
    ],
)
def test_what_cannot_be_done_is_one_line(method: str, steps: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        schedulers.descend(denoiser(), Streams(KEY, 1), method, steps)
    assert "\n" not in str(caught.value)
