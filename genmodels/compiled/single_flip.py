"""Spins of many replicas, in the memory layout that fits their couplings, and sweeps of single flips."""

import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from genmodels import paths
from genmodels.compiled.dense import Dense
from genmodels.compiled.multispin import Multispin
from genmodels.compiled.sparse import Sparse
from genmodels.couplings import Couplings
from genmodels.errors import InputError
from genmodels.protocols import Info
from genmodels.streams import Key

_DENSE = 0.25  # share of all pairs that are edges, above which a row of J is added at every flip
Layout = Multispin | Sparse | Dense
Order = Literal["sequential", "random"]


class Spins(NamedTuple):
    """The state of some replicas."""

    spins: np.ndarray  # as the layout has them
    energy: Tensor  # (replica,), float64, nats at β = 1
    layout: type[Multispin] | type[Sparse] | type[Dense]


_known: "weakref.WeakKeyDictionary[Any, tuple[Couplings, Layout]]" = weakref.WeakKeyDictionary()
_latest: list[tuple[Couplings, Layout]] = []  # at most one: a worker gets the same model with every task anew


def layout(model: Any) -> Layout:
    """Return the layout of a quadratic model, found once for given couplings, also in a copy of the model."""
    couplings: Couplings = model.couplings()
    known = _known.get(model)
    if known is None or not _equal(known[0], couplings):
        same = next((each for each in _latest if _equal(each[0], couplings)), None)
        known = same or (_copy(couplings), layout_of(couplings))
        _latest[:], _known[model] = [known], known
    return known[1]


def layout_of(couplings: Couplings) -> Layout:
    """Return multi-spin coding where there is a common unit, else rows or a matrix of real numbers."""
    n_pairs = couplings.n_sites * (couplings.n_sites - 1) / 2
    if coded := Multispin.of(couplings):
        return coded
    return Dense.of(couplings) if len(couplings.J) > _DENSE * n_pairs else Sparse.of(couplings)


def _arrays(couplings: Couplings) -> tuple[np.ndarray, ...]:
    return couplings.i, couplings.j, couplings.J, couplings.h, couplings.base


def _equal(one: Couplings, other: Couplings) -> bool:
    pairs = zip(_arrays(one), _arrays(other), strict=True)
    return one.offset == other.offset and all(np.array_equal(a, b) for a, b in pairs)


def _copy(couplings: Couplings) -> Couplings:
    i, j, J, h, base = (array.copy() for array in _arrays(couplings))
    return Couplings(couplings.n_sites, i, j, J, h, couplings.offset, base)


@dataclass(frozen=True)
class SingleFlip(ABC):
    """A kernel that goes through the spins one by one; which flips are made is up to the rule.

    The model is quadratic in spins: it offers `couplings()`. Given the same random integers the compiled
    loops and their readable twin, genmodels.compiled.readable, flip the same spins.

    Attributes:
        order: "sequential", every site once a sweep, those of one colour after those of another; or "random",
            n_sites sites drawn with replacement, the same for all replicas of a call.

    Raises:
        InputError: no such order.
    """

    order: Order = "sequential"
    heat_bath: ClassVar[bool]

    def __post_init__(self) -> None:
        """Refuse an order that does not exist."""
        if self.order not in get_args(Order):
            known = ", ".join(get_args(Order))
            raise InputError(f"{type(self).__name__}: order is '{self.order}', expected one of {known}")

    @staticmethod
    @abstractmethod
    def flip_probability(cost: float) -> float:
        """Return the probability of a flip that raises βE + E_0 by `cost` nats."""

    @property
    def detailed_balance(self) -> bool:
        """Return True: one update, of a given or a random site, satisfies it (a sweep in turn does not)."""
        return True

    def init(self, model: Any, n_replicas: int, key: Key) -> Spins:
        """Return independent replicas at β = 0, drawn from the reference."""
        return self.start(model, paths.draw_0(model, n_replicas, key.torch()))

    def start(self, model: Any, x: Tensor) -> Spins:
        """Return the state of given configurations  # (replica, site), ±1."""
        plan = layout(model)
        spins = plan.pack(x.detach().cpu().numpy())
        return Spins(spins, torch.from_numpy(plan.energy(spins, len(x))), type(plan))

    def advance(self, model: Any, state: Spins, beta: Tensor, n_sweeps: int, key: Key) -> tuple[Spins, Info]:
        """Advance every replica by `n_sweeps` sweeps; `state` is left untouched.

        `beta` is (replica,) or (sweep, replica). The acceptance is the share of flips in the last sweep.
        """
        plan, n_replicas = layout(model), len(state.energy)
        if type(plan) is not state.layout:
            state = self.start(model, self.configuration(state))
        betas = np.ascontiguousarray(beta.detach().cpu().double().numpy()).reshape(-1, n_replicas)
        spins = state.spins.copy()
        n_flips = plan.sweeps(spins, betas, n_sweeps, self.heat_bath, self.order == "random", key)
        energy = torch.from_numpy(plan.energy(spins, n_replicas))
        n_updates, n_bad = n_replicas * model.n_sites, n_replicas - int(energy.isfinite().sum())
        return Spins(spins, energy, type(plan)), Info(n_sweeps * n_updates, n_flips / n_updates, n_bad)

    def configuration(self, state: Spins) -> Tensor:
        """Return the configurations  # (replica, site), ±1, float32."""
        return torch.from_numpy(state.layout.unpack(state.spins, len(state.energy)))

    def select(self, state: Spins, index: Tensor) -> Spins:
        """Return the state whose replica r is `state`'s replica index[r]."""
        return Spins(state.layout.select(state.spins, index.numpy()), state.energy[index], state.layout)
