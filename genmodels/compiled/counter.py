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
def hash64(k0: np.uint64, k1: np.uint64, n: np.uint64) -> np.uint64:
    """Return the n-th 64 random bits of the stream (k0, k1).

    SplitMix64 (Steele, Lea & Flood 2014) started at k0, with k1 between its two multiplications, so that two
    streams whose counters overlap still differ. For a given key it is a permutation of the 64-bit integers.
    """
    z = uint64(k0) + uint64(n) * _GOLDEN
    z = ((z ^ (z >> uint64(30))) * _FIRST) ^ k1
    z = (z ^ (z >> uint64(27))) * _SECOND
    return z ^ (z >> uint64(31))


@inlined
def follow(z: np.uint64) -> np.uint64:
    """Return the next state of a short stream whose first state, and first 64 random bits, are a hash.

    One multiplication instead of two; a permutation, as the hash is.
    """
    return (z ^ (z >> uint64(29))) * _STEP


@inlined
def output(z: np.uint64) -> np.uint64:
    """Return the 64 random bits of a state that `follow` has made."""
    return z ^ (z >> uint64(32))
