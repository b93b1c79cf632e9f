"""Exact sums over state spaces that are small enough."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimate import Estimate, Kind, of_scalar, undetermined
from genmodels.paths import potential
from genmodels.protocols import HasEnergy, HasMarginals

MAX_SIDE = 24
MAX_SITES = 20
_CHUNK = 2**14  # states at once: 16 thousand fields of 784 sites in float64 are 100 MB


def states(n_sites: int, chunk: int = _CHUNK) -> Iterator[Tensor]:
    """Yield all 2^n states in ±1, in order of the binary number whose highest digit is site 0.

    Each chunk is float64 with at most `chunk` states  # (state, site)
    """
    places = torch.arange(n_sites - 1, -1, -1)
    for first in range(0, 2**n_sites, chunk):
        numbers = torch.arange(first, min(first + chunk, 2**n_sites))
        yield ((numbers[:, None] >> places) & 1).double() * 2.0 - 1.0


def smaller_side(model: HasMarginals) -> tuple[int, int]:
    """Return how many units the smaller side has, and which block it is."""
    return min((sites.stop - sites.start, block) for block, sites in enumerate(model.blocks))


@torch.no_grad()
def log_z(model: HasMarginals, beta: float = 1.0) -> Estimate:
    """Return the exact log Σ exp(−βE) over all configurations in nats: a sum over the smaller side's states.

    Args:
        model: An nn.Module: of an RBM a side is a layer, of a deep machine the even or the odd layers.
        beta: Inverse temperature.

    Raises:
        InputError: the smaller side has more than MAX_SIDE units.
    """
    n_units, block = smaller_side(model)
    if n_units > MAX_SIDE:
        raise InputError(
            f"log Z by enumeration: the smaller side has {n_units} units and {MAX_SIDE} is the most "
            "that can be summed; estimate it by sampling instead"
        )
    exact = copy.deepcopy(model).double().cpu()  # type: ignore[attr-defined]
    parts = [exact.log_marginal(block, side, beta).logsumexp(0) for side in states(n_units)]
    return _exact(float(torch.stack(parts).logsumexp(0)), 2**n_units, f"sum over {n_units} units")


@torch.no_grad()
def log_z_of_energy(model: Any, beta: float = 1.0) -> Estimate:
    """Return the exact log Σ_x exp(−βE(x) − E_0(x)) in nats of any model of ±1 sites, by summing all states.

    Args:
        model: An nn.Module with n_sites and energy (HasEnergy), and perhaps a reference.
        beta: Inverse temperature.

    Raises:
        InputError: more than MAX_SITES sites.
    """
    if model.n_sites > MAX_SITES:
        raise InputError(
            f"log Z by enumeration: {model.n_sites} sites and {MAX_SITES} is the most "
            "that can be summed; estimate it by sampling instead"
        )
    exact = copy.deepcopy(model).double().cpu()
    at = torch.tensor(beta, dtype=torch.float64)
    parts = [(-potential(exact, x, at)).logsumexp(0) for x in states(model.n_sites)]
    return _exact(float(torch.stack(parts).logsumexp(0)), 2**model.n_sites, f"sum over {model.n_sites} sites")


def known_log_z(model: Any) -> Estimate | None:
    """Return the exact log Z where a side, or all sites, of an energy model can be summed, else None."""
    if isinstance(model, HasMarginals):
        return log_z(model) if smaller_side(model)[0] <= MAX_SIDE else None
    spins = isinstance(model, HasEnergy) and getattr(model, "domain", "spin") == "spin"
    return log_z_of_energy(model) if spins and model.n_sites <= MAX_SITES else None


def _exact(value: float, n: int, method: str) -> Estimate:
    return of_scalar(value, stderr=0.0, kind="exact", unit="nats", n=n, method=method)


def divergence(
    log_p: Tensor,
    log_q: Tensor,
    *,
    kind: Kind = "exact",
    stderr: float = 0.0,
    method: str = "sum over the support",
) -> Estimate:
    """Return D(P‖q) = Σ_x P(x) (log P(x) − log q(x)) in nats over the support of a known target P.

    Args:
        log_p: log P of each state, −∞ where P is 0  # (state,)
        log_q: The model's log probability of the same states  # (state,)
        kind: "exact", "upper" where log q is a lower bound, "estimate" where its log Z is one.
        stderr: Standard error of the mean of log q under P.
        method: How log q was obtained.

    Raises:
        InputError: P does not sum to 1.
    """
    log_p, log_q = log_p.double(), log_q.detach().double()
    total = float(log_p.exp().sum())
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise InputError(f"the target's probabilities sum to {total:.8g}: give its whole support, normalised")
    support = ~torch.isneginf(log_p)
    log_p, log_q = log_p[support], log_q[support]
    n_missed = int(torch.isneginf(log_q).sum())
    if n_missed:
        reason = f"infinite: the model gives {n_missed} of the target's {len(log_p)} states no probability"
        return undetermined(reason, unit="nats", n=len(log_p), method=method)
    value = float((log_p.exp() * (log_p - log_q)).sum())
    return of_scalar(value, stderr=stderr, kind=kind, unit="nats", n=len(log_p), method=method)


def mass_on_support(
    log_q: Tensor, *, kind: Kind = "exact", stderr: float = 0.0, method: str = "sum over the support"
) -> Estimate:
    """Return q(supp P) = Σ_{x ∈ supp P} q(x), the share of the model's mass that falls on possible images.

    Args:
        log_q: The model's log probability of the different states of the support  # (state,)
        kind: "exact", "lower" where log q is a lower bound, "estimate" where its log Z is one.
        stderr: Standard error of the sum.
        method: How log q was obtained.
    """
    value = float(log_q.detach().double().exp().sum())
    return of_scalar(value, stderr=stderr, kind=kind, unit="probability", n=len(log_q), method=method)
