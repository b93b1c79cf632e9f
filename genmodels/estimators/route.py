"""log q of each image by one method, and its mean in the table's units."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from genmodels.estimate import Estimate, Kind, over_images, undetermined

BINARY = "log_likelihood"  # nats per image of black and white pixels: greater is better
GREY = "bits_per_dimension"  # of pixels of more levels: smaller is better
_BITS: dict[Kind, Kind] = {"lower": "upper", "upper": "lower"}
Report = Callable[[int, int], None]


class Effort(NamedTuple):
    """How many random numbers the estimators may spend.

    What is costly is done for the first images only, and added to the mean over all images as a mean gap.
    """

    importance_samples: int = 1000  # K, an autoencoder's samples of z per image
    more_samples: int = 5000  # K, for the first images
    more_images: int = 0  # of which K is the larger one; 0: none
    noise_levels: int = 20  # a diffusion model's strata of noise levels per image and repeat
    noise_repeats: int = 8
    dequantisation_samples: int = 64  # a Gaussian mixture's draws of u per image
    posterior_images: int = 100  # of which hidden variables are annealed, or followed along a flow; 0: none
    posterior_particles: int = 20  # per image
    posterior_steps: int = 200


class Route(NamedTuple):
    """log q of each image by one method.

    Attributes:
        name: "" for the number that stands for the model, else what tells this route from it.
        values: Nats; None where log Z is not determined  # (image,)
        variances: Of each value, from random numbers that are independent between images  # (image,)
        shared: Standard error that all values have in common, that of log Z or of a mean gap.
        kind: exact | lower | estimate | undetermined.
        method: How, in words that fit a table cell.
        reason: Why there are no values.
        levels: K, of the images' pixels.
        n_sites: D, pixels of an image.
        terms: What the mean consists of, by name, as costs in nats per image.
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
    terms: Mapping[str, Estimate] = {}

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
            own_variance=scale**2 * self.own_variance(weights),
            unit=unit,
        )

    def error(self, weights: np.ndarray) -> float:
        """Return the estimator's standard error of Σ_i w_i log q(x_i), with Σ w = 1."""
        return math.hypot(math.sqrt(self.own_variance(weights)), self.shared)

    def own_variance(self, weights: np.ndarray) -> float:
        """Return the part of `error`² from random numbers that are each image's own."""
        return 0.0 if self.variances is None else float((weights**2 * self.variances).sum())

    def moved(self, name: str, better: np.ndarray, kind: Kind, method: str) -> "Route":
        """Return this route moved by the mean gap to better values of its first images  # (image,) of them.

        The mean over all images then is as good as the costly method, with the error of a gap that is
        measured on a few: that is far smaller than the error of their mean would be.
        """
        if self.values is None or len(better) < 2:
            raise ValueError(f"{name}: a gap needs values, and at least 2 better ones")
        gaps = better - self.values[: len(better)]
        error = math.hypot(self.shared, float(gaps.std(ddof=1)) / math.sqrt(len(gaps)))
        return Route(name, self.values + gaps.mean(), self.variances, error, kind, method)
