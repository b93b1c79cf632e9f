"""A whole step of contrastive learning of two sides of spins: chains, averages, centred gradient, update.

For machines so small that calls would take longer than what they do. Products with spins are sums of rows of
tables.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from numba import njit, uint64
from torch import Tensor

from genmodels.compiled import tables
from genmodels.compiled.bipartite import chains, halves
from genmodels.compiled.logistic import mean
from genmodels.compiled.loop import Loop, contracted, inlined

_TOGETHER = 64  # images in one table: with it the sums stay in the cache
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


def suits(x: Tensor) -> bool:
    """Return whether `step` takes numbers like these."""
    return x.dtype == torch.float32 and x.is_cpu and x.is_contiguous()


@partial(Loop, compile_=contracted)
def step(
    W: Any,
    b: Any,
    c: Any,
    mu: Any,
    lam: Any,
    data: Any,
    start: Any,
    lasting: Any,
    n_sweeps: Any,
    rate: Any,
    decay: Any,
    slide: Any,
    k0: Any,
    k1: Any,
) -> Any:
    """Make a step of θ = (W, b, c) along the centred contrast, if that is finite, in place.

    Args:
        W: Changed, as are b and c  # (visible, hidden), float32
        b: Fields  # (visible,), float32
        c: Fields  # (hidden,), float32
        mu: Centres of the visible units so far  # (visible,), float32
        lam: Those of the hidden ones  # (hidden,), float32
        data: Images  # (image, visible), ±1, float32
        start: Where chains start: the images, or configurations  # (chain, visible or site), ±1, float32
        lasting: Whether the chains are not those of the images.
        n_sweeps: Sweeps of the chains.
        rate: Length of the step over that of the direction.
        decay: A penalty ½ decay |W|².
        slide: Share of these images in the centres, 0 for those that are to stay.
        k0: The stream's key, as is k1, used as by `bipartite.sweep`.
        k1: Its other half.

    Returns:
        Whether data and chains are spins (else nothing is done); |direction|; the root mean square of
        ⟨x⟩_data − ⟨x⟩_model; the centres; the chains (chain, site).
    """
    n_visible, n_hidden = W.shape
    spins = tables.are_spins(data, n_visible) and tables.are_spins(start, n_visible)
    n, m = (len(data), len(start)) if spins else (0, 0)
    x = np.empty((m, n_visible + n_hidden), dtype=np.float32)
    if not spins:
        return False, 0.0, 0.0, mu, lam, x
    for r in range(m):
        tables.copy(start[r], x[r], start.shape[1])
    (down, up), h = halves(W), np.concatenate((b, c))
    width = len(tables.fields(down))
    fields, base, betas = tables.zeros(n + m, width), np.zeros_like(h), np.ones((1, m), dtype=np.float32)
    chains(down, up, h, base, betas, x, n_visible, n_sweeps, fields[:0] if lasting else fields[:n], k0, k1)
    if lasting or n_sweeps == 0:
        _multiply(data, n_visible, down, fields)
    _multiply(x, n_visible, down, fields[n:])
    difference = tables.zeros(n_visible, width)
    mean_x, mean_z = _phase(data, fields, c, np.float32(n), difference)
    other_x, other_z = _phase(x, fields[n:], c, -np.float32(m), difference)
    dx, dz = mean_x + other_x, mean_z + other_z
    mu, lam = mu + np.float32(slide) * (mean_x - mu), lam + np.float32(slide) * (mean_z - lam)
    norm = _climb(W, b, c, difference, dx, dz, mu, lam, np.float32(decay), np.float32(rate))
    return True, norm, np.sqrt(np.float64(_dot(dx, dx)) / n_visible), mu, lam, x


@njit(error_model="numpy", nogil=True, fastmath={"contract", "reassoc"})
def _dot(a: Any, b: Any) -> Any:
    """Return a sum of products, in the order that is fastest."""
    total = _ZERO
    for j in range(len(a)):
        total += a[j] * b[j]
    return total


@contracted
def _multiply(x: Any, n_visible: Any, table: Any, fields: Any) -> None:
    """Fill in what visible spins give to hidden ones  # (row, site), (8G, wider), (row, wide)."""
    spins, room = tables.spins(table), tables.codes(table)
    for r in range(len(x)):
        tables.copy(x[r], spins, n_visible)
        tables.multiply(spins, table, room, fields[r])


