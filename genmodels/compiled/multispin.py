"""Multi-spin coding: 64 replicas in a word, for couplings and fields that are multiples of one unit.

Spins are bits, uint64 (site + 1, word): replica r is bit r % 64 of word r // 64, set for x = +1; the last row
is a ghost spin of all ones that carries the fields. Jacobs & Rebbi 1981.
"""

from typing import NamedTuple

import numpy as np

from genmodels.compiled import bits
from genmodels.compiled.counter import keys
from genmodels.compiled.digits import MAX_DEGREE
from genmodels.couplings import Couplings
from genmodels.streams import Key

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ROUNDING = 1e-14  # of a multiple of the unit, relative


class Multispin(NamedTuple):
    """The units of coupling of a model, in the order of a sweep."""

    unit: float
    offset: float
    n_units: int  # of all couplings and fields
    order: np.ndarray  # (site,): sites as a sweep meets them, those of a group together
    starts: np.ndarray  # (group + 1,): groups of equal colour and degree, as places in `order`
    degree: np.ndarray  # (site,): units on a site
    upward: np.ndarray  # (site,): how many of them come first in `ends` and lead to a higher number
    ends: np.ndarray  # (site, unit): at the other end, the ghost for a field; filled up with the ghost
    signs: np.ndarray  # (site, unit), uint64: all ones where the coupling is negative
    steps: np.ndarray  # (step,): values ≥ 0 of degree − 2 · unsatisfied that occur

    @classmethod
    def of(cls, couplings: Couplings) -> "Multispin | None":
        """Return the layout of a model; None where it has no common unit, or too many of them on a site."""
        unit = _unit(np.abs(np.concatenate([couplings.J, couplings.h])))
        if couplings.base.any() or unit is None:
            return None
        J, h = np.rint(couplings.J / unit), np.rint(couplings.h / unit)
        n = couplings.n_sites
        rows = np.concatenate([couplings.i, couplings.j, np.arange(n)])
        columns = np.concatenate([couplings.j, couplings.i, np.full(n, n)])
        weights = np.concatenate([J, J, h])
        degree = np.bincount(rows, np.abs(weights), minlength=n)
        if degree.max(initial=0) > MAX_DEGREE:
            return None
        degree, weights = degree.astype(np.int64), weights.astype(np.int64)
        rows, columns, weights = (np.repeat(part, np.abs(weights)) for part in (rows, columns, weights))
        sort = np.lexsort((columns < rows, rows))
        rows, columns, weights = rows[sort], columns[sort], weights[sort]
        place = np.arange(len(rows)) - np.concatenate([[0], np.cumsum(degree)])[rows]
        width = -(-max(1, int(degree.max())) // 3) * 3  # they are counted three at a time
        ends, signs = np.full((n, width), n), np.zeros((n, width), dtype=np.uint64)
        ends[rows, place], signs[rows, place] = columns, np.where(weights < 0, _ALL, np.uint64(0))
        colours = couplings.colours()
        order = np.lexsort((np.arange(n), degree, colours))
        new = np.flatnonzero(np.diff(colours[order]) | np.diff(degree[order])) + 1
        upward = np.bincount(rows[columns > rows], minlength=n)
        steps = np.unique(np.concatenate([np.arange(d, -1, -2) for d in np.unique(degree)]))
        starts = np.concatenate([[0], new, [n]])
        n_units = int(upward.sum())
        return cls(unit, couplings.offset, n_units, order, starts, degree, upward, ends, signs, steps)

    def pack(self, x: np.ndarray) -> np.ndarray:
        """Return spins as bits, the ghost below them  # (replica, site), ±1 -> (site + 1, word)."""
        n_replicas, n_sites = x.shape
        bits = np.zeros((n_sites + 1, -(-n_replicas // 64) * 64), dtype=np.uint8)
        bits[:-1, :n_replicas] = x.T > 0
        bits[-1] = 1
        return np.ascontiguousarray(np.packbits(bits, axis=1, bitorder="little").view(np.uint64))

    @staticmethod
    def unpack(spins: np.ndarray, n_replicas: int) -> np.ndarray:
        """Return the configurations  # (site + 1, word) -> (replica, site), ±1, float32."""
        bits = np.unpackbits(spins[:-1].view(np.uint8), axis=1, bitorder="little", count=n_replicas)
        return np.ascontiguousarray(bits.T, dtype=np.float32) * np.float32(2.0) - np.float32(1.0)

    def energy(self, spins: np.ndarray, n_replicas: int) -> np.ndarray:
        """Return E of every replica  # (replica,), float64, nats at β = 1."""
        unsatisfied = bits.unsatisfied(spins, self.ends, self.signs, self.upward)[:n_replicas]
        return self.offset - self.unit * (self.n_units - 2.0 * unsatisfied)

    @staticmethod
    def select(spins: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return the spins of which replica r is replica index[r] of the old ones."""
        changed = np.flatnonzero(index != np.arange(len(index)))
        n_words = -(-len(index) // 64)
        start = np.zeros((len(spins), n_words), dtype=np.uint64)
        shared = min(n_words, spins.shape[1])
        start[:, :shared] = spins[:, :shared]
        start[-1] = _ALL
        return bits.copied(start, spins, changed, index[changed])

    def sweeps(
        self, spins: np.ndarray, betas: np.ndarray, n_sweeps: int, heat_bath: bool, random: bool, key: Key
    ) -> int:
        """Sweep in place; return how many flips the last sweep made.

        Args:
            spins: Changed  # (site + 1, word)
            betas: One row for all sweeps, or one for each  # (1 or sweep, replica), float64
            n_sweeps: Number of sweeps.
            heat_bath: Draw a spin anew, instead of Metropolis' rule.
            random: Sites are drawn at random, instead of in turn, the same ones for all replicas.
            key: The stream; u of (sweep t, update p, replica r) has the place (t n_sites + p) n_words + word.
        """
        plan = (self.order, self.starts, self.degree, self.ends, self.signs, self.steps, self.unit)
        return int(bits.sweeps(spins, *plan, betas, n_sweeps, heat_bath, random, *keys(key)))


def _unit(values: np.ndarray) -> float | None:
    """Return the greatest number of which all values ≥ 0 are multiples, up to rounding, or None."""
    values = np.unique(values[values > 0.0])
    if not len(values):
        return 1.0
    for part in range(1, 5):
        multiples = values / (values[0] / part)
        if multiples[-1] > MAX_DEGREE:
            return None
        if np.abs(multiples - np.rint(multiples)).max() < _ROUNDING * MAX_DEGREE:
            return float(values[0] / part)
    return None
