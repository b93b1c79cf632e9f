"""Langevin dynamics, unadjusted."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.paths import device, draw_continuous_0, slope
from genmodels.protocols import Info
from genmodels.streams import Key


class LangevinState(NamedTuple):
    """Configurations and their energies."""

    x: Tensor  # (replica, site), real
    energy: Tensor  # (replica,), nats at β = 1


@dataclass(frozen=True)
class Langevin:
    """Step downhill and add noise: x ← x − ∇U_β(x) dt + √(2dt) ξ, ξ ~ N(0, I), U_β = βE + E_0.

    The Euler–Maruyama scheme of dx = −∇U_β dt + √2 dW. It leaves exp(−U_β) invariant up to an error O(dt): a
    direction of curvature λ gets the variance (1/λ)/(1 − λdt/2), and diverges for λdt > 2. `MALA` has no such
    error. Noise is drawn on the device of the configurations. Parisi 1981; Roberts & Tweedie 1996.

    Attributes:
        dt: Size of a step; β is in U, so that curvatures λ are those of βE + E_0.
        n_steps: Steps a sweep; each moves all sites.

    Raises:
        InputError: a step that is not positive, or none.
    """

    dt: float = 0.01
    n_steps: int = 10

    def __post_init__(self) -> None:
        """Refuse settings that lead nowhere."""
        if not 0.0 < self.dt < math.inf or self.n_steps < 1:
            raise InputError(f"Langevin: dt {self.dt}, n_steps {self.n_steps}: give dt > 0 and n_steps ≥ 1")

    @property
    def detailed_balance(self) -> bool:
        """Return False: at finite dt neither it nor balance holds exactly."""
        return False

    def init(self, model: Any, n_replicas: int, key: Key) -> LangevinState:
        """Return independent replicas at β = 0, drawn from the reference.

        Raises:
            InputError: the model has no reference.
        """
        return self.start(model, draw_continuous_0(model, n_replicas, key.torch(device(model))))

    def start(self, model: Any, x: Tensor) -> LangevinState:
        """Return the state of given configurations  # (replica, site)."""
        with torch.no_grad():
            return LangevinState(x, model.energy(x))

    def advance(
        self, model: Any, state: LangevinState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[LangevinState, Info]:
        """Advance every replica by `n_sweeps` sweeps at beta (replica,) or (sweep, replica)."""
        x, generator = state.x, key.torch(state.x.device)
        for now in beta.to(x.device).expand(n_sweeps, len(x)):
            for _ in range(self.n_steps):
                _, gradient = slope(model, x, now)
                noise = torch.empty_like(x).normal_(generator=generator)
                x = x - self.dt * gradient + math.sqrt(2.0 * self.dt) * noise
        after = self.start(model, x)
        n_nonfinite = len(x) - int(after.energy.isfinite().sum())
        return after, Info(n_sweeps * self.n_steps * x.numel(), 1.0, n_nonfinite)

    def configuration(self, state: LangevinState) -> Tensor:
        """Return the configurations  # (replica, site)."""
        return state.x

    def select(self, state: LangevinState, index: Tensor) -> LangevinState:
        """Return the state whose replica r is `state`'s replica index[r]."""
        return LangevinState(state.x[index], state.energy[index])
