"""log Z(β) from the energies of replica exchange, in five ways."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genmodels.estimate import Estimate
from genmodels.estimators import jackknife, stepping_stones
from genmodels.estimators.diagnostics import effective_sample_size, overlaps, r_hat, unconverged, unmeasured
from genmodels.estimators.jackknife import LeftOut
from genmodels.estimators.mbar import mbar
from genmodels.samplers.replica_exchange import Exchanged

MIN_SWAP_RATE = 0.02
MAX_DISAGREEMENT = 0.5  # nats, beside 5 standard errors, between estimates from the same energies
HEADLINE = "replica exchange"
WAYS: dict[str, Callable[[np.ndarray, np.ndarray], LeftOut]] = {
    HEADLINE: stepping_stones.bennett,
    "forward stepping stones": stepping_stones.forward,
    "reverse stepping stones": stepping_stones.reverse,
    "thermodynamic integration": stepping_stones.integration,
    "MBAR": mbar,
}


def evaluate(result: Exchanged) -> tuple[list[Estimate], dict[str, Any]]:
    """Return log Z at every β by Bennett's acceptance ratio between neighbouring rungs, and its diagnostics.

    Standard errors are jackknifed over the ladders. The estimates end at the first β where swaps, R̂, the
    effective sample size or the disagreement with the other ways (`curves`) are beyond their limits.

    Returns:
        The curve, and JSON-ready figures: `r_hat` (None if infinite) and `ess` of the energies and their
        `overlap` between neighbours, the worst over β > 0; `checks`, log Z at the last β in the other ways.
    """
    estimated, figures = _evaluated(result)
    last = {name: curve[-1] for name, curve in estimated.items() if name != HEADLINE}
    checks = {name: {"value": e.value, "stderr": e.stderr} for name, e in last.items()}
    return estimated[HEADLINE], figures | {"checks": checks}


def curves(result: Exchanged) -> dict[str, list[Estimate]]:
    """Return log Z at every β by Bennett's acceptance ratio ("replica exchange") and in four other ways.

    Stepping stones forward (biased low) and reverse (biased high), thermodynamic integration, whose error
    holds that of its rule, and MBAR; each with standard errors jackknifed over the ladders, and each refused
    where the energies are.
    """
    return _evaluated(result)[0]


def _evaluated(result: Exchanged) -> tuple[dict[str, list[Estimate]], dict[str, Any]]:
    betas, energies = result.betas.numpy(), result.energies.numpy()
    few = unmeasured(energies.shape[1])
    if few:
        nothing, faults, figures = np.zeros((2, len(betas))), [few] * len(betas), {}
        stones = dict.fromkeys(WAYS, LeftOut(nothing[0], nothing))
    else:
        stones = {name: way(betas, energies) for name, way in WAYS.items()}
        r_hats = [r_hat(energies[..., k]) for k in range(1, len(betas))]
        sizes = [effective_sample_size(energies[..., k]) for k in range(1, len(betas))]
        faults = _faults(betas, 1.0 - result.rejection.numpy(), r_hats, sizes, stones)
        worst = max(r_hats) if math.isfinite(max(r_hats)) else None
        figures = {"r_hat": worst, "ess": min(sizes), "overlap": float(overlaps(energies).min())}
    other = {} if few else {"thermodynamic integration": stepping_stones.integration_error(betas, energies)}
    n, start = len(energies), result.log_z_0
    estimated = {
        name: jackknife.log_z_curve(start, stone, faults, method=name, n=n, other_error=other.get(name, 0.0))
        for name, stone in stones.items()
    }
    return estimated, figures


def _faults(
    betas: np.ndarray,
    swap_rates: np.ndarray,
    r_hats: Sequence[float],
    sizes: Sequence[float],
    stones: dict[str, LeftOut],
) -> list[str]:
    """Return what is wrong at each β, or an empty text; a fault stays at all further β."""
    allowed = MAX_DISAGREEMENT + 5.0 * jackknife.standard_error(stones[HEADLINE].rest)
    faults = [""]
    for k, rung in enumerate(zip(betas[1:], swap_rates, r_hats, sizes, strict=True), start=1):
        fault = faults[-1] or _rung_fault(*rung)
        for name, other in stones.items():
            apart = abs(float(other.every[k] - stones[HEADLINE].every[k]))
            if not fault and not apart <= allowed[k]:  # also where the error is not a number
                fault = f"{name} differs by {apart:.2g} nats at β = {betas[k]:.3g}: give more rungs"
        faults.append(fault)
    return faults


def _rung_fault(beta: float, swap_rate: float, r_hat: float, ess: float) -> str:
    if swap_rate < MIN_SWAP_RATE:
        return f"swaps just below β = {beta:.3g} are accepted at a rate of {swap_rate:.2g}: give more rungs"
    return unconverged(r_hat, ess, "the energies", f"at β = {beta:.3g}")
