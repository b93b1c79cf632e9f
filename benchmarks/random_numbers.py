"""The random words of the compiled loops as raw bytes, in the order of their use, for a battery of tests.

`python -m benchmarks.random_numbers multispin | dieharder -a -g 200`; docs/random_numbers.md has the results.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np

from genmodels.compiled.counter import finish, follow, halfway, keys, masked, output
from genmodels.compiled.thresholds import DIGITS, TILE
from genmodels.compiled.variates import WORDS
from genmodels.streams import Key

KEY = Key(2026, "random numbers")
N_WORDS = 16  # 1024 replicas
CHUNK = 1 << 14  # places at once
SEGMENT = 8  # times as many are the updates of one replica in a row

Words = Callable[[Key, np.ndarray], np.ndarray]  # of (place,): (place, word)


# The functions' own source, on arrays.
_halfway, _finish = halfway.py_func, finish.py_func
_follow, _output, _masked = follow.py_func, output.py_func, masked.py_func


def digits(key: Key, places: np.ndarray) -> np.ndarray:
    """Return the ten digits of u of each place of a stream  # (place, digit)."""
    y = _halfway(*keys(key), places)
    start = z = _finish(y)
    words = [y + start]
    for b in range(1, DIGITS):
        z = _follow(z)
        words.append(_masked(z, start, b))
    return np.stack(words, 1)


def numbers(key: Key, places: np.ndarray) -> np.ndarray:
    """Return the words of each place of which variates are made  # (place, 4)."""
    z = _finish(_halfway(*keys(key), places))
    words = [z]
    for _ in range(1, WORDS):
        z = _follow(z)
        words.append(_output(z))
    return np.stack(words, 1)


def blocks(stride: int = 1) -> Iterator[np.ndarray]:
    """Yield all places from 0, or those a stride apart, many at a time  # (place,), uint64."""
    for first in count(0, CHUNK * stride):
        yield np.arange(first, first + CHUNK * stride, stride, dtype=np.uint64)


def tiles(words: np.ndarray, n_together: int = TILE) -> np.ndarray:
    """Return words in the order of the loops: of some places digit after digit  # (place · n,)."""
    return np.ascontiguousarray(words.reshape(-1, n_together, words.shape[1]).transpose(0, 2, 1)).ravel()


def multispin(words: Words = digits, key: Key = KEY) -> Iterator[np.ndarray]:
    """Yield the digits of u of 1024 replicas: (sweep and update, digit, word) within tiles."""
    return (tiles(words(key, places)) for places in blocks())


def replica(words: Words = digits, key: Key = KEY) -> Iterator[np.ndarray]:
    """Yield the bits that one replica of 1024 uses in 131072 updates, then those of the next one, packed."""
    for many in zip(*[blocks(N_WORDS)] * SEGMENT, strict=True):
        for word in range(N_WORDS):
            parts = []
            for places in many:
                raw = np.ascontiguousarray(words(key, places + np.uint64(word))).view(np.uint8)
                bits = np.unpackbits(raw, bitorder="little").reshape(-1, 64)
                parts.append(np.packbits(bits.T, axis=1, bitorder="little"))
            yield np.ascontiguousarray(np.concatenate(parts, 1)).view(np.uint64).ravel()


def across(words: Words = digits, key: Key = KEY) -> Iterator[np.ndarray]:
    """Yield the last digit of u of all replicas, update after update."""
    return (np.ascontiguousarray(words(key, places)[:, -1]) for places in blocks())


def hashes(words: Words = digits, key: Key = KEY) -> Iterator[np.ndarray]:
    """Yield the hashes of all places: they start the short streams, pick sites, and are last digits of u."""
    return (_finish(_halfway(*keys(key), places)) for places in blocks())


def interleaved(words: Words = digits, key: Key = KEY) -> Iterator[np.ndarray]:
    """Yield the words of two shards and two rounds in turn, each in the order of the loops."""
    four = [key.at(shard=shard, round=round) for shard in (0, 1) for round in (0, 1)]
    for places in blocks():
        yield np.stack([tiles(words(one, places)) for one in four], 1).ravel()


def variates(words: Words = numbers, key: Key = KEY) -> Iterator[np.ndarray]:
    """Yield the words of which variates are made, of 256 replicas at a time."""
    return (tiles(words(key, places), 256 // (2 * WORDS)) for places in blocks())


STREAMS: dict[str, Callable[..., Iterator[np.ndarray]]] = {
    "multispin": multispin,
    "replica": replica,
    "across": across,
    "hashes": hashes,
    "interleaved": interleaved,
    "variates": variates,
}


def main() -> None:
    """Write a stream to standard output until its reader has had enough; say how many bytes that were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stream", choices=STREAMS)
    parser.add_argument("--seed", type=int, default=KEY.seed)
    arguments: Any = parser.parse_args()
    n_bytes = 0
    try:
        for words in STREAMS[arguments.stream](key=KEY._replace(seed=arguments.seed)):
            sys.stdout.buffer.write(words.tobytes())
            n_bytes += words.nbytes
    except BrokenPipeError:
        # Python would complain once more when it closes the pipe.
        sys.stderr.write(f"{arguments.stream}: {n_bytes / 1e9:.2f} GB read\n")
        sys.stderr.flush()
        sys.stdout = None


if __name__ == "__main__":
    main()
