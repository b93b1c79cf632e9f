"""log Z(β) from what a sampler measured, with its error or the reason why there is none."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from genmodels.estimate import Estimate, joint_z_score, of_scalar, undetermined
from genmodels.estimators import exchange, population, tempering, work
from genmodels.protocols import SamplerResult
from genmodels.samplers.jarzynski import Worked
from genmodels.samplers.population_annealing import Annealed
from genmodels.samplers.replica_exchange import Exchanged
from genmodels.samplers.simulated_tempering import Tempered

MAX_Z_SCORE = 3.0  # joint standard errors between two routes
MAX_GAP = 0.5  # nats between two routes, however large their errors
MAX_R_HAT = 1.01  # of the chains behind a number in the table: Vehtari et al. 2021
_SETTLE = "more sweeps, rounds or replicas of each would settle it"
ESTIMATORS: dict[type, Callable[[Any], tuple[list[Estimate], dict[str, Any]]]] = {
    Exchanged: exchange.evaluate,
    Annealed: population.evaluate,
    Tempered: tempering.evaluate,
    Worked: work.evaluate,
}


def evaluate(result: SamplerResult) -> tuple[list[Estimate], dict[str, Any]]:
    """Return log Z at every β of a run in nats, and how well the run went.

    The curve is exact at β = 0; then come estimates until the diagnostics fail, from where on they are
    undetermined and say why. The diagnostics, JSON-ready, are the sampler's summary and the figures that
    the curve was judged by.

    Raises:
        TypeError: no estimator knows such a result.
    """
    if type(result) not in ESTIMATORS:
        raise TypeError(f"log Z: no estimator knows what a {type(result).__name__} is")
    curve, figures = ESTIMATORS[type(result)](result)
    return curve, result.summary() | figures


def independent(result: SamplerResult) -> dict[str, list[Estimate]]:
    """Return those curves of `evaluate`'s run that share no random numbers: of work both ways, either way.

    Named "forward" and "reverse"; any other run has one, without a name.
    """
    if isinstance(result, Worked) and result.reverse_work is not None:
        ways = work.curves(result)
        return {"forward": ways[work.FORWARD], "reverse": ways[work.REVERSE]}
    return {"": evaluate(result)[0]}


def log_z(result: SamplerResult) -> Estimate:
    """Return log Z at the last β in nats; `undetermined`, with the reason, where the diagnostics fail."""
    return evaluate(result)[0][-1]


def agree(one: Estimate, other: Estimate) -> bool:
    """Return whether two values are determined and differ by at most 3 joint standard errors and ½ nat."""
    if one.value is None or other.value is None:
        return False
    return joint_z_score(one, other) <= MAX_Z_SCORE and abs(one.value - other.value) <= MAX_GAP


def for_the_table(estimate: Estimate, diagnostics: Mapping[str, Any]) -> Estimate:
    """Return a run's log Z, or its refusal where the chains behind it have an R̂ above 1.01.

    A run by itself is content with 1.05 (`diagnostics.MAX_R_HAT`); a number that others are ranked by is not.

    Args:
        estimate: log Z at the last β.
        diagnostics: What `evaluate` returned beside it; `r_hat` is None where it is infinite.
    """
    if estimate.value is None or "r_hat" not in diagnostics:
        return estimate
    r_hat = math.inf if diagnostics["r_hat"] is None else float(diagnostics["r_hat"])
    if r_hat <= MAX_R_HAT:
        return estimate
    reason = f"R-hat of the chains is {r_hat:.3g}, above {MAX_R_HAT}: give more rounds"
    return undetermined(reason, unit=estimate.unit, n=estimate.n, method=estimate.method)


def against_exact(estimate: Estimate, exact: Estimate) -> Estimate:
    """Return an estimate, or its refusal where it contradicts the exact value, which stays what it is."""
    if estimate.value is None or agree(estimate, exact):
        return estimate
    reason = f"{estimate.value:.2f} ± {estimate.stderr or 0.0:.2g} contradicts the exact {exact.value:.2f}"
    reason += f": {_SETTLE}, or the sampler is wrong"
    return undetermined(reason, unit=estimate.unit, n=estimate.n, method=estimate.method)


def combined(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates, weighted by 1/stderr², if every two of them agree.

    Where two are more than 3 joint standard errors or ½ nat apart, or one is undetermined, the result is
    undetermined: its reason says which, and what would settle it.

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
        reason = f"the estimates disagree: {values}; {_SETTLE}"
        return undetermined(reason, unit=unit, n=n, method=method)
    weights = np.array([1.0 / (e.stderr or math.nan) ** 2 for e in estimates])
    value = float(weights @ [e.value for e in estimates] / weights.sum())
    stderr = float(weights.sum() ** -0.5)
    return of_scalar(value, stderr=stderr, kind="estimate", unit=unit, n=n, method=method)
