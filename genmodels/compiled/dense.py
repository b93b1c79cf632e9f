"""Loops for couplings between nearly all pairs: fields are kept, and a flip adds a row of J to them."""

from typing import Any, NamedTuple

import numpy as np
from numba import uint64

from genmodels.compiled.counter import keys
from genmodels.compiled.loop import Loop, inlined
from genmodels.compiled.variates import WORDS, fill, pick
from genmodels.couplings import Couplings
from genmodels.streams import Key

_REFRESH = 64  # sweeps after which fields are computed anew, so that rounding does not add up


class Dense(NamedTuple):
    """The matrix of the couplings."""

    J: np.ndarray  # (site, site), float32
    h: np.ndarray  # (site,), float32
    base: np.ndarray  # (site,), float32
    couplings: Couplings

    @classmethod
    def of(cls, couplings: Couplings) -> "Dense":
        """Return the layout of a model."""
        h, base = couplings.h.astype(np.float32), couplings.base.astype(np.float32)
        return cls(couplings.dense().astype(np.float32), h, base, couplings)

    def pack(self, x: np.ndarray) -> np.ndarray:
        """Return spins as float32  # (replica, site)."""
        return np.ascontiguousarray(x, dtype=np.float32)

    @staticmethod
    def unpack(spins: np.ndarray, n_replicas: int) -> np.ndarray:
        """Return the configurations  # (replica, site), float32."""
        return spins.copy()

    def energy(self, spins: np.ndarray, n_replicas: int) -> np.ndarray:
        """Return E of every replica  # (replica,), float64, nats at β = 1."""
        c = self.couplings
        return c.offset - np.asarray(_pairs(np.ascontiguousarray(spins.T), c.i, c.j, c.J, c.h))

    @staticmethod
    def select(spins: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return the spins of which replica r is replica index[r] of the old ones."""
        return spins[index]

    def sweeps(
        self, spins: np.ndarray, betas: np.ndarray, n_sweeps: int, heat_bath: bool, random: bool, key: Key
    ) -> int:
        """Sweep in place; return how many flips the last sweep made.

        Args:
            spins: Changed  # (replica, site)
            betas: One row for all sweeps, or one for each  # (1 or sweep, replica), float64
            n_sweeps: Number of sweeps.
            heat_bath: Draw a spin anew, instead of Metropolis' rule.
            random: Sites are drawn at random, instead of in turn, the same ones for all replicas.
            key: The stream; replica r has in sweep t the places from (t n_replicas + r) ⌈n_sites/8⌉.
        """
        plan = (self.J, self.h, self.base, betas.astype(np.float32))
        return int(_sweeps(spins, *plan, n_sweeps, heat_bath, random, *keys(key)))


@Loop
def _sweeps(
    spins: Any,
    J: Any,
    h: Any,
    base: Any,
    betas: Any,
    n_sweeps: Any,
    heat_bath: Any,
    random: Any,
    k0: Any,
    k1: Any,
) -> int:
    n_replicas, n_sites = spins.shape
    places, n_flips = (n_sites + 2 * WORDS - 1) // (2 * WORDS), 0
    v, field = np.zeros(n_sites, dtype=np.float32), np.zeros(n_sites, dtype=np.float32)
    words, flat = np.zeros(places * WORDS, dtype=np.uint64), J.ravel()
    for replica in range(n_replicas):
        x = spins[replica]
        for sweep in range(n_sweeps):
            if sweep % _REFRESH == 0:
                _fields(x, flat, h, field)
            beta = betas[min(sweep, len(betas) - 1), replica]
            place = uint64((sweep * n_replicas + replica) * places)
            fill(v, uint64(n_sites), heat_bath, k0, k1, place, words)
            flips = 0
            for p in range(n_sites):
                site = pick(n_sites, k0, k1, uint64(sweep * n_sites + p)) if random else p
                s = x[site]
                if np.float32(2.0) * s * (beta * field[site] + base[site]) < v[p]:
                    x[site] = -s
                    flips += 1
                    row, change = uint64(site * n_sites), np.float32(-2.0) * s
                    for j in range(uint64(n_sites)):
                        field[j] += change * flat[row + j]
            if sweep == n_sweeps - 1:
                n_flips += flips
    return n_flips


@inlined
def _fields(x: Any, flat: Any, h: Any, field: Any) -> None:
    """Fill in Σ_j J_ij x_j + h_i of all sites, in the order of j."""
    n_sites = len(x)
    for i in range(n_sites):
        field[i] = h[i]
    for j in range(n_sites):
        s, row = x[j], uint64(j * n_sites)
        for i in range(uint64(n_sites)):
            field[i] += s * flat[row + i]


@Loop
def _pairs(spins: Any, i: Any, j: Any, J: Any, h: Any) -> Any:
    """Return Σ J_ij x_i x_j + Σ h_i x_i of spins (site, replica)  # (replica,), float64."""
    total = np.zeros(spins.shape[1])
    for e in range(len(i)):
        one, other = spins[i[e]], spins[j[e]]
        for r in range(len(total)):
            total[r] += J[e] * np.float64(one[r] * other[r])
    for site in range(len(h)):
        x = spins[site]
        for r in range(len(total)):
            total[r] += h[site] * np.float64(x[r])
    return total
