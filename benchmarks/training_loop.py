"""What the training loop costs beside a bare loss, its gradient and AdamW's step, on one thread.

Both take the same steps: a diffusion model with a U-Net of about half a million parameters on 8×8 pixels,
batch 64, torch's fused AdamW. The loop's steps have order, noise and dropout of their own stream, clipping,
averaged weights, checks and metrics besides. Runs of a few steps take turns, so that what else the machine
does hits both alike; a ratio is that of the CPU times of one turn, and the median over turns is shown.

    python -m benchmarks.training_loop [--rounds 15] [--steps 8] [--out docs/benchmarks/training_loop.json]
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genmodels.learners.fit import Shuffled, fit
from genmodels.learners.gradient import Gradient
from genmodels.models.diffusion import Diffusion
from genmodels.protocols import Progress
from genmodels.streams import Key

KEY = Key(1, "benchmark")
ASKED = 0.05


def network() -> Diffusion:
    """Return an untrained model, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(KEY.counter())
        return Diffusion((8, 8), channels=(32, 48), T=1000, dropout=0.1)


def bare(x: torch.Tensor, n_steps: int) -> Iterator[float]:
    """Take steps without anything around them; yield the CPU seconds of each."""
    model, generator = network().train(), KEY.torch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)
    for _ in range(n_steps):
        start = time.process_time()
        optimizer.zero_grad()
        loss, _ = model.loss(x, generator)
        loss.backward()
        optimizer.step()
        yield time.process_time() - start


def looped(x: torch.Tensor, n_steps: int) -> Iterator[tuple[float, Progress]]:
    """Take the loop's steps; yield the CPU seconds of each, and what it tells."""
    batches = Shuffled(x, 64, KEY.child("order"))
    steps = fit(network(), Gradient(1e-3, n_steps), batches, KEY, n_steps)
    while True:
        start = time.process_time()
        done = next(steps, None)
        if done is None:
            return
        yield time.process_time() - start, done


def measured(n_rounds: int, n_steps: int) -> dict[str, Any]:
    """Return milliseconds a step, what the loop adds, and the share of time that it waited for images."""
    x = torch.bernoulli(torch.full((1280, 64), 0.3), generator=KEY.child("x").torch())
    total = (n_rounds + 1) * n_steps
    ones, others = bare(x[:64], total), looped(x, total)
    rounds, waited, elapsed = [], 0.0, 0.0
    for number in range(n_rounds + 1):
        alone = sum(next(ones) for _ in range(n_steps))
        start, around = time.perf_counter(), 0.0
        for _ in range(n_steps):
            seconds, done = next(others)
            around += seconds
            waited += done.waited
        elapsed += time.perf_counter() - start
        if number:  # the first warms up
            rounds.append((alone / n_steps, around / n_steps))
    extra = [loop / alone - 1.0 for alone, loop in rounds]
    low, median, high = np.quantile(extra, [0.25, 0.5, 0.75]).tolist()
    return {
        "parameters": sum(p.numel() for p in network().parameters()),
        "ms bare": 1e3 * float(np.median([alone for alone, _ in rounds])),
        "ms loop": 1e3 * float(np.median([loop for _, loop in rounds])),
        "overhead": median, "quartiles": [low, high], "asked": ASKED, "waiting for images": waited / elapsed,
    }  # fmt: skip


def main() -> None:
    """Measure, print the figures and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/training_loop.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(given.rounds, given.steps)
    low, high = found["quartiles"]
    print(f"{found['ms bare']:.1f} ms bare, {found['ms loop']:.1f} ms in the loop: {found['overhead']:+.1%}")
    print(f"({low:+.1%} to {high:+.1%}, asked {ASKED:.0%}); waiting {found['waiting for images']:.2%}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
