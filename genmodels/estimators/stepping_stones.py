"""log Z(β_k)/Z(0) from energies on a ladder of β, one stone after the other."""

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from genmodels.estimators.jackknife import LeftOut, log_mean, mean, mean_and_variance


def bennett(betas: np.ndarray, energies: np.ndarray) -> LeftOut:
    """Return log Z(β_k)/Z(0) by Bennett's acceptance ratio  # (rung,); with a ladder left out (ladder, rung).

    c = log Z(β_{k+1})/Z(β_k) solves Σ_{E at k} σ(−Δβ E − c) = Σ_{E at k+1} σ(Δβ E + c), σ the logistic
    function. With a ladder left out it is one Newton step from there. Bennett 1976.

    Args:
        betas: From 0 up  # (rung,)
        energies: Nats at β = 1  # (ladder, round, rung)
    """
    stones, left_out = [0.0], [np.zeros(len(energies))]
    for k, step in enumerate(np.diff(betas)):
        c, rest = acceptance_ratio(step * energies[..., k], -step * energies[..., k + 1])
        stones.append(c)
        left_out.append(rest)
    return LeftOut(np.cumsum(stones), np.cumsum(left_out, axis=0).T)


def acceptance_ratio(forward: np.ndarray, reverse: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the c with Σ σ(−w_F − c) = Σ σ(c − w_R), and with each batch left out  # (batch,).

    c = log Z_1/Z_0 of as much work w_F done from equilibrium at 0 as w_R done from equilibrium at 1, in nats.
    Bennett 1976; Shirts, Bair, Hooker & Pande 2003.

    Args:
        forward: w_F  # (batch, draw)
        reverse: w_R  # (batch, draw)
    """
    upper = -reverse
    low, high = -max(forward.max(), upper.max()), -min(forward.min(), upper.min())
    c = low if low == high else brentq(_imbalance, low, high, (forward, upper))
    balance, slope = _balance(c, forward, upper), _slope(c, forward, upper)
    with np.errstate(invalid="ignore", divide="ignore"):  # no overlap, no error
        return c, c + (balance.sum() - balance) / (slope.sum() - slope)


def _balance(c: float, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return by what Bennett's two sums differ in each batch  # (batch, draw) -> (batch,)."""
    return np.asarray(expit(-lower - c).sum(axis=1) - expit(upper + c).sum(axis=1))


def _imbalance(c: float, lower: np.ndarray, upper: np.ndarray) -> float:
    return float(_balance(c, lower, upper).sum())


def _slope(c: float, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return minus the derivative of `_balance` with respect to c  # (batch,)."""
    p, q = expit(-lower - c), expit(upper + c)
    return np.asarray((p * (1.0 - p)).sum(axis=1) + (q * (1.0 - q)).sum(axis=1))


def forward(betas: np.ndarray, energies: np.ndarray) -> LeftOut:
    """Return Σ_j log ⟨exp(−Δβ E)⟩_j, each stone from its lower rung; biased low. Neal 1993.

    The arguments and shapes of this and the following functions are those of `bennett`.
    """
    return _cumulated(log_mean(_log_means(-np.diff(betas) * energies[..., :-1])))


def reverse(betas: np.ndarray, energies: np.ndarray) -> LeftOut:
    """Return −Σ_j log ⟨exp(Δβ E)⟩_{j+1}, each stone from its upper rung; biased high. Neal 1993."""
    every, rest = log_mean(_log_means(np.diff(betas) * energies[..., 1:]))
    return _cumulated(LeftOut(-every, -rest))


def _log_means(log_values: np.ndarray) -> np.ndarray:  # (ladder, round, stone) -> (ladder, stone)
    return np.asarray(np.logaddexp.reduce(log_values, axis=1) - np.log(log_values.shape[1]))


def _cumulated(stones: LeftOut) -> LeftOut:
    every, rest = (np.cumsum(part, axis=-1) for part in stones)
    return LeftOut(np.pad(every, (1, 0)), np.pad(rest, ((0, 0), (1, 0))))


def integration(betas: np.ndarray, energies: np.ndarray) -> LeftOut:
    """Return −∫⟨E⟩ dβ by the trapezium rule with end corrections from d⟨E⟩/dβ = −Var E.

    The rule of Euler and Maclaurin to second order: exact for polynomials of degree 3. Kirkwood 1935.
    """
    steps, (means, variances) = np.diff(betas), mean_and_variance(energies)

    def stones(m: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.asarray(-steps * (m[..., :-1] + m[..., 1:]) / 2.0 - steps**2 * np.diff(v) / 12.0)

    return _cumulated(LeftOut(stones(means.every, variances.every), stones(means.rest, variances.rest)))


def integration_error(betas: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Return what `integration` may be off because its rungs are apart, in nats  # (rung,).

    The rule's next term, summed as if all its errors added up: Σ_j Δβ⁴/720 |κ₄(β_{j+1}) − κ₄(β_j)|, κ₄ the
    fourth cumulant of E.
    """
    centred = energies - energies.mean(axis=(0, 1))
    moments = [mean((centred**p).mean(axis=1)).every for p in (2, 4)]
    terms = np.diff(betas) ** 4 / 720.0 * np.abs(np.diff(moments[1] - 3.0 * moments[0] ** 2))
    return np.asarray(np.pad(np.cumsum(terms), (1, 0)))
