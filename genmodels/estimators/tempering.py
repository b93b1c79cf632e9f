"""log Z(β) from how long simulated tempering stays at each temperature."""

import math
from typing import Any

import numpy as np

from genmodels.estimate import Estimate
from genmodels.estimators import jackknife
from genmodels.estimators.diagnostics import effective_sample_size, r_hat, unconverged, unmeasured
from genmodels.samplers.simulated_tempering import Tempered

MIN_ROUND_TRIPS = 30  # between the ends of the ladder, of all chains


def evaluate(result: Tempered) -> tuple[list[Estimate], dict[str, Any]]:
    """Return log Z at every β from the occupation of the rungs, and its diagnostics.

    As P(k) ∝ Z(β_k) exp(g_k), log Z(β_k) = log Z(0) − (g_k − g_0) + log P(k)/P(0). The occupation P(k) is the
    mean over rounds of P(k|E) ∝ exp(−β_k E + g_k), less noisy than counted visits. Standard errors are
    jackknifed over the chains. Nothing is estimated where too few chains went from end to end, or where R̂
    or the effective sample size of their rungs is beyond its limit. Marinari & Parisi 1992.

    Returns:
        The curve, and JSON-ready figures: `r_hat` (None if infinite) and `ess` of the rungs of the chains.
    """
    rung, occupation = result.rung.numpy(), result.occupation.numpy()
    few, figures = unmeasured(rung.shape[1]), {}
    if few:
        nothing = np.zeros((2, len(result.betas)))
        stones, fault = jackknife.LeftOut(nothing[0], nothing), few
    else:
        r, ess, trips = r_hat(rung), effective_sample_size(rung), int(result.round_trips.sum())
        figures = {"r_hat": r if math.isfinite(r) else None, "ess": ess}
        fault = unconverged(r, ess, "the rungs", "of the chains")
        if trips < MIN_ROUND_TRIPS:
            fault = f"the chains made {trips} round trips from end to end: give more rounds or other rungs"
        stones = _stones(occupation, result.g.numpy())
    faults = [fault] * len(result.betas)
    method, n = "simulated tempering", len(rung)
    return jackknife.log_z_curve(result.log_z_0, stones, faults, method=method, n=n), figures


def _stones(occupation: np.ndarray, g: np.ndarray) -> jackknife.LeftOut:
    with np.errstate(divide="ignore", invalid="ignore"):  # a rung never visited has no log Z
        every, rest = jackknife.log_mean(np.log(occupation))
        return jackknife.LeftOut(every - every[0] - (g - g[0]), rest - rest[:, :1] - (g - g[0]))
