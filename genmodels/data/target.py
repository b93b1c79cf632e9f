"""A distribution that is known, to compare models with."""

from typing import NamedTuple

import numpy as np


class Target(NamedTuple):
    """The probability P of every picture that can occur.

    Attributes:
        states: The pictures with P > 0, each once  # (state, site) uint8, 0 or 1
        log_p: log P in nats  # (state,) float64
        full_support: Whether `states` are all 2^site pictures.
    """

    states: np.ndarray
    log_p: np.ndarray
    full_support: bool

    def entropy(self) -> float:
        """Return H(P) = −Σ P log P in nats."""
        return float(-(np.exp(self.log_p) * self.log_p).sum())
