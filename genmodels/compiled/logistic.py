"""One pass from fields to spins, or to their means: bias, logistic function, random number, comparison."""

from functools import partial
from typing import Any

import numpy as np
from numba import uint64

from genmodels.compiled.loop import Loop, contracted, inlined
from genmodels.compiled.variates import WORDS, bits_of, float_of, integers

_ONE, _TWO, _HALF, _ALL = np.float32(1.0), np.float32(2.0), np.float32(0.5), np.float32(2.0**-32)
_ROUND = np.float32(1.5 * 2.0**23)  # added and taken off again, it rounds to an integer
_LEAST, _MOST, _WIDTH = np.float32(-126.0), np.float32(126.0), np.int32(23)
_LOG2_E = np.float32(1.4426950408889634)
# 2ʷ, |w| ≤ 1/2: the polynomial through its values at Chebyshev's nodes, off by 10⁻⁷ at most.
_C0, _C1 = np.float32(1.0), np.float32(0.693147207)
_C2, _C3 = np.float32(0.240226509), np.float32(0.0555032723)
_C4, _C5, _C6 = np.float32(0.00961805668), np.float32(0.00134004282), np.float32(0.000154614447)
UP, SIGN = np.int32(0x3F800000), np.int32(-0x80000000)  # the bits of 1, and those of −1 but not of 1
_NEAR, _EVEN = np.int32(0x7FFF), np.int32(1)
_BLOCK = 16  # rows turned together: float32 that fill a line of the cache


@inlined
def exponential(x: Any) -> Any:
    """Return eˣ, x a float32, between 2⁻¹²⁶ and 2¹²⁶."""
    y = min(max(x * _LOG2_E, _LEAST), _MOST)
    k = y + _ROUND
    w = y - (k - _ROUND)
    upper = _C3 + w * (_C4 + w * (_C5 + w * _C6))
    power = _C0 + w * (_C1 + w * (_C2 + w * upper))
    return float_of(np.int32(bits_of(power) + np.int32(bits_of(k) << _WIDTH)))


@inlined
def spin(u: Any, number: Any) -> Any:
    """Return the bits of +1, with probability 1/(1 + e⁻²ᵘ), or of −1, as 32 random bits have it."""
    uniform = (np.float32(number) + _HALF) * _ALL
    return UP if uniform + uniform * exponential(-_TWO * u) < _ONE else np.int32(UP | SIGN)


@inlined
def mean(u: Any) -> Any:
    """Return tanh u, the mean of a spin."""
    e = exponential(-_TWO * u)
    return (_ONE - e) / (_ONE + e)


@partial(Loop, compile_=contracted)
def draw(
    fields: Any, h: Any, base: Any, betas: Any, x: Any, start: Any, shift: Any, k0: Any, k1: Any, first: Any
) -> None:
    """Set the spins of a block, given the fields of the others on it: P(+1) = sigmoid(2(β(λ + h) + b)).

    Args:
        fields: λ, the bits of float32 or of the upper half of such  # (replica, sites of the block)
        h: Fields that β multiplies  # (sites of the block,), float32
        base: Those that it does not, b  # (sites of the block,), float32
        betas: Inverse temperatures  # (replica,), float32
        x: Changed; bits as those of the fields  # (replica, site)
        start: The block's first site.
        shift: 0 for float32, 16 for bfloat16.
        k0: The stream's key, as is k1.
        k1: Its other half.
        first: Place of the first replica; each takes as many as the block has sites, over 8.
    """
    n_replicas, n_sites = fields.shape
    places, n = uint64((n_sites + 2 * WORDS - 1) // (2 * WORDS)), uint64(n_sites)
    words = np.empty(np.int64(places) * WORDS, dtype=np.uint64)
    numbers = words.view(np.uint32)
    for r in range(n_replicas):
        integers(words, places, k0, k1, uint64(first) + uint64(r) * places)
        row, to, beta = fields[r], x[r], betas[r]
        for j in range(n):
            u = beta * (float_of(np.int32(np.int32(row[j]) << shift)) + h[j]) + base[j]
            to[start + j] = np.int32(spin(u, numbers[j]) >> shift)


@partial(Loop, compile_=contracted)
def means(fields: Any, h: Any, weight: Any, z: Any, shift: Any) -> None:
    """Fill in w tanh(λ + h), the weighted means of spins with these fields at β = 1.

    Args:
        fields: λ, the bits of float32 or of the upper half of such  # (replica, site)
        h: Fields  # (site,), float32
        weight: w, float32.
        z: Changed; bits as those of the fields  # (replica, site)
        shift: 0 for float32, 16 for bfloat16.
    """
    n = uint64(fields.shape[1])
    half = np.int32(shift > 0)
    for r in range(fields.shape[0]):
        row, to = fields[r], z[r]
        for j in range(n):
            bits = bits_of(weight * mean(float_of(np.int32(np.int32(row[j]) << shift)) + h[j]))
            # To the nearest, and of two to the even one.
            bits = np.int32(bits + half * np.int32(_NEAR + (np.int32(bits >> shift) & _EVEN)))
            to[j] = np.int32(bits >> shift)


@partial(Loop, compile_=contracted)
def turn(x: Any, to: Any, first: Any, total: Any, shift: Any) -> None:
    """Write rows as columns, and add them up.

    Args:
        x: Bits of float32 or of the upper half of such  # (row, site)
        to: Changed, from column `first` on; bits as those of x  # (site, column)
        first: Where the columns start.
        total: Changed  # (site,), float32
        shift: 0 for float32, 16 for bfloat16.
    """
    n_rows, n_sites = x.shape
    for r0 in range(0, n_rows, _BLOCK):
        size = uint64(min(_BLOCK, n_rows - r0))
        for r in range(r0, r0 + size):
            for i in range(uint64(n_sites)):
                total[i] += float_of(np.int32(np.int32(x[r, i]) << shift))
        for i in range(n_sites):
            row = to[i, first + r0 :]
            for r in range(size):
                row[r] = x[uint64(r0) + r, i]
