"""log Z(β) from replica exchange or population annealing, with its error or the reason why there is none."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from genmodels.estimate import Estimate, joint_z_score, of_scalar, undetermined
from genmodels.estimators import stepping_stones
from genmodels.estimators.diagnostics import effective_sample_size, r_hat
from genmodels.samplers.population_annealing import Annealed
from genmodels.samplers.replica_exchange import Exchanged

MAX_R_HAT = 1.05
MIN_ESS = 100.0  # of the energies on a rung, over all ladders
MIN_SWAP_RATE = 0.02
MAX_DISAGREEMENT = 0.5  # nats, beside 5 standard errors, between estimates from the same energies
MIN_FAMILIES = 30.0  # effective, of a population
MAX_SPREAD = 1.0  # nats, standard deviation of log Ẑ over populations: a jackknife is worth little beyond
MAX_Z_SCORE = 3.0
ROUNDING = 2.0**-24  # of energies in float32, as a share: no error is smaller, even if all energies are equal


def log_z(result: Exchanged | Annealed) -> Estimate:
    """Return log Z at the last β in nats; `undetermined`, with the reason, where the diagnostics fail."""
    return curve(result)[-1]


def curve(result: Exchanged | Annealed) -> list[Estimate]:
    """Return log Z at every β of the run in nats: exact at β = 0, then estimates until the diagnostics fail.

    Replica exchange: Bennett's acceptance ratio between neighbouring rungs, all ladders pooled. Population
    annealing: the mean of Ẑ over the populations. Standard errors are jackknifed over ladders or populations.
    """
    return _evaluate(result)[0]


def summary(result: Exchanged | Annealed) -> dict[str, Any]:
    """Return the sampler's summary and the diagnostics that `curve` judges by, JSON-ready.

    Of replica exchange: `r_hat` (None if infinite) and `ess` of the energies, the worst over β > 0, and
    `checks`, log Z at the last β from the same energies in other ways.
    """
    return result.summary() | _evaluate(result)[1]


def _evaluate(result: Exchanged | Annealed) -> tuple[list[Estimate], dict[str, Any]]:
    log_z_0 = result.n_sites * math.log(2.0)
    if isinstance(result, Exchanged):
        method = "replica exchange"
        values, left_out, faults, figures = _exchanged(result, log_z_0)
    else:
        method, figures = "population annealing", {}
        values, left_out = _mean_z(result.log_z.numpy())
        faults = [""] + _annealing_faults(result)
    n, errors = len(left_out), jackknife(left_out)
    estimates = [of_scalar(log_z_0, stderr=0.0, kind="exact", unit="nats", n=n, method="β = 0")]
    for value, error, fault in zip(values[1:].tolist(), errors[1:].tolist(), faults[1:], strict=True):
        if fault:
            estimates.append(undetermined(fault, unit="nats", n=n, method=method))
            continue
        e = math.hypot(error, ROUNDING * value)
        estimates.append(of_scalar(value, stderr=e, kind="estimate", unit="nats", n=n, method=method))
    return estimates, figures


def _exchanged(result: Exchanged, log_z_0: float) -> tuple[np.ndarray, np.ndarray, list[str], dict[str, Any]]:
    """Return log Z of all ladders and with one left out, what is wrong with it at each β, and figures."""
    betas, energies = result.betas.numpy(), result.energies.numpy()
    values, left_out = stepping_stones.bennett(betas, energies)
    others = stepping_stones.checks(betas, energies)
    r_hats = [r_hat(energies[..., k]) for k in range(1, len(betas))]
    sizes = [effective_sample_size(energies[..., k]) for k in range(1, len(betas))]
    rungs = zip(betas[1:], 1.0 - result.rejection.numpy(), r_hats, sizes, strict=True)
    allowed = MAX_DISAGREEMENT + 5.0 * jackknife(left_out)
    faults = [""]
    for k, rung in enumerate(rungs, start=1):
        fault = _rung_fault(*rung)
        for name, other in others.items():
            apart = abs(float(other[k] - values[k]))
            if not fault and not apart <= allowed[k]:  # also where the error is not a number
                fault = f"{name} differs by {apart:.2g} nats at β = {betas[k]:.3g}: give more rungs"
        faults.append(faults[-1] or fault)
    checked = {name: log_z_0 + float(other[-1]) for name, other in others.items()}
    worst = max(r_hats)
    figures = {"r_hat": worst if math.isfinite(worst) else None, "ess": min(sizes), "checks": checked}
    return log_z_0 + values, log_z_0 + left_out, faults, figures


def _rung_fault(beta: float, swap_rate: float, r_hat: float, ess: float) -> str:
    if swap_rate < MIN_SWAP_RATE:
        return f"swaps just below β = {beta:.3g} are accepted at a rate of {swap_rate:.2g}: give more rungs"
    if r_hat > MAX_R_HAT:
        return f"R-hat of the energies is {r_hat:.3g} at β = {beta:.3g}: give more rounds"
    if ess < MIN_ESS:
        return f"the energies at β = {beta:.3g} are worth {ess:.0f} independent ones: give more rounds"
    return ""


def jackknife(left_out: np.ndarray) -> np.ndarray:
    """Return standard errors √[(n − 1)/n Σ (v_(−i) − mean)²]  # (left out, …) -> (…,)."""
    n = len(left_out)
    return np.asarray(np.sqrt((n - 1) * left_out.var(axis=0)))


