"""The loops of multi-spin coding: count a site's unsatisfied bonds, then compare a random u with a threshold.

Both in binary, one word a digit, for 64 replicas at once. u is drawn one digit after the other: after 10
all but one replica in 1024 know on which side of the threshold they are; those draw the 64 that remain. So
a threshold counts to 2⁻⁶⁴, at the price of 10 bits an update. (Digit by digit: Knuth & Yao 1976.)

Work is done in tiles of 64 words: those of one site, or of several of one colour if there are fewer replicas.
Indices are unsigned: numba would make signed ones wrap around, and the loops would not become vector code.
"""

from typing import Any

import numpy as np
from numba import uint64

from genmodels.compiled.counter import finish, follow, halfway, hash64, masked
from genmodels.compiled.loop import compiled, inlined
from genmodels.compiled.thresholds import BLOCK, DIGITS, TILE

MAX_DEGREE = 63  # units on a site: they are counted in six digits
# Places in a tile's work space, in units of a tile: digits of the count, then these.
_CARRY, FLIP, _OPEN, _MOST, _START, _STATE, _DIGIT, _BOUND, _BELOW, _CLASSES = range(6, 16)
CLASSES = MAX_DEGREE // 2 + 1  # of counts that have a threshold, at most
WORK = (_CLASSES + CLASSES) * TILE
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_T = np.uint64(TILE)
_P1, _P2 = np.uint64(TILE), np.uint64(2 * TILE)
_C, _F, _O, _M = (np.uint64(n * TILE) for n in (_CARRY, FLIP, _OPEN, _MOST))
_S, _Z, _U, _B, _L, _E = (np.uint64(n * TILE) for n in (_START, _STATE, _DIGIT, _BOUND, _BELOW, _CLASSES))
_LANE = np.zeros(64, dtype=np.int64)
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
for _bit in range(64):
    _LANE[((1 << _bit) * int(_DE_BRUIJN) % 2**64) >> 58] = _bit


@inlined
def _add(p0: Any, p1: Any, p2: Any, x: Any, y: Any, z: Any) -> Any:
    """Return the digits of p + x + y + z, the fourth of them what is carried on."""
    differ = x ^ y
    digit, up = differ ^ z, (x & y) | (differ & z)
    over, half = p0 & digit, p1 ^ up
    carried = (p1 & up) | (half & over)
    return p0 ^ digit, half ^ over, p2 ^ carried, p2 & carried


@inlined
def _count(
    spins: Any,
    n_words: Any,
    ends: Any,
    signs: Any,
    d: Any,
    site: Any,
    w0: Any,
    m: Any,
    first: Any,
    work: Any,
    n_planes: Any,
) -> None:
    """Count the unsatisfied of the first d units of a site in m words, into the slots from `first`."""
    me = uint64(site * n_words + w0)
    for k in range(0, d, 3):
        a = uint64(ends[site, k] * n_words + w0)
        b = uint64(ends[site, k + 1] * n_words + w0)
        c = uint64(ends[site, k + 2] * n_words + w0)
        na, nb, nc = signs[site, k], signs[site, k + 1], signs[site, k + 2]
        second = _ALL if k + 1 < d else uint64(0)
        third = _ALL if k + 2 < d else uint64(0)
        for t in range(m):
            own, s = spins[me + t], first + t
            x = spins[a + t] ^ na ^ own
            y = (spins[b + t] ^ nb ^ own) & second
            z = (spins[c + t] ^ nc ^ own) & third
            work[s], work[_P1 + s], work[_P2 + s], work[_C + s] = _add(
                work[s], work[_P1 + s], work[_P2 + s], x, y, z
            )
        for i in range(uint64(3), n_planes):
            for s in range(first, first + m):
                q, carried = work[i * _T + s], work[_C + s]
                work[i * _T + s] = q ^ carried
                work[_C + s] = carried & q


