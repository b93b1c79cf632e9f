"""Gaussian models as distributions over binary images, pixel after pixel."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genmodels.protocols import HasComponents


def log_prob_binary(model: HasComponents, v: Tensor) -> Tensor:
    """Return the exact log q(v) of a Gaussian mixture whose conditionals are renormalised on {0, 1}.

    In raster order q_k(v_i | v_<i) = σ((2v_i − 1)(m_ik − ½)/s_ik²), m and s the conditional mean and
    deviation of pixel i in component k: log q(v) = logsumexp_k [log c_k + Σ_i log q_k(v_i | v_<i)]. One
    Cholesky factor L of a covariance holds them all: with ξ = L⁻¹(v − μ), s_i = L_ii and
    m_i = v_i − L_ii ξ_i. Sums to 1 over {0, 1}^N.

    Args:
        model: Its components' means and covariances refer to pixel values 0 and 1.
        v: Binary images  # (image, site)

    Returns:
        Nats  # (image,)
    """
    weights, means, covariances = model.components()
    v = v.to(means)
    columns = []
    for mean, cholesky in zip(means, torch.linalg.cholesky(covariances), strict=True):
        s = cholesky.diagonal()
        xi = torch.linalg.solve_triangular(cholesky, (v - mean).T, upper=False).T
        columns.append(logsigmoid((2.0 * v - 1.0) * (v - s * xi - 0.5) / s.square()).sum(1))
    return (torch.stack(columns, dim=1) + weights.log()).logsumexp(1)


def sample_binary(model: HasComponents, n: int, generator: torch.Generator) -> Tensor:
    """Return n images in {0, 1} from the distribution of `log_prob_binary`  # (n, site)."""
    weights, means, covariances = model.components()
    chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
    uniform = torch.rand(n, means.shape[1], generator=generator, dtype=means.dtype, device=means.device)
    v = torch.empty_like(uniform)
    for k in range(len(weights)):
        v[chosen == k] = _pixels(means[k], torch.linalg.cholesky(covariances[k]), uniform[chosen == k])
    return v.float()


def _pixels(mean: Tensor, cholesky: Tensor, uniform: Tensor) -> Tensor:
    v, xi = torch.empty_like(uniform), torch.zeros_like(uniform)
    for i in range(len(mean)):
        m = mean[i] + xi[:, :i] @ cholesky[i, :i]
        s = cholesky[i, i]
        v[:, i] = (uniform[:, i] < torch.sigmoid((m - 0.5) / s.square())).to(uniform)
        xi[:, i] = (v[:, i] - m) / s
    return v
