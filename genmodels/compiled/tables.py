"""Products of spins with a small matrix: sums of rows of tables, four times fewer than terms of the product.

Rows w_0 … w_3 of the matrix have 16 sums ±w_0 ± … ± w_3, half of them the negatives of the others. With
eight in a table, four spins cost one row of it, added or taken off. A group of four are the places g, G + g,
2G + g and 3G + g, so that groups are read side by side. Arlazarov, Dinic, Kronrod & Faradzhev 1970, for bits.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64, types, uint64
from numba.core import cgutils as untyped
from numba.extending import intrinsic

from genmodels.compiled.loop import compiled, contracted, inlined
from genmodels.compiled.variates import bits_of

cgutils: Any = untyped
SPINS = 4  # of a group, and rows of the matrix
_ROWS = 8  # of a group's table
_LANES = 16  # float32 that are added together
_TOGETHER = 4  # such, whose sums stay in registers
_LINE = 64  # bytes, where rows of tables start
_ZERO = np.float32(0.0)
_SIZE, _UNIT = np.int32(0x7FFFFFFF), np.int32(0x3F800000)  # the bits of all but the sign, and those of 1


@compiled
def zeros(n_rows: Any, n_columns: Any) -> Any:
    """Return zeros that start at a cache line, as each row then does if wide  # (row, column), float32."""
    room = np.zeros(n_rows * n_columns + _LANES, dtype=np.float32)
    start = (-room.ctypes.data) % _LINE // 4
    return room[start : start + n_rows * n_columns].reshape(n_rows, n_columns)


