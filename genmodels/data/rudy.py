"""Max-cut instances in rudy's format: `n m`, then `i j w`, sites numbered from 1."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from genmodels.couplings import Couplings
from genmodels.data import triplets
from genmodels.errors import InputError

_LONGEST = 4096  # bytes of a first line


def read_rudy(file: BinaryIO, name: str) -> Couplings:
    """Return the couplings J_ij = −w_ij of a max-cut instance.

    The cut Σ w over edges whose ends differ is then ½(Σ w − E): the largest cut is the ground state. The
    first line is `n m`, the numbers of sites and edges, and perhaps more; blank lines and what follows a `#`
    count for nothing. Format of G. Rinaldi's generator rudy.

    Args:
        file: Open for reading.
        name: What messages call it.

    Raises:
        InputError: not such a file; which line, and why.
    """
    n_sites, n_edges, line = _header(file, name)
    couplings = triplets.gathered(name, n_sites, list(_edges(file, name, line, n_sites, n_edges)), 1)
    if len(couplings.J) != n_edges:
        raise InputError(
            f"{name}: the first line says {n_edges} edges, {len(couplings.J)} are there; is the file cut off?"
        )
    return dataclasses.replace(couplings, J=-couplings.J)


def _header(file: BinaryIO, name: str) -> tuple[int, int, int]:
    """Return the numbers of sites and edges, and that of the next line."""
    entries: list[bytes] = []
    line = 0
    while not entries:
        content, line = file.readline(_LONGEST), line + 1
        if not content:
            raise InputError(f"{name}: empty, expected 'n m' on the first line and 'i j w' on the others")
        entries = content.partition(b"#")[0].split()
    where = f"{name}, line {line}"
    if len(entries) < 2 or len(content) == _LONGEST:
        raise InputError(f"{where}: {triplets.shown(content)}, expected 'n m', numbers of sites and edges")
    n_sites, n_edges = (triplets.integer(entry, where) for entry in entries[:2])
    if not 1 <= n_sites <= triplets.MAX_SITES:
        raise InputError(f"{where}: {n_sites} sites, expected a number from 1 to {triplets.MAX_SITES}")
    if not 0 <= n_edges <= n_sites * (n_sites - 1) // 2:
        raise InputError(f"{where}: {n_edges} edges among {n_sites} sites, which have "
                         f"{n_sites * (n_sites - 1) // 2} pairs")  # fmt: skip
    return n_sites, n_edges, line + 1


def _edges(file: BinaryIO, name: str, line: int, n_sites: int, n_edges: int) -> Iterator[triplets.Triplets]:
    """Yield the edges, each between two sites that exist, as many as there should be at most."""
    n_read = 0
    for block in triplets.read(file, name, line):
        low, high = np.minimum(block.i, block.j), np.maximum(block.i, block.j)
        wrong = (low < 1) | (high > n_sites) | (low == high)
        if wrong.any():
            k = int(wrong.argmax())
            what = "an edge from a site to itself" if low[k] == high[k] else f"sites are 1 to {n_sites}"
            raise InputError(f"{name}, line {block.line[k]}: '{block.i[k]} {block.j[k]}': {what}")
        n_read += len(block.i)
        if n_read > n_edges:
            k = len(block.i) - (n_read - n_edges)
            raise InputError(f"{name}, line {block.line[k]}: more edges than the {n_edges} of the first line")
        yield block


def write_rudy(path: Path, couplings: Couplings) -> None:
    """Write couplings as a max-cut instance, w = −J, integers as such.

    Raises:
        InputError: there are fields or an offset, which the format cannot hold.
    """
    if couplings.h.any() or couplings.offset:
        raise InputError(f"{path}: rudy's format holds no fields and no offset, write a .coo or .bqm file")
    ends = zip((couplings.i + 1).tolist(), (couplings.j + 1).tolist(), (-couplings.J).tolist(), strict=True)
    lines = [f"{couplings.n_sites} {len(couplings.J)}"]
    lines += [f"{i} {j} {triplets.written(w)}" for i, j, w in ends]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
