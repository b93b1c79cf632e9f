"""Quadratic energies of spins, a list of edges or a matrix of two sides: what compiled loops ask for."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Bipartite(NamedTuple):
    """E(x, z) = −(xᵀWz + hᵀ(x, z)), all spins of one side coupled to all of the other; nats at β = 1."""

    W: Tensor  # (visible, hidden), float32
    h: Tensor  # fields, visible before hidden  # (site,), float32
    base: Tensor  # fields b that β does not multiply: P_β ∝ exp(−βE + bᵀ(x, z))  # (site,), float32


@dataclass(frozen=True)
class Couplings:
    """E(x) = −Σ_{i<j} J_ij x_i x_j − Σ_i h_i x_i + offset, x_i = ±1; nats at β = 1.

    Attributes:
        n_sites: Number of spins.
        i: The lower end of each edge, no edge twice  # (edge,), int64
        j: The higher end  # (edge,), int64
        J: Its coupling  # (edge,), float64
        h: Fields  # (site,), float64
        offset: A constant.
        base: Fields b that β does not multiply: P_β(x) ∝ exp(−βE(x) + bᵀx)  # (site,), float64; 0 as a rule
    """

    n_sites: int
    i: np.ndarray
    j: np.ndarray
    J: np.ndarray
    h: np.ndarray
    offset: float = 0.0
    base: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        """Fill in a `base` of zeros."""
        if not len(self.base):
            object.__setattr__(self, "base", np.zeros(self.n_sites))

    def dense(self) -> np.ndarray:
        """Return the symmetric matrix of the couplings, zero on its diagonal  # (site, site), float64."""
        matrix = np.zeros((self.n_sites, self.n_sites))
        matrix[self.i, self.j] = matrix[self.j, self.i] = self.J
        return matrix

    def neighbours(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows of the matrix: starts (site + 1,), neighbours and their couplings (2 · edge,)."""
        rows, columns = np.concatenate([self.i, self.j]), np.concatenate([self.j, self.i])
        order = np.lexsort((columns, rows))
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=self.n_sites))])
        return starts.astype(np.int64), columns[order].astype(np.int64), np.tile(self.J, 2)[order]

    def energy(self, x: np.ndarray) -> np.ndarray:
        """Return E of configurations in ±1  # (replica, site) -> (replica,), float64."""
        x = np.asarray(x, dtype=np.float64)
        return np.asarray(self.offset - (x[:, self.i] * x[:, self.j]) @ self.J - x @ self.h)

    def colours(self) -> np.ndarray:
        """Return a colour for each site, no two neighbours alike: greedy, by degree  # (site,), int64."""
        starts, columns, _ = self.neighbours()
        colour = np.full(self.n_sites, -1, dtype=np.int64)
        for site in np.argsort(-np.diff(starts), kind="stable"):
            taken = set(colour[columns[starts[site] : starts[site + 1]]].tolist())
            colour[site] = next(c for c in range(self.n_sites) if c not in taken)
        return colour
