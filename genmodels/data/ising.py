"""The Ising ferromagnet on a small lattice, sampled exactly."""

import numpy as np

from genmodels.data.sources import Material, Part, Request
from genmodels.data.target import Target
from genmodels.errors import InputError
from genmodels.streams import Key

_MAX_SITES = 20


def ising(request: Request) -> Material:
    """Return independent draws of h×w spins with P(x) ∝ exp(β Σ_{⟨ij⟩} x_i x_j), free boundaries.

    The sum runs once over each pair of horizontal and vertical neighbours, none across the edges; J = 1, no
    field. All 2^(h·w) probabilities are computed; drawing inverts their cumulative sum.

    Raises:
        InputError: no size, or more sites than can be enumerated.
    """
    if request.size is None:
        raise InputError("data.size = null: ising needs [height, width], such as [4, 4]")
    height, width = request.size
    if height * width > _MAX_SITES:
        raise InputError(
            f"data.size = {[height, width]}: ising is enumerated, so {_MAX_SITES} sites are the most; "
            f"{height}×{width} has {height * width}"
        )
    target = ising_target(height, width, request.beta)
    cumulative = np.exp(target.log_p).cumsum()
    uniform = Key(request.seed, "ising").numpy().random(request.n_samples) * cumulative[-1]
    drawn = target.states[np.searchsorted(cumulative[:-1], uniform, side="right")]
    part = Part(drawn, np.full(len(drawn), -1, dtype=np.int64))
    return Material({"train": part}, (height, width, 1), 2, "native", "exact samples", target)


def ising_target(height: int, width: int, beta: float) -> Target:
    """Return log P of all states, in order of the binary number whose highest digit is site 0."""
    n_sites = height * width
    numbers = np.arange(2**n_sites, dtype=np.uint32)
    states = np.empty((2**n_sites, n_sites), dtype=np.uint8)
    for site in range(n_sites):
        states[:, site] = (numbers >> np.uint32(n_sites - 1 - site)) & 1
    bonds = np.zeros(2**n_sites, dtype=np.int32)  # Σ x_i x_j = bonds that agree − bonds that do not
    lattice = np.arange(n_sites).reshape(height, width)
    pairs = [(lattice[1:], lattice[:-1]), (lattice[:, 1:], lattice[:, :-1])]
    for one, other in pairs:
        for i, j in zip(one.ravel(), other.ravel(), strict=True):
            bonds += 1 - 2 * (states[:, i] ^ states[:, j]).astype(np.int32)
    exponent = beta * bonds.astype(np.float64)
    greatest = exponent.max()
    log_z = greatest + np.log(np.exp(exponent - greatest).sum())
    return Target(states, exponent - log_z, full_support=True)
