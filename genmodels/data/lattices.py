"""Instances of spin models: lattices with periodic boundaries and dense graphs, couplings from a Key."""

from collections.abc import Sequence

import numpy as np

from genmodels.couplings import Couplings
from genmodels.errors import InputError
from genmodels.streams import Key


def edwards_anderson(shape: Sequence[int], key: Key, *, gaussian: bool = False) -> Couplings:
    """Return nearest-neighbour couplings J = ±1, or standard normal ones. Edwards & Anderson 1975.

    Args:
        shape: Sites along each axis, periodic: (10, 10, 10) is 3-D.
        key: The stream of the couplings.
        gaussian: Whether they are normal instead of ±1.

    Raises:
        InputError: an axis has fewer than 3 sites.
    """
    i, j = _bonds(shape)
    rng = key.child("couplings").numpy()
    J = rng.standard_normal(len(i)) if gaussian else rng.integers(0, 2, len(i)) * 2.0 - 1.0
    return _without_fields(int(np.prod(shape)), i, j, J)


def ferromagnet(shape: Sequence[int]) -> Couplings:
    """Return the Ising model on a periodic lattice, all nearest-neighbour couplings 1. Ising 1925.

    Raises:
        InputError: an axis has fewer than 3 sites.
    """
    i, j = _bonds(shape)
    return _without_fields(int(np.prod(shape)), i, j, np.ones(len(i)))


def sherrington_kirkpatrick(n_sites: int, key: Key) -> Couplings:
    """Return couplings of all pairs, normal with variance 1/N. Sherrington & Kirkpatrick 1975.

    Raises:
        InputError: fewer than 2 sites.
    """
    if n_sites < 2:
        raise InputError(f"Sherrington–Kirkpatrick model: {n_sites} sites, give at least 2")
    i, j = np.triu_indices(n_sites, 1)
    J = key.child("couplings").numpy().standard_normal(len(i)) / np.sqrt(n_sites)
    return _without_fields(n_sites, i, j, J)


def _bonds(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the bonds from each site to the next along each axis  # (bond,) twice."""
    if not shape or min(shape) < 3:
        # Of two sites along an axis the bonds there and back would be the same pair.
        raise InputError(f"lattice of {'×'.join(map(str, shape))} sites: give at least 3 along each axis")
    site = np.arange(int(np.prod(shape))).reshape(shape)
    pairs = np.concatenate(
        [np.stack([site, np.roll(site, -1, axis)], -1).reshape(-1, 2) for axis in range(len(shape))]
    )
    pairs.sort(axis=1)
    return pairs[:, 0], pairs[:, 1]


def _without_fields(n_sites: int, i: np.ndarray, j: np.ndarray, J: np.ndarray) -> Couplings:
    return Couplings(n_sites, i.astype(np.int64), j.astype(np.int64), J, np.zeros(n_sites))
