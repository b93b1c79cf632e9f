"""What a flip's cost is compared with: exponential variates for Metropolis' rule, logistic for heat bath."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types, uint64
from numba.extending import intrinsic

from genmodels.compiled.counter import follow, hash64, output
from genmodels.compiled.loop import contracted, inlined

WORDS = 4  # of 64 random bits from a place of the stream: eight variates
_PICK = np.uint64(0x8EBC6AF09C88C6E3)  # sets the stream that picks sites apart from that of u
_HALF, _ALL, _REST = np.float32(0.5), np.float32(2.0**32), np.uint32(0xFFFFFFFF)
_LN2, _MIDDLE = np.float32(0.6931471805599453), np.float32(1.5)
_MANTISSA, _ONE, _WIDTH = np.int32(0x7FFFFF), np.int32(0x3F800000), np.int32(23)
# log(3/2 + x), |x| ≤ 1/2: the polynomial through its values at Chebyshev's nodes, off by 5 · 10⁻⁸ at most.
_C0, _C1, _C2 = np.float32(0.4054651), np.float32(0.66666615), np.float32(-0.22222193)
_C3, _C4, _C5 = np.float32(0.09879144), np.float32(-0.049398385), np.float32(0.025969792)
_C6, _C7, _C8 = np.float32(-0.014410553), np.float32(0.01023818), np.float32(-0.006006605)


def _bits(context: Any, x: Any) -> Any:
    return types.int32(types.float32), lambda _, builder, __, x: builder.bitcast(x[0], ir.IntType(32))


def _float(context: Any, bits: Any) -> Any:
    return types.float32(types.int32), lambda _, builder, __, x: builder.bitcast(x[0], ir.FloatType())


bits_of: Any = intrinsic(_bits)  # of a float32, as an int32
float_of: Any = intrinsic(_float)  # the float32 that has the bits of an int32


@inlined
def _log_mantissa(bits: Any) -> Any:
    """Return log m of m 2ᵉ, 1 ≤ m < 2, given as its bits."""
    x = float_of(np.int32((bits & _MANTISSA) | _ONE)) - _MIDDLE
    upper = _C4 + x * (_C5 + x * (_C6 + x * (_C7 + x * _C8)))
    return _C0 + x * (_C1 + x * (_C2 + x * (_C3 + x * upper)))


@inlined
def _log_ratio(a: Any, b: Any) -> Any:
    """Return log(a/b)."""
    over, under = bits_of(a), bits_of(b)
    # np.int32 again and again: else numba computes with 64 bits.
    twos = np.float32(np.int32(np.int32(over >> _WIDTH) - np.int32(under >> _WIDTH)))
    return twos * _LN2 + (_log_mantissa(over) - _log_mantissa(under))


@inlined
def integers(words: Any, quarter: Any, k0: Any, k1: Any, first: Any) -> None:
    """Fill in 4 · `quarter` words of random bits: the p-th word of each quarter is of place first + p."""
    for t in range(quarter):
        z0 = hash64(k0, k1, first + t)
        z1 = follow(z0)
        z2 = follow(z1)
        words[t] = z0
        words[quarter + t] = output(z1)
        words[quarter + quarter + t] = output(z2)
        words[quarter + quarter + quarter + t] = output(follow(z2))


@contracted
def fill(v: Any, n: Any, heat_bath: Any, k0: Any, k1: Any, first: Any, words: Any) -> None:
    """Fill in variates: a flip of cost c, in nats, is made if c < v.

    With u = (n + ½)/2³², n 32 random bits: v = −log u, so that P(c < v) = min(1, e⁻ᶜ), or for heat bath
    v = log((1 − u)/u), P(c < v) = 1/(1 + eᶜ), to 2⁻³³ + 3 · 10⁻⁷ max(1, c) P: a flip that costs more than 23
    nats is never made.

    Args:
        v: Room for n variates, float32
        n: How many.
        heat_bath: Which of the two.
        k0: The stream's key, as is k1; place p of it, with what follows on it, gives eight variates.
        k1: Its other half.
        first: The first place.
        words: Room for 4 ⌈n/8⌉ words of 64 bits.
    """
    integers(words, (n + uint64(2 * WORDS - 1)) // uint64(2 * WORDS), k0, k1, first)
    numbers = words.view(np.uint32)
    if heat_bath:
        for t in range(n):
            # From the integer: 1 − u would have lost the digits of what is near 0.
            rest = np.uint32(numbers[t] ^ _REST)
            v[t] = _log_ratio(np.float32(rest) + _HALF, np.float32(numbers[t]) + _HALF)
    else:
        for t in range(n):
            v[t] = _log_ratio(_ALL, np.float32(numbers[t]) + _HALF)


@inlined
def pick(n_sites: Any, k0: Any, k1: Any, place: Any) -> Any:
    """Return a site drawn uniformly, the one of an update's place in the run."""
    return np.int64(((hash64(k0 ^ _PICK, k1, place) >> uint64(32)) * uint64(n_sites)) >> uint64(32))
