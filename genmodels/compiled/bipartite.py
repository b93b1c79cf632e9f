"""Block Gibbs of two sides of spins: fields by matrix products, spins by one pass over them.

Where the matrix is so small that calls would take longer than products, all sweeps of a replica are one loop,
and fields sums of rows of tables.
"""

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numba import uint64
from torch import Tensor

from genmodels.compiled import logistic, tables
from genmodels.compiled.counter import keys
from genmodels.compiled.logistic import spin
from genmodels.compiled.loop import Loop, compiled, contracted, inlined
from genmodels.compiled.variates import WORDS, float_of, integers
from genmodels.couplings import Bipartite
from genmodels.products import product
from genmodels.streams import Key

Precision = Literal["float32", "bfloat16"]
_SMALL = 1 << 16  # couplings, below which own loops are faster than calls
_GAIN = 1 << 16  # couplings, from which products of bfloat16 are faster


def dtype_of(machine: Bipartite, precision: Precision) -> torch.dtype:
    """Return in what the products are computed: bfloat16 if asked for, and if there is something to gain."""
    return torch.bfloat16 if precision == "bfloat16" and machine.W.numel() >= _GAIN else torch.float32


def small(W: Tensor) -> bool:
    """Return whether own loops are faster than calls."""
    return W.numel() < _SMALL


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
    if small(machine.W) and x.dtype == torch.float32:
        room = x.new_empty(0, machine.W.shape[1]) if first is None else first
        plan = (machine.W.detach().numpy(), machine.h.numpy(), machine.base.numpy(), betas.numpy())
        if _sweep(*plan, x.numpy(), n_sweeps, room.numpy(), *keys(key)):
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


def means(field: Tensor, h: Tensor, weight: float, z: Tensor) -> None:
    """Fill in z = w tanh(λ + h), in the precision of λ  # (replica, site), (site,), (replica, site)."""
    if _in_loops(field):
        logistic.means(_bits(field), h.numpy(), np.float32(weight), _bits(z), _shift(z))
    else:
        z.copy_(torch.tanh(field + h).mul_(weight))


def turned(*parts: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return rows of several matrices as columns of one, and each matrix's sum over its rows.

    What takes torch most of the time of a product takes one pass here  # (row, site) each, (site, all rows).
    """
    if not all(map(_in_loops, parts)):
        wide = torch.promote_types(parts[0].dtype, torch.float32)
        return torch.cat(parts).T, [part.sum(0, dtype=wide) for part in parts]
    to, place, sums = parts[0].new_empty(parts[0].shape[1], sum(map(len, parts))), 0, []
    for part in parts:
        total = torch.zeros(part.shape[1])
        logistic.turn(_bits(part), _bits(to), place, total.numpy(), _shift(part))
        place += len(part)
        sums.append(total)
    return to, sums


def _places(machine: Bipartite) -> int:
    return (max(machine.W.shape) + 2 * WORDS - 1) // (2 * WORDS)


def _in_loops(x: Tensor) -> bool:
    return x.is_cpu and x.dtype in (torch.float32, torch.bfloat16)


def _bits(x: Tensor) -> np.ndarray:
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16).numpy()


def _shift(x: Tensor) -> np.int32:
    return np.int32(0 if x.dtype == torch.float32 else 16)


@partial(Loop, compile_=contracted)
def _sweep(
    W: Any, h: Any, base: Any, betas: Any, x: Any, n_sweeps: Any, first: Any, k0: Any, k1: Any
) -> bool:
    """Do as `sweep` does and return True, or do nothing and return False, as x are no spins."""
    if not tables.are_spins(x, W.shape[0]):
        return False
    chains(*halves(W), h, base, betas, x, W.shape[0], n_sweeps, first, k0, k1)
    return True


@compiled
def halves(W: Any) -> Any:
    """Return tables of W and of its transpose."""
    n_visible, n_hidden = W.shape
    down, up = tables.room(n_visible, n_hidden), tables.room(n_hidden, n_visible)
    down[:n_visible, :n_hidden] = W
    for j in range(n_hidden):
        for i in range(n_visible):
            up[j, i] = W[i, j]
    return tables.of(down), tables.of(up)


@contracted
def chains(
    down: Any,
    up: Any,
    h: Any,
    base: Any,
    betas: Any,
    x: Any,
    n_visible: Any,
    n_sweeps: Any,
    first: Any,
    k0: Any,
    k1: Any,
) -> None:
    """Do as `sweep` does, from the tables of W, one replica after the other."""
    n_replicas, n_hidden = x.shape[0], x.shape[1] - n_visible
    places = uint64((max(n_visible, n_hidden) + 2 * WORDS - 1) // (2 * WORDS))
    words = np.empty(np.int64(places) * WORDS, dtype=np.uint64)
    visible, hidden = tables.spins(down), tables.spins(up)
    on_hidden, on_visible = tables.fields(down), tables.fields(up)
    of_visible, of_hidden = tables.codes(down), tables.codes(up)
    for r in range(n_replicas):
        row = x[r]
        tables.copy(row, visible, n_visible)
        tables.copy(row[n_visible:], hidden, n_hidden)
        for t in range(n_sweeps):
            beta = betas[min(t, len(betas) - 1), r]
            tables.multiply(visible, down, of_visible, on_hidden)
            if t == 0 and len(first):
                tables.copy(on_hidden, first[r], n_hidden)
            place = uint64((2 * t + 1) * n_replicas) * places
            _draw(on_hidden, h[n_visible:], base[n_visible:], beta, hidden, words, r, k0, k1, place)
            tables.multiply(hidden, up, of_hidden, on_visible)
            place = uint64(2 * t * n_replicas) * places
            _draw(on_visible, h[:n_visible], base[:n_visible], beta, visible, words, r, k0, k1, place)
        tables.copy(visible, row, n_visible)
        tables.copy(hidden, row[n_visible:], n_hidden)


@inlined
def _draw(
    fields: Any, h: Any, base: Any, beta: Any, x: Any, words: Any, r: Any, k0: Any, k1: Any, place: Any
) -> None:
    """Set the spins of one side of a replica, as `logistic.draw` does."""
    quarter, n = uint64((len(h) + 2 * WORDS - 1) // (2 * WORDS)), uint64(len(h))
    integers(words, quarter, k0, k1, place + uint64(r) * quarter)
    numbers = words.view(np.uint32)
    for j in range(n):
        x[j] = float_of(spin(beta * (fields[j] + h[j]) + base[j], numbers[j]))
