"""Binary quadratic models of dimod, E = Σ a_i v_i + Σ b_ij v_i v_j + c, in its binary file or as JSON."""

import json
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from genmodels.couplings import Couplings
from genmodels.data.triplets import MAX_SITES
from genmodels.errors import InputError

MAGIC = b"DIMODBQM"
_MAX_JSON = 1 << 28  # bytes of a JSON file: as objects they take some ten times that
_BLOCK = 1 << 20
_BIASES = ("float32", "float64")
_INDICES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_KEYS = ("variable_type", "offset", "linear_biases", "quadratic_biases", "quadratic_head", "quadratic_tail")


class BinaryQuadraticModel(NamedTuple):
    """A polynomial of degree 2 in variables that are ±1 ("SPIN") or 0 and 1 ("BINARY")."""

    vartype: str
    linear: np.ndarray  # a: (variable,), float64
    i: np.ndarray  # (pair,), int64, the lower end
    j: np.ndarray  # (pair,), int64
    quadratic: np.ndarray  # b: (pair,), float64
    offset: float  # c
    labels: list[Any] | None  # of the variables, JSON-ready; None is 0, 1, 2, …

    def couplings(self) -> Couplings:
        """Return the same energy in spins: v = x, or v = (1 + x)/2 where v is 0 or 1.

        The latter gives J = −b/4, h_i = −a_i/2 − Σ_j b_ij/4 and the offset c + Σ a/2 + Σ b/4.
        """
        n = len(self.linear)
        if self.vartype == "SPIN":
            return Couplings(n, self.i, self.j, -self.quadratic, -self.linear, self.offset)
        quarter, half = self.quadratic / 4.0, self.linear / 2.0
        h = half + np.bincount(self.i, quarter, n) + np.bincount(self.j, quarter, n)
        return Couplings(n, self.i, self.j, -quarter, -h, self.offset + float(half.sum() + quarter.sum()))


def read_bqm(file: BinaryIO, name: str) -> BinaryQuadraticModel:
    """Return the model in a file of `BinaryQuadraticModel.to_file` or the JSON of `to_serializable`.

    Args:
        file: Open for reading.
        name: What messages call it.

    Raises:
        InputError: not such a file, or a damaged one.
    """
    magic = file.read(len(MAGIC))
    if not magic.strip():
        raise InputError(f"{name}: empty, expected a binary quadratic model of dimod")
    bqm = _binary(file, name) if magic == MAGIC else _json(magic, file, name)
    _check(bqm, name)
    return bqm


def _json(begun: bytes, file: BinaryIO, name: str) -> BinaryQuadraticModel:
    if not begun.lstrip().startswith(b"{"):
        raise InputError(f"{name}: neither a .bqm file of dimod nor JSON, it starts with {ascii(begun)[1:]}")
    content = _read(file, _MAX_JSON, begun)
    if len(content) >= _MAX_JSON:
        raise InputError(f"{name}: more than {_MAX_JSON >> 20} MiB of JSON, save it with BQM.to_file as .bqm")
    entries = _decoded(content, name)
    missing = [key for key in _KEYS if not isinstance(entries, dict) or key not in entries]
    if missing:
        raise InputError(f"{name}: no '{missing[0]}' in it, expected the JSON of BQM.to_serializable()")
    offset = _floats({"offset": [entries["offset"]]}, "offset", name)[0]
    linear, quadratic = (_floats(entries, key, name) for key in ("linear_biases", "quadratic_biases"))
    head, tail = (_integers(entries, key, name) for key in ("quadratic_head", "quadratic_tail"))
    if not len(head) == len(tail) == len(quadratic):
        raise InputError(
            f"{name}: {len(head)} heads, {len(tail)} tails and {len(quadratic)} biases of pairs, "
            "expected as many of each"
        )
    labels = entries.get("variable_labels")
    low, high = np.minimum(head, tail), np.maximum(head, tail)
    vartype = str(entries["variable_type"])
    return BinaryQuadraticModel(vartype, linear, low, high, quadratic, float(offset), labels)


def _decoded(content: bytearray, name: str) -> Any:
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{name}: not JSON, or damaged ({ascii(reason)[1:-1]})") from error


def _floats(entries: dict[str, Any], key: str, name: str) -> np.ndarray:
    return _list(entries, key, name, (int, float), "numbers").astype(np.float64)


def _integers(entries: dict[str, Any], key: str, name: str) -> np.ndarray:
    return _list(entries, key, name, (int,), "whole numbers").astype(np.int64)


def _list(entries: dict[str, Any], key: str, name: str, kinds: tuple[type, ...], what: str) -> np.ndarray:
    values = entries[key]
    if not isinstance(values, list) or not set(map(type, values)) <= set(kinds):
        raise InputError(f"{name}: '{key}' is not a list of {what}; bytes are read from .bqm files only")
    if any(type(value) is int and abs(value) >= 2**53 for value in values):
        raise InputError(f"{name}: '{key}' holds an integer beyond 2^53, which has no exact float64")
    return np.array(values, dtype=np.float64)