@compiled
def room(n_rows: Any, n_columns: Any) -> Any:
    """Return zeros as large as a matrix has to be for its table  # (4G, wide), 4G ≥ n_rows."""
    return zeros((n_rows + SPINS - 1) // SPINS * SPINS, (n_columns + _LANES - 1) // _LANES * _LANES)


@compiled
def spins(table: Any) -> Any:
    """Return spins for `multiply`, +1 each: those of rows that the matrix lacks do not matter  # (4G,)."""
    return np.ones(len(table) // _ROWS * SPINS, dtype=np.float32)


@compiled
def are_spins(x: Any, n: Any) -> Any:
    """Return whether the first n numbers of each row are +1 or −1, float32."""
    other = np.int32(0)
    for row in x:
        for j in range(uint64(n)):
            other |= np.int32(bits_of(row[j]) & _SIZE) ^ _UNIT
    return other == 0


@contracted
def of(W: Any) -> Any:
    """Return the table of a matrix  # (4G, wide) -> (8G, wider).

    Row 8g + k is w_{3G + g} + Σ_i ±w_{iG + g}, minus where bit i of k is set.
    """
    G, n = uint64(len(W) // SPINS), uint64(W.shape[1])
    # Wider than need be: else the tables of all groups would start at the same place of the cache.
    table, parts = zeros(len(W) // SPINS * _ROWS, W.shape[1] + _LANES), zeros(4, W.shape[1])
    plus, minus = parts[0], parts[1]
    for g in range(G):
        w0, w1, w2, w3 = W[g], W[G + g], W[G + G + g], W[G + G + G + g]
        # One sum a loop: of several numba could not tell that they are not in each other's way.
        _sum(plus, w1, w0, n)
        _difference(minus, w1, w0, n)
        _sum(parts[2], w3, w2, n)
        _difference(parts[3], w3, w2, n)
        for half in range(2):
            last, k = parts[2 + half], int64(g) * _ROWS + half * (_ROWS // 2)
            _sum(table[k], last, plus, n)
            _sum(table[k + 1], last, minus, n)
            _difference(table[k + 2], last, minus, n)
            _difference(table[k + 3], last, plus, n)
    return table


@inlined
def _sum(total: Any, a: Any, b: Any, n: Any) -> None:
    for j in range(n):
        total[j] = a[j] + b[j]


@inlined
def _difference(total: Any, a: Any, b: Any, n: Any) -> None:
    for j in range(n):
        total[j] = a[j] - b[j]


@compiled
def fields(table: Any) -> Any:
    """Return room for what `multiply` fills in  # (wide,)."""
    return zeros(1, table.shape[1] - _LANES)[0]


@compiled
def codes(table: Any) -> Any:
    """Return room in which `multiply` says which rows to add, and with which signs."""
    n_groups = len(table) // _ROWS
    return np.empty(n_groups, dtype=np.uint32), np.empty(n_groups, dtype=np.float32)


@inlined
def copy(x: Any, to: Any, n: Any) -> None:
    """Copy the first n numbers, for less than a slice would take."""
    for j in range(uint64(n)):
        to[j] = x[j]


@inlined
def multiply(x: Any, table: Any, room: Any, fields: Any) -> None:
    """Fill in fields = xW, x a row of spins, from the table of W  # (4G,), (8G, wider), (wide,)."""
    for j in range(uint64(len(fields))):
        fields[j] = _ZERO
    multiply_add(x, table, room, fields)


@inlined
def multiply_add(x: Any, table: Any, room: Any, fields: Any) -> None:
    """Add xW to the fields."""
    _encode(x, room[0], room[1])
    _add(table, room[0], room[1], fields)


@inlined
def _encode(x: Any, rows: Any, signs: Any) -> None:
    """Say which rows of a table, times which signs, make the product of x  # (4G,) ±1, (G,), (G,)."""
    G = uint64(len(rows))
    for g in range(G):
        last = bits_of(x[G + G + G + g])
        k = (bits_of(x[g]) ^ last) >> 31 & 1
        k |= (bits_of(x[G + g]) ^ last) >> 31 & 2
        k |= (bits_of(x[G + G + g]) ^ last) >> 31 & 4
        rows[g], signs[g] = np.uint32(uint64(_ROWS) * g + uint64(k)), x[G + G + G + g]


def _written(_: Any, table: Any, rows: Any, signs: Any, total: Any) -> Any:
    """Define `_add`, whose sums stay in registers: numba would store and load them again every few rows."""

    def body(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = zip(signature.args, arguments, strict=True)
        arrays = [context.make_array(kind)(context, builder, value) for kind, value in kinds]
        n_rows = cgutils.unpack_tuple(builder, arrays[1].shape)[0]
        stride = cgutils.unpack_tuple(builder, arrays[0].shape)[1]
        width = cgutils.unpack_tuple(builder, arrays[3].shape)[0]
        pointers = [array.data for array in arrays]
        step = ir.Constant(width.type, _LANES * _TOGETHER)
        whole = builder.sub(width, builder.urem(width, step))
        with cgutils.for_range_slice(builder, ir.Constant(width.type, 0), whole, step) as (j, _):
            _columns(builder, pointers, n_rows, stride, j, _TOGETHER)
        step = ir.Constant(width.type, _LANES)
        with cgutils.for_range_slice(builder, whole, width, step) as (j, _):
            _columns(builder, pointers, n_rows, stride, j, 1)
        return context.get_dummy_value()

    return types.void(table, rows, signs, total), body


def _columns(builder: Any, pointers: Any, n_rows: Any, stride: Any, j: Any, n: int) -> None:
    """Write the loop over the rows for n · 16 columns from j on."""
    table, rows, signs, total = pointers
    vector = ir.VectorType(ir.FloatType(), _LANES)
    none, first = ir.Constant(vector, None), ir.Constant(ir.VectorType(ir.IntType(32), _LANES), None)

    def at(base: Any, place: Any, k: int) -> Any:
        place = builder.add(place, ir.Constant(place.type, k * _LANES))
        return builder.bitcast(builder.gep(base, [place]), vector.as_pointer())

    sums = [cgutils.alloca_once(builder, vector) for _ in range(n)]
    for k, room in enumerate(sums):
        builder.store(builder.load(at(total, j, k), align=4), room)
    with cgutils.for_range(builder, n_rows) as loop:
        row = builder.zext(builder.load(builder.gep(rows, [loop.index])), stride.type)
        sign = builder.load(builder.gep(signs, [loop.index]))
        every = builder.insert_element(none, sign, ir.Constant(ir.IntType(32), 0))
        every = builder.shuffle_vector(every, none, first)
        place = builder.add(builder.mul(row, stride), j)
        for k, room in enumerate(sums):
            term = builder.fmul(builder.load(at(table, place, k), align=4), every, flags=("contract",))
            builder.store(builder.fadd(builder.load(room), term, flags=("contract",)), room)
    for k, room in enumerate(sums):
        builder.store(builder.load(room), at(total, j, k), align=4)


_add: Any = intrinsic(_written)  # of a table (8G, wider) rows (G,) with signs (G,) to sums (wide,)
