"""Standard errors from independent batches (ladders, chains, populations), each left out once."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genmodels.estimate import Estimate, of_scalar, undetermined

ROUNDING = 2.0**-24  # of energies in float32, as a share: no error is smaller, even if all energies are equal


class LeftOut(NamedTuple):
    """A quantity from all batches, and with each of them left out."""

    every: np.ndarray  # (…,)
    rest: np.ndarray  # (batch, …), without the batch


def standard_error(rest: np.ndarray) -> np.ndarray:
    """Return √[(n − 1)/n Σ_m (v_(−m) − mean)²]  # (batch, …) -> (…,); of a mean it is s/√n. Tukey 1958."""
    with np.errstate(invalid="ignore", over="ignore"):  # no overlap, no error: it is not a number then
        return np.asarray(np.sqrt((len(rest) - 1) * rest.var(axis=0)))


def unbiased(values: LeftOut) -> np.ndarray:
    """Return n v − (n − 1) mean v_(−m): v without its bias of order 1/n. Quenouille 1956."""
    n = len(values.rest)
    return np.asarray(n * values.every - (n - 1) * values.rest.mean(axis=0))


def mean(values: np.ndarray) -> LeftOut:
    """Return the mean of the batches' values  # (batch, …)."""
    total = values.sum(axis=0)
    return LeftOut(total / len(values), (total - values) / (len(values) - 1))


def ratio(above: np.ndarray, below: np.ndarray) -> LeftOut:
    """Return Σ_m a_m / Σ_m b_m, such as a mean over batches of unequal weights b_m  # (batch, …) twice."""
    a, b = above.sum(axis=0), below.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # of nothing, it is not a number
        return LeftOut(a / b, (a - above) / (b - below))


def log_mean(log_values: np.ndarray) -> LeftOut:
    """Return log(1/n Σ_m exp v_m), safe where one term outweighs all others  # (batch, …)."""
    n = len(log_values)
    nothing = np.full_like(log_values[:1], -np.inf)
    before = np.concatenate([nothing, np.logaddexp.accumulate(log_values, axis=0)])
    after = np.concatenate([nothing, np.logaddexp.accumulate(log_values[::-1], axis=0)])[::-1]
    rest = np.logaddexp(before[:-1], after[1:]) - math.log(n - 1)
    return LeftOut(before[-1] - math.log(n), rest)


def mean_and_variance(draws: np.ndarray) -> tuple[LeftOut, LeftOut]:
    """Return the mean and the variance of all batches' draws together  # (batch, draw, …)."""
    centre = draws.mean(axis=(0, 1))
    centred = draws - centre  # else the squares of large energies would cancel
    first, second = mean(centred.mean(axis=1)), mean(np.square(centred).mean(axis=1))
    means = LeftOut(centre + first.every, centre + first.rest)
    return means, LeftOut(second.every - first.every**2, second.rest - first.rest**2)


def n_groups(n: int, most: int = 100) -> int:
    """Return in how many groups of equal size n independent draws are best left out, about `most` of them."""
    return n // math.ceil(n / most)


def grouped(values: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the draws in groups, but for a remainder, fewer than groups  # (draw, …) -> (group, draw, …)."""
    size = len(values) // n_groups
    return values[: n_groups * size].reshape(n_groups, size, *values.shape[1:])


def log_z_curve(
    log_z_0: float,
    stones: LeftOut,
    faults: Sequence[str],
    *,
    method: str,
    n: int,
    other_error: np.ndarray | float = 0.0,
) -> list[Estimate]:
    """Return log Z at every β in nats: exact at β = 0, then estimates except where there is a fault.

    Args:
        log_z_0: log Z at β = 0.
        stones: log Z(β_k)/Z(0)  # (rung,), and with a batch left out (batch, rung)
        faults: What is wrong at each β, or an empty text  # (rung,)
        method: How it was obtained.
        n: Independent samples behind it.
        other_error: What the jackknife does not see, nats  # (rung,) or a number
    """
    errors = np.hypot(standard_error(stones.rest), other_error).tolist()
    estimates = [of_scalar(log_z_0, stderr=0.0, kind="exact", unit="nats", n=n, method="β = 0")]
    values = (log_z_0 + stones.every).tolist()
    for value, error, fault in list(zip(values, errors, faults, strict=True))[1:]:
        if not fault and not (math.isfinite(value) and math.isfinite(error)):
            fault = "neighbouring temperatures share no energies: give more temperatures"
        if fault:
            estimates.append(undetermined(fault, unit="nats", n=n, method=method))
            continue
        stderr = math.hypot(error, ROUNDING * value)
        estimates.append(of_scalar(value, stderr=stderr, kind="estimate", unit="nats", n=n, method=method))
    return estimates
