"""What pictures look like beside real ones, where a likelihood says nothing of it: by their neighbours.

Each measure is of points in some space: pixels, or what a classifier makes of them. Names of numbers have to
say which, since none of them means anything in another.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from genmodels.estimate import Estimate, of_share, over_images, undetermined
from genmodels.estimators import jackknife

N_NEIGHBOURS = 5  # whose distance is the radius of a real point's ball
_GROUPS = 10  # of points left out one after the other, for errors of distances between distributions
_AT_ONCE = 2**24  # distances in memory


class Nearest(NamedTuple):
    """The nearest of some points to each of others."""

    distance: np.ndarray  # (point,)
    place: np.ndarray  # (point,)


def squared_distances(points: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return |p − a|², exact where coordinates are small whole numbers  # (point, among)."""
    a, b = np.asarray(points, dtype=np.float64), np.asarray(among, dtype=np.float64)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2.0 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))


def nearest(points: np.ndarray, among: np.ndarray) -> Nearest:
    """Return for each point the nearest one among others, and how far it is  # (point, site), (other, site).

    The first of those that are equally near; memory is bounded, however many others there are.
    """
    size = max(1, _AT_ONCE // max(1, len(among)))
    parts = [squared_distances(points[i : i + size], among) for i in range(0, len(points), size)]
    place = np.concatenate([part.argmin(1) for part in parts])
    least = np.concatenate([part.min(1) for part in parts])
    return Nearest(np.sqrt(least), place)


def neighbourhoods(real: np.ndarray, drawn: np.ndarray, space: str) -> dict[str, Estimate]:
    """Return precision, recall, density and coverage of drawn points  # (point, feature) twice.

    A ball about a point reaches to its fifth neighbour among its own kind. Precision: the share of drawn
    points in some real ball; recall: of real points in some drawn ball (Kynkäänniemi et al. 2019). Density:
    how many real balls a drawn point is in, over 5, about 1 for real ones; coverage: the share of real balls
    with a drawn point in them (Naeem et al. 2020). Errors are over the points counted, balls given.

    Args:
        real: Held-out pictures.
        drawn: A model's.
        space: Where the points are, in words.

    Raises:
        ValueError: fewer than 3 points of a kind.
    """
    k = min(N_NEIGHBOURS, len(real) - 1, len(drawn) - 1)
    if k < 2:
        raise ValueError(f"{len(real)} real and {len(drawn)} drawn points have no neighbourhoods")
    across = squared_distances(real, drawn)
    real_radius, drawn_radius = (np.sort(squared_distances(own, own), 1)[:, k] for own in (real, drawn))
    within_real: np.ndarray = np.asarray(across <= real_radius[:, None])
    within_drawn: np.ndarray = np.asarray(across <= drawn_radius)
    method = f"{k} nearest neighbours in {space}"
    shares = {
        "precision": within_real.any(0),
        "recall": within_drawn.any(1),
        "coverage": within_real.any(1),
    }
    found = {
        name: of_share(int(np.sum(hits)), np.size(hits), unit="share", method=method)
        for name, hits in shares.items()
    }
    counts = within_real.sum(0) / k
    found["density"] = over_images(counts, kind="estimate", method=method, unit="")
    return found


def frechet(mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other: np.ndarray) -> float:
    """Return |μ − μ'|² + tr[Σ + Σ' − 2(Σ^½ Σ' Σ^½)^½], squared Fréchet distance of two Gaussians.

    Dowson & Landau 1982.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other @ root), 0.0)).sum()
    apart = np.square(mean - other_mean).sum()
    return float(apart + np.trace(covariance) + np.trace(other) - 2.0 * overlap)


def frechet_distance(real: np.ndarray, drawn: np.ndarray, space: str) -> Estimate:
    """Return the squared Fréchet distance of Gaussians with both samples' moments  # (point, feature) twice.

    Of finite samples it is above 0 even if both have one distribution, the more the fewer points: compare
    equal numbers. The error is jackknifed over groups of either sample. In the features of the Inception
    network this is called FID; here it is in `space`, and no number of another space may stand beside it.
    """

    def of(some: np.ndarray, others: np.ndarray) -> float:
        return frechet(some.mean(0), np.cov(some.T), others.mean(0), np.cov(others.T))

    method = f"Gaussians in {space}, {len(real)} real and {len(drawn)} drawn"
    return _jackknifed(of, real, drawn, method, "squared distance of features")


def moment_gaps(real: np.ndarray, drawn: np.ndarray) -> dict[str, Estimate]:
    """Return root mean square differences of pixels' means, and of all pairs' covariances.

    # (picture, site) twice, levels from 0 to 1
    """

    def means(some: np.ndarray, others: np.ndarray) -> float:
        return float(np.sqrt(np.square(some.mean(0) - others.mean(0)).mean()))

    def covariances(some: np.ndarray, others: np.ndarray) -> float:
        return float(np.sqrt(np.square(np.cov(some.T) - np.cov(others.T)).mean()))

    gaps = {"mean_gap": means, "covariance_gap": covariances}
    method = f"root mean square over pixels, {len(real)} real and {len(drawn)} drawn"
    return {name: _jackknifed(gap, real, drawn, method, "levels from 0 to 1") for name, gap in gaps.items()}


def _jackknifed(of, real: np.ndarray, drawn: np.ndarray, method: str, unit: str) -> Estimate:  # type: ignore[no-untyped-def]
    """Return of(real, drawn) with the error that groups of either sample leave."""
    parts = []
    for place, sample in enumerate((real, drawn)):
        groups = np.arange(len(sample)) % min(_GROUPS, len(sample))
        rest = []
        for group in range(groups.max() + 1):
            pair = [real, drawn]
            pair[place] = sample[groups != group]
            rest.append(of(*pair))
        parts.append(float(jackknife.standard_error(np.array(rest))))
    value, n = of(real, drawn), len(drawn)
    return Estimate(value, math.hypot(*parts), parts[0], parts[1], "estimate", "", unit, n, method)


def adversarial_accuracy(real: np.ndarray, drawn: np.ndarray, what: str) -> dict[str, Estimate]:
    """Return how well nearest neighbours tell drawn pictures from as many real ones  # (picture, site) twice.

    "real": the share of real pictures whose nearest drawn one is farther than their nearest other real one,
    "drawn": the share of drawn pictures the other way round; "": the mean of both. ½ where nothing tells
    them apart, 1 where everything does; near 0 the drawn ones sit on the real ones: they are copies. A tie
    counts half. Yale et al. 2020.

    Args:
        real: Pictures in levels.
        drawn: Pictures in levels; of the longer ones the first are taken.
        what: Which real ones, in words.
    """
    n = min(len(real), len(drawn))
    method = f"nearest neighbours in pixels, {n} {what} and {n} drawn"
    if n < 3:
        reason = f"{n} pictures: more of them would settle it"
        return {"": undetermined(reason, unit="share", n=n, method=method)}
    real, drawn = real[:n], drawn[:n]
    across = squared_distances(real, drawn)
    sides = {}
    for name, own, other in (("real", real, across.min(1)), ("drawn", drawn, across.min(0))):
        within = squared_distances(own, own)
        np.fill_diagonal(within, np.inf)
        sides[name] = np.where(other == within.min(1), 0.5, other > within.min(1))
    both = (sides["real"] + sides["drawn"]) / 2.0  # a point of either, in pairs
    return {name: _mean_share(hits, method) for name, hits in {"": both, **sides}.items()}


def copying(distance: np.ndarray, of_held_out: np.ndarray) -> Estimate:
    """Return P(d < d') + ½P(d = d'): are drawn pictures nearer to training images than held-out ones are?

    ½ where they are not, 1 where all are copies; below ½ they are farther from them than real pictures are.
    Its error is that of Mann & Whitney's U. Meehan, Chaudhuri & Dasgupta 2020.

    Args:
        distance: From drawn pictures to their nearest training image  # (picture,)
        of_held_out: From held-out images to theirs  # (image,)
    """
    n, m = len(distance), len(of_held_out)
    ranks = rankdata(np.concatenate([of_held_out, distance]))[:m]
    value = float((ranks.sum() - m * (m + 1) / 2.0) / (n * m))
    q = [value / (2.0 - value), 2.0 * value**2 / (1.0 + value)]  # Hanley & McNeil 1982
    spread = value * (1.0 - value) + (n - 1) * (q[0] - value**2) + (m - 1) * (q[1] - value**2)
    error = max(math.sqrt(max(spread, 0.0) / (n * m)), 0.5 / min(n, m))
    method = f"nearest training image in pixels, {n} drawn and {m} held out"
    return Estimate(value, error, error, None, "estimate", "", "share", n, method)


def _mean_share(hits: np.ndarray, method: str) -> Estimate:
    n = len(hits)
    error = max(float(hits.std(ddof=1)) / math.sqrt(n), 0.5 / n)  # none is certain of n
    return Estimate(float(hits.mean()), error, error, None, "estimate", "", "share", n, method)