@contracted
def _phase(x: Any, fields: Any, c: Any, count: Any, products: Any) -> Any:
    """Add Σ xzᵀ/n to the products, z averaged out, and return Σ x/n and Σ z/n  # (row, site), (row, wide)."""
    n_visible, n_hidden, n_rows = len(products), len(c), len(x)
    sum_x, sum_z = np.zeros(n_visible, dtype=np.float32), np.zeros(n_hidden, dtype=np.float32)
    for r0 in range(0, n_rows, _TOGETHER):
        size = min(_TOGETHER, n_rows - r0)
        z = tables.room(size, n_hidden)
        turned = np.ones((n_visible, len(z)), dtype=np.float32)
        for r in range(size):
            _means(fields[r0 + r], c, _ONE / count, z[r], sum_z)
            _turn(x[r0 + r], turned, r, sum_x)
        table = tables.of(z)
        room = tables.codes(table)
        for i in range(n_visible):
            tables.multiply_add(turned[i], table, room, products[i])
    return sum_x / count, sum_z


@inlined
def _means(fields: Any, c: Any, weight: Any, z: Any, total: Any) -> None:
    for j in range(uint64(len(c))):
        z[j] = weight * mean(fields[j] + c[j])
    for j in range(uint64(len(c))):
        total[j] += z[j]


@inlined
def _turn(x: Any, turned: Any, r: Any, total: Any) -> None:
    n = uint64(len(total))
    for i in range(n):
        turned[i, r] = x[i]
    for i in range(n):
        total[i] += x[i]


@contracted
def _climb(
    W: Any, b: Any, c: Any, dW: Any, dx: Any, dz: Any, mu: Any, lam: Any, decay: Any, rate: Any
) -> Any:
    """Go along the centred direction (`RBM.centred`), dW being the contrast of xzᵀ, if it is finite.

    Returns:
        Its length.
    """
    n = uint64(len(c))
    db, dc, square = dx.copy(), dz.copy(), 0.0
    for i in range(len(b)):
        row, weights, x, centre = dW[i], W[i], dx[i], mu[i]
        for j in range(n):
            row[j] = row[j] - centre * dz[j] - x * lam[j] - decay * weights[j]
        for j in range(n):
            dc[j] -= centre * row[j]
        db[i] -= _dot(lam, row)
        square += np.float64(_dot(row, row))
    square += np.float64(_dot(db, db)) + np.float64(_dot(dc, dc))
    if np.isfinite(square):
        for i in range(len(b)):
            b[i] += rate * db[i]
            row, weights = dW[i], W[i]
            for j in range(n):
                weights[j] += rate * row[j]
        for j in range(n):
            c[j] += rate * dc[j]
    return np.sqrt(square)


@partial(Loop, compile_=contracted)
def climb(
    W: Any, b: Any, c: Any, dW: Any, dx: Any, dz: Any, mu: Any, lam: Any, decay: Any, rate: Any
) -> Any:
    """Go along the centred direction (`RBM.centred`) in place, if it is finite, and return its length.

    Args:
        W: Changed, as are b and c  # (visible, hidden), float32
        b: Fields  # (visible,), float32
        c: Fields  # (hidden,), float32
        dW: The contrast of xzᵀ; changed  # (visible, hidden), float32
        dx: The contrast of x  # (visible,), float32
        dz: That of z  # (hidden,), float32
        mu: Centres of the visible units  # (visible,), float32
        lam: Those of the hidden ones  # (hidden,), float32
        decay: A penalty ½ decay |W|².
        rate: Length of the step over that of the direction.
    """
    return _climb(W, b, c, dW, dx, dz, mu, lam, np.float32(decay), np.float32(rate))
