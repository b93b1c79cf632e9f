"""Ways from noise back to data with a denoiser: a chain of levels, and the probability flow."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.networks.noise import Denoiser, Noise

Field = Callable[[Tensor, float], Tensor]  # y, γ -> dy/dγ


def chain(
    noise: Noise, denoiser: Denoiser, normal: Callable[[], Tensor], n_steps: int, eta: float
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yield each level t of chains z_T → z_1 with z_t and x̂(z_t, t)  # (picture, site) twice.

    Args:
        noise: The levels.
        denoiser: (z_t, t) -> x̂.
        normal: Source of z_T and of the steps' noise, standard normal  # () -> (picture, site)
        n_steps: Levels visited, spread evenly, first and last included; at most all there are.
        eta: 1 ancestral, 0 deterministic (DDIM).

    Raises:
        InputError: fewer than 2 levels.
    """
    if n_steps < 2:
        raise InputError(f"n_steps: {n_steps} level leads nowhere, give at least 2")
    n_levels = n_steps if noise.T is None else min(n_steps, noise.T)
    levels = noise.levels(n_levels).flip(0)
    levels = levels if noise.T is None else levels.round()
    z = normal()
    for t, s in zip(levels.tolist(), [*levels[1:].tolist(), None], strict=True):
        x0 = denoiser(z, torch.full((len(z),), t, dtype=torch.float64, device=z.device))
        yield t, z, x0
        if s is not None:
            z = noise.step_down(z, x0, t, s, normal(), eta)


def runge_kutta(field: Field, y: Tensor, start: float, end: float, n_steps: int) -> Tensor:
    """Return y(end) of dy/dγ = field(y, γ) from y(start), in steps of equal length of the classical rule.

    Raises:
        InputError: no step.
    """
    if n_steps < 1:
        raise InputError(f"n_steps: {n_steps} lead nowhere, give at least 1")
    step = (end - start) / n_steps
    for i in range(n_steps):
        gamma = start + i * step
        a = field(y, gamma)
        b = field(y + 0.5 * step * a, gamma + 0.5 * step)
        c = field(y + 0.5 * step * b, gamma + 0.5 * step)
        d = field(y + step * c, gamma + step)
        y = y + step / 6.0 * (a + 2.0 * b + 2.0 * c + d)
    return y
