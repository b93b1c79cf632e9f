"""Which temperatures to use when nobody says: from what single flips cost."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from genmodels.couplings import Couplings
from genmodels.errors import InputError
from genmodels.samplers.shards import representable

HOT = 0.5  # probability that the dearest flip is accepted at the first β
COLD = 0.01  # excitations a sweep at the last β
_WIDEST = 2**16  # sums of a site's couplings, in their common unit, that are still listed


def spaced(n: int, beta_max: float) -> Tensor:
    """Return β_k = beta_max (k/(n − 1))², k = 0 … n − 1: finest at β = 0, where energies vary most."""
    return representable(torch.linspace(0.0, 1.0, n, dtype=torch.float64).square() * beta_max)


def beta_range(couplings: Couplings) -> tuple[float, float]:
    """Return the first and the last β for annealing spins with these couplings.

    First: the dearest of all flips, ΔE = max_i 2(|h_i| + Σ_j |J_ij|), is accepted at the rate exp(−βΔE) = ½.
    Last, where couplings and fields are multiples of one unit: n exp(−βΔE) = 1/100, ΔE the smallest positive
    cost of a flip and n the number of sites that may have it: one excitation in a hundred sweeps. This is the
    rule of D-Wave's samplers (`dwave-samplers`, default_beta_range), but that they take the smallest coupling
    for the smallest cost; here it is exact, 4J instead of 2J in a ±J model of six neighbours a site.

    Real couplings make costs as small as one likes. There one site in a hundred is excited a sweep, among
    local fields that are normal with the variance σ_i² = h_i² + Σ_j J_ij²: mean_i 1/(√(2π) σ_i β) = 1/100.
    Fields that β does not multiply (`base`) are left out.

    Raises:
        InputError: all couplings and fields are 0.
    """
    h = np.abs(couplings.h)
    rows = [(float(h[site]), np.abs(row)) for site, row in enumerate(_rows(couplings))]
    dearest = 2.0 * max((field + float(row.sum()) for field, row in rows), default=0.0)
    if dearest == 0.0:
        raise InputError("couplings: all couplings and fields are 0, so that all states are alike: give some")
    beta_min = -math.log(HOT) / dearest
    unit = _unit(np.concatenate([np.abs(couplings.J), h]))
    if unit and dearest / unit <= _WIDEST:
        costs = _smallest_costs(rows, unit)
        smallest = min(costs)
        return beta_min, math.log(costs.count(smallest) / COLD) / (smallest * unit)
    widths = [math.sqrt(field**2 + float(row @ row)) for field, row in rows]
    rate = np.mean([1.0 / width for width in widths if width > 0.0]) / math.sqrt(2.0 * math.pi)
    return beta_min, max(float(rate) / COLD, beta_min * math.log(COLD) / math.log(HOT))


def _rows(couplings: Couplings) -> Iterator[np.ndarray]:
    starts, _, values = couplings.neighbours()
    return (values[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True))


def _unit(values: np.ndarray) -> float:
    """Return what all values are whole multiples of, or 0."""
    present = values[values > 0.0]
    if np.array_equal(present, present.round()) and present.max() < 2.0**53:
        return float(np.gcd.reduce(present.astype(np.int64)))
    multiples = present / present.min()
    return float(present.min()) if np.allclose(multiples, multiples.round(), rtol=0.0, atol=1e-6) else 0.0


def _smallest_costs(rows: list[tuple[float, np.ndarray]], unit: float) -> list[int]:
    """Return the smallest positive cost of a flip, in units, of each site that has one."""
    known: dict[tuple[int, ...], int] = {}
    costs = []
    for field, row in rows:
        terms = (round(field / unit), *sorted(np.rint(row[row > 0.0] / unit).astype(int).tolist()))
        if terms not in known:
            known[terms] = _smallest_sum(terms)
        if known[terms]:
            costs.append(2 * known[terms])
    return costs


def _smallest_sum(terms: tuple[int, ...]) -> int:
    """Return the smallest positive |h + Σ ±J| of whole numbers h, J …, or 0 if there is none.

    Bit s of `sums` says whether the J can add up to s − ΣJ; sums come with either sign.
    """
    field, *others = terms
    sums, zero = 1, sum(others) - field  # the place of a local field of 0
    for term in others:
        sums |= sums << (2 * term)
    if zero < 0:
        sums, zero = sums << -zero, 0
    above, below = sums >> (zero + 1), sums & ((1 << zero) - 1)
    found = [(above & -above).bit_length()] if above else []
    return min(found + [zero + 1 - below.bit_length()] * bool(below), default=0)
