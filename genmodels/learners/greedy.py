"""Greedy pretraining of deep Boltzmann machines, layer after layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genmodels.learners.doubled_rbm import DoubledRBM
from genmodels.streams import Key

if TYPE_CHECKING:
    from genmodels.models.dbm import DBM


def machines(model: DBM) -> list[DoubledRBM]:
    """Return an untrained machine for each pair of neighbouring layers.

    The first sees its images twice and the last has its hidden units twice, for the evidence that will
    come from the other side once they are part of the whole. Salakhutdinov & Hinton 2009, section 3.1.
    """
    sizes = [model.n_visible, *model.hidden]
    last = len(sizes) - 2
    return [
        DoubledRBM(below, above, (2 if k == 0 else 1, 2 if k == last else 1))
        for k, (below, above) in enumerate(pairwise(sizes))
    ]


@torch.no_grad()
def units(machine: DoubledRBM, x: Tensor, key: Key) -> Tensor:
    """Return hidden units drawn given images, on which the next machine is trained  # (image, unit), ±1."""
    up = (machine.hidden_means(x) + 1.0) / 2.0
    return torch.bernoulli(up, generator=key.torch(x.device)).mul_(2.0).sub_(1.0)


@torch.no_grad()
def stack(model: DBM, trained: Sequence[DoubledRBM]) -> None:
    """Give `model` the layers of its machines.

    A unit between two machines gets half of its evidence from either. Weights between two such layers are
    halved, at the ends the doubled side has seen to that; biases are the mean of both machines'.
    """
    last = len(trained) - 1
    model.b[0].copy_(trained[0].b)
    for k, machine in enumerate(trained):
        model.W[k].copy_(machine.W if k in (0, last) else machine.W / 2.0)
        model.b[k + 1].copy_(machine.c if k == last else (machine.c + trained[k + 1].b) / 2.0)
