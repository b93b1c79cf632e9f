"""Block Gibbs of two sides of spins: fields by matrix products, spins by one pass over them.

Where the matrix is so small that calls would take longer than products, all sweeps of a replica are one loop.
"""

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numba import uint64
from torch import Tensor

from genmodels.compiled import logistic
from genmodels.compiled.counter import keys
from genmodels.compiled.logistic import spin
from genmodels.compiled.loop import Loop, contracted, inlined
from genmodels.compiled.variates import WORDS, float_of, integers
from genmodels.couplings import Bipartite
from genmodels.products import product
from genmodels.streams import Key

Precision = Literal["float32", "bfloat16"]
_SMALL = 1 << 14  # couplings, up to which own loops are faster than calls
_GAIN = 1 << 16  # couplings, from which products of bfloat16 are faster
_TOGETHER = 4  # replicas whose fields are summed together


def dtype_of(machine: Bipartite, precision: Precision) -> torch.dtype:
    """Return in what the products are computed: bfloat16 if asked for, and if there is something to gain."""
    return torch.bfloat16 if precision == "bfloat16" and machine.W.numel() >= _GAIN else torch.float32


def sweep(
    machine: Bipartite,
    x: Tensor,
    betas: Tensor,
    n_sweeps: int,
    key: Key,
    first: Tensor | None = None,
) -> Tensor | None:
    """Draw hidden and then visible spins, `n_sweeps` times, in place; return their E, or None if not known.

    E = −(x·Wz + hᵀ(x, z)), nats at β = 1, Wz being the fields from which x was drawn last: known without a
    product of its own unless all sweeps are one loop, or the fields are rounded  # (replica,), float32.

    Args:
        machine: Its matrix and fields.
        x: Changed; visible spins before hidden ones  # (replica, site), ±1, float32 or bfloat16
        betas: One row for all sweeps, or one for each  # (1 or sweep, replica), float32
        n_sweeps: Number of sweeps.
        key: The stream; of n sites a side at most, replica r of R has in sweep t the ⌈n/8⌉ places from
            ((2t + side) R + r) ⌈n/8⌉, but for a side of fewer sites, whose replicas follow closer.
        first: Room for what W gives to the hidden units before they are first drawn  # (replica, hidden)
    """
    if machine.W.numel() <= _SMALL and x.dtype == torch.float32:
        room = x.new_empty(0, machine.W.shape[1]) if first is None else first
        plan = (machine.W.detach().numpy(), machine.h.numpy(), machine.base.numpy(), betas.numpy())
        _sweep(*plan, x.numpy(), n_sweeps, room.numpy(), *keys(key))
        return None
    field = None
    n_visible, n_sites = machine.W.shape[0], x.shape[1]
    blocks = (slice(0, n_visible), slice(n_visible, n_sites))
    W, (k0, k1), places = machine.W.detach().to(x.dtype), keys(key), _places(machine)
    for t in range(n_sweeps):
        beta = betas[min(t, len(betas) - 1)].numpy()
        for side in (1, 0):
            here, there = blocks[side], blocks[1 - side]
            field = product(x[:, there], W if side else W.T)
            if first is not None and t == 0 and side == 1:
                first.copy_(field)
            plan = (machine.h[here].numpy(), machine.base[here].numpy(), beta)
            place = np.uint64((2 * t + side) * len(x) * places)
            logistic.draw(_bits(field), *plan, _bits(x), here.start, _shift(x), k0, k1, place)
    if field is None or x.dtype != torch.float32:
        return None
    return -((x[:, :n_visible] * field).sum(1) + x @ machine.h)


def means(field: Tensor, h: Tensor, weights: Tensor) -> Tensor:
    """Return w_r tanh(λ + h) in the precision of λ  # (replica, site), (site,), (replica,)."""
    if field.device.type != "cpu":
        return torch.tanh(field + h).mul_(weights[:, None]).to(field.dtype)
    z = torch.empty_like(field)
    logistic.means(_bits(field), h.numpy(), weights.numpy(), _bits(z), _shift(z))
    return z


def _places(machine: Bipartite) -> int:
    return (max(machine.W.shape) + 2 * WORDS - 1) // (2 * WORDS)


def _bits(x: Tensor) -> np.ndarray:
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16).numpy()


def _shift(x: Tensor) -> np.int32:
    return np.int32(0 if x.dtype == torch.float32 else 16)


