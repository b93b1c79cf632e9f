"""A chain without detailed balance: spins flip in one direction until it is time to turn round."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from genmodels.compiled.counter import keys
from genmodels.compiled.lifted import integers, plan, sweeps
from genmodels.errors import InputError
from genmodels.paths import device, draw_0, potential
from genmodels.protocols import HasCouplings, Info
from genmodels.streams import Key

Rates = Literal["metropolis", "heat_bath"]
Pick = Callable[[int], Tensor]  # n -> (replica,), each of 0 … n − 1 equally likely
Coin = Callable[[Tensor], Tensor]  # probabilities (replica,) -> (replica,), bool


class LiftedState(NamedTuple):
    """Configurations, their energies and directions."""

    x: Tensor  # (replica, site), ±1, float32
    energy: Tensor  # (replica,), nats at β = 1
    direction: Tensor  # (replica,), ε = ±1, int8; 0 where the next `advance` is to draw it


@dataclass(frozen=True)
class Lifted:
    """Flip only spins of x_i = −ε, and turn ε just often enough; leaves exp(−βE − E_0)/2 on (x, ε) invariant.

    With reversible rates a_i, one step picks a site i and flips it with probability a_i if x_i = −ε; where
    nothing flipped, ε → −ε with probability max(0, out_{−ε} − out_ε)/(1 − out_ε), out_ε = Σ_{x_i=−ε} a_i/N.
    So a flip of i has the probability a_i/N, and a turn max(0, out_{−ε} − out_ε). Flips carry the probability
    out_{−ε} P into (x, ε) and out_ε P out of it; turns make up for the difference: balance holds, detailed
    balance does not, and the magnetisation drifts where it would diffuse. A sweep is n_sites steps.
    Turitsyn, Chertkov & Vucelja 2011.

    Models that offer `couplings()` are advanced by a compiled loop, others by `update`, in N energies a step;
    from the same random integers both flip the same spins.

    Attributes:
        rates: "metropolis", a = min(1, e^{−c}), or "heat_bath", a = 1/(1 + e^c), c the rise of βE + E_0.
    """

    rates: Rates = "metropolis"

    def __post_init__(self) -> None:
        """Refuse rates that do not exist."""
        if self.rates not in get_args(Rates):
            raise InputError(f"Lifted: rates is '{self.rates}', expected one of {', '.join(get_args(Rates))}")

    @property
    def detailed_balance(self) -> bool:
        """Return False: the probability goes round in circles through both directions."""
        return False

    def init(self, model: Any, n_replicas: int, key: Key) -> LiftedState:
        """Return independent replicas at β = 0, drawn from the reference."""
        return self.start(model, draw_0(model, n_replicas, key.torch(device(model))))

    def start(self, model: Any, x: Tensor) -> LiftedState:
        """Return the state of given configurations  # (replica, site), ±1.

        Their directions are left to the next `advance`: drawn there, whatever the choice of x, they are
        independent of it.
        """
        with torch.no_grad():
            return LiftedState(x, model.energy(x), torch.zeros(len(x), dtype=torch.int8, device=x.device))

    def advance(
        self, model: Any, state: LiftedState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[LiftedState, Info]:
        """Advance every replica by `n_sweeps` sweeps; `beta` is (replica,) or (sweep, replica)."""
        n_replicas, n_sites = state.x.shape
        betas = beta.to(state.x.device).expand(n_sweeps, n_replicas)
        bits = integers(*keys(key.child("direction")), n_replicas, 0)
        drawn = torch.from_numpy((bits >> np.uint64(63)).astype(np.int8) * 2 - 1).to(state.x.device)
        direction = torch.where(state.direction == 0, drawn, state.direction)
        move = self._compiled if isinstance(model, HasCouplings) else self._readable
        with torch.no_grad():
            x, direction, n_flips = move(model, state.x, direction, betas, key)
            energy = model.energy(x)
        n_updates = n_sweeps * n_replicas * n_sites
        n_nonfinite = n_replicas - int(energy.isfinite().sum())
        return LiftedState(x, energy, direction), Info(n_updates, n_flips / max(1, n_updates), n_nonfinite)

    def configuration(self, state: LiftedState) -> Tensor:
        """Return the configurations  # (replica, site)."""
        return state.x

    def select(self, state: LiftedState, index: Tensor) -> LiftedState:
        """Return the state whose replica r is `state`'s replica index[r]."""
        return LiftedState(state.x[index], state.energy[index], state.direction[index])

    def sweep(
        self, model: Any, x: Tensor, direction: Tensor, beta: Tensor, pick: Pick, coin: Coin
    ) -> tuple[Tensor, Tensor, int]:
        """Return configurations and directions after n_sites steps, and the number of flips."""
        n_flips = 0
        for _ in range(x.shape[1]):
            before = x
            x, direction = update(x, direction, self.acceptance(model, x, beta), pick, coin)
            n_flips += int((x != before).sum())
        return x, direction, n_flips

    def acceptance(self, model: Any, x: Tensor, beta: Tensor) -> Tensor:
        """Return the reversible rates a_i of all flips  # (replica, site), float64."""
        costs = torch.empty(x.shape, dtype=torch.float64, device=x.device)
        here = potential(model, x, beta)
        for site in range(x.shape[1]):
            flipped = x.clone()
            flipped[:, site] *= -1.0
            costs[:, site] = potential(model, flipped, beta) - here
        return torch.sigmoid(-costs) if self.rates == "heat_bath" else torch.exp(-costs.clamp(min=0.0))

    def _readable(
        self, model: Any, x: Tensor, direction: Tensor, betas: Tensor, key: Key
    ) -> tuple[Tensor, Tensor, int]:
        draws, n_flips = _Draws(key, len(x), x.device), 0
        for beta in betas:
            x, direction, n = self.sweep(model, x, direction, beta, draws.pick, draws.coin)
            n_flips += n
        return x, direction, n_flips

    def _compiled(
        self, model: Any, x: Tensor, direction: Tensor, betas: Tensor, key: Key
    ) -> tuple[Tensor, Tensor, int]:
        spins = x.cpu().to(torch.int8, copy=True).contiguous().numpy()
        ends, rows = direction.cpu().clone().numpy(), betas.cpu().double().contiguous().numpy()
        heat_bath = self.rates == "heat_bath"
        n_flips = sweeps(spins, ends, *plan(model.couplings()), rows, x.shape[1], heat_bath, *keys(key))
        return torch.from_numpy(spins).to(x), torch.from_numpy(ends).to(x.device), n_flips


