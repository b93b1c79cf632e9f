"""Quick tests of random bits, each a two-sided p-value: dependences that a sampler would feel."""

import math
from collections.abc import Callable

import numpy as np
from scipy.stats import chi2, norm, poisson

RANKS = (0.2887880950866, 0.5775761901732)  # shares of ranks 64 and 63 among 64 × 64 matrices of random bits


def bits_of(words: np.ndarray) -> int:
    return int(np.bitwise_count(words).sum(dtype=np.int64))


def balanced(ones: float, n: float) -> float:
    """Return the p-value of a number of ones among n fair bits."""
    return float(2.0 * norm.sf(abs(ones - 0.5 * n) / math.sqrt(0.25 * n)))


def square(value: float, free: int) -> float:
    """Return the p-value of a χ²: too good a fit counts as well as too bad a one."""
    return float(2.0 * min(chi2.sf(value, free), chi2.cdf(value, free)))


def pearson(counts: np.ndarray, expected: np.ndarray, free: int) -> float:
    return square(float(((counts - expected) ** 2 / expected).sum()), free)


def monobit(words: np.ndarray) -> float:
    return balanced(bits_of(words), 64 * words.size)


def runs(words: np.ndarray) -> float:
    """Changes from bit to bit: between neighbouring replicas, where the bits of a word are those."""
    after = (words >> np.uint64(1))[:-1] | (words[1:] << np.uint64(63))
    return balanced(bits_of(words[:-1] ^ after), 64 * (words.size - 1))


def frequencies(words: np.ndarray) -> float:
    return pearson(np.bincount(words.view(np.uint8), minlength=256), np.full(256, words.size / 32.0), 255)


def places(words: np.ndarray) -> float:
    """Ones at each of the 64 places: a sum of squares of 64 normal deviates."""
    ones = np.array([bits_of(words & np.uint64(1 << b)) for b in range(64)], dtype=np.float64)
    return square(float(((ones - 0.5 * words.size) ** 2 / (0.25 * words.size)).sum()), 64)


def serial(lag: int) -> Callable[[np.ndarray], float]:
    """Return the test of equal bits at each place of words `lag` apart."""
    return lambda words: places(words[:-lag] ^ words[lag:])


def weights(lag: int) -> Callable[[np.ndarray], float]:
    """Return the test of independence of the numbers of ones, few, middling or many, of words `lag` apart."""

    def test(words: np.ndarray) -> float:
        kind = np.digitize(np.bitwise_count(words), [30, 35])
        table = np.bincount(3 * kind[:-lag] + kind[lag:], minlength=9).reshape(3, 3)
        expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
        return pearson(table, expected, 4) if expected.all() else 0.0

    return test


def ranks(matrices: np.ndarray) -> np.ndarray:
    """Return the ranks of matrices over the field of two, a word a row  # (matrix, row) -> (matrix,)."""
    rows, rank = matrices.copy(), np.zeros(len(matrices), dtype=np.int64)
    every = np.arange(len(rows))
    for b in range(64):
        has = (rows >> np.uint64(b)) & np.uint64(1) == 1
        found = has.any(1)
        pivot = has.argmax(1)
        row = np.where(found, rows[every, pivot], np.uint64(0))
        # The pivot's row leaves: it becomes 0 by adding itself.
        rows ^= np.where(has, row[:, None], np.uint64(0))
        rank += found
    return rank


def rank(words: np.ndarray) -> float:
    """Ranks of 64 × 64 matrices of consecutive words."""
    found = ranks(words[: words.size // 64 * 64].reshape(-1, 64))
    counts = np.array([(found == 64).sum(), (found == 63).sum(), (found < 63).sum()])
    return pearson(counts, found.size * np.array([*RANKS, 1.0 - sum(RANKS)]), 2)


def birthdays(words: np.ndarray) -> float:
    """Equal spacings of 4096 days among 2³², 4 a group on average: of upper and of lower halves."""
    halves = [(words >> np.uint64(32)).astype(np.uint32), words.astype(np.uint32)]
    days = np.concatenate([half[: half.size // 4096 * 4096] for half in halves]).reshape(-1, 4096)
    spacings = np.sort(np.diff(np.sort(days, axis=1).astype(np.int64), axis=1), axis=1)
    equal, mean = int((np.diff(spacings, axis=1) == 0).sum()), 4.0 * len(days)
    return float(2.0 * min(poisson.cdf(equal, mean), poisson.sf(equal - 1, mean)))


def dependent(words: np.ndarray) -> int:
    """Return how many bits of the words of a place are sums, modulo 2, of others of it  # (place, word)."""
    assert len(words) > 64 * words.shape[1] + 64  # else chance will do
    pivots: dict[int, int] = {}
    for row in np.ascontiguousarray(words):
        left = int.from_bytes(row.tobytes(), "little")
        while left and left.bit_length() in pivots:
            left ^= pivots[left.bit_length()]
        if left:
            pivots[left.bit_length()] = left
    return 64 * words.shape[1] - len(pivots)


# Words apart: neighbours, those of the next site of 1024 replicas, the next digit, the next tile's.
LAGS = (1, 2, 16, 64, 128, 640)
TESTS: dict[str, Callable[[np.ndarray], float]] = {
    "monobit": monobit,
    "runs": runs,
    "bytes": frequencies,
    "places": places,
    "rank": rank,
    "birthdays": birthdays,
    **{f"serial {lag}": serial(lag) for lag in LAGS},
    **{f"weights {lag}": weights(lag) for lag in LAGS},
}


def p_values(words: np.ndarray) -> dict[str, float]:
    """Return the p-value of every test."""
    return {name: test(words) for name, test in TESTS.items()}