@inlined
def _count_word(spins: Any, ends: Any, signs: Any, d: Any, site: Any, s: Any, work: Any) -> None:
    """Do what `_count` does for one word a site and at most 7 units, in registers."""
    p0 = p1 = p2 = uint64(0)
    own = spins[site]
    for k in range(0, d, 3):
        x = spins[ends[site, k]] ^ signs[site, k] ^ own
        y = (spins[ends[site, k + 1]] ^ signs[site, k + 1] ^ own) & (_ALL if k + 1 < d else uint64(0))
        z = (spins[ends[site, k + 2]] ^ signs[site, k + 2] ^ own) & (_ALL if k + 2 < d else uint64(0))
        p0, p1, p2, _ = _add(p0, p1, p2, x, y, z)
    work[s], work[_P1 + s], work[_P2 + s] = p0, p1, p2


@inlined
def unsatisfied_of(
    flat: Any,
    n_words: Any,
    ends: Any,
    signs: Any,
    units: Any,
    first: Any,
    last: Any,
    w0: Any,
    m: Any,
    work: Any,
    n_planes: Any,
) -> None:
    """Count the unsatisfied of the first units[i] units of the sites i, first … last − 1, m words each."""
    for i in range(n_planes * _T):
        work[i] = uint64(0)
    for site in range(first, last):
        _count(flat, n_words, ends, signs, units[site], site, w0, m, uint64(site - first) * m, work, n_planes)


@compiled
def _fold(work: Any, m: Any, d: Any, n_planes: Any) -> None:
    """Replace counts c by d − c where that is smaller, and mark those places."""
    for t in range(m):
        borrow = less = uint64(0)
        for i in range(n_planes):
            whole = _ALL if (d >> i) & 1 else uint64(0)
            p = work[i * _T + t]
            rest = whole ^ p ^ borrow
            borrow = (~whole & p) | (~(whole ^ p) & borrow)
            less = (~rest & p) | (~(rest ^ p) & less)
            work[_E + i * _T + t] = rest
        work[_M + t] = less
        for i in range(n_planes):
            p = work[i * _T + t]
            work[i * _T + t] = p ^ (less & (p ^ work[_E + i * _T + t]))


@inlined
def _compare(below: Any, left: Any, u: Any, p: Any) -> Any:
    """Compare a digit of u and p where earlier ones are equal: where u < p by now, where still equal."""
    differ = u ^ p
    return below | (left & differ & p), left & ~differ


@inlined
def _decide(
    work: Any,
    m: Any,
    n_classes: Any,
    bounds: Any,
    r0: Any,
    r1: Any,
    r2: Any,
    r3: Any,
    k0: Any,
    k1: Any,
    n: Any,
) -> None:
    """Decide by 10 digits where to flip, counts 0 … 3 having the thresholds at r0 … r3 and others none."""
    has1 = _ALL if n_classes > 1 else uint64(0)
    has2 = _ALL if n_classes > 2 else uint64(0)
    has3 = _ALL if n_classes > 3 else uint64(0)
    for t in range(m):
        p0, p1, p2 = work[t], work[_P1 + t], work[_P2 + t]
        e0, e1 = ~(p0 | p1 | p2), p0 & ~(p1 | p2) & has1
        e2, e3 = p1 & ~(p0 | p2) & has2, p0 & p1 & ~p2 & has3
        need = e0 | e1 | e2 | e3
        y = halfway(k0, k1, n + t)
        start = z = finish(y)
        p = (e0 & bounds[r0 + t]) | (e1 & bounds[r1 + t]) | (e2 & bounds[r2 + t]) | (e3 & bounds[r3 + t])
        below, left = _compare(uint64(0), need, y + start, p)
        for b in range(uint64(1), uint64(DIGITS)):
            z = follow(z)
            s = t + b * _T
            p = (e0 & bounds[r0 + s]) | (e1 & bounds[r1 + s]) | (e2 & bounds[r2 + s]) | (e3 & bounds[r3 + s])
            below, left = _compare(below, left, masked(z, start, b), p)
        work[_F + t] = below | ~need
        work[_O + t] = left


