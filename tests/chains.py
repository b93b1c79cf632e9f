"""Exact transition matrices of the kernels' own code: every decision is taken all ways and weighed."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmodels.paths import potential

Step = Callable[[Tensor, "Walk"], Tensor]  # a state, who decides -> the next state  # (site,)


class Walk:
    """Answers a kernel's questions along one path down the tree of its decisions."""

    def __init__(self, path: list[int]) -> None:
        self.path, self.depth, self.probability = path, 0, 1.0
        self.left: list[list[int]] = []  # at every question, the answers not yet given

    def among(self, probabilities: list[float]) -> int:
        """Return which of the outcomes happens."""
        assert min(probabilities) >= 0.0
        assert abs(sum(probabilities) - 1.0) < 1e-14
        possible = [k for k, p in enumerate(probabilities) if p > 0.0]
        taken = self.path[self.depth] if self.depth < len(self.path) else possible[0]
        self.path = [*self.path[: self.depth], taken, *self.path[self.depth + 1 :]]
        self.left.append([k for k in possible if k > taken])
        self.depth += 1
        self.probability *= probabilities[taken]
        return taken

    def coin(self, p: float) -> bool:
        return self.among([1.0 - p, p]) == 1

    def accept(self, cost: float) -> bool:
        return self.coin(math.exp(-max(0.0, cost)))

    def pick(self, n: int) -> int:
        return self.among([1.0 / n] * n)

    def coins(self, p: Tensor) -> Tensor:
        """Return the decision of a batch of one replica  # (1,)."""
        return torch.tensor([self.coin(p.item())])

    def picks(self, n: int) -> Tensor:
        return torch.tensor([self.pick(n)])


def outcomes(step: Callable[[Walk], Tensor], who: type[Walk] = Walk) -> Iterator[tuple[float, Tensor]]:
    """Yield every result of `step` with its probability, depth first."""
    path: list[int] | None = []
    while path is not None:
        walk = who(path)
        result = step(walk)
        yield walk.probability, result
        depth = max((d for d, left in enumerate(walk.left) if left), default=None)
        path = None if depth is None else [*walk.path[:depth], walk.left[depth][0]]


def states(n: int) -> Tensor:
    """Return all configurations, the first site the highest digit  # (2ⁿ, n), float64."""
    return (((torch.arange(2**n)[:, None] >> torch.arange(n - 1, -1, -1)) & 1) * 2 - 1).double()


def number(x: Tensor) -> int:
    return int(((x > 0).long() << torch.arange(len(x) - 1, -1, -1)).sum())


def matrix(step: Step, n: int, who: type[Walk] = Walk) -> np.ndarray:
    """Return w(x|x') of one call of `step` on states of n spins  # (x, x'), float64."""
    w = np.zeros((2**n, 2**n))
    for column, x in enumerate(states(n)):
        for probability, after in outcomes(lambda walk, x=x: step(x.clone(), walk), who):  # type: ignore[misc]
            w[number(after), column] += probability
    return w


def boltzmann(model: Any, beta: float) -> np.ndarray:
    """Return P_β of all states  # (state,), float64."""
    x = states(model.n_sites)
    with torch.no_grad():
        u = potential(model, x, torch.full((len(x),), beta, dtype=torch.float64))
    return np.asarray((-u).softmax(0))


class Faults(NamedTuple):
    """By how much a matrix misses what a Markov chain of a distribution has."""

    normalisation: float  # Σ_x w(x|x') = 1
    balance: float  # Σ_x' w(x|x') P(x') = P(x)
    detailed_balance: float  # w(x|x') P(x') = w(x'|x) P(x)


def faults(w: np.ndarray, p: np.ndarray) -> Faults:
    flow = w * p
    assert w.min() >= 0.0
    return Faults(abs(w.sum(0) - 1.0).max(), abs(flow.sum(1) - p).max(), abs(flow - flow.T).max())


def adjoint(w: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return w†, the chain seen backwards in time: w†(x|x') = w(x'|x) P(x) / P(x')."""
    return w.T * p[:, None] / p[None, :]


def asymptotic_variances(w: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the symmetric matrix S of the asymptotic variance fᵀSf of every observable's time average.

    fᵀSf = Var f + 2 Σ_{t≥1} Cov(f(x_0), f(x_t)) = 2⟨f, (1 − T)⁻¹f⟩ − ⟨f, f⟩ for f less its mean, with
    (Tf)(x') = Σ_x f(x) w(x|x'): Poisson's equation, solved by the fundamental matrix (1 − T + 1Pᵀ)⁻¹.
    Kemeny & Snell 1960.
    """
    n = len(p)
    centre = np.eye(n) - p[None, :]
    fundamental = np.linalg.solve(np.eye(n) - w.T + p[None, :], np.eye(n))
    form = 2.0 * p[:, None] * fundamental - np.diag(p)
    return np.asarray(centre.T @ (0.5 * (form + form.T)) @ centre)


def one_sided(step: Step) -> Step:
    """Return a wrong chain: what would lower the magnetisation is never proposed."""

    def wrong(x: Tensor, walk: Walk) -> Tensor:
        after = step(x.clone(), walk)
        return x if after.sum() < x.sum() else after

    return wrong


def reflected(step: Step) -> Step:
    """Return a wrong chain: a flip downwards is turned into one of the next site, its cost unasked."""

    def wrong(x: Tensor, walk: Walk) -> Tensor:
        after = step(x.clone(), walk)
        changed = torch.nonzero(after < x).flatten()
        if len(changed) != 1:
            return after
        after = x.clone()
        after[(int(changed[0]) + 1) % len(x)] *= -1.0
        return after

    return wrong
