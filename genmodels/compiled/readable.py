"""The readable twin of the compiled loops: one replica, one spin after the other."""

from collections.abc import Callable, Iterable

import numpy as np

from genmodels.couplings import Couplings


def flip_cost(x: np.ndarray, couplings: Couplings, beta: float, site: int) -> float:
    """Return U_β(x with x_i flipped) − U_β(x) = 2x_i(βλ_i + b_i), λ_i = Σ_j J_ij x_j + h_i, in nats."""
    starts, columns, J = couplings.neighbours()
    row = slice(starts[site], starts[site + 1])
    field = couplings.h[site] + J[row] @ x[columns[row]]
    return float(2.0 * x[site] * (beta * field + couplings.base[site]))


def sweep(
    x: np.ndarray, couplings: Couplings, beta: float, sites: Iterable[int], flips: Callable[[float], bool]
) -> None:
    """Go through `sites` and flip x_i in place where `flips(cost)` says so.

    Args:
        x: One configuration  # (site,), ±1
        couplings: The model.
        beta: Inverse temperature.
        sites: Which sites, in order.
        flips: Decides by the cost in nats, with the kernel's `flip_probability`.
    """
    for site in sites:
        if flips(flip_cost(x, couplings, beta, site)):
            x[site] = -x[site]


def draw(fields: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return spins that are +1 where u < P(+1) = sigmoid(2λ), else −1, u = (n + ½)/2³².

    Args:
        fields: λ, of any shape.
        numbers: n, random integers of 32 bits, of the same shape.
    """
    uniform = (numbers + 0.5) / 2.0**32
    return np.where(uniform < 1.0 / (1.0 + np.exp(-2.0 * fields)), 1.0, -1.0)
