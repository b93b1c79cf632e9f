"""Densities as lower bounds on the probability of images with integer levels."""

import torch
from torch import Tensor

from genmodels.densities import log_normal
from genmodels.protocols import HasComponents


def bound(
    model: HasComponents, v: Tensor, generator: torch.Generator, n_samples: int = 64
) -> tuple[Tensor, Tensor]:
    """Return E_u log p(v + u) ≤ log ∫ p(v + u) du with u uniform in [0, 1)^N, for each image.

    p is `model` with its means moved by ½ and I/12 added to its covariances, the mean and variance of u, so
    that a Gaussian fitted to v fits v + u. For one component in closed form, with C = Σ + I/12,
    −½[(v − μ)ᵀC⁻¹(v − μ) + tr C⁻¹/12 + log det C + N log 2π]; for several by Monte Carlo. Theis, van den
    Oord & Bethge 2016.

    Args:
        model: A Gaussian or a mixture, in units of levels.
        v: Images with integer levels  # (image, site)
        generator: Random stream of u; not used for one component.
        n_samples: Draws of u per image, at least 2.

    Returns:
        The bound of each image in nats, and the variance of each that comes from u  # (image,) each
    """
    weights, means, covariances = model.components()
    v = v.to(means)
    twelfth = torch.eye(v.shape[1]).to(means) / 12.0
    choleskys = torch.linalg.cholesky(covariances + twelfth)
    if len(weights) == 1:
        inverse = torch.cholesky_inverse(choleskys[0])
        values = log_normal(v, means, choleskys)[:, 0] - inverse.trace() / 24.0
        return values, torch.zeros_like(values)
    draws = []
    for _ in range(n_samples):
        u = torch.rand(v.shape, generator=generator, dtype=v.dtype, device=v.device)
        log_joint = log_normal(v + u, means + 0.5, choleskys) + weights.log()
        draws.append(log_joint.logsumexp(1))
    drawn = torch.stack(draws)  # (sample, image)
    return drawn.mean(0), drawn.var(0) / n_samples