def _binary(file: BinaryIO, name: str) -> BinaryQuadraticModel:
    """Return the model of a file of version 1 or 2, its first bytes read already."""
    start = file.read(6)
    if len(start) < 6 or start[0] not in (1, 2):
        raise InputError(f"{name}: a file of dimod, but not of version 1 or 2, or cut off")
    header = _decoded(_take(file, int.from_bytes(start[2:], "little"), name), name)
    n, n_pairs = _shape(header, name)
    bias, index, starts = (
        _kind(header, key, allowed, name)
        for key, allowed in (("dtype", _BIASES), ("itype", _INDICES), ("ntype", _INDICES))
    )
    offset = float(_array(file, [("c", bias)], 1, name)["c"][0])
    linear = _array(file, [("start", starts), ("a", bias)], n, name)
    pairs = _array(file, [("j", index), ("b", bias)], 2 * n_pairs, name)
    degree = np.diff(np.append(linear["start"].astype(np.int64), 2 * n_pairs)).astype(np.int64)
    if (degree < 0).any() or int(degree.sum()) != 2 * n_pairs:
        raise InputError(f"{name}: the neighbours of a variable are out of order; is the file damaged?")
    row, column = np.repeat(np.arange(n), degree), pairs["j"].astype(np.int64)
    lower = column < row
    if int(lower.sum()) != n_pairs:
        raise InputError(f"{name}: {n_pairs} pairs in its header, {int(lower.sum())} found; is it damaged?")
    labels = _labels(file, header, start[0], name)
    vartype, a, b = str(header.get("vartype")), linear["a"].astype(np.float64), pairs["b"].astype(np.float64)
    return BinaryQuadraticModel(vartype, a, column[lower], row[lower], b[lower], offset, labels)


def _kind(header: dict[str, Any], key: str, allowed: tuple[str, ...], name: str) -> np.dtype[Any]:
    if header.get(key) not in allowed:
        raise InputError(f"{name}: {key} is none of {', '.join(allowed)} in its header; is the file damaged?")
    kind: np.dtype[Any] = np.dtype(header[key])
    return kind


def _shape(header: Any, name: str) -> tuple[int, int]:
    shape = header.get("shape") if isinstance(header, dict) else None
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n >= 0 for n in shape)):
        raise InputError(f"{name}: no shape in its header; is the file damaged?")
    return shape[0], shape[1]


def _labels(file: BinaryIO, header: dict[str, Any], version: int, name: str) -> list[Any] | None:
    labels = header.get("variables")
    if version == 1 or not labels:
        return labels or None
    start = file.read(8)
    if start[:4] != b"VARS":
        raise InputError(f"{name}: no labels of variables where they should be; is the file cut off?")
    decoded: list[Any] = _decoded(_take(file, int.from_bytes(start[4:], "little"), name), name)
    return decoded


def _array(file: BinaryIO, fields: list[tuple[str, Any]], n: int, name: str) -> np.ndarray:
    kind = np.dtype([(key, dtype.newbyteorder("<")) for key, dtype in fields])
    return np.frombuffer(_take(file, n * kind.itemsize, name), dtype=kind)


def _take(file: BinaryIO, n_bytes: int, name: str) -> bytearray:
    """Return the next n bytes."""
    content = _read(file, n_bytes)
    if len(content) < n_bytes:
        raise InputError(f"{name}: cut off, {n_bytes - len(content)} more bytes were expected")
    return content


def _read(file: BinaryIO, most: int, begun: bytes = b"") -> bytearray:
    """Return `begun` and what follows, `most` bytes in all or fewer: memory only for those that are there."""
    content = bytearray(begun)
    while part := file.read(min(most - len(content), _BLOCK)):
        content += part
    return content


def _check(bqm: BinaryQuadraticModel, name: str) -> None:
    """Raise InputError unless this is a polynomial of at least one variable, no pair of them twice."""
    n = len(bqm.linear)
    if bqm.vartype not in ("SPIN", "BINARY"):
        raise InputError(f"{name}: variables are {ascii(bqm.vartype[:20])}, expected SPIN or BINARY")
    if not 1 <= n <= MAX_SITES:
        raise InputError(f"{name}: {n} variables, expected a number from 1 to {MAX_SITES}")
    if not (np.isfinite(bqm.linear).all() and np.isfinite(bqm.quadratic).all() and np.isfinite(bqm.offset)):
        raise InputError(f"{name}: a bias is not a finite number")
    wrong = (bqm.i < 0) | (bqm.j >= n) | (bqm.i == bqm.j)
    if wrong.any():
        k = int(wrong.argmax())
        raise InputError(f"{name}: a pair of variables {bqm.i[k]} and {bqm.j[k]}, of 0 to {n - 1}, not alike")
    pair = np.sort(bqm.i * n + bqm.j)
    again = np.flatnonzero(np.diff(pair) == 0)
    if len(again):
        i, j = divmod(int(pair[again[0]]), n)
        raise InputError(f"{name}: the pair of variables {i} and {j} is there twice")
    if bqm.labels is not None and not (isinstance(bqm.labels, list) and len(bqm.labels) == n):
        raise InputError(f"{name}: not one label for each of the {n} variables")
