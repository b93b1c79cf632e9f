"""Distributions of independent pixels, exp(−E_0), which energies tilt: q(x) ∝ exp(−E(x) − E_0(x))."""

import math

import torch
from torch import Tensor, nn

from genmodels.paths import base_rate_fields, draw_spins, log_z_of_fields

_FLOOR = 1e-2  # least deviation of a pixel, in the spread of all: constant pixels have none


class IndependentSpins(nn.Module):
    """E_0(x) = −bᵀx, x in ±1."""

    fields: Tensor

    def __init__(self, n_sites: int) -> None:
        """Start uniform."""
        super().__init__()
        self.register_buffer("fields", torch.zeros(n_sites))

    @property
    def log_z(self) -> float:
        """Return Σ log 2cosh b in nats."""
        return log_z_of_fields(self.fields)

    def energy(self, x: Tensor) -> Tensor:
        """Return E_0(x)  # (image, site) -> (image,), nats."""
        return -(x @ self.fields.to(x.dtype))

    def features(self, x: Tensor) -> Tensor:
        """Return what a network is given to see  # (image, site) twice."""
        return x

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n independent draws  # (n, site), ±1."""
        return draw_spins(self.fields, n, generator)

    def learn(self, x: Tensor) -> None:
        """Take over the means of the data, if it is still the first  # (image, site)."""
        fields = base_rate_fields(x)
        if not bool(self.fields.any()):
            self.fields.copy_(fields)


class IndependentNormals(nn.Module):
    """E_0(x) = ½ Σ_i (x_i − μ_i)²/s_i², x real."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, n_sites: int) -> None:
        """Start as N(0, I)."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_sites))
        self.register_buffer("deviation", torch.ones(n_sites))

    @property
    def log_z(self) -> float:
        """Return Σ log s_i + (N/2) log 2π in nats."""
        return float(self.deviation.double().log().sum()) + 0.5 * len(self.mean) * math.log(2.0 * math.pi)

    def energy(self, x: Tensor) -> Tensor:
        """Return E_0(x)  # (image, site) -> (image,), nats."""
        return 0.5 * self.features(x).square().sum(1)

    def features(self, x: Tensor) -> Tensor:
        """Return x in units of its deviations about its means  # (image, site) twice."""
        return (x - self.mean.to(x.dtype)) / self.deviation.to(x.dtype)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n independent draws  # (n, site)."""
        noise = torch.randn(n, len(self.mean), generator=generator, device=generator.device)
        return self.mean.float() + self.deviation.float() * noise

    def learn(self, x: Tensor) -> None:
        """Take over means and (floored) deviations of the data, if it is still the first  # (image, site)."""
        if not bool(self.mean.any()):
            deviation = x.std(0, correction=0)
            spread = float(deviation.square().mean().sqrt()) or 1.0
            self.mean.copy_(x.mean(0))
            self.deviation.copy_(deviation.clamp(min=_FLOOR * spread))


BASES: dict[str, type[IndependentSpins] | type[IndependentNormals]] = {
    "spin": IndependentSpins,
    "grey": IndependentNormals,
}
