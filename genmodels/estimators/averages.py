"""Averages of energies and spins at the temperatures of a run, with errors from its independent batches."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from genmodels.estimate import Estimate, of_scalar, undetermined
from genmodels.estimators.jackknife import LeftOut, grouped, n_groups, ratio, standard_error, unbiased
from genmodels.samplers.jarzynski import Worked
from genmodels.samplers.population_annealing import Annealed
from genmodels.samplers.replica_exchange import Exchanged
from genmodels.samplers.simulated_tempering import Tempered

Result = Exchanged | Annealed | Tempered | Worked


class Sums(NamedTuple):
    """Weighted sums over the draws of each independent batch: ladder, chain, population or replicas."""

    weight: np.ndarray  # (batch, β)
    energy: np.ndarray  # (batch, β), about `centre`
    square: np.ndarray  # (batch, β), about `centre`; nan where it is not known
    centre: np.ndarray  # (β,)


def energies(result: Result, curve: Sequence[Estimate]) -> list[Estimate]:
    """Return ⟨E⟩ at every β in nats at β = 1; undetermined where log Z is.

    Ladders weigh the same; populations R_m Ẑ_m (Machta 2010); rounds of tempering P(k|E); replicas that work
    was done on exp(−W) (Neal 2001). Errors are jackknifed over the independent batches.

    Args:
        result: What a sampler returned.
        curve: What `free_energy.evaluate` says of log Z at every β.
    """
    sums = _sums(result)
    every, rest = ratio(sums.energy, sums.weight)
    return _estimates(LeftOut(every + sums.centre, rest + sums.centre), curve, len(sums.weight), "nats")


def specific_heat(result: Result, curve: Sequence[Estimate]) -> list[Estimate]:
    """Return C(β) = β² Var E = −β² d⟨E⟩/dβ at every β, of all sites; undetermined where log Z is.

    Of population annealing, which keeps no squares, by differences of ⟨E⟩ between the temperatures; how far
    the slope of a cubic spline is from it is then part of the error. Arguments as of `energies`.
    """
    betas, sums = result.betas.numpy(), _sums(result)
    means, error = ratio(sums.energy, sums.weight), np.zeros(len(betas))
    if isinstance(result, Annealed) and len(betas) > 1:
        slopes = LeftOut(*(np.gradient(part + sums.centre, betas, axis=-1) for part in means))
        error = betas**2 * np.abs(CubicSpline(betas, means.every + sums.centre)(betas, 1) - slopes.every)
        heat = LeftOut(*(-(betas**2) * slope for slope in slopes))
    else:
        squares = ratio(sums.square, sums.weight)
        heat = LeftOut(*(betas**2 * (s - m**2) for s, m in zip(squares, means, strict=True)))
    unbiased_heat = heat._replace(every=unbiased(heat))
    return _estimates(unbiased_heat, curve, len(sums.weight), "", error)


def moments(result: Result, curve: Sequence[Estimate]) -> list[Estimate]:
    """Return ⟨x_i⟩ at the last β of every site; undetermined if log Z is. Arguments as of `energies`."""
    weight, x = _last(result)
    spins = ratio(weight[:, None] * x, weight[:, None])
    return _estimates(spins, [curve[-1]] * x.shape[1], len(x), "")


def _estimates(
    values: LeftOut, curve: Sequence[Estimate], n: int, unit: str, other_error: np.ndarray | float = 0.0
) -> list[Estimate]:
    found, method = [], curve[-1].method
    errors = np.hypot(standard_error(values.rest), other_error).tolist()
    for value, error, log_z in zip(values.every.tolist(), errors, curve, strict=True):
        if log_z.value is None or not math.isfinite(value + error):
            reason = log_z.reason or curve[-1].reason or "nothing was measured: give more time"
            found.append(undetermined(reason, unit=unit, n=n, method=method))
        else:
            found.append(of_scalar(value, stderr=error, kind="estimate", unit=unit, n=n, method=method))
    return found


def _sums(result: Result) -> Sums:
    with np.errstate(invalid="ignore", divide="ignore"):
        if isinstance(result, Exchanged):
            draws = result.energies.numpy()
            return _weighted(np.ones_like(draws), draws)
        if isinstance(result, Tempered):
            weight = _rung_given_energy(result)
            return _weighted(weight, np.broadcast_to(result.energies.numpy()[..., None], weight.shape))
        if isinstance(result, Worked):
            work = result.work.numpy()
            # The replica's energy when β rose from there; at the last β, when it got there.
            before = np.diff(work, axis=1) / np.diff(result.betas.numpy())
            draws = np.concatenate([before, result.energies.numpy()[:, None]], axis=1)
            weight, groups = np.exp(work.min(axis=0) - work), n_groups(len(work))
            return _weighted(grouped(weight, groups), grouped(draws, groups))
        weight, mean = result.weights.numpy(), result.mean_energy.numpy()
    centre = mean.mean(axis=0)
    return Sums(weight, weight * (mean - centre), np.full_like(weight, math.nan), centre)


def _weighted(weight: np.ndarray, draws: np.ndarray) -> Sums:  # (batch, draw, β) twice
    centre = (weight * draws).sum(axis=(0, 1)) / weight.sum(axis=(0, 1))
    apart = draws - centre
    sums = (weight.sum(axis=1), (weight * apart).sum(axis=1), (weight * apart**2).sum(axis=1))
    return Sums(*sums, centre)


def _rung_given_energy(result: Tempered) -> np.ndarray:
    """Return P(k|E) ∝ exp(−β_k E + g_k) at each round  # (chain, round, rung)."""
    log_p = -result.energies.numpy()[..., None] * result.betas.numpy() + result.g.numpy()
    p = np.exp(log_p - log_p.max(axis=-1, keepdims=True))
    return np.asarray(p / p.sum(axis=-1, keepdims=True))


def _last(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights and mean spins of the batches at the last β  # (batch,), (batch, site)."""
    if isinstance(result, Worked):
        groups = n_groups(len(result.x))
        work = result.work[:, -1].numpy()
        weight = grouped(np.exp(work.min() - work), groups)
        x = grouped(result.x.double().numpy(), groups)
        return weight.sum(axis=1), (weight[..., None] * x).sum(axis=1) / weight.sum(axis=1)[:, None]
    x = result.mean_x.numpy()
    if isinstance(result, Annealed):
        return result.weights[:, -1].numpy(), x
    if isinstance(result, Tempered):
        return result.visits[:, -1].double().numpy(), np.nan_to_num(x)  # a chain that was not there has none
    return np.ones(len(x)), x
