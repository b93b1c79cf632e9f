"""The likelihood of images under any model, by every route that the model offers."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genmodels.estimate import Estimate, Kind
from genmodels.estimators import (
    dequantised,
    enumeration,
    importance_weighted,
    latent_annealing,
    posterior,
    probability_flow,
    sequential,
    variational,
)
from genmodels.estimators.route import Effort, Report, Route
from genmodels.protocols import (
    HasBoundTerms,
    HasComponents,
    HasEncoded,
    HasFlow,
    HasLogProb,
    HasLogUnnormalised,
    HasLogUnnormalisedBound,
    HasLogWeights,
    HasMeanField,
    levels_of,
)
from genmodels.streams import Key

ENUMERATION = "enumeration"


def routes(
    model: Any,
    v: Tensor,
    key: Key,
    log_z: Mapping[str, Estimate] | None = None,
    effort: Effort | None = None,
    progress: Report | None = None,
) -> list[Route]:
    """Return log q(v) by every route, the one that stands for the model first.

    Images are those of the model's own levels: black and white where it says nothing of them.

    Gaussians: conditionals renormalised on the levels, exact; and the bound by uniform dequantisation. Models
    with a tractable likelihood: exact. Energy models: with the exact log Z where the smaller side can be
    summed, and with each estimated one; deep ones by the mean-field bound, which with an estimated log Z is
    the estimate of a bound, and by its gap annealed for some images. VAE: the importance-weighted bound, the
    plain one, and for some images with more samples and by annealing; none of a decoder that gives densities.
    Diffusion: the discretised variational bound, and for some grey images the probability flow.

    Args:
        model: A Model.
        v: Images  # (image, site) in {0 … K − 1}, K = 2 for black and white
        key: The stream of what is random.
        log_z: For energy models, what `with_enumeration` returned, log Z by name of method.
        effort: Sizes of the random parts.
        progress: Called with images done and their total.
    """
    with torch.no_grad():
        found = _routes(model, v, key, log_z or {}, effort or Effort(), progress)
        return [route._replace(levels=levels_of(model), n_sites=v.shape[1]) for route in found]


def _routes(
    model: Any, v: Tensor, key: Key, log_z: Mapping[str, Estimate], effort: Effort, progress: Report | None
) -> Iterator[Route]:
    x = 2.0 * v - 1.0 if model.domain == "spin" else v
    if isinstance(model, HasComponents):
        return _gaussian(model, v, key, effort)
    if isinstance(model, HasLogProb):
        values = model.log_prob(x).double().numpy()
        return iter([Route("", values, None, 0.0, "exact", "closed form")])
    if isinstance(model, HasLogUnnormalised):
        return _energy(model.log_unnormalised(x).double().numpy(), log_z)
    if isinstance(model, HasLogUnnormalisedBound):
        return _deep(model, x, log_z, key, effort)
    if isinstance(model, HasLogWeights):
        return _autoencoder(model, x, key, effort, progress)
    if isinstance(model, HasBoundTerms):
        return _diffusion(model, x, key, effort, progress)
    raise TypeError(f"{type(model).__name__} offers no likelihood and no bound on it")


def with_enumeration(model: Any, log_z: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Return the estimates of log Z, before them the exact one where the model can be summed.

    An estimate that contradicts the exact value is refused.
    """
    from genmodels.estimators import free_energy

    exact = enumeration.known_log_z(model)
    if exact is None:
        return dict(log_z)
    return {ENUMERATION: exact} | {
        name: free_energy.against_exact(estimate, exact) for name, estimate in log_z.items()
    }


def _gaussian(model: HasComponents, v: Tensor, key: Key, effort: Effort) -> Iterator[Route]:
    values = sequential.log_prob(model, v).numpy()
    how = "conditionals on {0, 1}" if levels_of(model) == 2 else "conditionals on the levels"
    yield Route("", values, None, 0.0, "exact", how)
    generator = key.child("dequantise").torch()
    bounds, variances = dequantised.bound(model, v, generator, effort.dequantisation_samples)
    yield Route("dequantised", bounds.numpy(), variances.numpy(), 0.0, "lower", "uniform dequantisation")


