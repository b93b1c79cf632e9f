"""Energy and specific heat over β, as far as a method measures them."""

import numpy as np

from genmodels.anneal.answer import Answer
from genmodels.estimate import Estimate, of_scalar
from genmodels.estimators import averages

Curves = dict[str, list[Estimate]]


def curves(answer: Answer) -> Curves:
    """Return ⟨E⟩ in nats at β = 1 and C(β) = β² Var E, of all spins, at the betas of the result.

    Annealing is not in equilibrium: there `energy` is the mean over the replicas as they cool, without error.
    """
    result = answer.result
    if answer.curve is not None:
        with np.errstate(divide="ignore", invalid="ignore"):  # of a run that was stopped before it measured
            return {
                "energy": averages.energies(result, answer.curve),
                "specific_heat": averages.specific_heat(result, answer.curve),
            }
    n, method = len(result.energies), "mean over the replicas while they cool"
    means = [
        of_scalar(value, stderr=None, kind="estimate", unit="nats", n=n, method=method)
        for value in result.mean_energy.tolist()
    ]
    return {"energy": means}
