"""Paths of distributions from a reference, sampled and summed exactly, to a model.

P_β(x) ∝ exp(−βE(x) − E_0(x)), 0 ≤ β: the reference ∝ exp(−E_0) at β = 0. A model of spins without a
reference of its own starts from the uniform distribution, E_0 = 0. The classes below wrap a model such that
at β = 1 it is itself and at β = 0 something nearer to it than the uniform distribution; E(x) is then
what β multiplies, so that weights, swaps and work are the same expressions on every path.
"""

import dataclasses
import math
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from genmodels.couplings import Bipartite, Couplings
from genmodels.errors import InputError
from genmodels.protocols import HasBipartite, HasReference


def log_z_0(model: Any) -> float:
    """Return log Σ_x exp(−E_0(x)) in nats, log Z of the path at β = 0: n_sites log 2 if it is uniform."""
    return model.log_z_reference if isinstance(model, HasReference) else model.n_sites * math.log(2.0)


def draw_0(model: Any, n: int, generator: torch.Generator) -> Tensor:
    """Return n independent draws at β = 0  # (n, site), float32, on the generator's device."""
    if isinstance(model, HasReference):
        return model.draw_reference(n, generator)
    up = torch.randint(0, 2, (n, model.n_sites), generator=generator, device=generator.device)
    return up.float() * 2.0 - 1.0


def draw_continuous_0(model: Any, n: int, generator: torch.Generator) -> Tensor:
    """Return n independent draws at β = 0 of continuous x  # (n, site), float32, on the generator's device.

    Raises:
        InputError: the model has no reference: the uniform distribution of real numbers is none.
    """
    if not isinstance(model, HasReference):
        raise InputError(
            f"{type(model).__name__}: no reference to draw continuous x from at β = 0: "
            "wrap the model in genmodels.paths.StandardNormal"
        )
    return model.draw_reference(n, generator)


def potential(model: Any, x: Tensor, beta: Tensor) -> Tensor:
    """Return U_β(x) = βE(x) + E_0(x), −log of the path's density  # (replica, site) -> (replica,)."""
    energy: Tensor = model.energy(x)
    return beta * energy + model.reference_energy(x) if isinstance(model, HasReference) else beta * energy


def slope(model: Any, x: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Return U_β(x) and its gradient  # (replica, site) -> (replica,), (replica, site)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        u = potential(model, x, beta)
        (gradient,) = torch.autograd.grad(u.sum(), x)
    return u.detach(), gradient


def device(model: Any) -> torch.device:
    """Return where the tensors of a model, wrapped or not, are; the CPU if it has none."""
    inner = getattr(model, "model", model)
    tensors = chain(inner.parameters(), inner.buffers()) if isinstance(inner, nn.Module) else ()
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def base_rate_fields(x: Tensor) -> Tensor:
    """Return b for which spins with P(x) ∝ exp(bᵀx) have the means of the data  # (image, site) -> (site,).

    One image more of either value keeps the field of a constant pixel finite.

    Raises:
        InputError: x are not spins.
    """
    if not bool((x.abs() == 1).all()):
        raise InputError("this model takes spins: map binary pixels v to 2v - 1 before training it")
    return torch.atanh(x.sum(0) / (len(x) + 2.0))


def log_z_of_fields(fields: Tensor) -> float:
    """Return log Σ_x exp(bᵀx) = Σ_i log 2cosh b_i of independent spins, nats  # (site,)."""
    return float((2.0 * torch.cosh(fields.double())).log().sum())


def draw_spins(fields: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return n draws of P(x) ∝ exp(bᵀx), ±1, on the generator's device  # (site,) -> (n, site)."""
    up = torch.sigmoid(2.0 * fields.float()).to(generator.device)
    drawn = torch.rand(n, len(up), generator=generator, device=generator.device)
    return (drawn < up).float() * 2.0 - 1.0


class BaseRate:
    """From independent spins with fields b, P_0(x) ∝ exp(bᵀx), to a model of spins, itself at β = 1.

    E(x) = E_model(x) + bᵀx and E_0(x) = −bᵀx. With b the fields of the data's base rates it starts nearer to
    a trained model than the uniform distribution does. Salakhutdinov & Murray 2008.
    """

    def __init__(self, model: Any, fields: Tensor) -> None:
        """Wrap `model`; `fields` are b  # (site,)."""
        self.model, self.fields, self.n_sites = model, fields.detach(), model.n_sites
        self.log_z_reference = log_z_of_fields(self.fields)
        if hasattr(model, "blocks"):
            self.blocks = model.blocks
        if isinstance(model, HasBipartite):
            self.bipartite = self._bipartite

    def energy(self, x: Tensor) -> Tensor:
        """Return E_model(x) + bᵀx  # (replica, site) -> (replica,), nats."""
        energy: Tensor = self.model.energy(x)
        return energy + x @ self.fields.to(x.dtype)

    def reference_energy(self, x: Tensor) -> Tensor:
        """Return −bᵀx  # (replica, site) -> (replica,), nats."""
        return -(x @ self.fields.to(x.dtype))

    def draw_reference(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n independent draws at β = 0  # (n, site), ±1."""
        return draw_spins(self.fields, n, generator)

    def conditional(self, block: int, x: Tensor, beta: Tensor) -> Tensor:
        """Return P_β(+1 | rest) of the sites of `block`: logit P = that of the model + 2(1 − β)b."""
        own = self.model.conditional(block, x, beta).logit()
        b = self.fields[self.blocks[block]].to(x.dtype)
        return torch.sigmoid(own + 2.0 * (1.0 - beta[:, None]) * b)

    def _bipartite(self) -> Bipartite:
        W, h, base = self.model.bipartite()
        b = self.fields.to(h)
        return Bipartite(W, h - b, base + b)

    def couplings(self) -> Couplings:
        """Return the model's couplings with h − b and the base fields b."""
        own: Couplings = self.model.couplings()
        b = self.fields.double().cpu().numpy()
        return dataclasses.replace(own, h=own.h - b, base=own.base + b)


class StandardNormal:
    """From N(0, I) to a model of continuous x, itself at β = 1: E = E_model − ½|x|², E_0 = ½|x|²."""

    def __init__(self, model: Any) -> None:
        """Wrap `model`, which has n_sites and energy."""
        self.model, self.n_sites = model, model.n_sites
        self.log_z_reference = 0.5 * self.n_sites * math.log(2.0 * math.pi)

    def energy(self, x: Tensor) -> Tensor:
        """Return E_model(x) − ½|x|²  # (replica, site) -> (replica,), nats."""
        energy: Tensor = self.model.energy(x)
        return energy - self.reference_energy(x)

    def reference_energy(self, x: Tensor) -> Tensor:
        """Return ½|x|²  # (replica, site) -> (replica,), nats."""
        return 0.5 * x.square().sum(1)

    def draw_reference(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n independent draws at β = 0  # (n, site)."""
        return torch.randn(n, self.n_sites, generator=generator, device=generator.device)
