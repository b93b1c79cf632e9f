"""Log densities that several models share; every image against every component."""

import math

import torch
from torch import Tensor

from genmodels.products import product


def log_normal(x: Tensor, means: Tensor, choleskys: Tensor) -> Tensor:
    """Return log N(x; μ_k, L_k L_kᵀ) = −½|L_k⁻¹(x − μ_k)|² − Σ_i log L_k,ii − (N/2) log 2π.

    Args:
        x: Points  # (image, site)
        means: Means  # (component, site)
        choleskys: Lower Cholesky factors of the covariances  # (component, site, site)

    Returns:
        Log densities in nats  # (image, component)
    """
    constant = 0.5 * x.shape[1] * math.log(2.0 * math.pi)
    columns = []
    # One component at a time: all whitened residuals at once would not fit for images of 784 sites.
    for mean, cholesky in zip(means, choleskys, strict=True):
        residual = torch.linalg.solve_triangular(cholesky, (x - mean).T, upper=False)
        columns.append(-0.5 * residual.square().sum(0) - cholesky.diagonal().log().sum() - constant)
    return torch.stack(columns, dim=1)


def log_normal_by_products(x: Tensor, means: Tensor, choleskys: Tensor) -> Tensor:
    """Return what `log_normal` does, in the precision of x: L_k⁻¹ is found in that of L, then multiplied by.

    Args:
        x: Points  # (image, site)
        means: Means  # (component, site), float64
        choleskys: Lower Cholesky factors of the covariances  # (component, site, site), float64

    Returns:
        Log densities in nats  # (image, component), float64
    """
    constant = 0.5 * x.shape[1] * math.log(2.0 * math.pi)
    identity, columns = torch.eye(x.shape[1]).to(choleskys), []
    for mean, cholesky in zip(means, choleskys, strict=True):
        inverse = torch.linalg.solve_triangular(cholesky, identity, upper=False).to(x)
        residual = product(x - mean.to(x), inverse.T)
        squared = torch.linalg.vector_norm(residual, dim=1).double().square_()
        columns.append(-0.5 * squared - cholesky.diagonal().log().sum() - constant)
    return torch.stack(columns, dim=1)


def log_bernoulli(v: Tensor, probabilities: Tensor) -> Tensor:
    """Return Σ_i v_i log p_ki + (1 − v_i) log(1 − p_ki), every p strictly between 0 and 1.

    Args:
        v: Binary images  # (image, site)
        probabilities: P(v_i = 1) in each component  # (component, site)

    Returns:
        Log probabilities in nats  # (image, component)
    """
    return v @ probabilities.log().T + (1.0 - v) @ torch.log1p(-probabilities).T
