"""The Ising ferromagnet on a periodic rectangle, exactly: what samplers of large systems are held against."""

import torch
from torch import Tensor


def log_z(n_rows: int, n_columns: int, k: float) -> tuple[float, float]:
    """Return log Z in nats and ⟨E⟩ of E(x) = −Σ_⟨ij⟩ x_i x_j at β = k on a torus, no field.

    With n rows, m columns, cosh γ_r = cosh 2K coth 2K − cos(πr/m) and γ_0 = 2K + log tanh K,
    Z = ½(2 sinh 2K)^{nm/2} [Π 2cosh(nγ_{2r+1}/2) + Π 2sinh(nγ_{2r+1}/2) + Π 2cosh(nγ_{2r}/2)
    + Π 2sinh(nγ_{2r}/2)], products over r = 0 … m − 1; ⟨E⟩ = −d log Z/dK. Kaufman 1949.

    Args:
        n_rows: At least 3: fewer would join two neighbours by two bonds.
        n_columns: At least 3.
        k: β, with couplings of 1; positive.

    Raises:
        ValueError: a side below 3, or k ≤ 0.
    """
    if min(n_rows, n_columns) < 3 or k <= 0.0:
        raise ValueError(f"{n_rows} × {n_columns} spins at K = {k}: expected sides of at least 3 and K > 0")
    K = torch.tensor(k, dtype=torch.float64, requires_grad=True)
    gamma = _gamma(K, n_columns)
    odd, odd_sign = _products(n_rows * gamma[1::2] / 2.0)
    even, even_sign = _products(n_rows * gamma[0::2] / 2.0)
    # Relative to the first product: at low K the even ones cancel, and log 0 has no slope.
    bracket = odd + torch.log(1.0 + odd_sign + (even - odd).exp() * (1.0 + even_sign))
    log_z = bracket - torch.log(K.new_tensor(2.0)) + n_rows * n_columns / 2.0 * (2.0 * (2.0 * K).sinh()).log()
    (slope,) = torch.autograd.grad(log_z, K)
    return float(log_z.detach()), -float(slope)


def _gamma(K: Tensor, m: int) -> Tensor:
    """Return γ_r, r = 0 … 2m − 1."""
    r = torch.arange(1, 2 * m, dtype=torch.float64)
    rest = torch.acosh((2.0 * K).cosh() / (2.0 * K).tanh() - torch.cos(torch.pi * r / m))
    return torch.cat([(2.0 * K + K.tanh().log())[None], rest])


def _products(half: Tensor) -> tuple[Tensor, Tensor]:
    """Return log Π 2cosh and Π tanh  # (m,) -> (), ()."""
    return (half.abs() + torch.log1p((-2.0 * half.abs()).exp())).sum(), half.tanh().prod()
