"""The random words of the compiled loops pass a quick battery of tests, and weaker ones do not.

A long battery was run once: docs/random_numbers.md.
"""

import runpy
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from battery import linear, p_values
from twins import words

from genmodels.compiled.counter import follow, hash64, keys, output
from genmodels.streams import Key

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "random_numbers.py"))
STREAMS, chain = BENCHMARK["STREAMS"], BENCHMARK["chain"]
KEY = Key(41, "battery")
N = 1 << 20  # words, 8 MB
SMALLEST = 1e-4  # of a few hundred p-values


def taken(name: str, chain: Callable[..., np.ndarray] = chain, key: Key = KEY) -> np.ndarray:
    """Return N words of a stream."""
    found: list[np.ndarray] = []
    for part in STREAMS[name](chain=chain, key=key):
        found.append(part)
        if sum(map(len, found)) >= N:
            return np.concatenate(found)[:N]
    raise AssertionError(name)


def smallest(words: np.ndarray) -> float:
    return min(p_values(words).values())


def test_the_streams_are_what_the_loops_draw() -> None:
    k0, k1 = (int(half) for half in keys(KEY))
    place = np.arange(900, 1000, dtype=np.uint64)
    expected = [list(words(k0, k1, int(n))) for n in place]
    assert chain(KEY, place, 10).tolist() == expected
    compiled = int(hash64(*keys(KEY), np.uint64(900)))
    second = follow(np.uint64(compiled))
    assert [compiled, int(output(second)), int(output(follow(second)))] == expected[0][:3]
    multispin = next(STREAMS["multispin"](chain=chain, key=KEY))
    assert multispin[:1280:64].tolist() == [b for n in (0, 64) for b in words(k0, k1, n)]
    bits = np.unpackbits(next(STREAMS["replica"](chain=chain, key=KEY)).view(np.uint8), bitorder="little")
    for r in (0, 1, 63):
        own = [word >> r & 1 for p in range(5) for word in words(k0, k1, 16 * p)]
        assert bits.reshape(64, -1)[r, :50].tolist() == own


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", STREAMS)
def test_the_streams_pass(name: str, seed: int) -> None:
    found = p_values(taken(name, key=KEY._replace(seed=seed)))
    assert min(found.values()) > SMALLEST, found


def test_no_digit_is_a_linear_function_of_the_one_before() -> None:
    assert linear(chain(KEY, np.arange(192, dtype=np.uint64), 10)) == 1.0


def raw(key: Key, places: np.ndarray, n: int) -> np.ndarray:
    """Leave out `output`: the lowest bit is a sum of two bits of the word before."""
    z = hash64.py_func(*keys(key), places)
    found = [z]
    for _ in range(1, n):
        z = follow.py_func(z)
        found.append(z)
    return np.stack(found, 1)


def multiplied_once(key: Key, places: np.ndarray, n: int) -> np.ndarray:
    """Take a hash with one of its two multiplications."""
    z = keys(key)[0] + places * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = [z ^ (z >> np.uint64(31))]
    for _ in range(1, n):
        z = follow.py_func(z)
        found.append(output.py_func(z))
    return np.stack(found, 1)


def same_shards(key: Key, places: np.ndarray, n: int) -> np.ndarray:
    """Start the stream of a shard a little later in the same one."""
    return chain(key.at(shard=0, round=0), places + np.uint64(5 * key.shard), n)


def shifted(key: Key, places: np.ndarray, n: int) -> np.ndarray:
    """Take as the next word the last one, shifted."""
    z = hash64.py_func(*keys(key), places)
    return np.stack([(z << np.uint64(b)) | (z >> np.uint64(64 - b)) if b else z for b in range(n)], 1)


def rare_ones(key: Key, places: np.ndarray, n: int) -> np.ndarray:
    """Lose a one in a thousand."""
    found = chain(key, places, n)
    lost = chain(key.child("lost"), places, 10)
    return found & ~np.bitwise_and.reduce(lost, 1)[:, None]


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        (multiplied_once, ("hashes", "multispin", "variates")),
        (same_shards, ("interleaved",)),
        (shifted, ("multispin", "replica", "variates")),
        (rare_ones, tuple(STREAMS)),
    ],
)
def test_weak_streams_do_not_pass(wrong: Any, names: tuple[str, ...]) -> None:
    for name in names:
        assert smallest(taken(name, wrong)) < 1e-9, name


def test_a_chain_of_raw_states_does_not_pass() -> None:
    assert linear(raw(KEY, np.arange(192, dtype=np.uint64), 10)) == 0.0


def test_a_mersenne_twister_and_a_counter_in_plain_order_are_told_apart() -> None:
    assert smallest(np.random.Generator(np.random.PCG64(3)).integers(0, 2**64, N, dtype=np.uint64)) > SMALLEST
    assert smallest(np.arange(N, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) < 1e-9
    assert len(list(islice(STREAMS["hashes"](), 2))) == 2
