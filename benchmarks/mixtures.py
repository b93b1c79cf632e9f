"""Milliseconds of a step of EM for Gaussian mixtures with full covariances, beside scikit-learn in float32.

Same data, same start, same ridge (reg_covar), float32, K = 10. Steps of both take turns, so that what else
the machine does hits both alike: a figure is the median over rounds, a ratio the median of the ratios of each
round. On two threads wall time counts, on one CPU time. Before that, both take the same steps from the start
and have to agree on the likelihood.

    python -m benchmarks.mixtures [--rounds 9] [--threads 1 2] [--out docs/benchmarks/mixtures.json]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture as Peer
from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky
from threadpoolctl import threadpool_limits

from genmodels.learners.expectation_maximisation import ExpectationMaximisation
from genmodels.models.gaussian_mixture import GaussianMixture
from genmodels.streams import Key

KEY = Key(1, "benchmark")
COMPONENTS, RIDGE, LEAST = 10, 1e-2, 1.0
Run = Callable[[], float]  # does a step, returns the mean log-likelihood before it


def digits() -> np.ndarray:
    """Return scikit-learn's digits  # (1797, 64)."""
    return load_digits().data.astype(np.float32)


def clusters(n: int = 4000, n_sites: int = 784, n_factors: int = 30) -> np.ndarray:
    """Return points of ten Gaussians with a few strong directions each  # (n, n_sites)."""
    generator = KEY.numpy()
    group = generator.integers(0, COMPONENTS, n)
    centres = generator.standard_normal((COMPONENTS, n_sites))
    loadings = 0.3 * generator.standard_normal((COMPONENTS, n_factors, n_sites))
    x = centres[group] + 0.2 * generator.standard_normal((n, n_sites))
    for k in range(COMPONENTS):
        x[group == k] += generator.standard_normal((int((group == k).sum()), n_factors)) @ loadings[k]
    return x.astype(np.float32)


def both(x: np.ndarray) -> dict[str, Run]:
    """Return a step of ours and of scikit-learn, from the same start."""
    batch, model = torch.from_numpy(x), GaussianMixture(x.shape[1], COMPONENTS)
    learner = ExpectationMaximisation(ridge=RIDGE, eigenvalue_floor=1e-8, products="float32")
    state, _ = learner.step(model, learner.init(model), batch, KEY)
    peer = Peer(COMPONENTS, reg_covar=RIDGE)
    peer.weights_, peer.means_, peer.covariances_ = (part.numpy().astype("f") for part in model.components())
    peer.precisions_cholesky_ = _compute_precision_cholesky(peer.covariances_, "full")

    def ours() -> float:
        nonlocal state
        state, metrics = learner.step(model, state, batch, KEY)
        return metrics["log_likelihood"]

    def theirs() -> float:
        log_likelihood, log_shares = peer._e_step(x)
        peer._m_step(x, log_shares)
        return float(log_likelihood)

    return {"genmodels": ours, "scikit-learn": theirs}


def measured(name: str, x: np.ndarray, n_rounds: int, n_threads: int) -> dict[str, Any]:
    """Return a line: milliseconds, and the ratio with its spread over the rounds."""
    runs = both(x)
    for _ in range(3):
        likelihoods = [run() for run in runs.values()]
        if abs(likelihoods[0] - likelihoods[1]) > 1e-5 * abs(likelihoods[1]):
            raise SystemExit(f"{name}: not the same work: log-likelihoods {likelihoods}")
    clock = time.process_time if n_threads == 1 else time.perf_counter
    rounds = []
    for _ in range(n_rounds):
        seconds = {}
        for who, run in runs.items():
            start, n = clock(), 0
            while clock() - start < 0.2:
                run()
                n += 1
            seconds[who] = (clock() - start) / n
        rounds.append(seconds)
    quotients = [each["scikit-learn"] / each["genmodels"] for each in rounds]
    low, ratio, high = np.quantile(quotients, [0.25, 0.5, 0.75]).tolist()
    medians = {who: 1e3 * float(np.median([each[who] for each in rounds])) for who in runs}
    spread = {"ratio": ratio, "quartiles": [low, high], "asked": LEAST}
    return {"work": name, "threads": n_threads, "ms per step": medians} | spread


def main() -> None:
    """Measure, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/mixtures.json"))
    given = parser.parse_args()
    works, rows = {"1797×64, K=10": digits(), "4000×784, K=10": clusters()}, []
    for n_threads in given.threads:
        torch.set_num_threads(n_threads)
        with threadpool_limits(n_threads):
            for name, x in works.items():
                row = measured(name, x, given.rounds, n_threads)
                rows.append(row)
                ms, (low, high) = row["ms per step"]["genmodels"], row["quartiles"]
                shown = f"{row['ratio']:.2f}× scikit-learn ({low:.2f} to {high:.2f}, asked {LEAST:g}×)"
                print(f"{name}, {n_threads} thread(s): {ms:.1f} ms, {shown}", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