def update(x: Tensor, direction: Tensor, rates: Tensor, pick: Pick, coin: Coin) -> tuple[Tensor, Tensor]:
    """Return configurations and directions after one step: a flip, a turn, or neither.

    Args:
        x: Configurations, ±1  # (replica, site)
        direction: ε, ±1  # (replica,)
        rates: a_i  # (replica, site)
        pick: Draws sites.
        coin: Decides, replica by replica.
    """
    row = torch.arange(len(x), device=x.device)
    ahead = x == -direction[:, None]
    out, out_back = (rates * ahead).mean(1), (rates * ~ahead).mean(1)
    site = pick(x.shape[1])
    flips = coin((rates * ahead)[row, site])
    # Of out + out_back ≤ 1 the smaller is at most ½: the second clamp only spares 0/0.
    turn = (out_back - out).clamp(min=0.0) / (1.0 - out).clamp(min=0.5)
    turns = coin(torch.where(flips, 0.0, turn))
    moved = x.clone()
    moved[row[flips], site[flips]] *= -1.0
    return moved, torch.where(turns, -direction, direction)


class _Draws:
    """Decisions of all replicas from the integers of a stream, one place of their counters a decision."""

    def __init__(self, key: Key, n_replicas: int, where: torch.device) -> None:
        self.keys, self.n_replicas, self.where, self.place = keys(key), n_replicas, where, 0

    def _bits(self) -> np.ndarray:
        bits = integers(*self.keys, self.n_replicas, self.place)
        self.place += 1
        return np.asarray(bits)

    def pick(self, n: int) -> Tensor:
        high, half = self._bits() >> np.uint64(32), np.uint64(32)
        return torch.from_numpy(((high * np.uint64(n)) >> half).astype(np.int64)).to(self.where)

    def coin(self, p: Tensor) -> Tensor:
        return torch.from_numpy((self._bits() >> np.uint64(11)) * 2.0**-53).to(self.where) < p
