"""Langevin dynamics without detailed balance: pairs of replicas, coupled antisymmetrically."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.paths import device, draw_continuous_0, slope
from genmodels.protocols import Info
from genmodels.streams import Key


class CoupledLangevinState(NamedTuple):
    """Configurations and their energies; replicas 2k and 2k + 1 drive each other."""

    x: Tensor  # (replica, site), real
    energy: Tensor  # (replica,), nats at β = 1


@dataclass(frozen=True)
class CoupledLangevin:
    """Let replicas 1 = 2k and 2 = 2k + 1 drive each other round and round.

    dx_1 = [−∇U_1(x_1) − γ∇U_2(x_2)] dt + √2 dW_1,
    dx_2 = [−∇U_2(x_2) + γ∇U_1(x_1)] dt + √2 dW_2,  U_a = β_a E + E_0, in Euler–Maruyama steps.

    The driving terms carry no probability into or out of any place of exp(−U_1(x_1) − U_2(x_2)): it stays
    invariant, whatever β_1 and β_2 are, so that each of the pair is a replica in its own right with an energy
    and a β of its own, and both of them count. Near a minimum of curvature λ they turn: the eigenvalues of
    the drift are −λ(1 ± iγ), and where β_1 = β_2 the integrated autocorrelation time of x is 1 + γ² times
    shorter than that of `Langevin`. The last of an odd number of replicas goes alone.

    In equilibrium the two are independent; before it they are not. Swaps of β between replicas are exact,
    weights of single replicas (Jarzynski, population annealing) are not: take `Langevin` or `MALA` there.
    The error of finite steps is O(dt); steps are stable for λdt < 2/(1 + γ²). Noise is drawn on the
    device of the configurations. Ohzeki & Ichiki 2015.

    Attributes:
        dt: Size of a step; β is in U, so that curvatures λ are those of βE + E_0.
        n_steps: Steps a sweep; each moves all sites.
        gamma: γ, the strength of the driving; 0 is `Langevin`.

    Raises:
        InputError: a step that is not positive, or none; γ is not finite.
    """

    dt: float = 0.01
    n_steps: int = 10
    gamma: float = 2.0

    def __post_init__(self) -> None:
        """Refuse settings that lead nowhere."""
        if not 0.0 < self.dt < math.inf or self.n_steps < 1 or not math.isfinite(self.gamma):
            raise InputError(
                f"coupled Langevin: dt {self.dt}, n_steps {self.n_steps}, gamma {self.gamma}: "
                "give dt > 0, n_steps ≥ 1 and a finite gamma"
            )

    @property
    def detailed_balance(self) -> bool:
        """Return False: probability flows in circles."""
        return False

    def init(self, model: Any, n_replicas: int, key: Key) -> CoupledLangevinState:
        """Return independent replicas at β = 0, drawn from the reference.

        Raises:
            InputError: the model has no reference.
        """
        return self.start(model, draw_continuous_0(model, n_replicas, key.torch(device(model))))

    def start(self, model: Any, x: Tensor) -> CoupledLangevinState:
        """Return the state of given configurations  # (replica, site)."""
        with torch.no_grad():
            return CoupledLangevinState(x, model.energy(x))

    def advance(
        self, model: Any, state: CoupledLangevinState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[CoupledLangevinState, Info]:
        """Advance every replica by `n_sweeps` sweeps at beta (replica,) or (sweep, replica)."""
        x, generator = state.x, key.torch(state.x.device)
        for now in beta.to(x.device).expand(n_sweeps, len(x)):
            for _ in range(self.n_steps):
                _, gradient = slope(model, x, now)
                noise = torch.empty_like(x).normal_(generator=generator)
                x = x - self.dt * self._driven(gradient) + math.sqrt(2.0 * self.dt) * noise
        after = self.start(model, x)
        n_nonfinite = len(x) - int(after.energy.isfinite().sum())
        return after, Info(n_sweeps * self.n_steps * x.numel(), 1.0, n_nonfinite)

    def _driven(self, gradient: Tensor) -> Tensor:
        """Return g_1 + γg_2 and g_2 − γg_1 for the gradients of each pair  # (replica, site)."""
        driven, paired = gradient.clone(), len(gradient) - len(gradient) % 2
        driven[0:paired:2] += self.gamma * gradient[1:paired:2]
        driven[1:paired:2] -= self.gamma * gradient[0:paired:2]
        return driven

    def configuration(self, state: CoupledLangevinState) -> Tensor:
        """Return the configurations  # (replica, site)."""
        return state.x

    def select(self, state: CoupledLangevinState, index: Tensor) -> CoupledLangevinState:
        """Return the state whose replica r is `state`'s replica index[r]; pairs go by the new places."""
        return CoupledLangevinState(state.x[index], state.energy[index])
