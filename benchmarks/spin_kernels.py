"""Attempted updates per nanosecond and core of Metropolis' rule, beside dwave-samplers and OpenJij.

Same instances, same schedule of β, same number of attempted updates, one thread, one run; CPU time, which
leaves out building the models but not handing over the results. Every figure is the best of several
repetitions that take turns, so that what else the machine does hits all alike. Both cores: the wall time of
simulated annealing in 2 threads against 1.

    python -m benchmarks.spin_kernels [--repeat 3] [--out docs/benchmarks/spin_kernels.json]
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import dimod
import numpy as np
import openjij
import torch
from dwave.samplers import SimulatedAnnealingSampler

from genmodels.couplings import Couplings
from genmodels.data.lattices import edwards_anderson, sherrington_kirkpatrick
from genmodels.kernels.metropolis import Metropolis
from genmodels.models.ising import Ising
from genmodels.placement.local import LocalPlacement
from genmodels.samplers.simulated_annealing import SimulatedAnnealing
from genmodels.streams import Key

KEY = Key(1, "benchmark")
BETAS = (0.1, 3.0)


class Work(NamedTuple):
    """A line of the table."""

    name: str
    couplings: Couplings
    n_replicas: int
    n_sweeps: int
    own_beta: bool  # one β a replica, instead of one for all that changes from sweep to sweep
    peer_reads: int  # fewer, for peers take as long for each
    least: dict[str, float]  # ratio asked for, by peer


def works() -> list[Work]:
    """Return the lines of the table."""
    pm, gaussian = (edwards_anderson((10, 10, 10), KEY, gaussian=g) for g in (False, True))
    dense = sherrington_kirkpatrick(512, KEY)
    return [
        Work("3-D ±J L=10, 1024 replicas, own β each", pm, 1024, 200, True, 64, _both(20.0)),
        Work("3-D ±J L=10, 1024 replicas, one β for all", pm, 1024, 200, False, 64, _both(40.0)),
        Work("3-D Gaussian L=10, 1024 replicas", gaussian, 1024, 200, False, 64, _both(15.0)),
        Work("3-D ±J L=10, 32 replicas", pm, 32, 2000, False, 32, _both(4.0)),
        Work(
            "dense Gaussian N=512, 64 replicas", dense, 64, 200, False, 8,
            {"dwave-samplers": 7.0, "OpenJij": 1.4},
        ),  # fmt: skip
    ]


def _both(least: float) -> dict[str, float]:
    return {"dwave-samplers": least, "OpenJij": least}


def ours(work: Work) -> Callable[[], float]:
    """Return a function that does the work and returns attempted updates per nanosecond of CPU time."""
    model, kernel = Ising.of(work.couplings), Metropolis()
    spread = torch.linspace(*BETAS, work.n_replicas if work.own_beta else work.n_sweeps, dtype=torch.float64)
    beta = spread if work.own_beta else spread[:, None].expand(-1, work.n_replicas)
    state = kernel.init(model, work.n_replicas, KEY.child("start"))
    kernel.advance(model, state, beta[:1] if not work.own_beta else beta, 1, KEY)  # compiles

    def run() -> float:
        start = time.process_time()
        _, info = kernel.advance(model, state, beta, work.n_sweeps, KEY.child("run"))
        return info.n_updates / (time.process_time() - start) / 1e9

    return run


def dwave(work: Work) -> Callable[[], float]:
    """Return the same of dwave-samplers."""
    sampler = SimulatedAnnealingSampler()
    bqm = as_quadratic(work.couplings, dimod.BinaryQuadraticModel.from_ising)
    schedule = {
        "beta_schedule_type": "custom",
        "beta_schedule": np.linspace(*BETAS, work.n_sweeps),
        "num_sweeps_per_beta": 1,
    }
    return _timed(work, lambda: sampler.sample(bqm, num_reads=work.peer_reads, seed=1, **schedule))


def open_jij(work: Work) -> Callable[[], float]:
    """Return the same of OpenJij."""
    bqm = as_quadratic(work.couplings, lambda h, J: openjij.BinaryQuadraticModel(h, J, 0.0, "SPIN"))
    sampler = openjij.SASampler()
    schedule = [(beta, 1) for beta in np.linspace(*BETAS, work.n_sweeps).tolist()]
    sparse = len(work.couplings.J) < 10 * work.couplings.n_sites
    settings = {"num_reads": work.peer_reads, "schedule": schedule, "seed": 1, "sparse": sparse}
    return _timed(work, lambda: sampler.sample(bqm, **settings))


def as_quadratic(couplings: Couplings, build: Callable[..., Any]) -> Any:
    """Return what `build` makes of the fields and couplings in the peers' sign convention."""
    # Theirs is E = Σ J s s + Σ h s: the signs turn.
    ends = zip(couplings.i.tolist(), couplings.j.tolist(), strict=True)
    return build(
        dict(enumerate((-couplings.h).tolist())), dict(zip(ends, (-couplings.J).tolist(), strict=True))
    )


def _timed(work: Work, sample: Callable[[], Any]) -> Callable[[], float]:
    def run() -> float:
        start = time.process_time()
        sample()
        n_updates = work.peer_reads * work.n_sweeps * work.couplings.n_sites
        return n_updates / (time.process_time() - start) / 1e9

    return run


def two_threads(repeat: int) -> float:
    """Return the wall time of simulated annealing on one thread as a multiple of that on two."""
    model, kernel = Ising.of(edwards_anderson((10, 10, 10), KEY)), Metropolis()
    sampler = SimulatedAnnealing(
        n_replicas=4096, n_sweeps=2, n_temperatures=1000, beta_min=0.1, beta_max=3.0, replicas_per_shard=512
    )
    ratios = []
    for _ in range(repeat):
        seconds = []
        for n_threads in (1, 2):
            place = LocalPlacement(n_threads)
            start = time.perf_counter()
            sampler.run(model, kernel, KEY, place)
            seconds.append(time.perf_counter() - start)
            place.close()
        ratios.append(seconds[0] / seconds[1])
    return max(ratios)


def main() -> None:
    """Measure, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/spin_kernels.json"))
    given = parser.parse_args()
    rows = []
    for work in works():
        runs = {"genmodels": ours(work), "dwave-samplers": dwave(work), "OpenJij": open_jij(work)}
        rates = {name: 0.0 for name in runs}
        for _ in range(given.repeat):
            for name, run in runs.items():
                rates[name] = max(rates[name], run())
        ratios = {name: rates["genmodels"] / rates[name] for name in work.least}
        rows.append({"work": work.name, "updates per ns": rates, "ratio": ratios, "asked": work.least})
        shown = ", ".join(
            f"{ratios[name]:.1f}× {name} (asked {least:g}×)" for name, least in work.least.items()
        )
        print(f"{work.name}: {rates['genmodels']:.3f} updates/ns; {shown}", flush=True)
    threads = two_threads(given.repeat)
    print(f"two threads: {threads:.2f}× one (asked 1.8×)")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"rows": rows, "two threads": threads}, indent=2) + "\n")


if __name__ == "__main__":
    main()
