"""Probabilities of flips as integers, and their leading binary digits as words of 64 replicas."""

from typing import Any

import numpy as np
from numba import uint64

from genmodels.compiled.loop import compiled

DIGITS = 10  # of u that are drawn for every replica
TILE = 64
BLOCK = DIGITS * TILE  # words of one row of thresholds
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@compiled
def thresholds(
    betas: Any, unit: Any, steps: Any, heat_bath: Any, n_words: Any, whole: Any, bounds: Any
) -> None:
    """Fill in 2⁶⁴ p of every (step, replica), and their leading digits as words, tile by tile.

    whole: (step, 64 · word); bounds: (tile, step + 1, digit, slot), flat; its last row stays zero.
    """
    n_rows, n_replicas = len(steps), len(betas)
    n_tiles = (n_words + TILE - 1) // TILE
    copies = max(1, TILE // n_words)
    same = bool(np.all(betas == betas[0]))
    for row in range(n_rows):
        p = uint64(0)
        for w in range(n_words):
            for r in range(64 * w, min(64 * w + 64, n_replicas)):
                if not same or r == 0:
                    cost = np.exp(-2.0 * betas[r] * unit * steps[row])
                    share = cost / (1.0 + cost) if heat_bath else cost
                    p = uint64(share * 2.0**64) if share < 1.0 else _ALL
                whole[row, r] = p
            for b in range(DIGITS):
                word = uint64(0)
                if same:
                    word = _ALL if (p >> uint64(63 - b)) & uint64(1) else uint64(0)
                else:
                    for r in range(64):
                        word |= ((whole[row, 64 * w + r] >> uint64(63 - b)) & uint64(1)) << uint64(r)
                at = ((w // TILE * (n_rows + 1) + row) * DIGITS + b) * TILE + w % TILE
                for copy in range(copies if n_tiles == 1 else 1):
                    bounds[at + copy * n_words] = word
