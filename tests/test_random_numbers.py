"""The random words of the compiled loops pass a quick battery of tests, and weaker ones do not.

A long battery was run once: docs/random_numbers.md.
"""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import twins
from battery import dependent, p_values

from genmodels.compiled.counter import finish, follow, halfway, hash64, keys, masked, output
from genmodels.streams import Key

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "random_numbers.py"))
STREAMS, digits, numbers = BENCHMARK["STREAMS"], BENCHMARK["digits"], BENCHMARK["numbers"]
KEY = Key(41, "battery")
N = 1 << 20  # words, 8 MB
SMALLEST = 1e-5  # of a few hundred p-values


def taken(name: str, key: Key = KEY, **wrong: Any) -> np.ndarray:
    """Return N words of a stream."""
    found: list[np.ndarray] = []
    for part in STREAMS[name](key=key, **wrong):
        found.append(part)
        if sum(map(len, found)) >= N:
            break
    return np.concatenate(found)[:N]


def smallest(words: np.ndarray) -> float:
    return min(p_values(words).values())


def bits(words: np.ndarray) -> np.ndarray:
    """Return the bits of words, the lowest one first  # (word, 64)."""
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little").reshape(-1, 64)


def test_the_streams_are_what_the_loops_draw() -> None:
    k0, k1 = (int(half) for half in keys(KEY))
    place = np.arange(900, 1000, dtype=np.uint64)
    assert digits(KEY, place).tolist() == [twins.digits(k0, k1, int(n)) for n in place]
    assert numbers(KEY, place).tolist() == [twins.numbers(k0, k1, int(n)) for n in place]
    start = hash64(*keys(KEY), np.uint64(900))
    state = follow(np.uint64(start))
    assert int(masked(state, start, np.uint64(1))) == twins.digits(k0, k1, 900)[1]
    assert int(output(state)) == twins.numbers(k0, k1, 900)[1]
    # Tiles of 64 words, digit after digit; the bits of one replica of 16 words.
    multispin = next(iter(STREAMS["multispin"](key=KEY)))
    assert multispin[: 2 * 640 : 64].tolist() == [u for n in (0, 64) for u in twins.digits(k0, k1, n)]
    of_replicas = bits(next(iter(STREAMS["replica"](key=KEY)))).reshape(64, -1)
    for r in (0, 1, 63):
        own = [u >> r & 1 for p in range(5) for u in twins.digits(k0, k1, 16 * p)]
        assert of_replicas[r, :50].tolist() == own


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", STREAMS)
def test_the_streams_pass(name: str, seed: int) -> None:
    found = p_values(taken(name, KEY._replace(seed=seed)))
    assert min(found.values()) > SMALLEST, found


def test_no_bit_is_a_sum_of_others() -> None:
    place = np.arange(0, 5000, 7, dtype=np.uint64)
    assert dependent(digits(KEY, place)) == 0
    # Of neighbouring words of 16, and of another shard.
    far = np.arange(0, 100_000, 70, dtype=np.uint64)
    near = [digits(KEY, far), digits(KEY, far + np.uint64(1))]
    assert dependent(np.concatenate(near, 1)) == 0
    shards = [digits(KEY, far), digits(KEY.at(shard=1), far)]
    assert dependent(np.concatenate(shards, 1)) == 0


def hashes(key: Key, places: np.ndarray) -> np.ndarray:
    return finish.py_func(halfway.py_func(*keys(key), places))


def of_states(key: Key, places: np.ndarray, mixed: bool = True) -> np.ndarray:
    """Return ten states in a row, the hash among them, or what `output` makes of them."""
    z = hashes(key, places)
    words = [z]
    for _ in range(9):
        z = follow.py_func(z)
        words.append(output.py_func(z) if mixed else z)
    return np.stack(words, 1)


def test_digits_that_are_states_depend_on_each_other() -> None:
    place = np.arange(0, 5000, 7, dtype=np.uint64)
    assert dependent(of_states(KEY, place)) == 27  # the lowest three bits of nine products
    assert dependent(of_states(KEY, place, mixed=False)) == 27


def multiplied_once(key: Key, places: np.ndarray) -> np.ndarray:
    """Start at a counter that is multiplied once, not at a hash."""
    z = keys(key)[0] + places * np.uint64(0x9E3779B97F4A7C15)
    words = [z ^ (z >> np.uint64(31))]
    for _ in range(9):
        words.append(follow.py_func(words[-1]))
    return np.stack(words, 1)


def overlapping(key: Key, places: np.ndarray) -> np.ndarray:
    """Start the stream of a shard, or of a round, a little later in one that they share."""
    later = np.uint64(64 * (2 * key.shard + key.round))
    return digits(key.at(shard=0, round=0), places + later)


def shifted(key: Key, places: np.ndarray) -> np.ndarray:
    """Take as the next digit of a replica that of its neighbour."""
    z = hashes(key, places)
    return np.stack([z] + [(z << np.uint64(b)) | (z >> np.uint64(64 - b)) for b in range(1, 10)], 1)


def rare_ones(key: Key, places: np.ndarray) -> np.ndarray:
    """Lose one of 256 ones."""
    found, lost = digits(key, places), digits(key.child("lost"), places)[:, :8]
    return found & ~np.bitwise_and.reduce(lost, 1)[:, None]


WEAK: dict[Any, tuple[str, ...]] = {
    multiplied_once: ("multispin", "interleaved"),
    overlapping: ("interleaved",),
    shifted: ("multispin", "interleaved"),
    rare_ones: ("multispin", "replica", "across", "interleaved"),
}


@pytest.mark.parametrize("wrong", WEAK)
def test_weak_streams_do_not_pass(wrong: Any) -> None:
    for name in WEAK[wrong]:
        assert smallest(taken(name, words=wrong)) < 1e-9, name


def test_a_good_generator_passes_and_a_bare_counter_does_not() -> None:
    assert smallest(np.random.PCG64(3).random_raw(N)) > SMALLEST
    assert smallest(np.arange(N, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) < 1e-9
