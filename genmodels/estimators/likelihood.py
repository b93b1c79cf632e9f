"""The likelihood of images under any model, by every route that the model offers."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmodels.estimate import Estimate, Kind, over_images, undetermined
from genmodels.estimators import (
    dequantised,
    enumeration,
    importance_weighted,
    posterior,
    sequential,
    variational,
)
from genmodels.protocols import (
    HasBoundTerms,
    HasComponents,
    HasLogProb,
    HasLogUnnormalised,
    HasLogUnnormalisedBound,
    HasLogWeights,
    HasMeanField,
    levels_of,
)
from genmodels.streams import Key

ENUMERATION = "enumeration"
BINARY = "log_likelihood"  # nats per image of black and white pixels: greater is better
GREY = "bits_per_dimension"  # of pixels of more levels: smaller is better
_BITS: dict[Kind, Kind] = {"lower": "upper", "upper": "lower"}
Report = Callable[[int, int], None]


class Effort(NamedTuple):
    """How many random numbers the estimators may spend."""

    importance_samples: int = 1000  # K, a VAE's samples of z per image
    noise_levels: int = 16  # a diffusion model's noise levels per image and repeat
    noise_repeats: int = 8
    dequantisation_samples: int = 64  # a Gaussian mixture's draws of u per image
    posterior_images: int = 100  # of which a deep machine's hidden layers are annealed, the first ones
    posterior_particles: int = 20  # per image
    posterior_steps: int = 200


class Route(NamedTuple):
    """log q of each image by one method.

    Attributes:
        name: "" for the number that stands for the model, else what tells this route from it.
        values: Nats; None where log Z is not determined  # (image,)
        variances: Of each value, from random numbers that are independent between images  # (image,)
        shared: Standard error that all values have in common, that of log Z.
        kind: exact | lower | estimate | undetermined.
        method: How, in words that fit a table cell.
        reason: Why there are no values.
        levels: K, of the images' pixels.
        n_sites: D, pixels of an image.
    """

    name: str
    values: np.ndarray | None
    variances: np.ndarray | None
    shared: float
    kind: Kind
    method: str
    reason: str = ""
    levels: int = 2
    n_sites: int = 0

    @property
    def quantity(self) -> str:
        """Return the name of what `mean` is: numbers of different names never stand in one column."""
        return BINARY if self.levels == 2 else GREY

    def mean(self) -> Estimate:
        """Return the mean over images: nats per image, or bits per dimension where levels are more than two.

        −log q(x)/(D log 2) bits per dimension are a cost: a lower bound on the likelihood bounds them from
        above. Nothing is subtracted for the width of a level: q is a probability, not a density.
        """
        bits = self.levels != 2
        unit, method = ("nats per image", self.method)
        if bits:
            unit, method = "bits per dimension", f"{self.method}, {self.levels} levels"
        if self.values is None:
            return undetermined(self.reason, unit=unit, n=0, method=method)
        scale = -1.0 / (self.n_sites * math.log(2.0)) if bits else 1.0
        weights = np.full(len(self.values), 1.0 / len(self.values))
        return over_images(
            scale * self.values,
            kind=_BITS.get(self.kind, self.kind) if bits else self.kind,
            method=method,
            stderr_estimator=abs(scale) * self.error(weights),
            own_variance=scale**2 * self._own_variance(weights),
            unit=unit,
        )

    def error(self, weights: np.ndarray) -> float:
        """Return the estimator's standard error of Σ_i w_i log q(x_i), with Σ w = 1."""
        return math.hypot(math.sqrt(self._own_variance(weights)), self.shared)

    def _own_variance(self, weights: np.ndarray) -> float:
        return 0.0 if self.variances is None else float((weights**2 * self.variances).sum())


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
    the estimate of a bound, and by its gap annealed for some images. VAE: the importance-weighted bound, and
    the plain one; none of a decoder that gives densities. Diffusion: the discretised variational bound.

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
    sizes = effort.posterior_particles, effort.posterior_steps
    gaps = (
        posterior.anneal(model, x[:n], *sizes, key.child("posterior")).log_unnormalised - bound[:n]
    ).numpy()
    error = math.hypot(first.shared, gaps.std(ddof=1) / math.sqrt(n)) if n > 1 else first.shared
    method = f"bound and its gap, annealed for {n} images, {first.method}"
    yield Route("annealed", first.values + gaps.mean(), None, error, "estimate", method)


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
    yield Route("", *weighted, 0.0, "lower", f"importance-weighted bound, K = {n}")
    yield Route("elbo", *elbo, 0.0, "lower", "evidence lower bound")


def _diffusion(model: Any, x: Tensor, key: Key, effort: Effort, progress: Report | None) -> Iterator[Route]:
    sizes = effort.noise_levels, effort.noise_repeats
    values, variances, _ = variational.bound(model, x, key.child("noise"), *sizes, progress)
    time = "continuous time" if model.T is None else f"T = {model.T}"
    yield Route("", values, variances, 0.0, "lower", f"variational bound, {time}")
