"""log Z(β) from the work done on replicas that β drives: Jarzynski's equality, and Crooks' both ways."""

import math
from typing import Any

import numpy as np

from genmodels.estimate import Estimate, Kind, of_scalar
from genmodels.estimators import jackknife
from genmodels.estimators.diagnostics import weights_ess
from genmodels.estimators.jackknife import LeftOut
from genmodels.estimators.stepping_stones import acceptance_ratio
from genmodels.samplers.jarzynski import Worked

MIN_ESS = 30.0  # of the replicas under their weights exp(−W)
MAX_GAP = 0.5  # nats, between what the forward and the reverse side say
FORWARD, REVERSE = "Jarzynski, forward (biased low)", "Jarzynski, reverse (biased high)"
BOTH, BENNETT = "Jarzynski, both ways", "Bennett's ratio of work"


def evaluate(result: Worked) -> tuple[list[Estimate], dict[str, Any]]:
    """Return log Z at every β from work in both directions, or forward only where there is no other.

    The estimates end at the first β where the weights exp(−W) are worth fewer than 30 replicas, or where the
    two sides are more than 0.5 nats apart.

    Returns:
        The curve, and JSON-ready figures: `forward_ess` and `reverse_ess` of the weights at the end, in
        replicas; `checks`, log Z at the last β in all ways of `curves`, the first two of which bracket it;
        `bounds`, Jensen's on it.
    """
    estimated, figures = _evaluated(result)
    checks = {name: _short(curve[-1]) for name, curve in estimated.items()}
    held = {bound.kind: _short(bound) for bound in bounds(result)}
    return estimated[BOTH if BOTH in estimated else FORWARD], figures | {"checks": checks, "bounds": held}


def curves(result: Worked) -> dict[str, list[Estimate]]:
    """Return log Z at every β forward, and with reverse work also in reverse and from both in two ways.

    Forward: log ⟨exp(−W)⟩, biased low as the log of a mean. Reverse: −log ⟨exp(−W)⟩ of the way back from
    equilibrium, biased high. Both ways: their mean weighted by 1/variance. Like these it needs no more than
    that the sweeps leave P_β invariant. Bennett's ratio, of smaller error, needs Crooks' theorem, which holds
    if every sweep is reversible: sweeps in a fixed order are not, and bias it. Before the last β it is the
    mean over the same mixture of paths by Minh & Adib 2008. Errors are jackknifed over groups of replicas.
    Jarzynski 1997; Neal 2001; Crooks 2000; Bennett 1976.
    """
    return _evaluated(result)[0]


def bounds(result: Worked) -> list[Estimate]:
    """Return Jensen's bounds on log Z at the last β: ⟨−W⟩ below and, with reverse work, ⟨W⟩ of it above.

    The upper bound is one only if the reverse replicas started in equilibrium.
    """
    sides: list[tuple[np.ndarray, Kind]] = [(-result.work[:, -1].numpy(), "lower")]
    if result.reverse_work is not None:
        sides.append((result.reverse_work[:, -1].numpy(), "upper"))
    found = []
    for values, kind in sides:
        value, n = result.log_z_0 + float(values.mean()), len(values)
        error = float(values.std(ddof=1)) / math.sqrt(n)
        found.append(of_scalar(value, stderr=error, kind=kind, unit="nats", n=n, method="mean work (Jensen)"))
    return found


def _evaluated(result: Worked) -> tuple[dict[str, list[Estimate]], dict[str, Any]]:
    betas, work, back = result.betas.tolist(), result.work.numpy(), result.reverse_work
    sizes = weights_ess(-work)
    figures: dict[str, Any] = {"forward_ess": float(sizes[-1])}
    faults = [_ess_fault(beta, ess) for beta, ess in zip(betas, sizes.tolist(), strict=True)]
    if back is None:
        n, stones = len(work), {FORWARD: _log_mean(-work, jackknife.n_groups(len(work)))}
    else:
        n, stones = min(len(work), len(back)), _two_sided(work, back.numpy())
        figures["reverse_ess"] = float(weights_ess(-back[:, -1].numpy()))
        gaps = np.abs(stones[FORWARD].every - stones[REVERSE].every)
        faults = [fault or _gap_fault(*of) for fault, *of in zip(faults, betas, gaps, strict=True)]
        faults[-1] = faults[-1] or _ess_fault(0.0, figures["reverse_ess"])
    for k in range(1, len(faults)):
        faults[k] = faults[k - 1] or faults[k]
    estimated = {
        name: jackknife.log_z_curve(result.log_z_0, each, faults, method=name, n=n)
        for name, each in stones.items()
    }
    return estimated, figures


