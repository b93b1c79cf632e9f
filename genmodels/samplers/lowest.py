"""The lowest energy that a run has met, with its configuration."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.protocols import Kernel


class Lowest(NamedTuple):
    """An energy and where it was met."""

    energy: float  # nats at β = 1
    x: Tensor  # (site,)


def lower(so_far: Lowest | None, kernel: Kernel[Any], state: Any) -> Lowest:
    """Return the lower of what was met so far and of the replicas of `state`."""
    replica = state.energy.argmin()
    energy = float(state.energy[replica])
    if so_far is not None and so_far.energy <= energy:
        return so_far
    return Lowest(energy, kernel.configuration(kernel.select(state, replica[None]))[0].clone())


def lowest(met: Iterable[Lowest]) -> Lowest:
    """Return the lowest of what shards have met, the first of equals."""
    return min(met, key=lambda one: one.energy)


def rows(kernel: Kernel[Any], state: Any, replicas: Tensor) -> Tensor:
    """Return the configurations of some replicas  # (those, site)."""
    return kernel.configuration(kernel.select(state, replicas.to(torch.int64)))
