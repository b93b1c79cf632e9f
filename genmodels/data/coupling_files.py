"""Couplings from files: what is in which format."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genmodels.couplings import Couplings
from genmodels.data.bqm import read_bqm
from genmodels.data.coo import read_coo
from genmodels.data.rudy import read_rudy
from genmodels.errors import InputError

FORMATS = {
    "rudy": (".rud", ".mc", ".gset", ".txt"),
    "coo": (".coo",),
    "bqm": (".bqm", ".json"),
}


class CouplingFile(NamedTuple):
    """What a file says."""

    couplings: Couplings
    format: str  # a key of FORMATS
    labels: list[Any] | None = None  # of the spins, where they are not numbers from 0

    @property
    def max_cut(self) -> bool:
        """Return whether the ground state is a largest cut."""
        return self.format == "rudy"


def read(path: Path, format: str | None = None) -> CouplingFile:
    """Return the couplings in `path`, in the given format or that of its suffix.

    Raises:
        InputError: no such file, no such format, or not a file of this format: what, where, what to do.
    """
    path = Path(path)
    if format is None:
        format = next((key for key, suffixes in FORMATS.items() if path.suffix.lower() in suffixes), None)
    if format not in FORMATS:
        known = ", ".join(" ".join(suffixes) for suffixes in FORMATS.values())
        raise InputError(f"{path}: the suffix is none of {known}; name the format with --format")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: a folder, expected a file of couplings")
    with path.open("rb") as file, np.errstate(over="ignore", invalid="ignore"):
        if format == "rudy":
            found = CouplingFile(read_rudy(file, str(path)), format)
        elif format == "coo":
            found = CouplingFile(read_coo(file, str(path)), format)
        else:
            bqm = read_bqm(file, str(path))
            found = CouplingFile(bqm.couplings(), format, bqm.labels)
        _require_summable(found.couplings, str(path))
    return found


def _require_summable(couplings: Couplings, name: str) -> None:
    """Raise InputError if an energy could overflow float32, in which some kernels keep fields."""
    total = float(np.abs(couplings.J).sum() + np.abs(couplings.h).sum()) + abs(couplings.offset)
    if not total <= float(np.finfo(np.float32).max):
        raise InputError(f"{name}: the couplings sum to {total:.3g}, too large to compute with: scale them")


def cut(couplings: Couplings, x: np.ndarray) -> float:
    """Return Σ w over the edges whose ends differ, w = −J, in a configuration ±1  # (site,)."""
    return 0.0 - math.fsum(couplings.J[x[couplings.i] != x[couplings.j]])
