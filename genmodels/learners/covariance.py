"""Weighted mean and covariance, with a floor under the eigenvalues."""

import torch
from torch import Tensor

from genmodels.products import product


def moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return μ = Σ_i w_i x_i / Σ w and Σ = Σ_i w_i (x_i − μ)(x_i − μ)ᵀ / Σ w.

    Args:
        x: Data  # (image, site)
        weights: Non-negative weights, not all zero  # (image,)
    """
    share = weights / weights.sum()
    mean = share @ x
    centred = x - mean
    return mean, product((centred * share[:, None]).T, centred)


def floored(covariance: Tensor, floor: float) -> tuple[Tensor, int]:
    """Return Σ with its eigenvalues raised to at least `floor`, and how many were.

    Σ_j max(λ_j, ε) u_j u_jᵀ is the covariance of greatest likelihood among those with no eigenvalue below ε,
    which is why EM stays monotone with it, and with an additive ridge does not.
    """
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    if not int(torch.linalg.cholesky_ex(covariance - floor * identity).info):
        return covariance, 0  # positive definite: none is below, at a hundredth of the time of finding them
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    n_below = int((eigenvalues < floor).sum())
    if n_below == 0:
        return covariance, 0
    raised = (vectors * eigenvalues.clamp(min=floor)) @ vectors.T
    return 0.5 * (raised + raised.T), n_below