@inlined
def _products(a: Any, B: Any, c: Any, n_rows: Any, n_columns: Any) -> None:
    """Fill in c = aB of four rows of a  # (4, row), (row, column), (4, column), rows a multiple of four."""
    a0, a1, a2, a3 = a[0], a[1], a[2], a[3]
    c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
    n = uint64(n_columns)
    c[:] = np.float32(0.0)
    for k in range(0, n_rows, 4):
        p, q, r, s = B[k], B[k + 1], B[k + 2], B[k + 3]
        p0, q0, r0, s0 = a0[k], a0[k + 1], a0[k + 2], a0[k + 3]
        p1, q1, r1, s1 = a1[k], a1[k + 1], a1[k + 2], a1[k + 3]
        p2, q2, r2, s2 = a2[k], a2[k + 1], a2[k + 2], a2[k + 3]
        p3, q3, r3, s3 = a3[k], a3[k + 1], a3[k + 2], a3[k + 3]
        for j in range(n):
            c0[j] += p0 * p[j] + q0 * q[j] + r0 * r[j] + s0 * s[j]
            c1[j] += p1 * p[j] + q1 * q[j] + r1 * r[j] + s1 * s[j]
            c2[j] += p2 * p[j] + q2 * q[j] + r2 * r[j] + s2 * s[j]
            c3[j] += p3 * p[j] + q3 * q[j] + r3 * r[j] + s3 * s[j]


@partial(Loop, compile_=contracted)
def _sweep(
    W: Any, h: Any, base: Any, betas: Any, x: Any, n_sweeps: Any, first: Any, k0: Any, k1: Any
) -> None:
    """Do as `sweep` does, four replicas at a time."""
    (n_visible, n_hidden), n_replicas = W.shape, x.shape[0]
    places = (max(n_visible, n_hidden) + 2 * WORDS - 1) // (2 * WORDS)
    words = np.empty(places * WORDS, dtype=np.uint64)
    rows, columns = (n_visible + 3) // 4 * 4, (n_hidden + 3) // 4 * 4
    down, up = np.zeros((rows, n_hidden), dtype=np.float32), np.zeros((columns, n_visible), dtype=np.float32)
    down[:n_visible], up[:n_hidden] = W, W.T
    visible, hidden = np.zeros((4, rows), dtype=np.float32), np.zeros((4, columns), dtype=np.float32)
    on_visible = np.zeros((4, n_visible), dtype=np.float32)
    on_hidden = np.zeros((4, n_hidden), dtype=np.float32)
    for r0 in range(0, n_replicas, _TOGETHER):
        m = min(_TOGETHER, n_replicas - r0)
        visible[:m, :n_visible] = x[r0 : r0 + m, :n_visible]
        for t in range(n_sweeps):
            row = betas[min(t, len(betas) - 1)]
            _products(visible, down, on_hidden, rows, n_hidden)
            if t == 0 and len(first):
                first[r0 : r0 + m] = on_hidden[:m]
            place = (2 * t + 1) * n_replicas * places
            _draw(on_hidden, h[n_visible:], base[n_visible:], row, hidden, words, m, r0, k0, k1, place)
            _products(hidden, up, on_visible, columns, n_visible)
            place = 2 * t * n_replicas * places
            _draw(on_visible, h, base, row, visible, words, m, r0, k0, k1, place)
        x[r0 : r0 + m, :n_visible] = visible[:m, :n_visible]
        x[r0 : r0 + m, n_visible:] = hidden[:m, :n_hidden]


@inlined
def _draw(
    fields: Any,
    h: Any,
    base: Any,
    betas: Any,
    x: Any,
    words: Any,
    m: Any,
    r0: Any,
    k0: Any,
    k1: Any,
    place: Any,
) -> None:
    """Set the spins of one side of m replicas, as `logistic.draw` does."""
    quarter, n = uint64((fields.shape[1] + 2 * WORDS - 1) // (2 * WORDS)), uint64(fields.shape[1])
    for r in range(m):
        integers(words, quarter, k0, k1, uint64(place) + uint64(r0 + r) * quarter)
        numbers, row, to, beta = words.view(np.uint32), fields[r], x[r], betas[r0 + r]
        for j in range(n):
            to[j] = float_of(spin(beta * (row[j] + h[j]) + base[j], numbers[j]))
