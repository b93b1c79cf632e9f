"""Loops over replicas for real couplings, few on each site; spins are int8 (site, replica).

A block of replicas at work is float32, which is the fastest; int8 is what travels and is resampled.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import uint64

from genmodels.compiled.counter import keys
from genmodels.compiled.loop import Loop, contracted, inlined
from genmodels.compiled.variates import WORDS, fill, pick
from genmodels.couplings import Couplings
from genmodels.streams import Key

_BLOCK = 256  # replicas that go through all sweeps together, in memory that stays in the cache
_APART = 16  # numbers between sites: else all would want the same places of the cache


class Sparse(NamedTuple):
    """The neighbours of each site, row after row."""

    starts: np.ndarray  # (site + 1,)
    columns: np.ndarray  # (2 · edge,)
    J: np.ndarray  # (2 · edge,), float32
    h: np.ndarray  # (site,), float32
    base: np.ndarray  # (site,), float32
    couplings: Couplings

    @classmethod
    def of(cls, couplings: Couplings) -> "Sparse":
        """Return the layout of a model."""
        starts, columns, J = couplings.neighbours()
        h, base = couplings.h.astype(np.float32), couplings.base.astype(np.float32)
        return cls(starts, columns, J.astype(np.float32), h, base, couplings)

    def pack(self, x: np.ndarray) -> np.ndarray:
        """Return spins as int8  # (replica, site) -> (site, replica)."""
        return np.ascontiguousarray(x.T, dtype=np.int8)

    @staticmethod
    def unpack(spins: np.ndarray, n_replicas: int) -> np.ndarray:
        """Return the configurations  # (site, replica) -> (replica, site), float32."""
        return np.ascontiguousarray(spins.T, dtype=np.float32)

    def energy(self, spins: np.ndarray, n_replicas: int) -> np.ndarray:
        """Return E of every replica  # (replica,), float64, nats at β = 1."""
        c = self.couplings
        return c.offset - np.asarray(_pairs(spins, c.i, c.j, c.J, c.h))

    @staticmethod
    def select(spins: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return the spins of which replica r is replica index[r] of the old ones."""
        return np.ascontiguousarray(spins[:, index])

    def sweeps(
        self, spins: np.ndarray, betas: np.ndarray, n_sweeps: int, heat_bath: bool, random: bool, key: Key
    ) -> int:
        """Sweep in place; return how many flips the last sweep made.

        Args:
            spins: Changed  # (site, replica), int8
            betas: One row for all sweeps, or one for each  # (1 or sweep, replica), float64
            n_sweeps: Number of sweeps.
            heat_bath: Draw a spin anew, instead of Metropolis' rule.
            random: Sites are drawn at random, instead of in turn, the same ones for all replicas.
            key: The stream; block b of 256 replicas has in update p of sweep t the places from
                ((t n_sites + p) n_blocks + b) 32.
        """
        plan = (self.starts, self.columns, self.J, self.h, self.base)
        return int(_sweeps(spins, *plan, betas.astype(np.float32), n_sweeps, heat_bath, random, *keys(key)))


@partial(Loop, compile_=contracted)
def _sweeps(
    spins: Any,
    starts: Any,
    columns: Any,
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
    n_sites, n_replicas = spins.shape
    places, n_blocks = _BLOCK // (2 * WORDS), (n_replicas + _BLOCK - 1) // _BLOCK
    n_flips, stride = 0, uint64(min(n_replicas, _BLOCK) + _APART)
    block = np.zeros((n_sites, stride), dtype=np.float32)
    flat = block.ravel()
    words, v = np.zeros(_BLOCK // 2, dtype=np.uint64), np.zeros(_BLOCK, dtype=np.float32)
    field, twice = np.zeros(_BLOCK, dtype=np.float32), np.zeros(_BLOCK, dtype=np.float32)
    before = np.zeros(_BLOCK, dtype=np.float32)
    for r0 in range(0, n_replicas, _BLOCK):
        m = uint64(min(_BLOCK, n_replicas - r0))
        _copy(spins[:, r0:], block, np.int64(m))
        for sweep in range(n_sweeps):
            if sweep < len(betas):
                for r in range(np.int64(m)):
                    twice[r] = np.float32(2.0) * betas[sweep, r0 + r]
            for p in range(n_sites):
                update = sweep * n_sites + p
                site = pick(n_sites, k0, k1, uint64(update)) if random else p
                place = uint64((update * n_blocks + r0 // _BLOCK) * places)
                fill(v, m, heat_bath, k0, k1, place, words)
                _fields(flat, starts[site], starts[site + 1], columns, J, h[site], stride, m, field)
                me, b = uint64(site * stride), np.float32(2.0) * base[site]
                if sweep == n_sweeps - 1:
                    for r in range(m):
                        before[r] = flat[me + r]
                for r in range(m):
                    s = flat[me + r]
                    flat[me + r] = -s if s * (twice[r] * field[r] + b) < v[r] else s
                if sweep == n_sweeps - 1:
                    for r in range(m):
                        n_flips += flat[me + r] != before[r]
        _copy(block, spins[:, r0:], np.int64(m))
    return n_flips


@inlined
def _copy(source: Any, target: Any, m: Any) -> None:
    """Copy the first m replicas; numba's assignment of a part of an array would take ten times as long."""
    for site in range(len(source)):
        for r in range(m):
            target[site, r] = source[site, r]


@inlined
def _fields(
    flat: Any, start: Any, stop: Any, columns: Any, J: Any, h: Any, stride: Any, m: Any, field: Any
) -> None:
    """Fill in Σ_j J_ij x_j + h_i of one site, summed in the order of j, several neighbours a pass."""
    for r in range(m):
        field[r] = h
    k = start
    while k + 6 <= stop:
        a = uint64(columns[k] * stride)
        b = uint64(columns[k + 1] * stride)
        c = uint64(columns[k + 2] * stride)
        d = uint64(columns[k + 3] * stride)
        e = uint64(columns[k + 4] * stride)
        f = uint64(columns[k + 5] * stride)
        Ja, Jb, Jc, Jd, Je, Jf = J[k], J[k + 1], J[k + 2], J[k + 3], J[k + 4], J[k + 5]
        for r in range(m):
            half = Ja * flat[a + r] + Jb * flat[b + r] + Jc * flat[c + r]
            field[r] = field[r] + (half + Jd * flat[d + r] + Je * flat[e + r] + Jf * flat[f + r])
        k += 6
    while k + 3 <= stop:
        a = uint64(columns[k] * stride)
        b = uint64(columns[k + 1] * stride)
        c = uint64(columns[k + 2] * stride)
        Ja, Jb, Jc = J[k], J[k + 1], J[k + 2]
        for r in range(m):
            field[r] = field[r] + Ja * flat[a + r] + Jb * flat[b + r] + Jc * flat[c + r]
        k += 3
    while k < stop:
        a, Ja = uint64(columns[k] * stride), J[k]
        for r in range(m):
            field[r] = field[r] + Ja * flat[a + r]
        k += 1


@Loop
def _pairs(spins: Any, i: Any, j: Any, J: Any, h: Any) -> Any:
    """Return Σ J_ij x_i x_j + Σ h_i x_i  # (replica,), float64."""
    total = np.zeros(spins.shape[1])
    for e in range(len(i)):
        one, other = spins[i[e]], spins[j[e]]
        for r in range(len(total)):
            total[r] += J[e] * np.float64(one[r] * other[r])
    for site in range(len(h)):
        if h[site] != 0.0:
            one = spins[site]
            for r in range(len(total)):
                total[r] += h[site] * np.float64(one[r])
    return total