@compiled
def _decide_many(
    work: Any, m: Any, n_classes: Any, n_planes: Any, bounds: Any, rows: Any, k0: Any, k1: Any, n: Any
) -> None:
    """Do what `_decide` does for any number of classes, through memory."""
    for t in range(m):
        y = halfway(k0, k1, n + t)
        work[_S + t] = work[_Z + t] = finish(y)
        work[_U + t] = y + work[_S + t]
        work[_L + t] = work[_O + t] = uint64(0)
    for c in range(n_classes):
        for t in range(m):
            e = _ALL
            for i in range(n_planes):
                e &= work[i * _T + t] ^ (uint64(0) if (c >> i) & 1 else _ALL)
            work[_E + c * _T + t] = e
            work[_O + t] |= e
    for t in range(m):
        work[_F + t] = ~work[_O + t]
    for b in range(uint64(DIGITS)):
        for t in range(m):
            work[_B + t] = uint64(0)
        for c in range(n_classes):
            r = rows[c] + b * _T
            for t in range(m):
                work[_B + t] |= work[_E + c * _T + t] & bounds[r + t]
        for t in range(m):
            work[_L + t], work[_O + t] = _compare(work[_L + t], work[_O + t], work[_U + t], work[_B + t])
            z = follow(work[_Z + t])
            work[_U + t] = masked(z, work[_S + t], b + uint64(1))
            work[_Z + t] = z
    for t in range(m):
        work[_F + t] |= work[_L + t]


@inlined
def _continue(
    work: Any,
    m: Any,
    n_words: Any,
    w0: Any,
    d: Any,
    n_planes: Any,
    row_of: Any,
    whole: Any,
    k0: Any,
    k1: Any,
    n: Any,
) -> None:
    """Decide where 10 digits were not enough, by 64 more of u."""
    for t in range(m):
        left = work[_O + t]
        while left:
            low = left & (~left + uint64(1))
            left ^= low
            lane = _LANE[(low * _DE_BRUIJN) >> uint64(58)]
            count = np.int64(0)
            for i in range(n_planes):
                count |= np.int64((work[i * _T + t] >> uint64(lane)) & uint64(1)) << i
            word = (uint64(w0) + t) % uint64(n_words)
            bound = whole[row_of[d - 2 * count], word * uint64(64) + uint64(lane)]
            if hash64(k1, k0, (n + t) * uint64(64) + uint64(lane)) < bound << uint64(DIGITS):
                work[_F + t] |= low


@inlined
def tile(
    flat: Any,
    n_words: Any,
    order: Any,
    p: Any,
    n_together: Any,
    w0: Any,
    m: Any,
    d: Any,
    n_planes: Any,
    ends: Any,
    signs: Any,
    heat_bath: Any,
    row_of: Any,
    rows: Any,
    whole: Any,
    bounds: Any,
    k0: Any,
    k1: Any,
    n: Any,
    work: Any,
) -> None:
    """Update m words of each of the sites order[p], …, which are of equal degree d and of one colour."""
    m_all = m * uint64(n_together)
    if n_words == 1 and n_planes == 3:
        for g in range(n_together):
            _count_word(flat, ends, signs, d, order[p + g], uint64(g), work)
    else:
        for i in range(n_planes * _T):
            work[i] = uint64(0)
        for g in range(n_together):
            _count(flat, n_words, ends, signs, d, order[p + g], w0, m, uint64(g) * m, work, n_planes)
    if heat_bath:
        _fold(work, m_all, d, n_planes)
    n_classes = d // 2 + 1 if heat_bath else (d + 1) // 2
    if n_classes <= 4 and n_planes == 3:
        _decide(work, m_all, n_classes, bounds, rows[0], rows[1], rows[2], rows[3], k0, k1, n)
    else:
        _decide_many(work, m_all, uint64(n_classes), n_planes, bounds, rows, k0, k1, n)
    _continue(work, m_all, n_words, w0, d, n_planes, row_of, whole, k0, k1, n)
    if heat_bath:
        for t in range(m_all):
            work[_F + t] ^= work[_M + t]
    for g in range(n_together):
        me, first = uint64(order[p + g] * n_words + w0), _F + uint64(g) * m
        for t in range(m):
            flat[me + t] ^= work[first + t]


@inlined
def place_rows(rows: Any, row_of: Any, n_rows: Any, w0: Any, d: Any) -> None:
    """Note where the thresholds of counts 0, 1, … of sites of degree d begin; those that have none get 0."""
    base = w0 // TILE * (n_rows + 1)
    for c in range(max(4, d // 2 + 1)):
        row = row_of[d - 2 * c] if 2 * c <= d else n_rows
        rows[c] = uint64((base + row) * BLOCK)
