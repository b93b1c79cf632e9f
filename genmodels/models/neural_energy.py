"""Energy-based model: a neural network says how likely an image is, but for log Z."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks.bases import BASES
from genmodels.networks.mlp import mlp
from genmodels.protocols import Domain
from genmodels.streams import Key


class NeuralEnergy(nn.Module):
    """q(x) ∝ exp(−E(x)) q_0(x), E a perceptron, q_0 independent pixels with the data's means.

    Pixels are spins, sampled by Gibbs-with-gradients, or real numbers (domain "grey"), by MALA or Langevin.
    The base q_0 is the reference at β = 0, where every path to the model starts. The network grows linearly:
    with real pixels the normal q_0 makes q normalisable whatever the weights. LeCun, Chopra, Hadsell,
    Ranzato & Huang 2006; Xie, Lu, Zhu & Wu 2016.

    Args:
        n_visible: Number of pixels.
        hidden: Units of each hidden layer.
        domain: "spin" or "grey".

    Raises:
        InputError: another domain.
    """

    def __init__(self, n_visible: int, hidden: Sequence[int], domain: Domain = "spin") -> None:
        """Start with the network's own first weights, and a uniform or standard normal base."""
        super().__init__()
        if domain not in BASES:
            raise InputError(f"domain: '{domain}' is none of a neural energy, give one of {', '.join(BASES)}")
        self.n_visible = self.n_sites = n_visible
        self.hidden, self.domain = list(hidden), domain
        self.base = BASES[domain](n_visible)
        self.network = mlp([n_visible, *hidden, 1])

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_visible": self.n_visible, "hidden": self.hidden, "domain": self.domain}

    def energy(self, x: Tensor) -> Tensor:
        """Return E(x), the network's output  # (replica, site) -> (replica,), nats."""
        found: Tensor = self.network(self.base.features(x))[:, 0]
        return found

    def reference_energy(self, x: Tensor) -> Tensor:
        """Return −log of the base, but for its norm  # (replica, site) -> (replica,), nats."""
        return self.base.energy(x)

    @property
    def log_z_reference(self) -> float:
        """The base's log norm, nats."""
        return self.base.log_z

    def draw_reference(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n independent draws of the base  # (n, site)."""
        return self.base.draw(n, generator)

    def log_unnormalised(self, x: Tensor) -> Tensor:
        """Return −E(x) − E_0(x)  # (image, site) -> (image,), nats."""
        return -self.energy(x) - self.base.energy(x)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The matrices of the network."""
        return tuple(name for name, parameter in self.named_parameters() if parameter.ndim > 1)

    def statistics(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return −⟨∂E/∂θ⟩ by automatic differentiation  # (image, site), (image,)."""
        names, parameters = zip(*self.named_parameters(), strict=True)
        with torch.enable_grad():
            energy = self.energy(x)
            mean = energy.mean() if weights is None else weights @ energy
            found = torch.autograd.grad(-mean, parameters)
        return dict(zip(names, found, strict=True))

    @torch.no_grad()
    def first_guess(self, x: Tensor, key: Key) -> None:
        """Give the base the data's means, if it has none yet  # (image, site)."""
        self.base.learn(x)
