"""Have the Markov chains converged, and how many independent draws are they worth?"""

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata


def r_hat(draws: np.ndarray) -> float:
    """Return the rank-normalised split R̂, the larger of bulk and tails; near 1 where the chains agree.

    R̂ = √[((n − 1)/n · W + B/n)/W] of the halves of the chains, n draws each, after the draws (bulk) or their
    distances from the median (tails) are replaced by normal scores of their ranks. Vehtari, Gelman, Simpson,
    Carpenter & Bürkner 2021.

    Args:
        draws: Independent chains  # (chain, draw), at least 4 draws

    Returns:
        1 if all draws are equal, infinity if they are equal within the chains only.

    Raises:
        ValueError: too few draws, or draws that are not finite.
    """
    halves = _halves(draws)
    return max(_r_hat(_normal_scores(halves)), _r_hat(_normal_scores(np.abs(halves - np.median(halves)))))


def effective_sample_size(draws: np.ndarray) -> float:
    """Return the bulk effective sample size: m n / τ of m half-chains of n draws, at most m n log₁₀(m n).

    τ = −1 + 2 Σ_t (ρ_2t + ρ_{2t+1}), summed while the pairs are positive and made monotone (Geyer 1992); ρ_t,
    the autocorrelation of the draws' normal scores, is 1 − (W − mean covariance within the chains)/var⁺, so
    that chains which disagree count for little. Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021.

    Args:
        draws: Independent chains  # (chain, draw), at least 4 draws

    Returns:
        The number of draws if all of them are equal.

    Raises:
        ValueError: too few draws, or draws that are not finite.
    """
    z = _normal_scores(_halves(draws))
    m, n = z.shape
    within, total = _variances(z)
    if total == 0.0:
        return float(m * n)
    rho = 1.0 - (within - _covariances(z).mean(0) * n / (n - 1)) / total
    rho[0] = 1.0
    pairs = rho[: n - n % 2].reshape(-1, 2).sum(1)
    stop = int(np.argmax(pairs <= 0.0)) if bool((pairs <= 0.0).any()) else len(pairs)
    tau = -1.0 + 2.0 * float(np.minimum.accumulate(pairs[:stop]).sum())
    return float(m * n / max(tau, 1.0 / np.log10(m * n)))


def _halves(draws: np.ndarray) -> np.ndarray:
    draws = np.asarray(draws, dtype=np.float64)
    if draws.ndim != 2 or draws.shape[1] < 4:
        raise ValueError(f"draws have the shape {draws.shape}, expected (chain, draw) with at least 4 draws")
    if not np.isfinite(draws).all():
        raise ValueError("some draws are not finite")
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _normal_scores(z: np.ndarray) -> np.ndarray:
    ranks = rankdata(z, method="average").reshape(z.shape)
    return np.asarray(ndtri((ranks - 0.375) / (z.size + 0.25)))


def _variances(z: np.ndarray) -> tuple[float, float]:
    """Return W, the mean variance within a chain, and var⁺ = (n − 1)/n W + B/n."""
    n = z.shape[1]
    # Scores of equal draws differ by nothing, and so must their variance.
    within = float(np.where(np.ptp(z, axis=1) == 0.0, 0.0, z.var(axis=1, ddof=1)).mean())
    means = z.mean(axis=1)
    between = float(means.var(ddof=1)) if np.ptp(means) > 0.0 else 0.0
    return within, (n - 1) / n * within + between


def _r_hat(z: np.ndarray) -> float:
    within, total = _variances(z)
    if within == 0.0:
        return 1.0 if total == 0.0 else float("inf")
    return float(np.sqrt(total / within))


def _covariances(z: np.ndarray) -> np.ndarray:
    """Return the autocovariances, divided by n at every lag, by Fourier transform  # (chain, lag)."""
    n = z.shape[1]
    length = 2 ** int(np.ceil(np.log2(2 * n)))
    spectrum = np.fft.rfft(z - z.mean(axis=1, keepdims=True), length)
    return np.asarray(np.fft.irfft(np.abs(spectrum) ** 2, length)[:, :n] / n)
