"""log Z(β_k)/Z(0) from all energies of all rungs at once: the multistate Bennett acceptance ratio."""

from typing import NamedTuple

import numpy as np

from genmodels.estimators import stepping_stones
from genmodels.estimators.jackknife import LeftOut

_ITERATIONS = 50
_TOLERANCE = 1e-8  # nats: Newton's next step would be its square
_ROUNDING = 1e-12  # of sums over energies, as a share
_CHUNK = 2**15  # energies at once: 24 rungs of them in float64 are 6 MB


class _Terms(NamedTuple):
    """The derivatives of the convex function of a whose minimum is sought, ladder by ladder."""

    gradient: np.ndarray  # (ladder, rung)
    curvature: np.ndarray  # (ladder, rung, rung)


def mbar(betas: np.ndarray, energies: np.ndarray) -> LeftOut:
    """Return a_k = log Z(β_k)/Z(0)  # (rung,); with a ladder left out (ladder, rung).

    As many energies on each rung, the a_k solve Σ_n p_k(E_n) = number on rung k, p_k(E) ∝ exp(−a_k − β_k E)
    normalised over k, the sum over all energies: which rung an energy comes from is no matter, and none is
    binned. They minimise the convex Σ_n log Σ_k exp(−a_k − β_k E_n) + Σ_k N_k a_k, by Newton's method from
    Bennett's ratios of neighbours; where its step does not help, by a_k ← a_k + log[Σ_n p_k(E_n)/N_k]. With a
    ladder left out it is one Newton step from there. Ferrenberg & Swendsen 1989; Shirts & Chodera 2008.

    Args:
        betas: From 0 up  # (rung,)
        energies: Nats at β = 1  # (ladder, round, rung)
    """
    n_each = energies.shape[1]
    levels = [np.unique(ladder, return_counts=True) for ladder in energies]
    a = stepping_stones.bennett(betas, energies).every
    terms = _terms(a, betas, levels, n_each)
    for _ in range(_ITERATIONS):
        gradient = terms.gradient.sum(0)
        step = _newton(gradient, terms.curvature.sum(0))
        after = _terms(a + step, betas, levels, n_each)
        if np.abs(after.gradient.sum(0)).max() > 0.5 * np.abs(gradient).max() > _ROUNDING * energies.size:
            shares = np.log(np.maximum(1.0 - gradient / (len(levels) * n_each), 1e-300))
            step = shares - shares[0]
            after = _terms(a + step, betas, levels, n_each)
        a, terms = a + step, after
        if np.abs(step).max() < _TOLERANCE:
            break
    gradient, curvature = terms.gradient.sum(0), terms.curvature.sum(0)
    own = zip(terms.gradient, terms.curvature, strict=True)
    rest = [a + _newton(gradient - one, curvature - curved) for one, curved in own]
    return LeftOut(a, np.stack(rest))


def _terms(
    a: np.ndarray, betas: np.ndarray, levels: list[tuple[np.ndarray, np.ndarray]], n_each: int
) -> _Terms:
    gradients, curvatures = [], []
    for energy, count in levels:
        total, products = np.zeros(len(a)), np.zeros((len(a), len(a)))
        for first in range(0, len(energy), _CHUNK):
            chunk = slice(first, first + _CHUNK)
            p = -a - betas * energy[chunk, None]
            p = np.exp(p - p.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            counted = p * count[chunk, None]
            total += counted.sum(axis=0)
            products += p.T @ counted
        gradients.append(n_each - total)
        curvatures.append(np.diag(total) - products)
    return _Terms(np.stack(gradients), np.stack(curvatures))


def _newton(gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Return the step −H⁻¹g with a_0 held at 0; none along directions that the energies say nothing of."""
    step = np.linalg.lstsq(curvature[1:, 1:], -gradient[1:], rcond=1e-13)[0]
    return np.concatenate([[0.0], step])
