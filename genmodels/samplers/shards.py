"""Shards of work that go on segment after segment, none of them waiting for another."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genmodels.protocols import Placement


def run(
    placement: Placement,
    fn: Callable[..., tuple[Any, Any]],
    handles: Sequence[Any],
    segments: Sequence[Any],
    *small: Any,
    report: Callable[[Any], None] = lambda segment: None,
) -> tuple[list[Any], list[list[Any]]]:
    """Take every shard through all segments: state, small result = fn(state, shard, segment, *small).

    The next segment of a shard starts as soon as its last one is done; in which order is no matter.

    Args:
        placement: Where the work runs.
        fn: A pure function at module level.
        handles: Handles of the shards' states  # (shard,)
        segments: What distinguishes the calls of one shard, in order.
        *small: Further arguments, the same for every call.
        report: Called with each segment of each shard when it is done.

    Returns:
        Handles of the last states (shard,), and the small results (shard, segment).
    """
    states: list[Any] = list(handles)
    results: list[list[Any]] = [[] for _ in states]
    pending: dict[int, Any] = {}

    def submit(shard: int) -> None:
        done = len(results[shard])
        if done < len(segments):
            states[shard], pending[shard] = placement.submit(fn, states[shard], shard, segments[done], *small)

    for shard in range(len(states)):
        submit(shard)
    while pending:
        shards = list(pending)
        shard = shards[next(iter(placement.wait([pending[i] for i in shards])))]
        results[shard].append(placement.fetch(pending.pop(shard)))
        report(segments[len(results[shard]) - 1])
        submit(shard)
    return states, results


def require_finite(energy: Tensor, what: str) -> None:
    """Raise FloatingPointError, in one line, if an energy is not finite  # (replica,)."""
    n_bad = energy.numel() - int(energy.isfinite().sum())
    if n_bad:
        raise FloatingPointError(
            f"{what}: {n_bad} of {energy.numel()} energies are not finite: "
            "look for weights of the model that are infinite, NaN or too large for their precision"
        )


def representable(betas: Tensor) -> Tensor:
    """Return betas rounded to float32, as float64: what a kernel computes with is then what is reported."""
    return betas.to(torch.float32).to(torch.float64)
