"""The random words of the compiled loops as raw bytes, in the order of their use, for a battery of tests.

`python -m benchmarks.random_numbers multispin | dieharder -a -g 200`; docs/random_numbers.md has the results.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np

from genmodels.compiled.counter import follow, hash64, keys, output
from genmodels.compiled.thresholds import DIGITS, TILE
from genmodels.compiled.variates import WORDS
from genmodels.streams import Key

KEY = Key(2026, "random numbers")
N_WORDS = 16  # 1024 replicas
CHUNK = 1 << 14  # places at once
SEGMENT = 1 << 17  # updates of one replica in a row

Chain = Callable[[Key, np.ndarray, int], np.ndarray]


def chain(key: Key, places: np.ndarray, n: int) -> np.ndarray:
    """Return the n words of each place of a stream, as the loops draw them  # (place, n)."""
    # The functions' own source, on arrays.
    z = hash64.py_func(*keys(key), places)
    words = [z]
    for _ in range(1, n):
        z = follow.py_func(z)
        words.append(output.py_func(z))
    return np.stack(words, 1)


def places(first: int, n: int, stride: int = 1) -> np.ndarray:
    """Return n places from `first`  # (n,), uint64."""
    return np.arange(first, first + n * stride, stride, dtype=np.uint64)


def tiles(words: np.ndarray) -> np.ndarray:
    """Return words in the order of the loops: of each tile digit after digit  # (place · n,)."""
    return np.ascontiguousarray(words.reshape(-1, TILE, words.shape[1]).transpose(0, 2, 1)).ravel()


def multispin(chain: Chain = chain, key: Key = KEY) -> Iterator[np.ndarray]:
    """Yield the digits of u of 1024 replicas: (sweep and update, digit, word) within tiles."""
    for block in count():
        yield tiles(chain(key, places(block * CHUNK, CHUNK), DIGITS))


def replica(chain: Chain = chain, key: Key = KEY, n: int = SEGMENT) -> Iterator[np.ndarray]:
    """Yield the bits that one replica of 1024 uses in n updates, then those of the next replica, packed."""
    for block in count():
        for word in range(N_WORDS):
            # In pieces: the bits of all 64 replicas take a byte each before they are packed.
            rows = np.zeros((64, n * DIGITS // 8), dtype=np.uint8)
            for first in range(0, n, CHUNK):
                size = min(CHUNK, n - first)
                place = places((block * n + first) * N_WORDS + word, size, N_WORDS)
                digits = np.ascontiguousarray(chain(key, place, DIGITS)).view(np.uint8)
                bits = np.unpackbits(digits, bitorder="little").reshape(-1, 64)
                part = slice(first * DIGITS // 8, (first + size) * DIGITS // 8)
                rows[:, part] = np.packbits(bits.T, axis=1, bitorder="little")
            yield rows.view(np.uint64).ravel()


def across(chain: Chain = chain, key: Key = KEY) -> Iterator[np.ndarray]:
    """Yield the last digit of u of all replicas, update after update."""
    for block in count():
        yield np.ascontiguousarray(chain(key, places(block * CHUNK, CHUNK), DIGITS)[:, -1])


def hashes(chain: Chain = chain, key: Key = KEY) -> Iterator[np.ndarray]:
    """Yield the first words of all places."""
    for block in count():
        yield chain(key, places(block * CHUNK, CHUNK), 1)[:, 0]


def interleaved(chain: Chain = chain, key: Key = KEY) -> Iterator[np.ndarray]:
    """Yield the words of two shards and two rounds in turn, each in the order of the loops."""
    four = [key.at(shard=shard, round=round) for shard in (0, 1) for round in (0, 1)]
    for block in count():
        place = places(block * CHUNK, CHUNK)
        yield np.stack([tiles(chain(one, place, DIGITS)) for one in four], 1).ravel()


def variates(chain: Chain = chain, key: Key = KEY) -> Iterator[np.ndarray]:
    """Yield the words of which variates are made, of 512 replicas at a time."""
    for block in count():
        yield tiles(chain(key, places(block * CHUNK, CHUNK), WORDS))


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