def _two_sided(work: np.ndarray, back: np.ndarray) -> dict[str, LeftOut]:
    groups = jackknife.n_groups(min(len(work), len(back)))
    forward, home = _log_mean(-work, groups), _log_mean(-back, groups)
    # From the end back to the start, less what leads back to β_k.
    reverse = LeftOut(*((part - part[..., -1:])[..., ::-1] for part in home))
    variance = [jackknife.standard_error(side.rest) ** 2 for side in (forward, reverse)]
    with np.errstate(invalid="ignore"):
        share = np.nan_to_num(variance[1] / (variance[0] + variance[1]), nan=0.5)  # all energies equal
    pairs = zip(forward, reverse, strict=True)
    both = LeftOut(*(share * one + (1.0 - share) * other for one, other in pairs))
    return {FORWARD: forward, REVERSE: reverse, BOTH: both, BENNETT: _bennett(work, back)}


def _ess_fault(beta: float, ess: float) -> str:
    text = f"the weights at β = {beta:.3g} are worth {ess:.0f} replicas: give more replicas or sweeps"
    return text if ess < MIN_ESS else ""


def _gap_fault(beta: float, gap: float) -> str:
    text = f"forward and reverse are {gap:.2g} nats apart at β = {beta:.3g}: give more replicas or sweeps"
    return text if gap > MAX_GAP else ""


def _log_mean(log_w: np.ndarray, n_groups: int) -> LeftOut:  # (replica, step) -> (step,), (group, step)
    groups = jackknife.grouped(log_w, n_groups)
    return jackknife.log_mean(np.logaddexp.reduce(groups, axis=1) - math.log(groups.shape[1]))


def _bennett(work: np.ndarray, back: np.ndarray) -> LeftOut:
    """Return log Z(β_k)/Z(0) of forward and reverse work  # (replica, step) twice -> (step,), (group, step).

    Z(β_k)/Z(0) = Σ exp(−W_{0→k})/(n_F + n_R exp(−W − c)) over the paths of both directions, all read forward,
    W their whole work and c = log Z(β_K)/Z(0), at which the sum at k = 0 is 1: Bennett's equation.
    """
    n_groups = jackknife.n_groups(min(len(work), len(back)))
    there = jackknife.grouped(work, n_groups)
    home = jackknife.grouped(back[:, ::-1] - back[:, -1:], n_groups)
    ratio, n = math.log(there.shape[1] / home.shape[1]), n_groups * np.array([there.shape[1], home.shape[1]])
    c, rest = acceptance_ratio(there[..., -1] + ratio, -home[..., -1] - ratio)
    paths = np.concatenate([there, home], axis=1)  # (group, path, step)
    mixture = _log_mixture(paths[..., -1], c, n)
    log_w = -paths - mixture[..., None]
    top = log_w.max(axis=(0, 1))
    w, left_out = np.exp(log_w - top).reshape(-1, len(top)), []
    for group, c_rest in enumerate(rest):
        changed = np.exp(mixture - _log_mixture(paths[..., -1], c_rest, n))  # by the others' c
        changed[group] = 0.0
        left_out.append(changed.ravel() @ w * (n_groups / (n_groups - 1)))
    with np.errstate(divide="ignore"):  # no overlap, no error
        return LeftOut(top + np.log(w.sum(axis=0)), top + np.log(np.stack(left_out)))


def _log_mixture(total: np.ndarray, c: float, n: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp(math.log(n[0]), math.log(n[1]) - total - c))


def _short(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "stderr": estimate.stderr}
