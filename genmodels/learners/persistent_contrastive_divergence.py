"""Persistent contrastive divergence for restricted Boltzmann machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.protocols import Kernel
from genmodels.streams import Key

if TYPE_CHECKING:
    from genmodels.models.rbm import RBM

_WEIGHT = 0.01  # standard deviation of the first W: enough to tell the hidden units apart
_SLIDE = 0.01  # share of the newest batch in the running centres


class Moments(NamedTuple):
    """Averages over data or over model samples."""

    xz: Tensor  # ⟨x zᵀ⟩ (visible, hidden)
    x: Tensor  # ⟨x⟩ (visible,)
    z: Tensor  # ⟨z⟩ (hidden,)


class Chains(NamedTuple):
    """The persistent chains and the running centres."""

    n_steps: int
    particles: Any  # the kernel's state; None before the first step
    x_centre: Tensor  # (visible,)
    z_centre: Tensor  # (hidden,)


def moments(model: RBM, x: Tensor, weights: Tensor | None = None) -> Moments:
    """Return the averages with z summed out, ⟨z⟩ = tanh(Wᵀx + c)  # (image, visible).

    Args:
        model: The machine.
        x: Visible configurations in ±1.
        weights: Weight of each, summing to 1; equal if None  # (image,)
    """
    z = torch.tanh(model.field(1, x))
    if weights is None:
        return Moments(x.T @ z / len(x), x.mean(0), z.mean(0))
    weighted = x * weights[:, None]
    return Moments(weighted.T @ z, weighted.sum(0), weights @ z)


def ascent(
    data: Moments, fantasy: Moments, x_centre: Tensor, z_centre: Tensor, decay: Tensor | float = 0.0
) -> Moments:
    """Return the centred ascent direction of the penalised log-likelihood, as the changes of (W, b, c).

    With E = −((x − μ)ᵀW(z − λ) + b'ᵀx + c'ᵀz) and fixed centres μ, λ:
    ΔW = ⟨(x − μ)(z − λ)ᵀ⟩_data − ⟨…⟩_model − decay, Δb' and Δc' the differences of ⟨x⟩ and ⟨z⟩; in the plain
    parameters Δb = Δb' − ΔW λ, Δc = Δc' − ΔWᵀ μ. With both centres 0 it is the plain gradient. All of ΔW
    moves the biases: W that decayed at fixed b and c would come to rest where ⟨x⟩_model is not ⟨x⟩_data.
    Montavon & Müller 2012; Melchior, Fischer & Wiskott 2016.

    Args:
        data: Averages over the data.
        fantasy: Averages under the model.
        x_centre: μ (visible,)
        z_centre: λ (hidden,)
        decay: The gradient of a penalty on W, as weight_decay · W of ½ weight_decay |W|²  # (visible, hidden)
    """
    dx, dz = data.x - fantasy.x, data.z - fantasy.z
    dw = data.xz - fantasy.xz - torch.outer(x_centre, dz) - torch.outer(dx, z_centre) - decay
    return Moments(dw, dx - dw @ z_centre, dz - dw.T @ x_centre)


@dataclass(frozen=True)
class PersistentContrastiveDivergence:
    """Stochastic maximum likelihood: the model's averages come from chains that are never restarted.

    Tieleman 2008. A machine whose W is zero is untrained: its visible biases are set to the first batch's
    base rates, its W to small random numbers. Rates of learning refer to ±1 units, where W is a quarter of
    the W of 0/1 units.

    Attributes:
        n_chains: Persistent chains.
        n_sweeps: Sweeps of every chain before each step.
        learning_rate: η of the first step.
        weight_decay: W loses η · weight_decay · W a step.
        centred: Whether the gradient is centred at running means of the data's x and z.
        n_steps: η falls linearly to 0 over so many steps; constant if None.
        kernel: What moves the chains.
    """

    n_chains: int = 500
    n_sweeps: int = 5
    learning_rate: float = 0.02
    weight_decay: float = 0.001
    centred: bool = True
    n_steps: int | None = None
    kernel: Kernel[Any] = field(default_factory=BlockGibbs)

    def init(self, model: RBM) -> Chains:
        """Return the state before the first step: the chains start with it."""
        return Chains(0, None, torch.zeros_like(model.b.detach()), torch.zeros_like(model.c.detach()))

    @torch.no_grad()
    def step(self, model: RBM, state: Chains, batch: Tensor, key: Key) -> tuple[Chains, dict[str, float]]:
        """Advance the chains and change W, b, c once  # batch (image, visible) in ±1.

        Metrics: `moment_mismatch`, the root mean square of ⟨x⟩_data − ⟨x⟩_model; `reconstruction_error`, the
        mean of (x − ⟨x⟩_{⟨z⟩})²/4, the share of pixels lost by one mean-field step; `learning_rate`.
        """
        if state.n_steps == 0:
            state = self._start(model, state, batch, key.child("start"))
        beta = torch.ones(self.n_chains, device=batch.device)
        particles, _ = self.kernel.advance(model, state.particles, beta, self.n_sweeps, key)
        data = moments(model, batch)
        fantasy = moments(model, self.kernel.configuration(particles)[:, model.blocks[0]])
        x_centre, z_centre = self._centres(state, data)
        change = ascent(data, fantasy, x_centre, z_centre, self.weight_decay * model.W)
        back = torch.tanh(model.field(0, torch.tanh(model.field(1, batch))))
        rate = self._rate(state.n_steps)
        model.W.add_(change.xz, alpha=rate)
        model.b.add_(change.x, alpha=rate)
        model.c.add_(change.z, alpha=rate)
        metrics = {
            "moment_mismatch": float((data.x - fantasy.x).square().mean().sqrt()),
            "reconstruction_error": float((batch - back).square().mean()) / 4.0,
            "learning_rate": rate,
        }
        return Chains(state.n_steps + 1, particles, x_centre, z_centre), metrics

    def _start(self, model: RBM, state: Chains, batch: Tensor, key: Key) -> Chains:
        if not bool((batch.abs() == 1).all()):
            raise InputError("this model takes spins: map binary pixels v to 2v - 1 before training it")
        if not bool(model.W.any()):
            # One image more of either value keeps the bias of a constant pixel finite.
            model.b.copy_(torch.atanh(batch.sum(0) / (len(batch) + 2.0)))
            noise = torch.randn(model.W.shape, generator=key.child("W").torch(), dtype=model.W.dtype)
            model.W.copy_(_WEIGHT * noise)
        return state._replace(particles=self.kernel.init(model, self.n_chains, key.child("chains")))

    def _rate(self, step: int) -> float:
        if self.n_steps is None:
            return self.learning_rate
        return self.learning_rate * max(0.0, 1.0 - step / self.n_steps)

    def _centres(self, state: Chains, data: Moments) -> tuple[Tensor, Tensor]:
        if not self.centred:
            return state.x_centre, state.z_centre
        slide = 1.0 if state.n_steps == 0 else _SLIDE
        return torch.lerp(state.x_centre, data.x, slide), torch.lerp(state.z_centre, data.z, slide)

    def tensors(self, state: Chains) -> dict[str, Tensor]:
        """Return the state as named tensors; the kernel's state has to be a NamedTuple of tensors."""
        chains = {f"chains.{name}": tensor for name, tensor in state.particles._asdict().items()}
        centres = {"x_centre": state.x_centre, "z_centre": state.z_centre}
        return {"n_steps": torch.tensor(state.n_steps)} | centres | chains

    def restore(self, model: RBM, tensors: dict[str, Tensor]) -> Chains:
        """Return the state that `tensors` wrote."""
        blank = self.kernel.init(model, self.n_chains, Key(0, "restore"))
        particles = blank._replace(**{name: tensors[f"chains.{name}"] for name in blank._fields})
        return Chains(int(tensors["n_steps"]), particles, tensors["x_centre"], tensors["z_centre"])
