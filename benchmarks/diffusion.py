"""Images per second of CPU time of training and sampling diffusion models, one thread, float32.

networks: a plain loop of forward, backward and AdamW with our compact U-Net, with diffusers' UNet2DModel and
    with the Unet of denoising-diffusion-pytorch, at equal parameters (within 10 %), sizes and batches.
loop: what `fit` with the learner `Gradient` (clipping, schedule, averaged weights, metrics, random streams of
    its own) adds to a plain loop of loss, backward and AdamW on the same model; and the share of time in
    which a step waits for its batch.
sampling: 1000 pictures by DPM-Solver++ in 20 steps, batch by batch as `generate` draws them, beside the
    network alone, called 20 times on the same batches.

All take turns, so that what else the machine does hits all alike: a figure is the median over rounds, a ratio
the median of the ratios of each round. A run replaces the rows of its sizes in the file.

    python -m benchmarks.diffusion [--rounds 7] [--out docs/benchmarks/diffusion.json]
"""

import argparse
import importlib.machinery
import json
import sys
import time
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

from genmodels.learners.fit import Shuffled, fit
from genmodels.learners.gradient import Gradient
from genmodels.models.diffusion import Diffusion
from genmodels.networks.compact_unet import CompactUNet
from genmodels.networks.unet import UNet
from genmodels.streams import Key, Streams
from genmodels.ways import way

KEY = Key(1, "benchmark")
BATCH, LIKE = 64, 0.1  # images; how far numbers of parameters may differ
SIZES = {8: (32, 64), 16: (32, 64), 28: (32, 64, 64), 32: (32, 64, 64)}
PEERS = {"diffusers": 1.0, "denoising-diffusion-pytorch": 1.5}  # ratios asked for
PICTURES, STEPS, TOGETHER, REPEATED = 1000, 20, 250, 3
Run = Callable[[], Any]


def seconds(run: Run) -> float:
    """Return the CPU time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def turns(runs: dict[str, Run], n_rounds: int) -> list[dict[str, float]]:
    """Return the seconds of each in each round, the first call of each not counted."""
    for run in runs.values():
        run()
    return [{name: seconds(run) for name, run in runs.items()} for _ in range(n_rounds)]


def spread(quotients: Iterable[float]) -> dict[str, Any]:
    """Return a median with its quartiles."""
    low, median, high = np.quantile(list(quotients), [0.25, 0.5, 0.75]).tolist()
    return {"ratio": median, "quartiles": [low, high]}


def size(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def lucidrains() -> Any:
    """Return the class Unet; its module asks for torchvision, which it has no use for in the network."""
    spec = importlib.machinery.ModuleSpec("torchvision", None)
    blank = types.ModuleType("torchvision")
    blank.__dict__.update(__spec__=spec, transforms=None, utils=None)
    present = sys.modules.setdefault("torchvision", blank)
    from denoising_diffusion_pytorch.denoising_diffusion_pytorch import Unet

    if present is blank:
        del sys.modules["torchvision"]
    return Unet


def of_diffusers(side: int, n_levels: int, n: int) -> nn.Module:
    """Return a UNet2DModel of about n parameters, one block and attention as ours has it."""

    def built(wide: int, narrow: int) -> nn.Module:
        return UNet(side, side, (wide, *[narrow] * (n_levels - 1)), 0.0)

    candidates = [built(wide, narrow) for wide in (24, 32) for narrow in range(wide, 72, 8)]
    return min(candidates, key=lambda network: abs(size(network) - n)).net


def of_lucidrains(n_levels: int, n: int) -> nn.Module:
    """Return a Unet of about n parameters, as its constructor makes it."""
    build, widths = lucidrains(), (1, *[2] * (n_levels - 1))
    dims = range(8, 65, 2)
    closest = min(dims, key=lambda dim: abs(size(build(dim=dim, dim_mults=widths, channels=1)) - n))
    return build(dim=closest, dim_mults=widths, channels=1)


def plain_step(network: nn.Module, side: int) -> Run:
    """Return a function that makes a step of the plain loop on a batch of noise."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    generator = KEY.torch()
    z, eps = (torch.randn(BATCH, 1, side, side, generator=generator) for _ in range(2))
    level = 5.0 * torch.rand(BATCH, generator=generator)
    network.train()

    def step() -> None:
        output = network(z, level)
        output = output if isinstance(output, Tensor) else output.sample
        (output - eps).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def networks(side: int, n_rounds: int) -> dict[str, Any]:
    """Return a line of the table of networks."""
    ours = CompactUNet(side, side, SIZES[side], 0.0)
    n, n_levels = size(ours), len(SIZES[side])
    built = {
        "genmodels": ours,
        "diffusers": of_diffusers(side, n_levels, n),
        "denoising-diffusion-pytorch": of_lucidrains(n_levels, n),
    }
    parameters = {name: size(network) for name, network in built.items()}
    if any(abs(other / n - 1.0) > LIKE for other in parameters.values()):
        raise SystemExit(f"{side}×{side}: not the same size: parameters {parameters}")
    rounds = turns({name: plain_step(network, side) for name, network in built.items()}, n_rounds)
    rate = {name: BATCH / float(np.median([each[name] for each in rounds])) for name in built}
    ratios = {
        peer: spread(each[peer] / each["genmodels"] for each in rounds) | {"asked": asked}
        for peer, asked in PEERS.items()
    }
    return {"size": side, "parameters": parameters, "images per second": rate, "ratios": ratios}


