"""Single flips of spins, proposed where the gradient of a differentiable energy points."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.paths import device, draw_0, slope
from genmodels.protocols import Info
from genmodels.streams import Key


class GibbsWithGradientsState(NamedTuple):
    """Configurations and their energies."""

    x: Tensor  # (replica, site), ±1
    energy: Tensor  # (replica,), nats at β = 1


def log_proposal(x: Tensor, gradient: Tensor) -> Tensor:
    """Return log q(i|x) of proposing to flip i, q(i|x) ∝ exp(x_i ∂_iU(x))  # (replica, site), nats.

    To first order a flip changes −U by 2x_i ∂_iU, of which q has half.
    """
    return (x * gradient).log_softmax(1)


def transition(model: Any, x: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Return q(i|x), and the probability that the proposed flip of i is accepted  # (replica, site) twice.

    The readable twin of one proposal of `GibbsWithGradients`:
    α_i = min(1, exp(U_β(x) − U_β(x^i)) q(i|x^i)/q(i|x)), x^i being x with site i flipped.

    Args:
        model: With an energy that autograd can differentiate.
        x: Configurations  # (replica, site), ±1
        beta: Inverse temperatures  # (replica,)
    """
    u, gradient = slope(model, x, beta)
    forth = log_proposal(x, gradient)
    acceptance = torch.zeros_like(forth)
    for i in range(x.shape[1]):
        flipped = x.clone()
        flipped[:, i] *= -1.0
        u_flipped, gradient = slope(model, flipped, beta)
        back = log_proposal(flipped, gradient)
        acceptance[:, i] = (u - u_flipped + back[:, i] - forth[:, i]).clamp(max=0.0).exp()
    return forth.exp(), acceptance


@dataclass(frozen=True)
class GibbsWithGradients:
    """Propose to flip i with probability q(i|x) ∝ exp(x_i ∂_iU_β(x)), U_β = βE + E_0; accept or refuse.

    Accepted with probability min(1, exp(U(x) − U(x')) q(i|x')/q(i|x)) it leaves exp(−U_β) invariant for any
    energy, a neural network's too, as long as autograd can differentiate it. A proposal takes one evaluation
    of the network and its gradient, however many sites there are; a sweep is n_sites proposals. At β = 0 all
    of them are accepted and the parity of x is periodic: draw states at β = 0 independently. A proposal whose
    potential is NaN is refused and counted as not finite. Random numbers are drawn on the device of the
    configurations. Grathwohl et al. 2021.
    """

    @property
    def detailed_balance(self) -> bool:
        """Return True: a proposal is accepted or refused by Metropolis and Hastings's rule."""
        return True

    def init(self, model: Any, n_replicas: int, key: Key) -> GibbsWithGradientsState:
        """Return independent replicas at β = 0, drawn from the reference."""
        return self.start(model, draw_0(model, n_replicas, key.torch(device(model))))

    def start(self, model: Any, x: Tensor) -> GibbsWithGradientsState:
        """Return the state of given configurations  # (replica, site), ±1."""
        with torch.no_grad():
            return GibbsWithGradientsState(x, model.energy(x))

    def advance(
        self, model: Any, state: GibbsWithGradientsState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[GibbsWithGradientsState, Info]:
        """Advance every replica by `n_sweeps` sweeps at beta (replica,) or (sweep, replica)."""
        x, generator = state.x, key.torch(state.x.device)
        accepted = torch.zeros((), dtype=torch.float64, device=x.device)
        n_nan = torch.zeros((), dtype=torch.int64, device=x.device)
        for now in beta.to(x.device).expand(n_sweeps, len(x)):
            u, gradient = slope(model, x, now)
            for _ in range(x.shape[1]):
                forth = log_proposal(x, gradient)
                # The first of independent exponential clocks with rates q rings at i with probability q_i.
                clocks = torch.empty_like(forth).exponential_(generator=generator)
                i = (forth - clocks.log()).argmax(1, keepdim=True)
                to = x.scatter(1, i, -x.gather(1, i))
                u_to, gradient_to = slope(model, to, now)
                ratio = (log_proposal(to, gradient_to) - forth).gather(1, i)[:, 0]
                log_ratio = u - u_to + ratio
                accept = log_ratio > -torch.empty_like(u).exponential_(generator=generator)
                x = torch.where(accept[:, None], to, x)
                u = torch.where(accept, u_to, u)
                gradient = torch.where(accept[:, None], gradient_to, gradient)
                accepted += log_ratio.nan_to_num(nan=-math.inf).clamp(max=0.0).exp().sum()
                n_nan += u_to.isnan().sum()
        after = self.start(model, x)
        n_updates = n_sweeps * x.numel()
        n_nonfinite = int(n_nan) + len(x) - int(after.energy.isfinite().sum())
        return after, Info(n_updates, float(accepted) / max(1, n_updates), n_nonfinite)

    def configuration(self, state: GibbsWithGradientsState) -> Tensor:
        """Return the configurations  # (replica, site)."""
        return state.x

    def select(self, state: GibbsWithGradientsState, index: Tensor) -> GibbsWithGradientsState:
        """Return the state whose replica r is `state`'s replica index[r]."""
        return GibbsWithGradientsState(state.x[index], state.energy[index])
