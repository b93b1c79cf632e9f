"""Have the Markov chains converged, and how many independent draws are they worth?"""

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from genmodels.estimate import Estimate, of_scalar

MAX_R_HAT = 1.05
MIN_ESS = 100.0  # of all chains together
_WINDOW = 1.5  # Wolff's S, the ratio of the autocorrelations' decay time to τ_int


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


def unmeasured(n_rounds: int) -> str:
    """Return what is wrong with so few measured rounds, or an empty text."""
    return "" if n_rounds >= 4 else f"{n_rounds} rounds were measured: give more of them, or more time"


def unconverged(r_hat: float, ess: float, what: str, where: str) -> str:
    """Return what is wrong with chains whose R̂ is above 1.05 or which are worth fewer than 100 draws."""
    if r_hat > MAX_R_HAT:
        return f"R-hat of {what} is {r_hat:.3g} {where}: give more rounds"
    return f"{what} {where} are worth {ess:.0f} independent ones: give more rounds" if ess < MIN_ESS else ""


def autocorrelation_time(draws: np.ndarray) -> Estimate:
    """Return the integrated autocorrelation time τ = ½ + Σ_{t≥1} ρ(t) in draws, with its error.

    The variance of the mean of N draws is 2τ σ²/N. ρ is pooled over the chains about their common mean and
    corrected for it, and summed to the first W at which exp(−W/τ_W) < τ_W/√(W N), where bias and noise are
    about equal: 1/τ_W = ⅔ log[(2τ(W) + 1)/(2τ(W) − 1)], or −⅔ log|ρ(1)| for τ(W) ≤ ½, where signs alternate.
    The error is τ √(4(W + ½ − τ)/N). Sokal 1997; Wolff 2004.

    Args:
        draws: Independent chains in equilibrium  # (chain, draw), at least 4 draws

    Returns:
        ½ where all draws are equal.

    Raises:
        ValueError: too few draws, or draws that are not finite.
    """
    draws = _chains(draws)
    m, n = draws.shape
    if np.ptp(draws) == 0.0:
        return of_scalar(0.5, stderr=0.0, kind="estimate", unit="draws", n=m * n, method="equal draws")
    gamma = _covariances(draws - draws.mean(), own_mean=False).mean(0) * n / np.arange(n, 0, -1)
    window = _window(gamma / gamma[0], m * n)
    # The common mean took 2τσ²/N from every covariance.
    gamma = gamma + (2.0 * gamma[: window + 1].sum() - gamma[0]) / (m * n)
    tau = max(float(gamma[: window + 1].sum() / gamma[0] - 0.5), 0.0)
    error = tau * np.sqrt(max(4.0 * (window + 0.5 - tau), 0.0) / (m * n))
    method = f"autocorrelations up to lag {window}"
    return of_scalar(tau, stderr=float(error), kind="estimate", unit="draws", n=m * n, method=method)


def _window(rho: np.ndarray, n: int) -> int:
    """Return the lag up to which n draws with these autocorrelations say something of τ."""
    lags, taus = np.arange(1, len(rho)), (np.cumsum(rho) - 0.5)[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(taus > 0.5, np.log((2.0 * taus + 1.0) / (2.0 * taus - 1.0)), -np.log(np.abs(rho[1])))
    decay = _WINDOW / np.maximum(rate, 1e-9)
    stop = np.flatnonzero(np.exp(-lags / decay) < decay / np.sqrt(lags * n))
    return int(lags[stop[0]]) if len(stop) else len(rho) - 1


def overlaps(energies: np.ndarray) -> np.ndarray:
    """Return Σ_E min(P_k(E), P_{k+1}(E)), the overlap of the energies of neighbouring rungs, from 0 to 1.

    As P_{k+1}/P_k ∝ exp(−Δβ E) falls with E, it is 1 − max_E |F_{k+1}(E) − F_k(E)|, F the cumulative
    distributions: no histogram has to be binned. It is also that of the distributions of x. Temperatures of
    population annealing are chosen by it (Machta 2010).

    Args:
        energies: Nats at β = 1  # (…, rung)

    Returns:
        (rung − 1,)
    """
    rungs = np.sort(energies.reshape(-1, energies.shape[-1]), axis=0).T
    return np.array([1.0 - _apart(*pair) for pair in zip(rungs[:-1], rungs[1:], strict=True)])


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    every = np.concatenate([one, other])
    difference = np.searchsorted(one, every, "right") - np.searchsorted(other, every, "right")
    return float(np.abs(difference).max() / len(one))


def weights_ess(log_w: np.ndarray) -> np.ndarray:
    """Return (Σ w)²/Σ w², what weighted draws are worth, from 1 to n  # (draw, …) -> (…,). Kong 1992."""
    return np.asarray(np.exp(2.0 * np.logaddexp.reduce(log_w, 0) - np.logaddexp.reduce(2.0 * log_w, 0)))


def rho_f(log_z: np.ndarray, n_walkers: int) -> np.ndarray:
    """Return R Var(log Ẑ), the equilibration population size of populations of R walkers.

    The bias of log Ẑ of one population is −ρ_f/(2R), so that R has to be large beside it.
    Wang, Machta & Katzgraber 2015.

    Args:
        log_z: Of each population, nats  # (population, …)
        n_walkers: R, of each population.
    """
    return np.asarray(n_walkers * log_z.var(axis=0, ddof=1))


def _chains(draws: np.ndarray) -> np.ndarray:
    draws = np.asarray(draws, dtype=np.float64)
    if draws.ndim != 2 or draws.shape[1] < 4:
        raise ValueError(f"draws have the shape {draws.shape}, expected (chain, draw) with at least 4 draws")
    if not np.isfinite(draws).all():
        raise ValueError("some draws are not finite")
    return draws


def _halves(draws: np.ndarray) -> np.ndarray:
    draws = _chains(draws)
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


def _covariances(z: np.ndarray, own_mean: bool = True) -> np.ndarray:
    """Return the autocovariances, divided by n at every lag, by Fourier transform  # (chain, lag)."""
    n = z.shape[1]
    length = 2 ** int(np.ceil(np.log2(2 * n)))
    spectrum = np.fft.rfft(z - z.mean(axis=1, keepdims=True) if own_mean else z, length)
    return np.asarray(np.fft.irfft(np.abs(spectrum) ** 2, length)[:, :n] / n)
