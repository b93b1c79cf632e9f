"""How far a model is from a known distribution: D(P‖q), D(q‖P), and q(supp P) where that is infinite."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from genmodels.data.target import Target
from genmodels.estimate import Estimate, Kind, of_share, over_images, undetermined
from genmodels.estimators import enumeration, likelihood
from genmodels.estimators.route import Effort, Report, Route
from genmodels.protocols import CanSample, HasBoundTerms, HasLogWeights
from genmodels.streams import Key

MOST_STATES = 4096  # whose bound is estimated one by one; of more of them P is sampled
N_DRAWS = 2000  # of a model whose probabilities are bounded only
_COST: dict[Kind, Kind] = {"exact": "exact", "lower": "upper", "estimate": "estimate"}


def distances(
    model: Any,
    target: Target,
    key: Key,
    log_z: Mapping[str, Estimate],
    effort: Effort,
    progress: Report | None = None,
) -> dict[str, Estimate]:
    """Return D(P‖q) by every route as "kl" and "kl.<route>"; and, by the first, one of two more.

    "reverse_kl", D(q‖P), where P has full support, else "mass_on_support", q(supp P). Both are sums over
    states where q is known, and averages over the model's own draws where it is bounded only: of a lower
    bound on log q these give a lower bound on D(q‖P), and q(supp P) is a share, which needs no bound at all.

    Args:
        model: A Model of black and white images.
        target: P.
        key: The stream.
        log_z: Of energy models, as `likelihood.routes` takes it.
        effort: Sizes of the random parts; what is for some images only is left out.
        progress: Called with states done and their total.
    """
    effort = effort._replace(more_images=0, posterior_images=0)
    bounded = isinstance(model, HasLogWeights | HasBoundTerms)
    chosen = np.arange(len(target.states))
    if bounded and len(chosen) > MOST_STATES:
        chosen = _systematic(np.exp(target.log_p), MOST_STATES, key.child("states"))
    states = torch.from_numpy(target.states[chosen]).float()
    routes = likelihood.routes(model, states, key, log_z, effort, progress)
    found = {}
    for route in routes:
        name = f"kl.{route.name}" if route.name else "kl"
        whole = len(chosen) == len(target.states)
        found[name] = _summed(target, route) if whole else _averaged(target.log_p[chosen], route)
    name, method = "reverse_kl" if target.full_support else "mass_on_support", routes[0].method
    if bounded and isinstance(model, CanSample):
        return found | {name: _by_draws(model, target, key.child("draws"), effort)}
    if routes[0].values is None:
        return found | {name: undetermined(routes[0].reason, unit="nats", n=0, method=method)}
    return found | {name: _from_states(target, routes[0])}


def _systematic(p: np.ndarray, n: int, key: Key) -> np.ndarray:
    """Return n draws of P's states, at equal distances of its cumulative sum from a random start."""
    places = (np.arange(n) + key.numpy().random()) / n
    chosen: np.ndarray = np.minimum(np.searchsorted(np.cumsum(p), places * p.sum()), len(p) - 1)
    return chosen


def _summed(target: Target, route: Route) -> Estimate:
    if route.values is None:
        return undetermined(route.reason, unit="nats", n=0, method=route.method)
    return enumeration.divergence(
        torch.from_numpy(target.log_p),
        torch.from_numpy(route.values),
        kind=_COST[route.kind],
        stderr=route.error(np.exp(target.log_p)),
        method=route.method,
    )


def _averaged(log_p: np.ndarray, route: Route) -> Estimate:
    """Return the mean of log P − log q over draws of P."""
    if route.values is None:
        return undetermined(route.reason, unit="nats", n=0, method=route.method)
    method = f"{route.method}, {len(log_p)} draws of P"
    return _over_draws(log_p - route.values, route, _COST[route.kind], method)


def _over_draws(differences: np.ndarray, route: Route, kind: Kind, method: str) -> Estimate:
    """Return the mean of what differs from a route's values by known numbers  # (draw,), nats."""
    weights = np.full(len(differences), 1.0 / len(differences))
    return over_images(
        differences,
        kind=kind,
        method=method,
        stderr_estimator=route.error(weights),
        own_variance=route.own_variance(weights),
        unit="nats",
    )


def _from_states(target: Target, first: Route) -> Estimate:
    """Return D(q‖P) or q(supp P) by a sum over the states of P."""
    assert first.values is not None
    log_q = torch.from_numpy(first.values)
    if not target.full_support:
        error = first.shared * float(np.exp(first.values).sum())
        return enumeration.mass_on_support(log_q, kind=first.kind, stderr=error, method=first.method)
    if first.kind == "lower":
        reason = "q is bounded, not known, and the model draws by chains only: a model that sums would tell"
        return undetermined(reason, unit="nats", n=len(log_q), method=first.method)
    whole = log_q - log_q.logsumexp(0)  # all states are there: an estimated log Z drops out
    return enumeration.divergence(whole, torch.from_numpy(target.log_p), method=first.method)


def _by_draws(model: Any, target: Target, key: Key, effort: Effort) -> Estimate:
    """Return D(q‖P) or q(supp P) from draws of the model."""
    v = model.sample(N_DRAWS, key.torch()).cpu()
    if model.domain == "spin":
        v = 0.5 * (v + 1.0)
    index = {state.tobytes(): place for place, state in enumerate(target.states)}
    places = np.array([index.get(each.tobytes(), -1) for each in v.numpy().astype(np.uint8)])
    if not target.full_support:
        return of_share(int((places >= 0).sum()), N_DRAWS, unit="probability", method="draws of the model")
    first = likelihood.routes(model, v.float(), key, {}, effort)[0]
    if first.values is None:
        return undetermined(first.reason, unit="nats", n=0, method=first.method)
    method = f"{first.method}, {N_DRAWS} draws of the model"
    return _over_draws(first.values - target.log_p[places], first, first.kind, method)
