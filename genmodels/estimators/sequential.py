"""Gaussian models as distributions over images of K levels, pixel after pixel."""

import torch
from torch import Tensor

from genmodels.protocols import HasComponents, levels_of


def log_prob(model: HasComponents, v: Tensor) -> Tensor:
    """Return the exact log q(v) of a Gaussian mixture whose conditionals are renormalised on the levels.

    In raster order q_k(v_i | v_<i) = N(v_i; m_ik, s_ik²) / Σ_{u<K} N(u; m_ik, s_ik²), m and s the conditional
    mean and deviation of pixel i in component k: log q(v) = logsumexp_k [log c_k + Σ_i log q_k(v_i | v_<i)].
    For two levels q_k is σ((2v_i − 1)(m_ik − ½)/s_ik²). One Cholesky factor L of a covariance holds them all:
    with ξ = L⁻¹(v − μ), s_i = L_ii and m_i = v_i − L_ii ξ_i. Sums to 1 over {0 … K − 1}^N.

    Args:
        model: Its components' means and covariances refer to the levels; K is its `levels`, or 2.
        v: Images in levels  # (image, site)

    Returns:
        Nats  # (image,)
    """
    weights, means, covariances = model.components()
    v, levels = v.to(means), levels_of(model)
    columns = []
    for mean, cholesky in zip(means, torch.linalg.cholesky(covariances), strict=True):
        s = cholesky.diagonal()
        xi = torch.linalg.solve_triangular(cholesky, (v - mean).T, upper=False).T
        m = v - s * xi
        others = _exponent(torch.zeros_like(m), m, s)
        for u in range(1, levels):  # one after the other: all levels at once of large images would not fit
            others = torch.logaddexp(others, _exponent(torch.full_like(m, u), m, s))
        columns.append((_exponent(v, m, s) - others).sum(1))
    return (torch.stack(columns, dim=1) + weights.log()).logsumexp(1)


def sample(model: HasComponents, n: int, generator: torch.Generator) -> Tensor:
    """Return n images in levels from the distribution of `log_prob`  # (n, site)."""
    weights, means, covariances = model.components()
    chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
    uniform = torch.rand(n, means.shape[1], generator=generator, dtype=means.dtype, device=means.device)
    v, levels = torch.empty_like(uniform), levels_of(model)
    for k in range(len(weights)):
        cholesky = torch.linalg.cholesky(covariances[k])
        v[chosen == k] = _pixels(means[k], cholesky, uniform[chosen == k], levels)
    return v.float()


def _pixels(mean: Tensor, cholesky: Tensor, uniform: Tensor, levels: int) -> Tensor:
    v, xi = torch.empty_like(uniform), torch.zeros_like(uniform)
    u = torch.arange(levels).to(uniform)
    for i in range(len(mean)):
        m = mean[i] + xi[:, :i] @ cholesky[i, :i]
        s = cholesky[i, i]
        probabilities = _exponent(u, m[:, None], s).softmax(1)
        at_least = probabilities.flip(1).cumsum(1).flip(1)  # P(v_i ≥ u)  # (image, level)
        v[:, i] = (uniform[:, i, None] < at_least[:, 1:]).sum(1).to(uniform)
        xi[:, i] = (v[:, i] - m) / s
    return v


def _exponent(v: Tensor, m: Tensor, s: Tensor) -> Tensor:
    return -0.5 * ((v - m) / s).square()
