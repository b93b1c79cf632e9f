"""How soon a chain forgets its magnetisation: lifted against Metropolis, per update and per second.

On the critical Curie–Weiss model and on a small Ising model near its critical point, both chains at random
sites. Per update the lifted chain forgets some ten times sooner. Per second it depends on how many chains a
core takes together: alone it wins by far; the Metropolis loops, which have nothing but spins to keep, update
64 chains in a word and win once there are enough of them. Prints a table and
draws the autocorrelation functions: `python -m benchmarks.chains_without_detailed_balance --plot FILE.png`.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from genmodels.compiled.counter import keys
from genmodels.compiled.lifted import plan, sweeps
from genmodels.couplings import Couplings
from genmodels.kernels.lifted import Lifted
from genmodels.kernels.metropolis import Metropolis
from genmodels.models.ising import Ising
from genmodels.streams import Key

KEY = Key(0, "chains without detailed balance")
TOGETHER = (1, 64, 1024)  # chains a call: Metropolis' loops take 64 spins of as many chains in one word
SHOWN = 64
TIME = f"µs of one core for a chain, {SHOWN} of them at once"


class Series(NamedTuple):
    """Magnetisations of independent chains, and what an update costs."""

    draws: np.ndarray  # (chain, draw)
    stride: int  # updates between two draws
    seconds: dict[int, float]  # an update, by the number of chains that are advanced together


def curie_weiss(n: int = 64, K: float = 1.0) -> Ising:
    """Return spins that all couple with K/N: critical at K = 1."""
    i, j = np.triu_indices(n, 1)
    return Ising.of(Couplings(n, i, j, np.full(len(i), K / n), np.zeros(n)))


def square(length: int = 8) -> Ising:
    """Return the ferromagnet on a periodic square lattice, J = 1."""
    sites = np.arange(length**2).reshape(length, length)
    ends = np.concatenate([np.stack([sites, np.roll(sites, -1, axis)], -1).reshape(-1, 2) for axis in (0, 1)])
    i, j = np.sort(ends, axis=1).T
    return Ising.of(Couplings(length**2, i, j, np.ones(len(i)), np.zeros(length**2)))


def series(model: Ising, kernel: Any, beta: float, n_chains: int, n_draws: int, n_steps: int) -> Series:
    """Return the magnetisations of chains after a tenth of the draws, `n_steps` updates apart if lifted.

    Other kernels count in sweeps of n_sites updates.
    """
    betas, n = torch.full((n_chains,), beta, dtype=torch.float64), model.n_sites
    state = kernel.init(model, n_chains, KEY.child("init"))
    state, _ = kernel.advance(model, state, betas, 2000, KEY.child("burn in"))
    draws = np.empty((n_chains, n_draws))
    if isinstance(kernel, Lifted):
        spins, direction = state.x.to(torch.int8).numpy(), state.direction.numpy()
        own, rows = plan(model.couplings()), betas.numpy()[None]
        for draw in range(n_draws):
            sweeps(spins, direction, *own, rows, n_steps, False, *keys(KEY.at(round=draw)))
            draws[:, draw] = spins.sum(1)
    else:
        n_steps = n
        for draw in range(n_draws):
            state, _ = kernel.advance(model, state, betas, 1, KEY.at(round=draw))
            draws[:, draw] = kernel.configuration(state).sum(1)
    return Series(draws, n_steps, {n: seconds_an_update(model, kernel, beta, n) for n in TOGETHER})


def seconds_an_update(model: Ising, kernel: Any, beta: float, n_chains: int) -> float:
    """Return the processor time of an update in one long call, the least of three."""
    times, betas = [], torch.full((n_chains,), beta)
    state = kernel.init(model, n_chains, KEY)
    state, _ = kernel.advance(model, state, betas, 200, KEY.child("burn in"))
    for repeat in range(3):
        begin = time.process_time()
        key = KEY.child("speed").at(round=repeat)
        _, info = kernel.advance(model, state, betas, max(100, 20_000 // n_chains), key)
        times.append((time.process_time() - begin) / info.n_updates)
    return min(times)


def integrated_time(one: Series) -> tuple[float, float]:
    """Return τ = ½ + Σ_{t≥1} ρ(t) in updates, and its standard error: n Var(mean)/2σ² of quarters of chains.

    The mean is 0 by symmetry. A window on the sum would be misled: without detailed balance ρ oscillates.
    """
    n = one.draws.shape[1] // 4
    quarters = one.draws[:, : 4 * n].reshape(-1, n)
    squares = n * quarters.mean(1) ** 2 / (2.0 * (quarters**2).mean())
    # In draws the sum is a trapezium rule: times the stride it stands for the one in updates.
    return one.stride * float(squares.mean()), one.stride * float(squares.std(ddof=1) / len(squares) ** 0.5)


def autocorrelations(one: Series) -> np.ndarray:
    """Return ρ at multiples of the stride  # (lag,)."""
    n = one.draws.shape[1]
    spectrum = np.abs(np.fft.rfft(one.draws, 2 * n, axis=1)) ** 2
    covariances = np.fft.irfft(spectrum, axis=1)[:, : n // 4].mean(0) / np.arange(n, n - n // 4, -1)
    return np.asarray(covariances / covariances[0])


def plot(found: dict[str, dict[str, Series]], path: Path) -> None:
    """Draw the autocorrelation functions over updates and over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.6 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 2, squeeze=False)
    for row, (target, chains) in zip(panels, found.items(), strict=True):
        longest = [0.0, 0.0]
        for name, one in chains.items():
            (tau, error), rho = integrated_time(one), autocorrelations(one)
            lags = np.arange(len(rho)) * one.stride
            for unit, (panel, scale) in enumerate(zip(row, (1.0, 1e6 * one.seconds[SHOWN]), strict=True)):
                digits = 1 if unit else 0
                label = f"{name}: τ = {tau * scale:.{digits}f} ± {error * scale:.{digits}f}"
                panel.plot(lags * scale, rho, label=label)
                longest[unit] = max(longest[unit], 4.0 * tau * scale)
        for unit, panel in enumerate(row):
            panel.axhline(0.0, color="black", linewidth=0.5)
            panel.set(title=target, xlabel=TIME if unit else "updates", xlim=(0.0, longest[unit]))
            panel.set_ylabel("autocorrelation of the magnetisation")
            panel.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plot", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--draws", type=int, default=10_000)
    arguments = parser.parse_args()
    targets = {"Curie–Weiss, N = 64, K = 1": (curie_weiss(), 1.0), "Ising 8 × 8, β = 0.4": (square(), 0.4)}
    kernels = {"Metropolis": Metropolis(order="random"), "lifted": Lifted()}
    found: dict[str, dict[str, Series]] = {}
    columns = "".join(f"{f'{n} chains: ns/update':>24}{'τ, µs':>9}" for n in TOGETHER)
    print(f"{'':28}{'':12}{'τ, updates':>18}{columns}")
    for target, (model, beta) in targets.items():
        found[target] = {}
        for name, kernel in kernels.items():
            one = series(model, kernel, beta, arguments.chains, arguments.draws, 8)
            found[target][name] = one
            tau, error = integrated_time(one)
            costs = "".join(f"{1e9 * s:24.2f}{1e6 * tau * s:9.2f}" for s in one.seconds.values())
            print(f"{target:28}{name:12}{f'{tau:.1f} ± {error:.1f}':>18}{costs}", flush=True)
    plot(found, arguments.plot)


if __name__ == "__main__":
    main()
