"""diffusers' schedulers, driven by a denoiser of ours: DDPM, DDIM, DPM-Solver++ and UniPC."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.networks.noise import Noise
from genmodels.streams import Streams

if TYPE_CHECKING:
    from genmodels.networks.denoiser import Denoiser

SCHEDULERS = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
_CLIPPED = ("ddpm", "ddim")  # the others solve an equation, which clipping would change
_OF_CONTINUOUS = 1001  # levels at which schedulers see continuous time


def n_levels(noise: Noise) -> int:
    """Return the number of levels that schedulers see: all T, or 1001 of continuous time."""
    return noise.T or _OF_CONTINUOUS


def trained_betas(noise: Noise) -> Tensor:
    """Return β_t = 1 − ᾱ_t/ᾱ_{t−1} of all levels, ᾱ_0 = 1  # (level,), float64.

    It is −expm1(log σ(−γ_t) − log σ(−γ_{t−1})), which keeps the digits of small ones. Ho et al. 2020.
    """
    log_alpha = torch.nn.functional.logsigmoid(-noise.table(n_levels(noise)).cpu())
    return -torch.expm1(log_alpha.diff(prepend=log_alpha.new_zeros(1)))


def scheduler(method: str, noise: Noise, prediction_type: str, reach: float) -> Any:
    """Return diffusers' scheduler, told of the noise by its betas; its way starts at the noisiest level.

    Args:
        method: A name in SCHEDULERS.
        noise: The levels.
        prediction_type: What it will be given, in diffusers' words: epsilon, sample or v_prediction.
        reach: Where DDPM and DDIM clip x̂.

    Raises:
        InputError: an unknown method.
    """
    import diffusers

    if method not in SCHEDULERS:
        raise InputError(f"method: '{method}' is none of {', '.join(SCHEDULERS)}")
    clip = {"clip_sample": True, "clip_sample_range": reach} if method in _CLIPPED else {}
    return getattr(diffusers, SCHEDULERS[method])(
        num_train_timesteps=n_levels(noise),
        trained_betas=trained_betas(noise).tolist(),
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        **clip,
    )


@torch.no_grad()
def path(
    denoiser: "Denoiser",
    streams: Streams,
    method: str,
    n_steps: int,
    labels: Tensor | None = None,
    guidance: float = 1.0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield z after each step of a scheduler's way from noise, with the x̂ of that step  # (picture, site).

    Picture i draws from stream i alone, z_T first, in diffusers' order of pixels (channel, row, column): a
    pipeline of diffusers that is given the same generators draws the same numbers.

    Args:
        denoiser: With x̂(z, t).
        streams: One a picture.
        method: A name in SCHEDULERS.
        n_steps: Calls of the network, 1 … T.
        labels: Classes, −1 for none  # (picture,)
        guidance: w of `Denoiser.eps`.

    Raises:
        InputError: an unknown method, or a number of steps that there are no levels for.
    """
    most = n_levels(denoiser.noise)
    steps = scheduler(method, denoiser.noise, "sample", denoiser.reach)
    if not 1 <= n_steps <= most:
        raise InputError(f"steps: {n_steps}, but {method} takes 1 to {most}, the levels of noise")
    steps.set_timesteps(n_steps, device=streams.device)
    levels = denoiser.noise.levels(most)
    more = {"generator": streams.generators} if method == "ddpm" else {}
    z = streams.normal(denoiser.depth, denoiser.height, denoiser.width) * steps.init_noise_sigma
    for index in steps.timesteps:
        t = levels[int(index)].to(z.device).expand(len(z))
        flat = z.permute(0, 2, 3, 1).flatten(1)
        x0 = denoiser.denoise(flat, t, labels, guidance)
        data = x0.view(len(z), denoiser.height, denoiser.width, denoiser.depth)
        z = steps.step(data.permute(0, 3, 1, 2), index, z, return_dict=False, **more)[0]
        yield z.permute(0, 2, 3, 1).flatten(1), x0.clamp(-denoiser.reach, denoiser.reach)


def descend(
    denoiser: "Denoiser",
    streams: Streams,
    method: str,
    n_steps: int,
    labels: Tensor | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Return x̂ at the end of `path`, which has the same arguments  # (picture, site)."""
    *_, (z, _) = path(denoiser, streams, method, n_steps, labels, guidance)
    return z.clamp(-denoiser.reach, denoiser.reach)
