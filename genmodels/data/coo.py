"""Couplings and fields as a list of entries: `i j J` and `i i h`, sites numbered from 0."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from genmodels.couplings import Couplings
from genmodels.data import triplets
from genmodels.errors import InputError

_LONGEST = 4096  # bytes of a comment that dimod writes, and more


def read_coo(file: BinaryIO, name: str) -> Couplings:
    """Return the couplings and fields of E = −Σ_{i<j} J_ij x_i x_j − Σ_i h_i x_i, listed entry by entry.

    There are as many spins as the largest number says; a pair stands there once, in whichever order; blank
    lines and what follows a `#` count for nothing.

    Args:
        file: Open for reading.
        name: What messages call it.

    Raises:
        InputError: not such a file, which line, and why; or one that dimod wrote, whose energy is +Σ.
    """
    blocks = list(_entries(file, name))
    n_sites = 1 + max(int(max(block.i.max(initial=-1), block.j.max(initial=-1))) for block in blocks)
    if not n_sites:
        raise InputError(f"{name}: no couplings in it, expected lines 'i j J' and 'i i h'")
    return triplets.gathered(name, n_sites, blocks, 0)


def _entries(file: BinaryIO, name: str) -> Iterator[triplets.Triplets]:
    """Yield the entries, each between sites that can exist."""
    first = file.readline(_LONGEST)
    if re.match(rb"#\s*vartype\s*=", first):
        raise InputError(
            f"{name}: written by dimod, whose E is +Σ J_ij x_i x_j; here it is −Σ: save the model with "
            "BQM.to_file as .bqm, or turn all signs and delete the first line"
        )
    n_sites = n_read = 0
    for block in triplets.read(file, name, begun=first):
        wrong = (np.minimum(block.i, block.j) < 0) | (np.maximum(block.i, block.j) >= triplets.MAX_SITES)
        if wrong.any():
            k = int(wrong.argmax())
            raise InputError(
                f"{name}, line {block.line[k]}: '{block.i[k]} {block.j[k]}': "
                f"sites are numbered from 0, to {triplets.MAX_SITES - 1} at most"
            )
        yield block
        n_sites = 1 + max(n_sites - 1, int(block.i.max(initial=-1)), int(block.j.max(initial=-1)))
        n_read += len(block.i)
        if n_read > n_sites * (n_sites + 1) // 2:
            break  # one pair at least is there twice: what follows cannot mend that


def write_coo(path: Path, couplings: Couplings) -> None:
    """Write couplings and fields, integers as such; the last site's field even where it is 0.

    Raises:
        InputError: there is an offset, which the format cannot hold.
    """
    if couplings.offset:
        raise InputError(f"{path}: the COO format holds no offset, write a .bqm file")
    ends = zip(couplings.i.tolist(), couplings.j.tolist(), couplings.J.tolist(), strict=True)
    lines = [f"{i} {j} {triplets.written(J)}" for i, j, J in ends]
    last = couplings.n_sites - 1
    lines += [f"{i} {i} {triplets.written(h)}" for i, h in enumerate(couplings.h.tolist()) if h or i == last]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
