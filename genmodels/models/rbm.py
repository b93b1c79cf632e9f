"""Restricted Boltzmann machine."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genmodels.compiled import bipartite, contrastive
from genmodels.compiled.counter import keys
from genmodels.couplings import Bipartite, Couplings
from genmodels.paths import base_rate_fields
from genmodels.products import product
from genmodels.protocols import Chained, Contrasted, Domain, Pace, Stepped
from genmodels.streams import Key

_WEIGHT = 0.01  # standard deviation of the first W: enough to tell the hidden units apart


def _log_2cosh(u: Tensor) -> Tensor:
    return torch.logaddexp(u, -u)


class RBM(nn.Module):
    """q(x, z) ∝ exp(xᵀWz + bᵀx + cᵀz), visible x and hidden z in ±1.

    A configuration is x and z side by side, (replica, n_visible + n_hidden). Given the other side all units
    are independent: P_β(z_l = +1 | x) = sigmoid(2βν_l), ν = Wᵀx + c. Smolensky 1986; Hinton 2002.
    """

    domain: Domain = "spin"
    weight_names = ("W",)

    def __init__(self, n_visible: int, n_hidden: int) -> None:
        """Start with all parameters 0: the uniform distribution."""
        super().__init__()
        self.n_visible, self.n_hidden = n_visible, n_hidden
        self.n_sites = n_visible + n_hidden
        self.blocks = (slice(0, n_visible), slice(n_visible, self.n_sites))
        self.W = nn.Parameter(torch.zeros(n_visible, n_hidden))
        self.b = nn.Parameter(torch.zeros(n_visible))
        self.c = nn.Parameter(torch.zeros(n_hidden))

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_visible": self.n_visible, "n_hidden": self.n_hidden}

    def couplings(self) -> Couplings:
        """Return it as a quadratic energy of all sites: an edge from each x_i to each z_l, fields (b, c)."""
        W, b, c = (p.detach().double().cpu().numpy().copy() for p in (self.W, self.b, self.c))
        i, j = np.indices(W.shape).reshape(2, -1)
        return Couplings(self.n_sites, i, j + self.n_visible, W.ravel(), np.concatenate([b, c]))

    def filters(self) -> Tensor:
        """Return the weights of each hidden unit  # (hidden, visible)."""
        return self.W.detach().T

    def bipartite(self) -> Bipartite:
        """Return W and the fields (b, c)."""
        h = torch.cat([self.b.detach(), self.c.detach()])
        return Bipartite(self.W.detach(), h, torch.zeros_like(h))

    def energy(self, x: Tensor) -> Tensor:
        """Return E(x, z) = −(xᵀWz + bᵀx + cᵀz)  # (replica, site) -> (replica,), nats."""
        visible, hidden = x[:, self.blocks[0]], x[:, self.blocks[1]]
        return -((visible @ self.W * hidden).sum(1) + visible @ self.b + hidden @ self.c)

    def field(self, block: int, other: Tensor) -> Tensor:
        """Return the field on block 0 (x, given z) or 1 (z, given x)  # (replica, sites of the block)."""
        return other @ self.W.T + self.b if block == 0 else other @ self.W + self.c

    def conditional(self, block: int, x: Tensor, beta: Tensor) -> Tensor:
        """Return P_β(+1 | the other block) for each site of `block`  # (replica, sites of the block)."""
        return torch.sigmoid(2.0 * beta[:, None] * self.field(block, x[:, self.blocks[1 - block]]))

    def log_marginal(self, block: int, side: Tensor, beta: float = 1.0) -> Tensor:
        """Return log Σ exp(−βE) over the block other than `block`, given its values `side`.

        For block 0: β bᵀx + Σ_l log 2cosh(β ν_l)  # (replica, sites of the block) -> (replica,), nats.
        """
        bias = self.b if block == 0 else self.c
        return beta * (side @ bias) + _log_2cosh(beta * self.field(1 - block, side)).sum(1)

    def log_unnormalised(self, x: Tensor) -> Tensor:
        """Return log Σ_z exp(−E(x, z))  # (image, visible) -> (image,), nats."""
        return self.log_marginal(0, x)

    def flip_costs(self, x: Tensor) -> Tensor:
        """Return log q(x) − log q(x^i) of every single flip  # (image, visible) twice, nats."""
        nu = self.field(1, x)[:, None]  # (image, 1, hidden)
        flipped = nu - 2.0 * x[:, :, None] * self.W
        return 2.0 * x * self.b + (_log_2cosh(nu) - _log_2cosh(flipped)).sum(2)

    def statistics(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return ⟨xzᵀ⟩, ⟨x⟩, ⟨z⟩ with z averaged out, ⟨z⟩ = tanh(Wᵀx + c)  # (image, visible), (image,)."""
        x = x[:, : self.n_visible]
        z = torch.tanh(self.field(1, x))
        if weights is None:
            return {"W": x.T @ z / len(x), "b": x.mean(0), "c": z.mean(0)}
        weighted = x * weights[:, None]
        return {"W": weighted.T @ z, "b": weighted.sum(0), "c": weights @ z}

    def contrast(self, data: Tensor, fantasy: Tensor, first: Tensor | None = None) -> Contrasted:
        """Return ⟨s⟩_data − ⟨s⟩_fantasy, both phases in one product Σ_i w_i x_i z_iᵀ, w = 1/n and −1/m.

        Its sum is rounded, not each phase: in bfloat16 what is nearly equal keeps its difference.
        """
        n, m = len(data), len(fantasy)
        before, after = data.to(fantasy.dtype), fantasy[:, : self.n_visible]
        W, c = self.W.detach().to(fantasy.dtype), self.c.detach()
        z = fantasy.new_empty(n + m, self.n_hidden)
        bipartite.means(product(before, W) if first is None else first, c, 1.0 / n, z[:n])
        bipartite.means(product(after, W), c, -1.0 / m, z[n:])
        x, (sum_x, other_x) = bipartite.turned(before, after)
        mean_x, mean_z = (sum_x / n).to(data.dtype), z[:n].sum(0, dtype=data.dtype)
        difference = {
            "W": product(x, z).to(data.dtype),
            "b": mean_x - other_x / m,
            "c": mean_z + z[n:].sum(0, dtype=data.dtype),
        }
        return Contrasted(difference, {"b": mean_x, "c": mean_z})

    def centred(
        self, difference: dict[str, Tensor], penalty: dict[str, Tensor], centres: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the ascent direction about fixed centres μ of x and λ of z, in the plain parameters.

        With E = −((x − μ)ᵀW(z − λ) + b'ᵀx + c'ᵀz): ΔW = ⟨(x − μ)(z − λ)ᵀ⟩_data − ⟨…⟩_model − decay, Δb' and
        Δc' the differences of ⟨x⟩ and ⟨z⟩; so that Δb = Δb' − ΔW λ, Δc = Δc' − ΔWᵀ μ. All of ΔW moves the
        biases: W that decayed at fixed b and c would come to rest where ⟨x⟩_model is not ⟨x⟩_data. Montavon &
        Müller 2012; Melchior, Fischer & Wiskott 2016.
        """
        dx, dz, mu, lam = difference["b"], difference["c"], centres["b"], centres["c"]
        dW = difference["W"].addr(mu, dz, alpha=-1.0).addr_(dx, lam, alpha=-1.0).sub_(penalty["W"])
        return {"W": dW, "b": dx - dW @ lam, "c": dz - dW.T @ mu}

    def contrastive_step(
        self, data: Tensor, chains: Chained, centres: dict[str, Tensor], pace: Pace, key: Key
    ) -> Stepped | None:
        """Make a step by one compiled pass, if the machine is small, of float32 and on a CPU, and x are ±1.

        It does what `bipartite.sweep`, `contrast` and `centred` do, but for the order of sums.
        """
        W, b, c = (parameter.detach() for parameter in (self.W, self.b, self.c))
        data, start = data.contiguous(), chains.start.contiguous()
        if not (bipartite.small(W) and all(map(contrastive.suits, (W, data, start)))):
            return None
        mu, lam = (centres["b"], centres["c"]) if centres else (torch.zeros_like(b), torch.zeros_like(c))
        tensors = (tensor.numpy() for tensor in (W, b, c, mu, lam, data, start))
        spins, norm, mismatch, *rest = contrastive.step(
            *tensors, chains.lasting, chains.n_sweeps, *pace, *keys(key)
        )
        if not spins:
            return None
        mu, lam, x = map(torch.from_numpy, rest)
        return Stepped(norm, mismatch, {"b": mu, "c": lam}, x)

    def climb(self, difference: dict[str, Tensor], centres: dict[str, Tensor], pace: Pace) -> float | None:
        """Go along `centred`'s direction by one compiled pass, of float32 and on a CPU: else return None."""
        tensors = [self.W.detach(), self.b.detach(), self.c.detach(), *(difference[name] for name in "Wbc")]
        tensors += [centres[name] if centres else torch.zeros_like(difference[name]) for name in "bc"]
        if not all(map(contrastive.suits, tensors)):
            return None
        norm = contrastive.climb(*(tensor.numpy() for tensor in tensors), pace.weight_decay, pace.rate)
        return float(norm)

    @property
    def curvature_bound(self) -> float:
        """Return sup λ_max(Cov[(xzᵀ, x, z)]) = N N_h + max(N, N_h), the largest cut, fields being edges."""
        return float(self.n_visible * self.n_hidden + max(self.n_visible, self.n_hidden))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return ⟨x⟩ given ⟨z⟩ given x, one step of mean field  # (image, visible) twice."""
        return torch.tanh(self.field(0, torch.tanh(self.field(1, x))))

    @torch.no_grad()
    def first_guess(self, x: Tensor, key: Key) -> None:
        """Give an untrained machine, W = 0, base rates of the data and small weights  # (image, visible)."""
        fields = base_rate_fields(x)
        if not bool(self.W.any()):
            self.b.copy_(fields)
            noise = torch.randn(self.W.shape, generator=key.child("W").torch(), dtype=self.W.dtype)
            self.W.copy_(_WEIGHT * noise)
