"""What a flip's cost is compared with: exponential variates for Metropolis' rule, logistic for heat bath."""

from typing import Any, NamedTuple

import numpy as np
from numba import uint64

from genmodels.compiled.counter import follow, hash64, output
from genmodels.compiled.loop import contracted, inlined

WORDS = 4  # of 64 random bits from a place of the stream: eight variates
_PICK = np.uint64(0x8EBC6AF09C88C6E3)  # sets the stream that picks sites apart from that of u
_SCALE, _HALF, _ONE = np.float32(2.0**-32), np.float32(2.0**-33), np.float32(1.0)
_LN2, _BINADE = np.float32(0.6931471805599453), np.float32(2.0**-23)
_REST = np.uint32(0xFFFFFFFF)
_BIAS, _MANTISSA = np.int32(127), np.int32(0x7FFFFF)
_ROOT = np.float32(2.0**0.5)
_A1, _A3, _A5, _A7 = np.float32(2.0), np.float32(2.0 / 3.0), np.float32(2.0 / 5.0), np.float32(2.0 / 7.0)


class Room(NamedTuple):
    """Memory for variates: random words, and numbers with, of the same memory, their bits."""

    words: np.ndarray  # uint64
    u: np.ndarray  # float32
    bits: np.ndarray  # int32


@inlined
def room(n: int) -> Room:
    """Return memory for n variates."""
    n_words = (n + 2 * WORDS - 1) // (2 * WORDS) * WORDS
    u = np.zeros(2 * n_words, dtype=np.float32)
    return Room(np.zeros(n_words, dtype=np.uint64), u, u.view(np.int32))


@contracted
def fill(v: Any, n: Any, heat_bath: Any, k0: Any, k1: Any, first: Any, memory: Any) -> None:
    """Fill in variates: a flip of cost c, in nats, is made if c < v.

    With u = (n + ½)/2³², n 32 random bits: v = −log u, so that P(c < v) = min(1, e⁻ᶜ), or for heat bath
    v = log((1 − u)/u), P(c < v) = 1/(1 + eᶜ), to 2⁻³³ + 3 · 10⁻⁷ max(1, c) P: a flip that costs more than 23
    nats is never made. log m = log √2 + 2 artanh((m − √2)/(m + √2)), four terms of the series.

    Args:
        v: Room for n variates, float32
        n: How many.
        heat_bath: Which of the two.
        k0: The stream's key, as is k1; place p of it, with what follows on it, gives eight variates.
        k1: Its other half.
        first: The first place.
        memory: Of `room`, for n variates.
    """
    # Loops that write one array and read others: else they would not become vector code.
    words, u, bits = memory
    quarter = (n + uint64(2 * WORDS - 1)) // uint64(2 * WORDS)
    for t in range(quarter):
        z0 = hash64(k0, k1, first + t)
        z1 = follow(z0)
        z2 = follow(z1)
        words[t] = z0
        words[quarter + t] = output(z1)
        words[quarter + quarter + t] = output(z2)
        words[quarter + quarter + quarter + t] = output(follow(z2))
    halves = words.view(np.uint32)
    for t in range(n):
        u[t] = np.float32(halves[t]) * _SCALE + _HALF
    if heat_bath:
        for t in range(n):
            # From the integer: 1 − u would have lost the digits of what is near 0.
            v[t] = u[t] / (np.float32(np.uint32(halves[t] ^ _REST)) * _SCALE + _HALF)
        for t in range(n):
            u[t] = v[t]
    for t in range(n):
        # np.int32 again and again: else numba computes with 64 bits.
        exponent = np.float32(np.int32(np.int32(bits[t] >> 23) - _BIAS))
        m = np.float32(np.int32(bits[t] & _MANTISSA)) * _BINADE + _ONE
        s = (m - _ROOT) / (m + _ROOT)
        q = s * s
        log = s * (_A1 + q * (_A3 + q * (_A5 + q * _A7)))
        v[t] = -((exponent + np.float32(0.5)) * _LN2 + log)


@inlined
def pick(n_sites: Any, k0: Any, k1: Any, place: Any) -> Any:
    """Return a site drawn uniformly, the one of an update's place in the run."""
    return np.int64(((hash64(k0 ^ _PICK, k1, place) >> uint64(32)) * uint64(n_sites)) >> uint64(32))