def _energy(unnormalised: np.ndarray, log_z: Mapping[str, Estimate]) -> Iterator[Route]:
    from genmodels.estimators import free_energy

    estimated = {name: estimate for name, estimate in log_z.items() if name != ENUMERATION}
    if ENUMERATION in log_z:
        yield _normalised("", unnormalised, log_z[ENUMERATION])
    elif len(estimated) > 1:
        yield _normalised("", unnormalised, free_energy.combined(list(estimated.values())))
    else:
        reason = "log Z is not known: estimate it first, and keep the model's folder in its pipeline"
        if estimated:
            reason = f"one route to log Z, {next(iter(estimated))}: a second, independent one would settle it"
        yield Route("", None, None, 0.0, "undetermined", "log Z by sampling", reason)
    for name, estimate in estimated.items():
        yield _normalised(name, unnormalised, estimate)


def _deep(model: Any, x: Tensor, log_z: Mapping[str, Estimate], key: Key, effort: Effort) -> Iterator[Route]:
    bound = model.log_unnormalised_bound(x).double()
    first, *others = _energy(bound.numpy(), log_z)
    for route in (first, *others):
        # With an estimated log Z it is the estimate of a bound.
        kind: Kind = "lower" if route.kind == "exact" else route.kind
        yield route._replace(kind=kind, method=f"mean-field bound, {route.method}")
    if first.values is None or not isinstance(model, HasMeanField):
        return
    n = min(effort.posterior_images, len(x))
    if n < 2:
        return
    sizes = effort.posterior_particles, effort.posterior_steps
    annealed = posterior.anneal(model, x[:n], *sizes, key.child("posterior")).log_unnormalised
    better = first.values[:n] + (annealed - bound[:n]).numpy()
    method = f"bound and its gap, annealed for {n} images, {first.method}"
    yield first.moved("annealed", better, "estimate", method)


def _normalised(name: str, unnormalised: np.ndarray, log_z: Estimate) -> Route:
    method = f"log Z: {log_z.method}"
    if log_z.value is None:
        return Route(name, None, None, 0.0, "undetermined", method, log_z.reason)
    return Route(name, unnormalised - log_z.value, None, log_z.stderr or 0.0, log_z.kind, method)


def _autoencoder(model: Any, x: Tensor, key: Key, effort: Effort, progress: Report | None) -> Iterator[Route]:
    if getattr(model, "is_density", False):
        reason = "the decoder gives densities, no probabilities of levels: take discretised_logistic"
        yield Route("", None, None, 0.0, "undetermined", "importance-weighted bound", reason)
        return
    n = effort.importance_samples
    weighted, elbo = importance_weighted.bounds(model, x, key.child("weights"), n, progress)
    first = Route("", *weighted, 0.0, "lower", f"importance-weighted bound, K = {n}")
    yield first
    yield Route("elbo", *elbo, 0.0, "lower", "evidence lower bound")
    some, more = min(effort.more_images, len(x)), effort.more_samples
    if some > 1 and more > n:  # the first n of these samples are those above
        better, _ = importance_weighted.bounds(model, x[:some], key.child("weights"), more).weighted
        method = f"importance-weighted bound and what K = {more} adds for {some} images"
        yield first.moved("more_samples", better, "lower", method)
    some = min(effort.posterior_images, len(x))
    if some > 1 and isinstance(model, HasEncoded):
        sizes = effort.posterior_particles, effort.posterior_steps
        annealed = latent_annealing.anneal(model, x[:some], key.child("anneal"), *sizes)
        method = f"importance-weighted bound and what annealing z adds for {some} images"
        yield first.moved("annealed", annealed.log_prob, "lower", method)


def _diffusion(model: Any, x: Tensor, key: Key, effort: Effort, progress: Report | None) -> Iterator[Route]:
    sizes = effort.noise_levels, effort.noise_repeats
    values, variances, terms = variational.bound(model, x, key.child("noise"), *sizes, progress)
    time = "continuous time" if model.T is None else f"T = {model.T}"
    first = Route("", values, variances, 0.0, "lower", f"variational bound, {time}", terms=terms)
    yield first
    some = min(effort.posterior_images, len(x))
    if some > 1 and levels_of(model) > 2 and isinstance(model, HasFlow):
        better, _ = probability_flow.bound(model, x[:some], key.child("flow"), n_repeats=2)
        method = f"variational bound and what the probability flow adds for {some} images"
        yield first.moved("probability_flow", better, "lower", method)
