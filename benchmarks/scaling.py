"""What it costs to work on Ray: efficiency, time by task as shards grow in number, memory over a long run.

    python -m benchmarks.scaling efficiency     some 15 minutes on two cores that nobody else uses
    python -m benchmarks.scaling tasks          some 5 minutes
    python -m benchmarks.scaling memory         some 5 minutes
    python -m benchmarks.scaling plot           docs/benchmarks/scaling.png, of what the others wrote

All write to docs/benchmarks/scaling.json; docs/scaling.md says what the figures mean.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil

from genmodels.data.lattices import edwards_anderson
from genmodels.kernels.heat_bath import HeatBath
from genmodels.models.ising import Ising
from genmodels.placement.local import LocalPlacement
from genmodels.placement.ray import RayPlacement
from genmodels.protocols import Placement
from genmodels.samplers import shards
from genmodels.samplers.population_annealing import PopulationAnnealing
from genmodels.samplers.replica_exchange import ReplicaExchange
from genmodels.streams import Key

KEY = Key(2026, "scaling")
FILE = Path("docs/benchmarks/scaling.json")
JOBS: dict[str, tuple[int, Any]] = {  # the side of a cubic lattice, and what works on it
    "replica exchange": (12, ReplicaExchange(64, 32, n_rounds=1400, burn_in=100, sweeps_per_round=20)),
    "population annealing": (12, PopulationAnnealing(16, 2000, n_sweeps=10)),
    "replica exchange, ladders split": (
        40,
        ReplicaExchange(8, 32, n_rounds=60, burn_in=20, sweeps_per_round=50, rungs_per_shard=8),
    ),
    "population annealing, populations spread": (
        20,
        PopulationAnnealing(2, 1000, n_sweeps=50, walkers_per_shard=500, beta_max=0.4),
    ),
}
N_SHARDS = (1, 10, 100, 1000, 10000)
STATE_BYTES = (1000, 256_000)  # Ray keeps small results with the driver, large ones in the object store


def job(name: str, place: Placement) -> tuple[float, int]:
    """Return the wall time in seconds of a job with Gaussian couplings, and its updates."""
    side, sampler = JOBS[name]
    model = Ising.of(edwards_anderson((side, side, side), KEY, gaussian=True))
    start = time.perf_counter()
    result = sampler.run(model, HeatBath(), KEY, place)
    return time.perf_counter() - start, result.n_updates


@contextmanager
def placed(n_workers: int) -> Iterator[Placement]:
    """Yield this process with one thread (0), or a Ray with workers."""
    place: Placement = RayPlacement.local(n_workers) if n_workers else LocalPlacement(1)
    try:
        yield place
    finally:
        place.close()


def efficiency(repeat: int) -> dict[str, Any]:
    """Return the seconds of each job in this process, and on Ray with one and two workers, in turns."""
    rows: dict[str, Any] = {}
    for name in JOBS:
        seconds: dict[str, list[float]] = {"0": [], "1": [], "2": []}
        for _ in range(repeat):
            for n_workers in (0, 1, 2):
                with placed(n_workers) as place:
                    took, n_updates = job(name, place)
                seconds[str(n_workers)].append(took)
                print(f"{name}, {n_workers} workers: {took:.1f} s", flush=True)
        none, one, two = (float(np.median(seconds[n])) for n in "012")
        rows[name] = {"seconds": seconds, "updates": n_updates, "two/one": two / one, "one/none": one / none}
        print(f"{name}: two workers {two / one:.3f} of one, Ray {one / none - 1:+.1%}", flush=True)
    return rows


def nothing(state: Any, shard: int, segment: int) -> tuple[Any, int]:
    """Return what came: a shard that costs no time but that of its journey."""
    return state, shard


def tasks() -> list[dict[str, Any]]:
    """Return what a task costs driver and worker, by the number of shards and the size of their states."""
    rows = []
    with placed(1) as place:
        for n_bytes in STATE_BYTES:
            for n in N_SHARDS:
                handles = [place.put(np.zeros(n_bytes, np.uint8))] * n
                n_rounds = max(1, 10000 // n)
                shards.run(place, nothing, handles[:1], range(20))
                clocks = {"wall": time.perf_counter, "driver's thread": time.thread_time,
                          "driver": time.process_time}  # fmt: skip
                before = {name: clock() for name, clock in clocks.items()}
                shards.run(place, nothing, handles, range(n_rounds), join=lambda one, other: other)
                us = {name: 1e6 * (clock() - before[name]) / (n * n_rounds) for name, clock in clocks.items()}
                rows.append({"shards": n, "rounds": n_rounds, "state bytes": n_bytes, "µs a task": us})
                print(rows[-1], flush=True)
    return rows


def memory(seconds: float) -> list[dict[str, float]]:
    """Return how much the driver, its workers and the object store hold during a long exchange, by time."""
    import ray

    rows: list[dict[str, float]] = []
    done, start = threading.Event(), time.monotonic()
    model = Ising.of(edwards_anderson((12, 12, 12), KEY, gaussian=True))
    sampler = ReplicaExchange(64, 32, n_rounds=20_000, burn_in=100, sweeps_per_round=100)

    def watch() -> None:
        me = psutil.Process()
        while not done.wait(1.0):
            free = ray.available_resources().get("object_store_memory", 0.0)
            total = ray.cluster_resources().get("object_store_memory", 0.0)
            workers = [p.memory_info().rss for p in me.children(recursive=True) if "ray::" in p.name()]
            rows.append({"s": time.monotonic() - start, "driver": me.memory_info().rss / 2**20,
                         "store": (total - free) / 2**20,
                         "largest worker": max(workers, default=0) / 2**20})  # fmt: skip

    with placed(2) as place:
        watcher = threading.Thread(target=watch)
        watcher.start()
        sampler.run(model, HeatBath(), KEY, place, lambda *_, **__: time.monotonic() - start > seconds)
        done.set()
        watcher.join()
    return rows


def rate(n_workers: float, seconds: float, cost: dict[str, float]) -> float:
    """Return the tasks a second of a model made of the measured costs in µs.

    A worker is busy for the task and what it costs to take and return it; the driver's thread has all tasks
    in turn: min(n / (t + o), 1 / d).
    """
    return min(n_workers / (seconds + 1e-6 * cost["wall"]), 1e6 / cost["driver's thread"])


def plot(found: dict[str, Any]) -> None:
    """Draw what a task costs, what follows for many workers, and memory over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    costs, predicted, held = figure.subplots(1, 3)
    for n_bytes, style in zip(STATE_BYTES, ("-", "--"), strict=True):
        rows = [row for row in found["tasks"] if row["state bytes"] == n_bytes]
        for name, colour in (("wall", "#1b6ca8"), ("driver's thread", "#b5651d")):
            costs.loglog([row["shards"] for row in rows], [row["µs a task"][name] for row in rows], style,
                         marker="o", color=colour, label=f"{name}, {n_bytes // 1000} kB states")  # fmt: skip
    costs.set(xlabel="shards", ylabel="µs a task", title="What a task costs, one worker", ylim=(10, None))
    costs.legend(fontsize=8)
    cost = worst(found)
    n_workers = np.logspace(0, 4, 200)
    for seconds, colour in ((0.05, "#8e24aa"), (0.2, "#b5651d"), (1.0, "#1b6ca8"), (5.0, "#2e7d32")):
        share = [rate(n, seconds, cost) * seconds / n for n in n_workers]
        predicted.semilogx(n_workers, share, color=colour, label=f"tasks of {seconds:g} s")
    predicted.set(xlabel="workers", ylabel="share of the time that workers compute", ylim=(0, 1.05),
                  title="Predicted from these costs")  # fmt: skip
    predicted.legend(fontsize=8)
    for name, colour in (("driver", "#1b6ca8"), ("largest worker", "#b5651d"), ("store", "#2e7d32")):
        held.plot([row["s"] for row in found["memory"]], [row[name] for row in found["memory"]],
                  color=colour, label={"store": "object store"}.get(name, name))  # fmt: skip
    held.set(xlabel="seconds", ylabel="MiB", title="Memory over a replica exchange", ylim=(0, None))
    held.legend(fontsize=8)
    figure.savefig(FILE.with_suffix(".png"), dpi=120)


def worst(found: dict[str, Any]) -> dict[str, float]:
    """Return the costs of a task with the most shards and the largest states."""
    (row,) = (r for r in found["tasks"] if (r["shards"], r["state bytes"]) == (N_SHARDS[-1], STATE_BYTES[-1]))
    cost: dict[str, float] = row["µs a task"]
    return cost


def main() -> None:
    """Measure, or plot what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["efficiency", "tasks", "memory", "plot"])
    parser.add_argument("--repeat", type=int, default=1, help="of every job")
    parser.add_argument("--seconds", type=float, default=300, help="of the run whose memory is watched")
    given = parser.parse_args()
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    measure: dict[str, Callable[[], Any]] = {
        "efficiency": lambda: efficiency(given.repeat),
        "tasks": tasks,
        "memory": lambda: memory(given.seconds),
    }
    if given.what in measure:
        found[given.what] = measure[given.what]()
        FILE.write_text(json.dumps(found, indent=2) + "\n")
        return
    plot(found)
    for n in (10, 100, 1000):
        for seconds in (0.2, 1.0):
            print(f"{n} workers, tasks of {seconds:g} s: {rate(n, seconds, worst(found)):.0f} a second")


if __name__ == "__main__":
    main()
