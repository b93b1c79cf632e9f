"""Metropolis' rule: propose to flip one spin, accept by what it costs."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

from genmodels.compiled.single_flip import SingleFlip


@final
@dataclass(frozen=True)
class Metropolis(SingleFlip):
    """Flip one spin with probability min(1, exp(−ΔU)), U = βE + E_0; leaves exp(−U) invariant.

    At β = 0 every proposal is accepted, so that "sequential" is periodic there: states at β = 0 are drawn
    independently instead. Metropolis, Rosenbluth, Rosenbluth, Teller & Teller 1953.
    """

    heat_bath: ClassVar[bool] = False

    @staticmethod
    def flip_probability(cost: float) -> float:
        """Return min(1, e^−cost)."""
        return math.exp(-max(0.0, cost))
