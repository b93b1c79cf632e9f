"""Examples per CPU second of learning an RBM by contrastive divergence, beside rbms and scikit-learn.

Same sizes, same batches, the same number of sweeps, float32. A step is all that a library does with a batch:
hidden units of the data, chains from them, averages, update, and of ours and rbms the centred gradient.
Scikit-learn has one sweep only, of chains that it keeps. Steps of all take turns, so that what else the
machine does hits all alike: a figure is the median over rounds, a ratio the median of the ratios of each
round. On two threads wall time counts, on one CPU time.

    python -m benchmarks.boltzmann_learning [--rounds 9] [--threads 1 2]
        [--out docs/benchmarks/boltzmann_learning.json]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rbms.bernoulli_bernoulli.classes import BBRBM
from rbms.training.pcd import fit_batch_pcd
from sklearn.neural_network import BernoulliRBM
from threadpoolctl import threadpool_limits
from torch import Tensor

from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.learners.contrastive_divergence import ContrastiveDivergence
from genmodels.models.rbm import RBM
from genmodels.streams import Key

KEY = Key(1, "benchmark")
RATE = 0.01
Run = Callable[[], None]


class Work(NamedTuple):
    """A line of the table."""

    n_visible: int
    n_hidden: int
    batch: int
    n_sweeps: int
    least: dict[str, float]  # ratio asked for, by peer
    half: float | None  # ratio to rbms asked for in bfloat16; None where that has nothing to gain

    @property
    def name(self) -> str:
        """Return what the table calls it."""
        return f"{self.n_visible}-{self.n_hidden}, batch {self.batch}, CD-{self.n_sweeps}"


WORKS = [
    Work(784, 500, 100, 1, {"rbms": 1.7, "scikit-learn": 1.0}, 3.0),
    Work(784, 500, 500, 1, {"rbms": 1.4, "scikit-learn": 1.0}, 3.0),
    Work(784, 500, 500, 10, {"rbms": 1.7}, 3.0),
    Work(64, 128, 100, 1, {"rbms": 7.0, "scikit-learn": 2.5}, None),
    Work(64, 128, 100, 10, {"rbms": 5.0}, None),
]


def ours(work: Work, v: Tensor, precision: Any) -> Run:
    """Return a function that makes one step."""
    model, x = RBM(work.n_visible, work.n_hidden), v * 2.0 - 1.0
    kernel = BlockGibbs(precision=precision)
    learner = ContrastiveDivergence(learning_rate=RATE / 4.0, n_sweeps=work.n_sweeps, kernel=kernel)
    state = learner.init(model)

    def run() -> None:
        nonlocal state
        state, _ = learner.step(model, state, x, KEY.at(round=state.n_steps))

    return run


def of_rbms(work: Work, v: Tensor) -> Run:
    """Return a step as `rbms.training.pcd.train` makes it with training_type "cd"."""
    W = torch.randn(work.n_visible, work.n_hidden) * 0.04
    machine = BBRBM(W, torch.zeros(work.n_visible), torch.zeros(work.n_hidden))
    machine.init_grad()
    optimizer = torch.optim.SGD(machine.parameters(), lr=RATE, maximize=True)
    weights = torch.ones(len(v))

    @torch.no_grad()
    def run() -> None:
        optimizer.zero_grad(set_to_none=False)
        chains = machine.init_chains(len(v), weights=weights, start_v=v)
        fit_batch_pcd((v, weights), chains, machine, gibbs_steps=work.n_sweeps, beta=1.0, centered=True)
        optimizer.step()

    return run


def of_sklearn(work: Work, v: Tensor) -> Run:
    """Return a step of scikit-learn, in float32 and with a chain for each image of the batch.

    `fit` makes parameters and chains of the images' type; `partial_fit`, which makes one step, turns all into
    float64, so that what both call is called here.
    """
    machine = BernoulliRBM(work.n_hidden, batch_size=work.batch, learning_rate=RATE, n_iter=1)
    images = v.numpy()
    machine.random_state = np.random.RandomState(1)
    machine.fit(images)
    assert {machine.components_.dtype, machine.h_samples_.dtype} == {np.dtype("float32")}
    assert len(machine.h_samples_) == work.batch

    def run() -> None:
        machine._fit(images, machine.random_state)

    return run


def seconds(run: Run, clock: Callable[[], float], least: float) -> float:
    """Return the time of a step, over as many as take `least` seconds."""
    n, start = 0, clock()
    while clock() - start < least:
        run()
        n += 1
    return (clock() - start) / n


def measured(work: Work, n_rounds: int, n_threads: int, least: float) -> dict[str, Any]:
    """Return a line: rates, and ratios with their spread over the rounds."""
    v = (torch.rand(work.batch, work.n_visible, generator=KEY.torch()) < 0.3).float()
    runs = {"genmodels": ours(work, v, "float32"), "rbms": of_rbms(work, v)}
    if "scikit-learn" in work.least:
        runs["scikit-learn"] = of_sklearn(work, v)
    if work.half is not None:
        runs["genmodels, bfloat16"] = ours(work, v, "bfloat16")
    clock = time.process_time if n_threads == 1 else time.perf_counter
    for run in runs.values():
        seconds(run, clock, least)
    rounds = [{name: seconds(run, clock, least) for name, run in runs.items()} for _ in range(n_rounds)]
    rate = {name: work.batch / float(np.median([each[name] for each in rounds])) for name in runs}
    asked = [("genmodels", peer, ratio) for peer, ratio in work.least.items()]
    asked += [("genmodels, bfloat16", "rbms", work.half)] if work.half is not None else []
    ratios = []
    for mine, peer, ratio in asked:
        quotients = [each[peer] / each[mine] for each in rounds]
        low, median, high = np.quantile(quotients, [0.25, 0.5, 0.75]).tolist()
        ratios.append({"of": mine, "to": peer, "ratio": median, "quartiles": [low, high], "asked": ratio})
    return {"work": work.name, "threads": n_threads, "examples per second": rate, "ratios": ratios}


def main() -> None:
    """Measure, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each library in a round, at least")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/boltzmann_learning.json"))
    given = parser.parse_args()
    rows = []
    for n_threads in given.threads:
        torch.set_num_threads(n_threads)
        with threadpool_limits(n_threads):
            for work in WORKS:
                row = measured(work, given.rounds, n_threads, given.seconds)
                rows.append(row)
                shown = ", ".join(
                    f"{r['of']} {r['ratio']:.2f}× {r['to']} (asked {r['asked']:g}×)" for r in row["ratios"]
                )
                rate = row["examples per second"]["genmodels"] / 1e3
                print(f"{work.name}, {n_threads} thread(s): {rate:.1f} k/s; {shown}", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
