"""Resampling of a population that is spread over shards: who stays, who is copied and who moves."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmodels.samplers import population

_DRIFT = 1.25  # a shard may hold so many times its fair share of the walkers, or its share over this


class Move(NamedTuple):
    """Which walkers of a shard go to another one."""

    source: int
    target: int
    walkers: Tensor  # (copy,): indices in the source


class Plan(NamedTuple):
    """A step of a population: its weights, and what becomes of every walker."""

    log_ratio: Tensor  # (): log of the mean weight
    ess: Tensor  # (): effective share of the walkers under the weights
    stay: list[Tensor]  # (shard,), each (copy,): indices of those that go on where they are
    moves: list[Move]


def plan(log_w: Tensor, sizes: Sequence[int], uniform: float) -> Plan:
    """Return the step of a population whose walkers, shard after shard, have these weights  # (walker,).

    Copies are dealt out over the population as a whole. Walkers move if a shard would hold more than `_DRIFT`
    times its fair share, or less than that share over `_DRIFT`; then all shards get their fair shares.
    """
    copies = torch.split(population.copies(log_w, uniform), list(sizes))
    stay, moves = [population.placed(each) for each in copies], []
    held, shares = [len(each) for each in stay], fair(len(log_w), len(sizes))
    pairs = list(zip(held, shares, strict=True))
    if any(n > _DRIFT * share or n * _DRIFT < share for n, share in pairs):
        for source, target, n in transport(held, shares):
            stay[source], leaving = torch.split(stay[source], [len(stay[source]) - n, n])
            moves.append(Move(source, target, leaving))
    return Plan(population.log_mean_weight(log_w), population.effective_share(log_w), stay, moves)


def fair(n_walkers: int, n_shards: int) -> list[int]:
    """Return the fair shares of shards, which differ by one at most  # (shard,)."""
    return [n_walkers // n_shards + (shard < n_walkers % n_shards) for shard in range(n_shards)]


def transport(held: Sequence[int], shares: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (source, target, walkers) that turn what is held into the shares, in order of the shards."""
    surplus, shards = np.subtract(held, shares), np.arange(len(held))
    ends = [np.repeat(shards, surplus.clip(min=0)), np.repeat(shards, (-surplus).clip(min=0))]
    pairs, counts = np.unique(np.stack(ends), axis=1, return_counts=True)
    return [(int(a), int(b), int(n)) for a, b, n in zip(*pairs, counts, strict=True)]
