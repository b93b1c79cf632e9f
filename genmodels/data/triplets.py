"""Lines of three numbers, `i j value`: read in blocks, so that the fast way knows the line of an error."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from genmodels.couplings import Couplings
from genmodels.errors import InputError

MAX_SITES = 10_000_000
_BLOCK = 1 << 18  # bytes: no line is longer
_ENTRY = 64  # bytes: no number is longer
_NUMERIC = b"0123456789+-.eE \t\r\n\x0b\x0c"
_EXACT = 2.0**53  # from there on not every integer is a float64


class Triplets(NamedTuple):
    """Some lines of a file."""

    i: np.ndarray  # (line,), int64, as written
    j: np.ndarray  # (line,), int64, as written
    value: np.ndarray  # (line,), float64, finite
    line: np.ndarray  # (line,), int64, its number in the file


def read(file: BinaryIO, name: str, line: int = 1, begun: bytes = b"") -> Iterator[Triplets]:
    """Yield the triplets of a file from where it stands; blank lines and what follows a `#` are skipped.

    Args:
        file: Open for reading.
        name: What messages call it.
        line: The number of the first line.
        begun: What has been read of it already.

    Raises:
        InputError: a line is not `i j value`, or an integer has no exact float64.
    """
    rest = begun
    while data := file.read(_BLOCK):
        whole, newline, rest = (rest + data).rpartition(b"\n")
        if newline:
            yield _block(whole, name, line)
            line += whole.count(b"\n") + 1
        if len(rest) > _BLOCK:
            raise InputError(f"{name}, line {line}: too long, expected 'i j value'")
    yield _block(rest, name, line)


def _block(text: bytes, name: str, line: int) -> Triplets:
    if b"#" in text:
        text = re.sub(rb"#[^\n]*", b"", text)
    numbers = _numbers(text)
    if numbers is None:
        _check_each(text, name, line)
        raise AssertionError(f"{name}, line {line}: two readings of one block disagree")
    if (np.abs(numbers.value) >= _EXACT).any():
        _check_each(text, name, line)
    return numbers._replace(line=numbers.line + line)


def _numbers(text: bytes) -> Triplets | None:
    """Return the triplets of a block, its first line numbered 0, or None where one is faulty."""
    if text.translate(None, _NUMERIC):
        return None
    characters = np.frombuffer(text, dtype=np.uint8)
    padded = np.concatenate([[True], characters <= ord(" "), [True]])
    starts, ends = np.flatnonzero(padded[:-1] & ~padded[1:]), np.flatnonzero(~padded[:-1] & padded[1:])
    line = np.searchsorted(np.flatnonzero(characters == ord("\n")), starts)
    counts = np.bincount(line)
    if not np.isin(counts, (0, 3)).all() or (len(starts) and (ends - starts).max() > _ENTRY):
        return None
    entries, n = text.split(), len(starts) // 3
    try:
        i = np.fromiter(map(int, entries[0::3]), dtype=np.int64, count=n)
        j = np.fromiter(map(int, entries[1::3]), dtype=np.int64, count=n)
        value = np.fromiter(map(float, entries[2::3]), dtype=np.float64, count=n)
    except (ValueError, OverflowError):
        return None
    return Triplets(i, j, value, line[0::3]) if np.isfinite(value).all() else None


def _check_each(text: bytes, name: str, first: int) -> None:
    """Raise InputError for the first faulty line."""
    for number, content in enumerate(text.split(b"\n"), start=first):
        entries, where = content.split(), f"{name}, line {number}"
        if entries and len(entries) != 3:
            raise InputError(f"{where}: {len(entries)} entries, expected three: i j value")
        for entry in entries[:2]:
            integer(entry, where)
        for entry in entries[2:]:
            _weight(entry, where)


def integer(entry: bytes, where: str) -> int:
    """Return the whole number that `entry` spells.

    Raises:
        InputError: it spells none, or one of more than 18 digits.
    """
    if len(entry) > _ENTRY or not re.fullmatch(rb"[+-]?0*[0-9]{1,18}", entry):
        raise InputError(f"{where}: {shown(entry)} stands where a whole number is expected")
    return int(entry)


def _weight(entry: bytes, where: str) -> None:
    if len(entry) > _ENTRY or entry.translate(None, _NUMERIC):
        raise InputError(f"{where}: the value is {shown(entry)}, expected a finite number")
    try:
        value = float(entry)
    except ValueError as error:
        raise InputError(f"{where}: the value is {shown(entry)}, expected a finite number") from error
    if not math.isfinite(value):
        raise InputError(f"{where}: the value is {shown(entry)}, expected a finite number")
    if re.fullmatch(rb"[+-]?[0-9]+", entry) and int(entry) != value:
        raise InputError(f"{where}: {shown(entry)} is beyond 2^53 and no exact float64: scale the couplings")


def shown(entry: bytes) -> str:
    """Return what is readable of `entry`, in quotes, on one line."""
    return ascii(entry[:20].decode("latin-1")) + ("…" if len(entry) > 20 else "")


def gathered(name: str, n_sites: int, blocks: Iterable[Triplets], origin: int) -> Couplings:
    """Return the couplings that triplets list, and the fields of those with i = j.

    Args:
        name: What messages call the file.
        n_sites: Number of spins.
        blocks: What was read.
        origin: The first site's number in the file.

    Raises:
        InputError: a pair is there twice, in whichever order.
    """
    i, j, value, line = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    low, high = np.minimum(i, j) - origin, np.maximum(i, j) - origin
    pair = low * n_sites + high
    order = np.argsort(pair, kind="stable")
    again = order[1:][np.diff(pair[order]) == 0]
    if len(again):
        k = int(again.min())
        raise InputError(
            f"{name}, line {line[k]}: {i[k]} and {j[k]} are coupled on line {line[pair == pair[k]][0]} "
            "already, leave one of the two out"
        )
    field, h = low == high, np.zeros(n_sites)
    h[low[field]] = value[field]
    edge = ~field
    return Couplings(n_sites, low[edge], high[edge], value[edge], h)


def written(value: float) -> str:
    """Return a number as text that reads back as itself, an integer without a point."""
    return str(int(value)) if value.is_integer() and abs(value) <= _EXACT else repr(value)
