"""Which share of runs reaches the best known cut, and the CPU time to reach it once with 99 % probability.

Simulated annealing of real max-cut instances, beside dwave-samplers and OpenJij: the same instances, the same
geometric schedule of β, the same number of sweeps a run, one thread. Time to solution is
t log 0.01 / log(1 − p), t the CPU time of one run among many and p the share that reaches the cut.

    GENMODELS_DATA=… python -m benchmarks.time_to_solution [--reads 256] [--sweeps 1000] [--out …json]
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import dimod
import numpy as np
import openjij
from dwave.samplers import SimulatedAnnealingSampler

from benchmarks.spin_kernels import KEY, as_quadratic
from genmodels.couplings import Couplings
from genmodels.data.coupling_files import read
from genmodels.kernels.metropolis import Metropolis
from genmodels.models.ising import Ising
from genmodels.placement.local import LocalPlacement
from genmodels.samplers.simulated_annealing import SimulatedAnnealing
from genmodels.samplers.temperatures import beta_range

# The best cuts known, from the collections that the instances come from.
BEST = {
    "toruspm3-8-50.rud": 458,
    "t3g5_5555.rud": 10933215,
    "t2g10_5555.rud": 6049461,
    "G11.txt": 564,
    "G1.txt": 11624,
    "G22.txt": 13359,
}


def energy_of_cut(couplings: Couplings, cut: float) -> float:
    """Return the energy of a cut: E = Σ w − 2 cut, J = −w, without the offset."""
    return float(-couplings.J.sum() - 2.0 * cut)


def genmodels(couplings: Couplings, betas: np.ndarray, reads: int) -> np.ndarray:
    """Return the energies that annealing ends at  # (read,)."""
    sampler = SimulatedAnnealing(
        n_replicas=reads, n_temperatures=len(betas), n_sweeps=1, beta_min=betas[0], beta_max=betas[-1]
    )
    result = sampler.run(Ising.of(couplings), Metropolis(), KEY, LocalPlacement())
    return np.asarray(result.energies.numpy()) - couplings.offset


def dwave(couplings: Couplings, betas: np.ndarray, reads: int) -> np.ndarray:
    """Return the same of dwave-samplers."""
    bqm = as_quadratic(couplings, dimod.BinaryQuadraticModel.from_ising)
    schedule = {"beta_schedule_type": "custom", "beta_schedule": betas, "num_sweeps_per_beta": 1}
    return np.asarray(
        SimulatedAnnealingSampler().sample(bqm, num_reads=reads, seed=1, **schedule).record.energy
    )


def open_jij(couplings: Couplings, betas: np.ndarray, reads: int) -> np.ndarray:
    """Return the same of OpenJij."""
    bqm = as_quadratic(couplings, lambda h, J: openjij.BinaryQuadraticModel(h, J, 0.0, "SPIN"))
    schedule = [(beta, 1) for beta in betas.tolist()]
    # One call with a seed returns the same read again and again: a seed for each read.
    sampler = openjij.SASampler()
    energies = [
        sampler.sample(bqm, num_reads=1, schedule=schedule, seed=seed).energies[0] for seed in range(reads)
    ]
    return np.asarray(energies)


def measured(run: Callable[..., np.ndarray], target: float, reads: int, *arguments: Any) -> dict[str, float]:
    """Return the share of runs that reach `target`, CPU seconds a run, and the time to solution."""
    start = time.process_time()
    energies = run(*arguments, reads)
    seconds = (time.process_time() - start) / reads
    share = float(np.mean(energies <= target + 1e-6 * abs(target)))
    if share in (0.0, 1.0):
        solution = seconds if share else math.inf
    else:
        solution = seconds * max(1.0, math.log(0.01) / math.log1p(-share))
    return {"share": share, "seconds a run": seconds, "seconds to solution": solution}


def main() -> None:
    """Measure, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reads", type=int, default=256)
    parser.add_argument("--peer-reads", type=int, default=32)
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/time_to_solution.json"))
    given = parser.parse_args()
    folder = Path(os.environ.get("GENMODELS_DATA", "data")) / "couplings"
    answer = {}
    for name, cut in BEST.items():
        couplings = read(folder / name).couplings
        low, high = beta_range(couplings)
        betas, target = np.geomspace(low, high, given.sweeps), energy_of_cut(couplings, cut)
        genmodels(couplings, betas[:2], 64)  # compiles
        rows = {
            "genmodels": measured(genmodels, target, given.reads, couplings, betas),
            "dwave-samplers": measured(dwave, target, given.peer_reads, couplings, betas),
            "OpenJij": measured(open_jij, target, given.peer_reads, couplings, betas),
        }
        answer[name] = rows
        for peer, row in rows.items():
            figures = "  ".join(f"{key} {value:.4g}" for key, value in row.items())
            print(f"{name:20} {peer:15} {figures}", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(answer, indent=2).replace("Infinity", "null") + "\n")


if __name__ == "__main__":
    main()