def _annealing_faults(result: Annealed) -> list[str]:
    """Return what is wrong with log Z at each β > 0, or an empty text."""
    faults, fault = [], ""
    steps = zip(result.betas.tolist(), result.families.T, result.log_z.T, strict=True)
    for beta, families, log_z_m in list(steps)[1:]:
        fewest, spread = float(families.min()), float(log_z_m.std())
        if not fault and fewest < MIN_FAMILIES:
            fault = f"{fewest:.0f} effective families are left at β = {beta:.3g}: give more walkers or sweeps"
        if not fault and spread > MAX_SPREAD:
            fault = f"log Z varies by {spread:.2g} nats from population to population: give more walkers"
        faults.append(fault)
    return faults


def _mean_z(log_z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log of the mean of Z, and those with one population left out  # (population, step)."""
    n = len(log_z)
    every = np.logaddexp.reduce(log_z, axis=0) - math.log(n)
    rest = [np.logaddexp.reduce(np.delete(log_z, m, axis=0), axis=0) - math.log(n - 1) for m in range(n)]
    return every, np.stack(rest)


def agree(one: Estimate, other: Estimate) -> bool:
    """Return whether two values are determined and differ by at most 3 joint standard errors."""
    if one.value is None or other.value is None:
        return False
    return joint_z_score(one, other) <= MAX_Z_SCORE


def combined(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates, weighted by 1/stderr², if every two of them agree.

    Otherwise, or where one of them is undetermined, the result is undetermined and its reason says which.

    Raises:
        ValueError: fewer than two estimates, or one with a value but without an error.
    """
    if len(estimates) < 2:
        raise ValueError(f"{len(estimates)} estimates, expected at least two to be compared")
    n, unit = sum(estimate.n for estimate in estimates), estimates[0].unit
    method = " and ".join(estimate.method for estimate in estimates)
    for estimate in estimates:
        if estimate.value is None:
            return undetermined(f"{estimate.method}: {estimate.reason}", unit=unit, n=n, method=method)
        if not estimate.stderr:
            raise ValueError(f"{estimate.method}: the value has no standard error, so that it has no weight")
    if not all(agree(one, other) for one, other in itertools.combinations(estimates, 2)):
        values = ", ".join(f"{e.method} {e.value:.2f} ± {e.stderr:.2f}" for e in estimates)
        return undetermined(f"the estimates disagree: {values}", unit=unit, n=n, method=method)
    weights = np.array([1.0 / (e.stderr or math.nan) ** 2 for e in estimates])
    value = float(weights @ [e.value for e in estimates] / weights.sum())
    stderr = float(weights.sum() ** -0.5)
    return of_scalar(value, stderr=stderr, kind="estimate", unit=unit, n=n, method=method)
