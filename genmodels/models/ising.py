"""Spins with given couplings and fields: Ising models, spin glasses, max-cut."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genmodels.couplings import Couplings
from genmodels.errors import InputError
from genmodels.paths import base_rate_fields
from genmodels.protocols import Domain
from genmodels.streams import Key

_SPARSE = 0.1  # share of all pairs that are edges, above which matrices are faster than lists of neighbours


class Ising(nn.Module):
    """E(x) = −Σ_{i<j} J_ij x_i x_j − Σ_i h_i x_i + offset, x in ±1: a Boltzmann machine without hidden units.

    `blocks` are colour classes: sites of one colour are independent given the others. Energies are float64,
    as the parameters are, so that those of integer couplings are exact; conditionals are in the precision
    of the configurations. Configurations whose memory is [site, replica] (x.T contiguous) are the fastest.

    Args:
        n_sites: Number of spins.
        edges: Pairs [i, j], i < j, none twice.

    Raises:
        InputError: an edge that is none.
    """

    domain: Domain = "spin"
    weight_names = ("J",)
    order: Tensor
    neighbours: Tensor
    numbers: Tensor

    def __init__(self, n_sites: int, edges: Sequence[Sequence[int]]) -> None:
        """Start with all parameters 0: the uniform distribution."""
        super().__init__()
        self.n_sites = n_sites
        self.i, self.j = _ends(n_sites, edges)
        self.J = nn.Parameter(torch.zeros(len(self.i), dtype=torch.float64))
        self.h = nn.Parameter(torch.zeros(n_sites, dtype=torch.float64))
        self.offset = nn.Parameter(torch.zeros((), dtype=torch.float64))
        graph = Couplings(n_sites, self.i, self.j, np.arange(1.0, len(self.i) + 1.0), np.zeros(n_sites))
        colours = graph.colours()
        self._sizes = np.bincount(colours).tolist()
        self._first = [0, *np.cumsum(self._sizes).tolist()]
        order = np.argsort(colours, kind="stable")
        self.dense = len(self.i) > _SPARSE * n_sites * (n_sites - 1) / 2
        # Of each place its edge, counted from 1: what is not an edge has number 0 and coupling 0.
        if self.dense:
            neighbours, numbers = np.zeros(0), graph.dense()
        else:
            neighbours, numbers, self._degrees = _padded(graph, np.split(order, self._first[1:-1]))
        for name, table in {"order": order, "neighbours": neighbours, "numbers": numbers}.items():
            self.register_buffer(name, torch.from_numpy(table.astype(np.int64)), persistent=False)

    @classmethod
    def of(cls, couplings: Couplings) -> "Ising":
        """Return the model with these couplings (their base fields apart)."""
        model = cls(couplings.n_sites, np.stack([couplings.i, couplings.j], 1).tolist())
        with torch.no_grad():
            model.J.copy_(torch.from_numpy(couplings.J))
            model.h.copy_(torch.from_numpy(couplings.h))
            model.offset.fill_(couplings.offset)
        return model

    @property
    def blocks(self) -> tuple[Tensor, ...]:
        """The sites of each colour  # (colour,) of (sites of the colour,)."""
        return torch.split(self.order, self._sizes)

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"n_sites": self.n_sites, "edges": np.stack([self.i, self.j], 1).tolist()}

    def couplings(self) -> Couplings:
        """Return the edges, couplings and fields."""
        J, h = (parameter.detach().cpu().double().numpy().copy() for parameter in (self.J, self.h))
        return Couplings(self.n_sites, self.i, self.j, J, h, float(self.offset.detach()))

    def energy(self, x: Tensor) -> Tensor:
        """Return E(x)  # (replica, site) -> (replica,), float64, nats."""
        x = x.T.contiguous().double().T
        if self.dense:
            coupled = ((x @ self._couplings(self.numbers, x)) * x).sum(1)
        else:
            parts = [(self._coupled(k, x).T * x.T[sites]).sum(0) for k, sites in enumerate(self.blocks)]
            coupled = torch.stack(parts).sum(0)
        return self.offset.double() - 0.5 * coupled - x @ self.h.double()

    def log_unnormalised(self, x: Tensor) -> Tensor:
        """Return −E(x): there are no hidden units  # (image, site) -> (image,), nats."""
        return -self.energy(x)

    def statistics(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return ⟨x_i x_j⟩ of the edges and ⟨x⟩  # (image, site), (image,)."""
        x = x.double()
        w = torch.full_like(x[:, 0], 1.0 / len(x)) if weights is None else weights.double()
        return {"J": w @ (x[:, self.i] * x[:, self.j]), "h": w @ x, "offset": -w.sum()}

    @property
    def curvature_bound(self) -> float:
        """Return the number of edges and fields: no cut of the graph with the fields' ghost exceeds it."""
        return float(len(self.i) + self.n_sites)

    @torch.no_grad()
    def first_guess(self, x: Tensor, key: Key) -> None:
        """Give a model whose couplings are all 0 the data's base rates  # (image, site)."""
        fields = base_rate_fields(x.double())
        if not bool(self.J.any()):
            self.h.copy_(fields)

    def conditional(self, block: int, x: Tensor, beta: Tensor) -> Tensor:
        """Return P_β(+1 | rest) of the sites of `block`  # (replica, site), (replica,) -> (replica, site)."""
        sites = self.order[self._first[block] : self._first[block + 1]]
        field = self._coupled(block, x) + self.h[sites].to(x.dtype)
        return torch.sigmoid(2.0 * beta[:, None].to(x.dtype) * field)

    def _coupled(self, block: int, x: Tensor) -> Tensor:
        """Return Σ_j J_ij x_j of the sites i of `block`  # (replica, site) -> (replica, site)."""
        first, last = self._first[block : block + 2]
        if self.dense:
            return x @ self._couplings(self.numbers[self.order[first:last]], x).T
        start = sum(n * d for n, d in zip(self._sizes[:block], self._degrees[:block], strict=True))
        part = slice(start, start + self._sizes[block] * self._degrees[block])
        neighbours = self.neighbours[part].view(last - first, -1)
        J = self._couplings(self.numbers[part], x).view(last - first, -1)
        # A site is a word, its values in all replicas the vector of the word.
        return nn.functional.embedding_bag(neighbours, x.T, per_sample_weights=J, mode="sum").T

    def _couplings(self, numbers: Tensor, x: Tensor) -> Tensor:
        """Return the couplings of numbered edges, 0 for number 0, in the precision of x."""
        if not len(self.J):
            return torch.zeros(numbers.shape, dtype=x.dtype, device=x.device)
        return torch.where(numbers > 0, self.J[numbers - 1], 0.0).to(x.dtype)


def _ends(n_sites: int, edges: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    ends = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    i, j = ends[:, 0].copy(), ends[:, 1].copy()
    wrong = np.flatnonzero((i < 0) | (i >= j) | (j >= n_sites))
    if wrong.size:
        raise InputError(
            f"edges: [{i[wrong[0]]}, {j[wrong[0]]}] is no edge of {n_sites} sites: give i < j, counted from 0"
        )
    numbers, counts = np.unique(i * n_sites + j, return_counts=True)
    if (counts > 1).any():
        twice = divmod(int(numbers[counts > 1][0]), n_sites)
        raise InputError(f"edges: {list(twice)} is there {counts.max()} times: add up its couplings")
    return i, j


def _padded(graph: Couplings, classes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return the neighbours of all sites and the numbers of their edges, class after class, flat.

    Within a class every site has as many places as its best connected one has neighbours.
    """
    starts, columns, edges = graph.neighbours()
    tables: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    degrees = [max(1, int(np.diff(starts)[sites].max())) for sites in classes]
    for sites, degree in zip(classes, degrees, strict=True):
        places = starts[sites][:, None] + np.arange(degree)
        real = places < starts[sites + 1][:, None]
        for table, entries in zip(tables, (columns, edges), strict=True):
            table.append(np.where(real, np.append(entries, 0)[np.where(real, places, -1)], 0).ravel())
    return np.concatenate(tables[0]), np.concatenate(tables[1]), degrees
