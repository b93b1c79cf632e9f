"""Heat bath: one spin after the other, drawn anew given the rest."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

from genmodels.compiled.single_flip import SingleFlip


@final
@dataclass(frozen=True)
class HeatBath(SingleFlip):
    """Draw one spin from P_β(x_i | rest), that is flip it with probability 1/(1 + exp(ΔU)), U = βE + E_0.

    Leaves exp(−U) invariant. Also called Glauber dynamics, or single-site Gibbs sampling. Glauber 1963;
    Geman & Geman 1984.
    """

    heat_bath: ClassVar[bool] = True

    @staticmethod
    def flip_probability(cost: float) -> float:
        """Return 1/(1 + e^cost)."""
        return 1.0 / (1.0 + math.exp(min(cost, 700.0)))
