"""The Metropolis-adjusted Langevin algorithm."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.paths import device, draw_continuous_0, slope
from genmodels.protocols import Info
from genmodels.streams import Key


class MALAState(NamedTuple):
    """Configurations and their energies."""

    x: Tensor  # (replica, site), real
    energy: Tensor  # (replica,), nats at β = 1


def log_proposal(x: Tensor, gradient: Tensor, to: Tensor, dt: float) -> Tensor:
    """Return log q(to|x) = −|to − x + ∇U(x)dt|²/(4dt) + constant  # (replica, site) -> (replica,), nats."""
    return -(to - x + dt * gradient).square().sum(1) / (4.0 * dt)


@dataclass(frozen=True)
class MALA:
    """Propose a Langevin step x' = x − ∇U_β(x) dt + √(2dt) ξ, U_β = βE + E_0, and accept or refuse it.

    Accepted with probability min(1, exp(U(x) − U(x')) q(x|x')/q(x'|x)), q(x'|x) = N(x'; x − ∇U(x)dt, 2dt I),
    it leaves exp(−U_β) invariant at any dt. In many dimensions the best dt accepts 0.57 of the proposals;
    where λdt > 2, as far out in a potential steeper than a parabola, hardly any is accepted. One whose
    potential is NaN is refused and counted as not finite. Noise is drawn on the device of the configurations.
    Rossky, Doll & Friedman 1978; Roberts & Tweedie 1996; Roberts & Rosenthal 1998.

    Attributes:
        dt: Size of a step; β is in U, so that curvatures λ are those of βE + E_0.
        n_steps: Proposals a sweep; each moves all sites.

    Raises:
        InputError: a step that is not positive, or none.
    """

    dt: float = 0.1
    n_steps: int = 10

    def __post_init__(self) -> None:
        """Refuse settings that lead nowhere."""
        if not 0.0 < self.dt < math.inf or self.n_steps < 1:
            raise InputError(f"MALA: dt {self.dt}, n_steps {self.n_steps}: give dt > 0 and n_steps ≥ 1")

    @property
    def detailed_balance(self) -> bool:
        """Return True: a proposal is accepted or refused by Metropolis and Hastings's rule."""
        return True

    def init(self, model: Any, n_replicas: int, key: Key) -> MALAState:
        """Return independent replicas at β = 0, drawn from the reference.

        Raises:
            InputError: the model has no reference.
        """
        return self.start(model, draw_continuous_0(model, n_replicas, key.torch(device(model))))

    def start(self, model: Any, x: Tensor) -> MALAState:
        """Return the state of given configurations  # (replica, site)."""
        with torch.no_grad():
            return MALAState(x, model.energy(x))

    def advance(
        self, model: Any, state: MALAState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[MALAState, Info]:
        """Advance every replica by `n_sweeps` sweeps at beta (replica,) or (sweep, replica)."""
        x, generator = state.x, key.torch(state.x.device)
        accepted = torch.zeros((), dtype=torch.float64, device=x.device)
        n_nan = torch.zeros((), dtype=torch.int64, device=x.device)
        for now in beta.to(x.device).expand(n_sweeps, len(x)):
            u, gradient = slope(model, x, now)
            for _ in range(self.n_steps):
                noise = torch.empty_like(x).normal_(generator=generator)
                to = x - self.dt * gradient + math.sqrt(2.0 * self.dt) * noise
                u_to, gradient_to = slope(model, to, now)
                log_ratio = u - u_to + log_proposal(to, gradient_to, x, self.dt)
                log_ratio -= log_proposal(x, gradient, to, self.dt)
                accept = log_ratio > -torch.empty_like(u).exponential_(generator=generator)
                x = torch.where(accept[:, None], to, x)
                u = torch.where(accept, u_to, u)
                gradient = torch.where(accept[:, None], gradient_to, gradient)
                accepted += log_ratio.nan_to_num(nan=-math.inf).clamp(max=0.0).exp().sum()
                n_nan += u_to.isnan().sum()
        after = self.start(model, x)
        n_proposals = max(1, n_sweeps * self.n_steps * len(x))
        n_nonfinite = int(n_nan) + len(x) - int(after.energy.isfinite().sum())
        info = Info(n_sweeps * self.n_steps * x.numel(), float(accepted) / n_proposals, n_nonfinite)
        return after, info

    def configuration(self, state: MALAState) -> Tensor:
        """Return the configurations  # (replica, site)."""
        return state.x

    def select(self, state: MALAState, index: Tensor) -> MALAState:
        """Return the state whose replica r is `state`'s replica index[r]."""
        return MALAState(state.x[index], state.energy[index])
