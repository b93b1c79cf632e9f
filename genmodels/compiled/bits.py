"""Sweeps, energies and copies of spins that are bits of words, (site + 1, word)."""

from typing import Any

import numpy as np
from numba import uint64

from genmodels.compiled.digits import CLASSES, FLIP, WORK, place_rows, tile, unsatisfied_of
from genmodels.compiled.loop import Loop, compiled, inlined
from genmodels.compiled.thresholds import BLOCK, TILE, thresholds
from genmodels.compiled.variates import pick

_ACCUMULATED = 24  # digits of a sum over all sites


@Loop
def sweeps(
    spins: Any,
    order: Any,
    starts: Any,
    degree: Any,
    ends: Any,
    signs: Any,
    steps: Any,
    unit: Any,
    betas: Any,
    n_sweeps: Any,
    heat_bath: Any,
    random: Any,
    k0: Any,
    k1: Any,
) -> int:
    """Sweep in place, as `Multispin.sweeps` says; return the number of flips in the last sweep."""
    n_sites, n_words = len(order), spins.shape[1]
    flat = spins.ravel()
    n_planes = uint64(3)
    while (1 << np.int64(n_planes)) <= degree.max():
        n_planes += uint64(1)
    row_of = np.full(degree.max() + 1, len(steps))
    for row in range(len(steps)):
        row_of[steps[row]] = row
    n_tiles = (n_words + TILE - 1) // TILE
    whole = np.zeros((len(steps), 64 * n_words), dtype=np.uint64)
    bounds = np.zeros(n_tiles * (len(steps) + 1) * BLOCK, dtype=np.uint64)
    work, rows = np.zeros(WORK, dtype=np.uint64), np.zeros(CLASSES, dtype=np.uint64)
    one = np.zeros(1, dtype=np.int64)
    together = max(1, TILE // n_words)
    real, n_flips = np.zeros(TILE, dtype=np.uint64), 0
    for sweep in range(n_sweeps):
        if sweep < len(betas):
            thresholds(betas[sweep], unit, steps, heat_bath, n_words, whole, bounds)
        first, last = sweep * n_sites, sweep == n_sweeps - 1
        for w0 in range(0, n_words, TILE):
            m = uint64(min(TILE, n_words - w0))
            _note_real(real, w0, n_words, betas.shape[1])
            if random:
                for p in range(n_sites):
                    one[0] = pick(n_sites, k0, k1, uint64(first + p))
                    d, n = degree[one[0]], uint64((first + p) * n_words + w0)
                    place_rows(rows, row_of, len(steps), w0, d)
                    tile(
                        flat,
                        n_words,
                        one,
                        0,
                        1,
                        w0,
                        m,
                        d,
                        n_planes,
                        ends,
                        signs,
                        heat_bath,
                        row_of,
                        rows,
                        whole,
                        bounds,
                        k0,
                        k1,
                        n,
                        work,
                    )
                    n_flips += _flips(work, m, real) if last else 0
                continue
            for g in range(len(starts) - 1):
                d = degree[order[starts[g]]]
                place_rows(rows, row_of, len(steps), w0, d)
                for p in range(starts[g], starts[g + 1], together):
                    n, n_sites_here = uint64((first + p) * n_words + w0), min(together, starts[g + 1] - p)
                    tile(
                        flat,
                        n_words,
                        order,
                        p,
                        n_sites_here,
                        w0,
                        m,
                        d,
                        n_planes,
                        ends,
                        signs,
                        heat_bath,
                        row_of,
                        rows,
                        whole,
                        bounds,
                        k0,
                        k1,
                        n,
                        work,
                    )
                    n_flips += _flips(work, m * uint64(n_sites_here), real) if last else 0
    return n_flips


@inlined
def _note_real(real: Any, w0: Any, n_words: Any, n_replicas: Any) -> None:
    """Note in which bits of a tile's words there are replicas."""
    for t in range(TILE):
        n = n_replicas - 64 * (w0 + t % n_words)
        real[t] = (uint64(1) << uint64(n)) - uint64(1) if n < 64 else ~uint64(0)


@compiled
def _flips(work: Any, m: Any, real: Any) -> int:
    """Return how many flips there were in m words of a tile."""
    total = uint64(0)
    for t in range(m):
        x = work[uint64(FLIP * TILE) + t] & real[t]
        x -= (x >> uint64(1)) & uint64(0x5555555555555555)
        x = (x & uint64(0x3333333333333333)) + ((x >> uint64(2)) & uint64(0x3333333333333333))
        x = (x + (x >> uint64(4))) & uint64(0x0F0F0F0F0F0F0F0F)
        total += (x * uint64(0x0101010101010101)) >> uint64(56)
    return np.int64(total)


@Loop
def unsatisfied(spins: Any, ends: Any, signs: Any, upward: Any) -> Any:
    """Return how many units each replica leaves unsatisfied, every unit counted once  # (64 · word,)."""
    n_words = spins.shape[1]
    flat, total = spins.ravel(), np.zeros(64 * n_words, dtype=np.int64)
    n_planes = uint64(3)
    while (1 << np.int64(n_planes)) <= upward.max():
        n_planes += uint64(1)
    work, sums = np.zeros(WORK, dtype=np.uint64), np.zeros(_ACCUMULATED * TILE, dtype=np.uint64)
    n_digits = np.int64(n_planes)
    while (1 << n_digits) <= upward.sum():
        n_digits += 1
    together = max(1, TILE // n_words)
    for w0 in range(0, n_words, TILE):
        m = min(TILE, n_words - w0)
        sums[:] = uint64(0)
        for site in range(0, len(upward), together):
            last = min(site + together, len(upward))
            unsatisfied_of(flat, n_words, ends, signs, upward, site, last, w0, uint64(m), work, n_planes)
            _accumulate(work, sums, uint64(m * (last - site)), n_planes, uint64(n_digits))
        for t in range(m * together):
            for r in range(64):
                value = 0
                for i in range(n_digits):
                    value |= np.int64((sums[i * TILE + t] >> uint64(r)) & uint64(1)) << i
                total[64 * (w0 + t % m) + r] += value
    return total


@inlined
def _accumulate(work: Any, sums: Any, m: Any, n_planes: Any, n_digits: Any) -> None:
    for t in range(m):
        carry = uint64(0)
        for i in range(n_planes):
            p, s = work[i * uint64(TILE) + t], sums[i * uint64(TILE) + t]
            half = p ^ s
            sums[i * uint64(TILE) + t] = half ^ carry
            carry = (p & s) | (half & carry)
        for i in range(n_planes, n_digits):
            s = sums[i * uint64(TILE) + t]
            sums[i * uint64(TILE) + t] = s ^ carry
            carry &= s


@Loop
def copied(spins: Any, source: Any, to: Any, of: Any) -> Any:
    """Return `spins` with replica to[i] overwritten by replica of[i] of `source`, all i."""
    for site in range(spins.shape[0]):
        for i in range(len(to)):
            bit = (source[site, of[i] >> 6] >> uint64(of[i] & 63)) & uint64(1)
            shift = uint64(to[i] & 63)
            word = spins[site, to[i] >> 6]
            spins[site, to[i] >> 6] = (word & ~(uint64(1) << shift)) | (bit << shift)
    return spins
