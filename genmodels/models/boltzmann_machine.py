"""Boltzmann machine, fully visible."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genmodels.couplings import Couplings
from genmodels.paths import base_rate_fields
from genmodels.protocols import Domain
from genmodels.streams import Key


class BoltzmannMachine(nn.Module):
    """E(x) = −Σ_{k<l} J_kl x_k x_l − Σ_k h_k x_k, x in ±1, every pair coupled.

    J_kl is the entry of `J` above the diagonal: nothing else of it enters the energy, so that there are no
    two values of one coupling and none of a site with itself, whatever a file says. Ackley, Hinton &
    Sejnowski 1985.
    """

    domain: Domain = "spin"
    weight_names = ("J",)

    def __init__(self, n_visible: int) -> None:
        """Start with all parameters 0: the uniform distribution."""
        super().__init__()
        self.n_visible = self.n_sites = n_visible
        self.J = nn.Parameter(torch.zeros(n_visible, n_visible))
        self.h = nn.Parameter(torch.zeros(n_visible))

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_visible": self.n_visible}

    def matrix(self) -> Tensor:
        """Return the symmetric matrix of the couplings, zero on its diagonal  # (site, site)."""
        upper = self.J.triu(1)
        return upper + upper.T

    def couplings(self) -> Couplings:
        """Return it as a quadratic energy with an edge between every two sites."""
        i, j = np.triu_indices(self.n_sites, 1)
        J, h = (parameter.detach().double().cpu().numpy() for parameter in (self.J, self.h))
        return Couplings(self.n_sites, i, j, J[i, j], h.copy())

    def energy(self, x: Tensor) -> Tensor:
        """Return E(x)  # (replica, site) -> (replica,), nats."""
        return -((x @ self.J.triu(1)) * x).sum(1) - x @ self.h

    def log_unnormalised(self, x: Tensor) -> Tensor:
        """Return −E(x): there are no hidden units  # (image, site) -> (image,), nats."""
        return -self.energy(x)

    def flip_costs(self, x: Tensor) -> Tensor:
        """Return E(x^i) − E(x) = 2x_i(Σ_j J_ij x_j + h_i) of every flip  # (image, site) twice, nats."""
        return 2.0 * x * (x @ self.matrix() + self.h)

    def statistics(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return ⟨x_k x_l⟩ above the diagonal, 0 elsewhere, and ⟨x⟩  # (image, site), (image,)."""
        if weights is None:
            return {"J": (x.T @ x / len(x)).triu(1), "h": x.mean(0)}
        return {"J": ((x * weights[:, None]).T @ x).triu(1), "h": weights @ x}

    def centred(
        self, difference: dict[str, Tensor], penalty: dict[str, Tensor], centres: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the ascent direction about fixed centres μ of x, in the plain parameters.

        With E = −½(x − μ)ᵀJ(x − μ) − h'ᵀx: ΔJ_kl = ⟨(x_k − μ_k)(x_l − μ_l)⟩_data − ⟨…⟩_model − decay and
        Δh = Δh' − ΔJ μ. Montavon & Müller 2012.
        """
        dh, mu = difference["h"], centres["h"]
        outer = torch.outer(mu, dh)
        dJ = (difference["J"] - outer - outer.T - penalty["J"]).triu(1)
        return {"J": dJ, "h": dh - (dJ + dJ.T) @ mu}

    @property
    def curvature_bound(self) -> float:
        """Return sup λ_max(Cov[(x_k x_l, x_k)]) = max_m m(N + 1 − m), the largest cut, fields being edges."""
        return float((self.n_sites + 1) ** 2 // 4)

    @torch.no_grad()
    def first_guess(self, x: Tensor, key: Key) -> None:
        """Give a machine whose couplings are all 0 the data's base rates  # (image, site)."""
        fields = base_rate_fields(x)
        if not bool(self.J.any()):
            self.h.copy_(fields)
