"""log Z(β) from population annealing."""

from typing import Any

from genmodels.estimate import Estimate
from genmodels.estimators import jackknife
from genmodels.estimators.diagnostics import rho_f
from genmodels.samplers.population_annealing import Annealed

MIN_FAMILIES = 30.0  # effective, of a population
MAX_SPREAD = 1.0  # nats, standard deviation of log Ẑ over populations: a jackknife is worth little beyond


def evaluate(result: Annealed) -> tuple[list[Estimate], dict[str, Any]]:
    """Return log Z at every β, the log of the mean of Ẑ over the populations, and its diagnostics.

    Populations of equal size R are combined with weights R Ẑ_m: the mean of Ẑ is unbiased, its log biased low
    by half its variance. Standard errors are jackknifed over the populations. The estimates end at the first
    β where a population has too few families, or log Ẑ varies too much. Machta 2010.

    Returns:
        The curve, and JSON-ready figures: `rho_f`, R Var(log Ẑ) at the last β.
    """
    log_z = result.log_z.numpy()
    stones, faults = jackknife.log_mean(log_z - result.log_z_0), _faults(result)
    curve = jackknife.log_z_curve(
        result.log_z_0, stones, faults, method="population annealing", n=len(log_z)
    )
    return curve, {"rho_f": float(rho_f(log_z, result.family.shape[1])[-1])}


def _faults(result: Annealed) -> list[str]:
    """Return what is wrong at each β, or an empty text; a fault stays at all further β."""
    faults = [""]
    spreads = result.log_z.numpy().std(axis=0, ddof=1)
    steps = zip(result.betas.tolist(), result.families.numpy().min(axis=0).tolist(), spreads, strict=True)
    for beta, fewest, spread in list(steps)[1:]:
        fault = faults[-1]
        if not fault and fewest < MIN_FAMILIES:
            fault = f"{fewest:.0f} effective families are left at β = {beta:.3g}: give more walkers or sweeps"
        if not fault and spread > MAX_SPREAD:
            fault = f"log Z varies by {spread:.2g} nats from population to population: give more walkers"
        faults.append(fault)
    return faults
