"""Random integers from a counter: each is a function of the stream's key and its place in the stream."""

import numpy as np
from numba import uint64

from genmodels.compiled.loop import inlined
from genmodels.streams import Key

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0xD1342543DE82EF95)


def keys(key: Key) -> tuple[np.uint64, np.uint64]:
    """Return the two halves of a stream's 128-bit key."""
    digest = key.digest()
    return np.uint64(int.from_bytes(digest[:8], "little")), np.uint64(int.from_bytes(digest[8:16], "little"))


@inlined
def halfway(k0: np.uint64, k1: np.uint64, n: np.uint64) -> np.uint64:
    """Return the n-th hash of the stream (k0, k1) after the first of its two multiplications."""
    z = uint64(k0) + uint64(n) * _GOLDEN
    return ((z ^ (z >> uint64(30))) * _FIRST) ^ k1


@inlined
def finish(y: np.uint64) -> np.uint64:
    """Return the hash that was halfway at y."""
    z = (y ^ (y >> uint64(27))) * _SECOND
    return z ^ (z >> uint64(31))


@inlined
def hash64(k0: np.uint64, k1: np.uint64, n: np.uint64) -> np.uint64:
    """Return the n-th 64 random bits of the stream (k0, k1).

    SplitMix64 (Steele, Lea & Flood 2014) started at k0, with k1 between its two multiplications, so that two
    streams whose counters overlap still differ. For a given key it is a permutation of the 64-bit integers.
    """
    return finish(halfway(k0, k1, n))


@inlined
def follow(z: np.uint64) -> np.uint64:
    """Return the next state of a short stream that starts at a hash: one multiplication instead of two."""
    return (z ^ (z >> uint64(29))) * _STEP


@inlined
def output(z: np.uint64) -> np.uint64:
    """Return two random integers of 32 bits, those of a state that `follow` has made.

    Modulo 2 the lowest bits of a product are sums of bits of the factor: last digits that depend on earlier
    numbers.
    """
    return z ^ (z >> uint64(32))


@inlined
def masked(z: np.uint64, start: np.uint64, b: np.uint64) -> np.uint64:
    """Return 64 random bits, for 64 users: those of the b-th state, 1 ≤ b ≤ 9, of a stream started at a hash.

    What the lowest bits are sums of is hidden by bits of the start, others for each b; the start itself is
    not shown: the first 64 bits of the stream are its sum with what it was halfway.
    """
    return z ^ (start >> (uint64(3) * uint64(b) + uint64(5)))
