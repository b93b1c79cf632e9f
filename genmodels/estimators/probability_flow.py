"""The likelihood of a diffusion model by its probability flow, for pixels of few levels a lower bound."""

import copy
import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.networks.levels import dequantised
from genmodels.networks.reversal import runge_kutta
from genmodels.protocols import HasFlow
from genmodels.streams import Key

Trace = Literal["exact", "hutchinson"]
Dequantisation = Literal["noise", "uniform"]
_SHARD = 32  # images that share a stream; on nothing else than its shard does an image's number depend
_LOG_2PI = math.log(2.0 * math.pi)


def log_density(model: HasFlow, z: Tensor, n_steps: int = 15, probe: Tensor | None = None) -> Tensor:
    """Return log p_0(z) = log N(z_1; 0, I) + ∫ div(dz/dγ) dγ, z_1 being where the flow carries z.

    The flow dz/dγ = ½σ(ε̂ − σz) and its divergence go together from the least noise to the most by Runge and
    Kutta's rule, in steps of equal length in γ. Chen et al. 2018, eq. 8; Song et al. 2021 (score-based
    models), eq. 39; Hutchinson's trace rᵀ(∂ε̂/∂z)r: Grathwohl et al. 2019, eq. 7.

    Args:
        model: A Model with a flow.
        z: Data with the least noise  # (image, site)
        n_steps: Four calls of the network, and of its derivative, each.
        probe: r, ±1 at random: the divergence is then an unbiased estimate; exact, for as many derivatives as
            there are sites, if None  # (image, site)

    Returns:
        Nats, float64  # (image,)

    Raises:
        InputError: no step.
    """

    def field(y: Tensor, gamma: float) -> Tensor:
        inside = y[:, :-1].to(z.dtype).detach().requires_grad_()
        with torch.enable_grad():
            velocity = model.drift(inside, gamma)
            divergence = _divergence(velocity, inside, probe)
        return torch.cat([velocity.detach().double(), divergence[:, None]], 1)

    least, most = model.noise.table(2).tolist()
    start = torch.cat([z.double(), z.new_zeros(len(z), 1, dtype=torch.float64)], 1)
    end = runge_kutta(field, start, least, most, n_steps)
    return end[:, -1] - 0.5 * (end[:, :-1].square() + _LOG_2PI).sum(1)


def _divergence(velocity: Tensor, z: Tensor, probe: Tensor | None) -> Tensor:
    if probe is not None:
        (product,) = torch.autograd.grad((velocity * probe).sum(), z)
        return (product * probe).double().sum(1)
    n_sites = z.shape[1]
    rows = [torch.autograd.grad(velocity[:, i].sum(), z, retain_graph=True)[0] for i in range(n_sites)]
    return torch.stack([row[:, i] for i, row in enumerate(rows)]).double().sum(0)


@torch.no_grad()
def bound(
    model: HasFlow,
    x: Tensor,
    key: Key,
    n_steps: int = 15,
    n_repeats: int = 8,
    trace: Trace = "hutchinson",
    dequantisation: Dequantisation = "noise",
    weighted: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a lower bound on log q(x) of each image, and its variance  # nats, float64, (image,) each.

    noise: E log [q(x|z) p_0(z)/q(z|x)] with z ~ q(z|x) = N(α f(x), σ²) at the least noise, q(x|z) being the
    model's reconstruction. uniform: E log p_0(α(f(x) + u/K)) + D log(2α/K), u ~ U(−1, 1)^D, what a
    density gives to a level's cell (Theis, van den Oord & Bethge 2016). Dropout is off, whatever the mode of
    `model`. The mean over the repeats is unbiased; weighted, the logarithm of their mean likelihood (Burda,
    Grosse & Salakhutdinov 2016) is a tighter bound, in expectation.

    Args:
        model: A Model with a flow.
        x: Images in the model's domain  # (image, site)
        key: The stream; images go by shards of 32, each repeat is a round.
        n_steps: Steps of the flow.
        n_repeats: Draws of z, and of the probe, at least 2.
        trace: exact, or hutchinson for one derivative a step.
        dequantisation: How levels become real numbers.
        weighted: Whether to average likelihoods, not their logarithms.
        progress: Called with the images done and their total.

    Raises:
        InputError: n_repeats < 2; or weighted with an estimated trace, whose noise of several nats would come
            out of the logarithm of a mean as likelihood.
    """
    if n_repeats < 2:
        raise InputError(f"n_repeats: {n_repeats} draw has no error, give at least 2")
    for name, value, known in (
        ("trace", trace, Trace), ("dequantisation", dequantisation, Dequantisation)
    ):  # fmt: skip
        if value not in get_args(known):
            raise InputError(f"{name}: '{value}' is none of {', '.join(get_args(known))}")
    if weighted and trace != "exact":
        raise InputError("weighted: an estimated trace makes the mean of likelihoods too large: trace: exact")
    evaluated = copy.deepcopy(model).eval()  # type: ignore[attr-defined]
    shards: list[Tensor] = []
    for shard, images in enumerate(torch.split(x, _SHARD)):
        streams = [key.at(shard=shard, round=r).torch(x.device) for r in range(n_repeats)]
        draws = [_draw(evaluated, images, each, n_steps, trace, dequantisation) for each in streams]
        shards.append(torch.stack(draws).cpu())  # (repeat, image)
        if progress is not None:
            progress(min(len(shards) * _SHARD, len(x)), len(x))
    values = torch.cat(shards, 1)
    if not weighted:
        return values.mean(0).numpy(), (values.var(0) / n_repeats).numpy()
    relative = values.softmax(0) * n_repeats  # w / mean(w)
    mean = values.logsumexp(0) - math.log(n_repeats)
    return mean.numpy(), (relative.var(0) / n_repeats).numpy()


def _draw(
    model: HasFlow,
    x: Tensor,
    generator: torch.Generator,
    n_steps: int,
    trace: Trace,
    dequantisation: Dequantisation,
) -> Tensor:
    """Return one draw of the bound of each image  # (image,), nats."""
    gamma = model.noise.table(1)
    log_signal = 0.5 * float(torch.nn.functional.logsigmoid(-gamma))
    log_spread = 0.5 * float(torch.nn.functional.logsigmoid(gamma))
    probe = None
    if trace == "hutchinson":
        bits = torch.randint(0, 2, x.shape, generator=generator, device=x.device)
        probe = (2 * bits - 1).to(x.dtype)
    if dequantisation == "uniform":
        u = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        z = math.exp(log_signal) * dequantised(x, u, model.levels)
        volume = x.shape[1] * (math.log(2.0 / model.levels) + log_signal)
        return log_density(model, z, n_steps, probe) + volume
    eps = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    z = math.exp(log_signal) * model.encode(x) + math.exp(log_spread) * eps
    log_encoder = -0.5 * (eps.double().square() + _LOG_2PI + 2.0 * log_spread).sum(1)
    return model.log_reconstruction(x, z) + log_density(model, z, n_steps, probe) - log_encoder
