"""log Z(β_k)/Z(0) from energies on a ladder of β, one stone after the other."""

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit


def bennett(betas: np.ndarray, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log Z(β_k)/Z(0) by Bennett's acceptance ratio, of all ladders and with each of them left out.

    c = log Z(β_{k+1})/Z(β_k) solves Σ_{E at k} σ(−Δβ E − c) = Σ_{E at k+1} σ(Δβ E + c), σ the logistic
    function. With a ladder left out it is one Newton step from there. Bennett 1976.

    Args:
        betas: From 0 up  # (rung,)
        energies: Nats at β = 1  # (ladder, round, rung)

    Returns:
        All ladders (rung,), one left out (ladder, rung).
    """
    stones, left_out = [0.0], [np.zeros(len(energies))]
    for k, step in enumerate(np.diff(betas)):
        lower, upper = step * energies[..., k], step * energies[..., k + 1]
        low, high = -max(lower.max(), upper.max()), -min(lower.min(), upper.min())
        c = low if low == high else brentq(_imbalance, low, high, (lower, upper))
        balance, slope = _balance(c, lower, upper), _slope(c, lower, upper)
        stones.append(c)
        with np.errstate(invalid="ignore", divide="ignore"):  # no overlap, no error
            left_out.append(c + (balance.sum() - balance) / (slope.sum() - slope))
    return np.cumsum(stones), np.cumsum(left_out, axis=0).T


def _balance(c: float, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return by what Bennett's two sums differ in each ladder  # (ladder, round) -> (ladder,)."""
    return np.asarray(expit(-lower - c).sum(axis=1) - expit(upper + c).sum(axis=1))


def _imbalance(c: float, lower: np.ndarray, upper: np.ndarray) -> float:
    return float(_balance(c, lower, upper).sum())


def _slope(c: float, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return minus the derivative of `_balance` with respect to c  # (ladder,)."""
    p, q = expit(-lower - c), expit(upper + c)
    return np.asarray((p * (1.0 - p)).sum(axis=1) + (q * (1.0 - q)).sum(axis=1))


def checks(betas: np.ndarray, energies: np.ndarray) -> dict[str, np.ndarray]:
    """Return log Z(β_k)/Z(0) from the same energies in three other ways, by name  # (rung,).

    Forward stones log ⟨exp(−Δβ E)⟩_k; reverse stones −log ⟨exp(Δβ E)⟩_{k+1}; thermodynamic integration,
    −∫⟨E⟩ dβ by the trapezium rule with end corrections from d⟨E⟩/dβ = −Var E, its error O(Δβ⁵) a rung.
    """
    steps, pooled = np.diff(betas), energies.reshape(-1, len(betas))
    n = np.log(len(pooled))
    forward = np.logaddexp.reduce(-steps * pooled[:, :-1], axis=0) - n
    reverse = n - np.logaddexp.reduce(steps * pooled[:, 1:], axis=0)
    mean, variance = pooled.mean(axis=0), pooled.var(axis=0)
    integral = -steps * (mean[:-1] + mean[1:]) / 2.0 - steps**2 * np.diff(variance) / 12.0
    stones = {"forward stepping stones": forward, "reverse stepping stones": reverse}
    return {
        name: np.concatenate([[0.0], np.cumsum(stone)])
        for name, stone in (stones | {"thermodynamic integration": integral}).items()
    }