def model_of(side: int) -> Diffusion:
    """Return a diffusion model on 17 grey levels."""
    settings = {"levels": 17, "prediction": "eps", "objective": "eps", "gamma_min": -7.0}
    return Diffusion((side, side), SIZES[side], network="compact", **settings)


def loop(side: int, n_rounds: int) -> dict[str, Any]:
    """Return what `fit` adds to a plain loop on the same model, and how long it waits for data."""
    images = torch.randint(17, (1500, side * side), generator=KEY.torch()).float()
    model, twin, waited = model_of(side), model_of(side), [0.0]
    batches = Shuffled(images, BATCH, KEY.child("order"))

    def timed(step: int) -> Any:
        start = time.process_time()
        batch = batches(step)
        waited[0] += time.process_time() - start
        return batch

    n_steps = 10 * (n_rounds + 1)
    steps = fit(model, Gradient(1e-4, n_steps), timed, KEY, n_steps)
    optimizer, generator = torch.optim.AdamW(twin.parameters(), lr=1e-4), KEY.torch()
    ready = [images[i * BATCH : (i + 1) * BATCH] for i in range(10)]

    def ours() -> None:
        for _ in range(10):
            next(steps)

    def plain() -> None:
        for x in ready:
            loss, _ = twin.loss(x, generator)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    rounds = turns({"fit": ours, "plain": plain}, n_rounds)
    total = sum(each["fit"] for each in rounds) * (1.0 + 1.0 / n_rounds)  # the first call is not in there
    added = spread(each["fit"] / each["plain"] for each in rounds)
    ms = {name: 100.0 * float(np.median([each[name] for each in rounds])) for name in rounds[0]}
    waiting = waited[0] / total
    return {"size": side, "ms per step": ms, "fit to plain": added | {"asked": 1.05}, "waiting": waiting}


@torch.no_grad()
def sampling(side: int) -> dict[str, Any]:
    """Return the rate of sampling as a share of the network's alone."""
    model = model_of(side).eval()
    chosen = way(model, method="dpm", steps=STEPS)
    time_ = torch.zeros(TOGETHER)
    rounds = []
    firsts = [*range(0, PICTURES, TOGETHER)] * REPEATED
    for first in [0, *firsts]:  # the first once more: it is not counted
        z = Streams(KEY, TOGETHER, first).normal(1, side, side)

        def alone(z: Tensor = z) -> None:
            for _ in range(STEPS):
                model.unet(z, time_)

        def drawn(first: int = first) -> None:
            chosen.draw(Streams(KEY, TOGETHER, first))

        rounds.append({"alone": seconds(alone), "drawn": seconds(drawn)})
    rounds = rounds[1:]
    rate = {name: TOGETHER / float(np.median([each[name] for each in rounds])) for name in rounds[0]}
    share = spread(each["alone"] / each["drawn"] for each in rounds) | {"asked": 0.95}
    return {"size": side, "pictures": PICTURES, "steps": STEPS, "pictures per second": rate, "share": share}


def shown(row: dict[str, Any]) -> str:
    """Return a line for the terminal."""
    side = f"{row['size']}×{row['size']}"
    if "ratios" in row:
        rate = row["images per second"]["genmodels"]
        ratios = [f"{r['ratio']:.2f}× {peer} (asked {r['asked']:g}×)" for peer, r in row["ratios"].items()]
        return f"{side}: training {rate:.0f} images/s; {', '.join(ratios)}"
    if "share" in row:
        rate, share = row["pictures per second"]["drawn"], row["share"]["ratio"]
        return f"{side}: sampling {rate:.0f} pictures/s, {share:.3f} of the network's rate (asked 0.95)"
    added, waiting = row["fit to plain"]["ratio"], row["waiting"]
    return f"{side}: fit {added:.3f}× the plain loop (asked 1.05×), {waiting:.2%} of it waiting for data"


def main() -> None:
    """Measure, print the lines and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/diffusion.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    diffusers.logging.set_verbosity_error()
    works: dict[str, list[Callable[[], dict[str, Any]]]] = {
        "networks": [lambda side=side: networks(side, given.rounds) for side in given.sizes],
        "loop": [lambda side=side: loop(side, given.rounds) for side in given.sizes if side in (8, 16)],
        "sampling": [lambda side=side: sampling(side) for side in given.sizes if side == 8],
    }
    found = json.loads(given.out.read_text()) if given.out.exists() else {}
    found |= {"threads": 1, "batch": BATCH, "precision": "float32"}
    for name, runs in works.items():
        rows = {row["size"]: row for row in found.get(name, [])}
        for run in runs:
            row = run()
            rows[row["size"]] = row
            print(shown(row), flush=True)
        found[name] = [rows[side] for side in sorted(rows)]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
