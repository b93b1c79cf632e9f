"""Weighted mean and covariance, with a floor under the eigenvalues."""

import torch
from torch import Tensor


def moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return μ = Σ_i w_i x_i / Σ w and Σ = Σ_i w_i (x_i − μ)(x_i − μ)ᵀ / Σ w.

    Args:
        x: Data  # (image, site)
        weights: Non-negative weights, not all zero  # (image,)
    """
    share = weights / weights.sum()
    mean = share @ x
    centred = x - mean
    return mean, (centred * share[:, None]).T @ centred


def floored(covariance: Tensor, floor: float) -> tuple[Tensor, int]:
    """Return Σ with its eigenvalues raised to at least `floor`, and how many were.

    Σ_j max(λ_j, ε) u_j u_jᵀ is the covariance of greatest likelihood among those with no eigenvalue below ε,
    which is why EM stays monotone with it, and with an additive ridge does not.
    """
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    n_below = int((eigenvalues < floor).sum())
    if n_below == 0:
        return covariance, 0
    raised = (vectors * eigenvalues.clamp(min=floor)) @ vectors.T
    return 0.5 * (raised + raised.T), n_below
