"""Are errors what they claim to be? One check for all estimators, and kernels that have to fail it."""

import math
from typing import Any

import numpy as np
from torch import Tensor

from genmodels.protocols import Info
from genmodels.streams import Key

LOWEST, HIGHEST = 0.60, 0.76  # share of 400 values within one standard error of the truth; 68 % are right


def fault_of(z: np.ndarray) -> str | None:
    """Return what is wrong with (value − truth)/stderr of independent runs, or None  # (run,).

    Of 400 runs 60–76 % have to lie within ±1, their standard deviation in 0.85–1.2; with fewer runs the bands
    are as many of their own standard deviations wide. Never may |z| pass 6, nor |mean z| 4/√n.
    """
    n, wider = len(z), math.sqrt(400.0 / len(z))
    if not np.isfinite(z).all():
        return f"{n - int(np.isfinite(z).sum())} of {n} values are not finite"
    share, sd, mean = float((np.abs(z) < 1.0).mean()), float(z.std(ddof=1)), float(z.mean())
    if abs(mean) >= 4.0 / math.sqrt(n):
        return f"biased: the mean of z is {mean:.2f} over {n} runs"
    if not 0.68 - (0.68 - LOWEST) * wider <= share <= 0.68 + (HIGHEST - 0.68) * wider:
        return f"{share:.0%} of the values are within one standard error"
    if not 1.0 - 0.15 * wider <= sd <= 1.0 + 0.2 * wider:
        return f"the standard deviation of z is {sd:.2f}"
    return f"|z| reaches {np.abs(z).max():.1f}" if np.abs(z).max() > 6.0 else None


class OffBeta:
    """A wrong kernel: it moves replicas at a β that is 2 % too high."""

    detailed_balance = True

    def __init__(self, kernel: Any, factor: float = 1.02) -> None:
        self.kernel, self.factor = kernel, factor

    def init(self, model: Any, n_replicas: int, key: Key) -> Any:
        return self.kernel.init(model, n_replicas, key)

    def start(self, model: Any, x: Tensor) -> Any:
        return self.kernel.start(model, x)

    def advance(self, model: Any, state: Any, beta: Tensor, n_sweeps: int, key: Key) -> tuple[Any, Info]:
        return self.kernel.advance(model, state, self.factor * beta, n_sweeps, key)

    def configuration(self, state: Any) -> Tensor:
        return self.kernel.configuration(state)

    def select(self, state: Any, index: Tensor) -> Any:
        return self.kernel.select(state, index)
