"""The compiled sweeps once more, spin by spin in plain Python, from the same random integers."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from genmodels.compiled.counter import keys
from genmodels.compiled.dense import Dense
from genmodels.compiled.multispin import Multispin
from genmodels.compiled.readable import sweep
from genmodels.compiled.single_flip import layout
from genmodels.compiled.sparse import Sparse
from genmodels.compiled.variates import WORDS, fill
from genmodels.couplings import Couplings
from genmodels.streams import Key

ALL = 2**64 - 1
PICK = 0x8EBC6AF09C88C6E3


def halfway(k0: int, k1: int, n: int) -> int:
    z = (k0 + n * 0x9E3779B97F4A7C15) & ALL
    return (((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & ALL) ^ k1


def hash64(k0: int, k1: int, n: int) -> int:
    y = halfway(k0, k1, n)
    z = ((y ^ y >> 27) * 0x94D049BB133111EB) & ALL
    return z ^ z >> 31


def follow(z: int) -> int:
    return ((z ^ z >> 29) * 0xD1342543DE82EF95) & ALL


@lru_cache(maxsize=1 << 18)
def digits(k0: int, k1: int, place: int) -> list[int]:
    """Return the ten leading digits of u, one of 64 replicas a bit."""
    start = z = hash64(k0, k1, place)
    rest = [(z := follow(z)) ^ start >> 5 + 3 * b for b in range(1, 10)]
    return [halfway(k0, k1, place) + start & ALL, *rest]


def numbers(k0: int, k1: int, place: int) -> list[int]:
    """Return the four words of which eight variates are made."""
    z = hash64(k0, k1, place)
    return [z] + [(z := follow(z)) ^ z >> 32 for _ in range(3)]


def below(k0: int, k1: int, place: int, lane: int, p: float) -> bool:
    """Return whether u < p: ten digits of u and p, and where those are equal, 64 more."""
    bound = min(int(p * 2.0**64), ALL)
    u = sum((word >> lane & 1) << 9 - b for b, word in enumerate(digits(k0, k1, place)))
    if u != bound >> 54:
        return u < bound >> 54
    return hash64(k1, k0, place * 64 + lane) < bound << 10 & ALL


def sites(plan: Any, n_sites: int, t: int, random: bool, k0: int, k1: int) -> list[int]:
    """Return the sites of sweep t in their order."""
    if random:
        drawn = (hash64(k0 ^ PICK, k1, t * n_sites + p) >> 32 for p in range(n_sites))
        return [high * n_sites >> 32 for high in drawn]
    return plan.order.tolist() if isinstance(plan, Multispin) else list(range(n_sites))


@lru_cache(maxsize=1 << 14)
def block(n: int, heat_bath: bool, k0: int, k1: int, first: int) -> np.ndarray:
    """Return n variates from a place on, those of the compiled loops."""
    v, room = np.zeros(n, dtype=np.float32), np.zeros(-(-n // 8) * WORDS, dtype=np.uint64)
    fill(v, np.uint64(n), heat_bath, np.uint64(k0), np.uint64(k1), np.uint64(first), room)
    return v


def variates(kernel: Any, plan: Any, t: int, n_sites: int, n: int, r: int, key: Any) -> list[float]:
    """Return what the costs of sweep t of replica r, of n, are compared with."""
    if isinstance(plan, Dense):
        first = (t * n + r) * -(-n_sites // 8)
        return block(n_sites, kernel.heat_bath, *key, first).tolist()
    b, n_blocks = r // 256, -(-n // 256)
    size = min(256, n - 256 * b)
    places = [((t * n_sites + p) * n_blocks + b) * 32 for p in range(n_sites)]
    return [float(block(size, kernel.heat_bath, *key, place)[r % 256]) for place in places]


def rule_of(kernel: Any, plan: Any, t: int, n_sites: int, n: int, r: int, key: tuple[int, int]) -> Any:
    """Return what decides by a flip's cost, for one update of sweep t of replica r, of n, after the other."""
    if isinstance(plan, Sparse | Dense):
        left = iter(variates(kernel, plan, t, n_sites, n, r, key))
        return lambda cost: cost < next(left)
    n_words, lane = -(-n // 64), r % 64
    places = iter(range(t * n_sites * n_words + r // 64, 2**62, n_words))

    def flips(cost: float) -> bool:
        # What costs nothing is rounded.
        place = next(places)
        if not kernel.heat_bath:
            return cost < 1e-9 or below(*key, place, lane, kernel.flip_probability(cost))
        # Of a flip that gains, the one back is drawn: it is made unless that one would be.
        return below(*key, place, lane, kernel.flip_probability(abs(cost))) != (cost < -1e-9)

    return flips


def remembered(couplings: Couplings) -> Couplings:
    """Return couplings that sort their edges once."""
    table = couplings.neighbours()
    object.__setattr__(couplings, "neighbours", lambda: table)
    return couplings


def replica(
    model: Any, kernel: Any, x: np.ndarray, betas: np.ndarray, r: int, key: Key, factor: float = 1.0
) -> Iterator[np.ndarray]:
    """Yield replica r after each sweep, costs multiplied by `factor`  # (replica, site), (sweep, replica)."""
    for state, _ in history(model, kernel, x, betas, r, key, factor):
        yield state


def decisions(
    model: Any, kernel: Any, x: np.ndarray, betas: np.ndarray, r: int, key: Key
) -> list[list[bool]]:
    """Return of each update of each sweep of replica r whether it was a flip."""
    return [flips for _, flips in history(model, kernel, x, betas, r, key)]


def history(
    model: Any, kernel: Any, x: np.ndarray, betas: np.ndarray, r: int, key: Key, factor: float = 1.0
) -> Iterator[tuple[np.ndarray, list[bool]]]:
    """Yield replica r after each sweep, and which of its updates were flips."""
    plan, couplings = layout(model), remembered(model.couplings())
    k0, k1 = (int(half) for half in keys(key))
    n, n_sites = x.shape
    x = x[r].copy()
    for t, beta in enumerate(betas[:, r].tolist()):
        made: list[bool] = []
        rule = rule_of(kernel, plan, t, n_sites, n, r, (k0, k1))

        def flips(cost: float, rule: Any = rule, made: list[bool] = made) -> bool:
            made.append(bool(rule(factor * cost)))
            return made[-1]

        sweep(x, couplings, beta, sites(plan, n_sites, t, kernel.order == "random", k0, k1), flips)
        yield x.copy(), made
