"""Deep Boltzmann machine."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genmodels.couplings import Bipartite, Couplings
from genmodels.errors import InputError
from genmodels.paths import base_rate_fields
from genmodels.products import product
from genmodels.protocols import Contrasted, Domain
from genmodels.streams import Key

Layers = list[Tensor]  # x, z_1 … z_L  # (image, units)
_WEIGHT = 0.01  # standard deviation of the first W: enough to tell the units of a layer apart
_ROUNDS = 10  # of mean field in training
_MAX_ROUNDS = 200
_TOLERANCE = 1e-4


class DBM(nn.Module):
    """q(x, z_1 … z_L) ∝ exp(−E), E = −Σ_l z_lᵀ W_l z_{l+1} − Σ_l b_lᵀ z_l, z_0 = x, all in ±1.

    Layers touch their neighbours only, so that the even layers are independent given the odd ones, and the
    reverse: two blocks. A configuration holds the even layers side by side, x first, and then the odd ones,
    (replica, x | z_2 | z_4 … | z_1 | z_3 …). Salakhutdinov & Hinton 2009.

    Args:
        n_visible: Units of x.
        hidden: Units of z_1 … z_L, L ≥ 2: with one hidden layer it is the RBM.
        rounds: Of mean field behind `statistics`, at most.

    Raises:
        InputError: fewer than two hidden layers, or an empty one.
    """

    domain: Domain = "spin"

    def __init__(self, n_visible: int, hidden: Sequence[int], rounds: int = _ROUNDS) -> None:
        """Start with all parameters 0: the uniform distribution."""
        super().__init__()
        if len(hidden) < 2 or min(n_visible, *hidden) < 1:
            raise InputError(f"hidden: {list(hidden)} is not two or more layers of at least one unit each")
        self.n_visible, self.hidden, self.rounds = n_visible, list(hidden), rounds
        sizes = [n_visible, *hidden]
        self.n_sites, n_even = sum(sizes), sum(sizes[0::2])
        self.blocks = (slice(0, n_even), slice(n_even, self.n_sites))
        places = np.cumsum([0, *sizes[0::2], *sizes[1::2]]).tolist()
        ranges = [slice(*ends) for ends in zip(places, places[1:], strict=False)]
        n_even_layers = len(sizes[0::2])
        self.layers = [ranges[layer // 2 + n_even_layers * (layer % 2)] for layer in range(len(sizes))]
        self.W = nn.ParameterList(torch.zeros(m, n) for m, n in zip(sizes, sizes[1:], strict=False))
        self.b = nn.ParameterList(torch.zeros(n) for n in sizes)

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_visible": self.n_visible, "hidden": list(self.hidden), "rounds": self.rounds}

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The parameters that weight decay is for."""
        return tuple(f"W.{k}" for k in range(len(self.W)))

    def couplings(self) -> Couplings:
        """Return it as a quadratic energy of all sites, an edge between all units of neighbouring layers."""
        i, j, J = [], [], []
        for below, above, W in zip(self.layers, self.layers[1:], self.W, strict=False):
            rows, columns = np.indices(tuple(W.shape)).reshape(2, -1)
            ends = rows + below.start, columns + above.start
            i.append(np.minimum(*ends))
            j.append(np.maximum(*ends))
            J.append(W.detach().double().cpu().numpy().ravel())
        h = np.zeros(self.n_sites)
        for sites, b in zip(self.layers, self.b, strict=True):
            h[sites] = b.detach().double().cpu().numpy()
        return Couplings(self.n_sites, np.concatenate(i), np.concatenate(j), np.concatenate(J), h)

    def bipartite(self) -> Bipartite:
        """Return the even layers against the odd ones, with zeros where two layers do not touch."""
        n_even = self.blocks[0].stop
        J = self.W[0].new_zeros(n_even, self.n_sites - n_even)
        for k, (below, above) in enumerate(itertools.pairwise(self.layers)):
            even, odd = (below, above) if k % 2 == 0 else (above, below)
            W = self.W[k].detach()
            J[even, odd.start - n_even : odd.stop - n_even] = W if k % 2 == 0 else W.T
        h = torch.cat([self._bias(0), self._bias(1)]).detach()
        return Bipartite(J, h, torch.zeros_like(h))

    def filters(self) -> Tensor:
        """Return the weights of each unit of z_1  # (unit, visible)."""
        weights: Tensor = self.W[0].detach().T
        return weights

    def energy(self, x: Tensor) -> Tensor:
        """Return E of all layers  # (replica, site) -> (replica,), nats."""
        odd = x[:, self.blocks[1]]
        energy: Tensor = -(x[:, self.blocks[0]] * self.field(0, odd)).sum(1) - odd @ self._bias(1)
        return energy

    def field(self, block: int, other: Tensor) -> Tensor:
        """Return the fields on the sites of `block`, given those of the other one  # (replica, sites)."""
        start, fields = self.blocks[1 - block].start, []
        for layer in range(block, len(self.layers), 2):
            field = self.b[layer]
            for near in (layer - 1, layer + 1):
                if 0 <= near < len(self.layers):
                    sites = slice(self.layers[near].start - start, self.layers[near].stop - start)
                    W = self.W[near] if near < layer else self.W[layer].T
                    field = field + other[:, sites] @ W
            fields.append(field)
        return torch.cat(fields, 1)

    def conditional(self, block: int, x: Tensor, beta: Tensor) -> Tensor:
        """Return P_β(+1 | the other block) for each site of `block`  # (replica, sites of the block)."""
        return torch.sigmoid(2.0 * beta[:, None] * self.field(block, x[:, self.blocks[1 - block]]))

    def log_marginal(self, block: int, side: Tensor, beta: float = 1.0) -> Tensor:
        """Return log Σ exp(−βE) over the block other than `block`, given its values `side`.

        For block 0: β bᵀside + Σ_j log 2cosh(β ν_j), ν the fields on the odd layers  # -> (replica,), nats.
        """
        fields = beta * self.field(1 - block, side)
        return beta * (side @ self._bias(block)) + torch.logaddexp(fields, -fields).sum(1)

    def _bias(self, block: int) -> Tensor:
        return torch.cat(list(self.b[block::2]))

    @torch.no_grad()
    def mean_field(self, x: Tensor, tolerance: float = _TOLERANCE, max_rounds: int = _MAX_ROUNDS) -> Layers:
        """Return the means of x, z_1 … z_L in the best factorised posterior  # (image, units) a layer.

        μ_l = tanh(W_{l−1}ᵀ μ_{l−1} + W_l μ_{l+1} + b_l), solved for all odd layers and all even ones in turn:
        each time the bound is at its maximum in theirs, so that it rises without damping. It starts from a
        pass upwards in which the input from below counts twice, in place of that from above, and ends
        where no mean of z_1 changes by more than `tolerance`, or after `max_rounds`.

        Args:
            x: Visible configurations in ±1, as precise as the products are to be  # (image, visible)
            tolerance: In means.
            max_rounds: At most.
        """
        W, b = ([each.to(x.dtype) for each in parameters] for parameters in (self.W, self.b))
        from_x = product(x, W[0])
        means = [x, torch.tanh(2.0 * from_x + b[1])]
        for layer in range(2, len(self.layers)):
            twice = 1.0 if layer + 1 == len(self.layers) else 2.0
            means.append(torch.tanh(twice * product(means[-1], W[layer - 1]) + b[layer]))
        for _ in range(max_rounds):
            before = means[1]
            for layer in (*range(1, len(means), 2), *range(2, len(means), 2)):
                below = from_x if layer == 1 else product(means[layer - 1], W[layer - 1])
                above = product(means[layer + 1], W[layer].T) if layer + 1 < len(means) else 0.0
                means[layer] = torch.tanh(below + above + b[layer])
            if float((means[1] - before).abs().max()) <= tolerance:
                break
        return means

    @torch.no_grad()
    def log_unnormalised_bound(self, x: Tensor) -> Tensor:
        """Return −⟨E⟩_μ + H(μ) ≤ log Σ_z exp(−E(x, z)) at the mean field μ  # (image, visible) -> (image,).

        With the odd layers at their best given the even ones: the sum over the odd layers at the even layers'
        means, plus the entropy of these, in nats.
        """
        even = torch.cat(self.mean_field(x)[::2], 1)
        p = (1.0 + even[:, self.n_visible :]) / 2.0
        entropy = torch.special.entr(p) + torch.special.entr(1.0 - p)
        bound: Tensor = self.log_marginal(0, even) + entropy.sum(1)
        return bound

    def statistics(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return ⟨z_l z_{l+1}ᵀ⟩ and ⟨z_l⟩ in the mean field of `rounds` rounds  # (image, visible), (image,).

        With those of any factorised posterior the ascent is that of a lower bound.
        """
        return self._averages(self.mean_field(x, max_rounds=self.rounds), weights)

    def joint_statistics(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the same averages over whole configurations  # (replica, site), (replica,)."""
        return self._averages([x[:, sites] for sites in self.layers], weights)

    @torch.no_grad()
    def contrast(self, data: Tensor, fantasy: Tensor, first: Tensor | None = None) -> Contrasted:
        """Return ⟨s⟩_data − ⟨s⟩_fantasy, both phases of two layers in one product, as `RBM.contrast` does.

        Of a fantasy the odd layers are averaged out given the even ones.
        """
        here = self.mean_field(data.to(fantasy.dtype), max_rounds=self.rounds)
        there = [fantasy[:, sites] for sites in self.layers]
        for layer in range(1, len(there), 2):
            field = product(there[layer - 1], self.W[layer - 1].to(fantasy.dtype)) + self.b[layer]
            if layer + 1 < len(there):
                field = field + product(there[layer + 1], self.W[layer].to(fantasy.dtype).T)
            there[layer] = torch.tanh(field).to(fantasy.dtype)
        both = [torch.cat(pair) for pair in zip(here, there, strict=True)]
        shares = [1.0 / len(data)] * len(data) + [-1.0 / len(fantasy)] * len(fantasy)
        weights = data.new_tensor(shares)[:, None]
        difference = {
            f"W.{k}": product(below.T, (weights * above).to(below.dtype)).to(data.dtype)
            for k, (below, above) in enumerate(itertools.pairwise(both))
        }
        means = {f"b.{k}": layer.mean(0, dtype=data.dtype) for k, layer in enumerate(here)}
        model = {f"b.{k}": layer.mean(0, dtype=data.dtype) for k, layer in enumerate(there)}
        return Contrasted(difference | {name: means[name] - model[name] for name in means}, means)

    def _averages(self, layers: Layers, weights: Tensor | None) -> dict[str, Tensor]:
        w = layers[0].new_full((len(layers[0]),), 1.0 / len(layers[0])) if weights is None else weights
        pairs = zip(layers, layers[1:], strict=False)
        products = {f"W.{k}": (below * w[:, None]).T @ above for k, (below, above) in enumerate(pairs)}
        return products | {f"b.{k}": w @ layer for k, layer in enumerate(layers)}

    def centred(
        self, difference: dict[str, Tensor], penalty: dict[str, Tensor], centres: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the ascent direction about fixed centres μ_l of the layers, in the plain parameters.

        With E = −Σ_l (z_l − μ_l)ᵀW_l(z_{l+1} − μ_{l+1}) − Σ_l b'_lᵀz_l: ΔW_l the difference of the averages
        of (z_l − μ_l)(z_{l+1} − μ_{l+1})ᵀ less the decay, and
        Δb_l = Δ⟨z_l⟩ − ΔW_l μ_{l+1} − ΔW_{l−1}ᵀ μ_{l−1}. Montavon & Müller 2012.
        """
        n = len(self.layers)
        dz, mu = ([each[f"b.{k}"] for k in range(n)] for each in (difference, centres))
        ascent = {}
        for k in range(n - 1):
            pull = torch.outer(mu[k], dz[k + 1]) + torch.outer(dz[k], mu[k + 1])
            ascent[f"W.{k}"] = difference[f"W.{k}"] - pull - penalty[f"W.{k}"]
        for k in range(n):
            above = ascent[f"W.{k}"] @ mu[k + 1] if k + 1 < n else 0.0
            below = ascent[f"W.{k - 1}"].T @ mu[k - 1] if k > 0 else 0.0
            ascent[f"b.{k}"] = dz[k] - above - below
        return ascent

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return ⟨x⟩ given the mean field of z_1 given x  # (image, visible) twice."""
        return torch.tanh(self.mean_field(x, max_rounds=self.rounds)[1] @ self.W[0].T + self.b[0])

    @torch.no_grad()
    def first_guess(self, x: Tensor, key: Key) -> None:
        """Give an untrained machine, W = 0, base rates and small random weights  # (image, visible)."""
        fields = base_rate_fields(x)
        if any(bool(W.any()) for W in self.W):
            return
        self.b[0].copy_(fields)
        generator = key.child("W").torch()
        for W in self.W:
            W.copy_(_WEIGHT * torch.randn(W.shape, generator=generator, dtype=W.dtype))
