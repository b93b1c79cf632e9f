"""Ladders held in parts are ladders as any others; and the length of a task changes no result."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from exact import Exact
from torch import Tensor

from genmodels.couplings import Couplings
from genmodels.errors import InputError
from genmodels.estimators import free_energy
from genmodels.kernels.block_gibbs import BlockGibbs, BlockGibbsState
from genmodels.kernels.heat_bath import HeatBath
from genmodels.models.ising import Ising
from genmodels.placement.local import LocalPlacement
from genmodels.placement.ray import RayPlacement
from genmodels.protocols import Info
from genmodels.samplers import ladder, shards, split_ladder
from genmodels.samplers.jarzynski import Jarzynski
from genmodels.samplers.population_annealing import PopulationAnnealing
from genmodels.samplers.replica_exchange import Exchanged, ReplicaExchange
from genmodels.samplers.simulated_annealing import SimulatedAnnealing
from genmodels.samplers.simulated_tempering import SimulatedTempering
from genmodels.streams import Key

KEY = Key(5, "split")
N = 8
PAIRS = np.triu_indices(N, 1)
# Multiples of 1/8: sums are exact in any order, and so the same bits whoever is held with whom.
J = np.round(8.0 * np.random.default_rng(1).normal(0.0, 0.7, len(PAIRS[0]))) / 8.0
MODEL = Ising.of(Couplings(N, *PAIRS, J, np.array([0.375, -0.25, 0.125, 0.5, -0.625, 0.25, 0.75, -0.125])))
EXACT = Exact(MODEL)
SPLIT = ReplicaExchange(
    n_ladders=60,
    n_rungs=6,
    n_rounds=100,
    burn_in=32,
    sweeps_per_round=1,
    ladders_per_shard=30,
    rungs_per_shard=3,
    beta_max=1.3,
)
SMALL = dataclasses.replace(SPLIT, n_ladders=5, n_rounds=40, burn_in=16, ladders_per_shard=2)
TINY = dataclasses.replace(SMALL, n_ladders=3, n_rounds=8)


def same(one: Any, other: Any) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)]
    return all(
        a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes() if isinstance(a, Tensor) else a == b
        for a, b in pairs
    )


def run(sampler: ReplicaExchange, kernel: Any = None, place: Any = None, progress: Any = None) -> Exchanged:
    return sampler.run(MODEL, kernel or HeatBath(), KEY, place or LocalPlacement(), progress)


# What is sampled


def energy_scores(result: Exchanged) -> np.ndarray:
    """Return by how many standard errors, over ladders, the mean energy of each rung is off."""
    means = result.energies.mean(1).numpy()
    exact = np.array([EXACT.mean_energy(beta) for beta in result.betas.tolist()])
    return (means.mean(0) - exact) / (means.std(0, ddof=1) / math.sqrt(len(means)))


@pytest.mark.parametrize(("rungs_per_shard", "kernel"), [(1, HeatBath()), (3, BlockGibbs()), (4, HeatBath())])
def test_energies_spins_and_log_z_are_those_of_enumeration(rungs_per_shard: int, kernel: Any) -> None:
    result = run(dataclasses.replace(SPLIT, rungs_per_shard=rungs_per_shard), kernel)
    assert result.energies.shape == (60, 100, 6)
    assert result.n_updates == 60 * 6 * (100 + 32) * N
    assert np.abs(energy_scores(result)).max() < 4.0
    mean_x = result.mean_x.numpy()
    spread = mean_x.std(0, ddof=1) / math.sqrt(60)
    assert (np.abs(mean_x.mean(0) - EXACT.moments(1.3)) / spread).max() < 4.5
    assert result.best_energy == float(EXACT.energy.min())
    with torch.no_grad():
        assert float(MODEL.energy(result.best_x[None])) == result.best_energy
    assert int(result.round_trips.min()) > 0
    curve = free_energy.evaluate(result)[0]
    for beta, estimate in zip(result.betas.tolist()[1:], curve[1:], strict=True):
        assert estimate.value is not None
        assert estimate.stderr
        assert abs(estimate.value - EXACT.log_z(beta)) / estimate.stderr < 4.0
        assert estimate.stderr < 0.1


def test_a_beta_that_goes_to_another_part_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ladder.Swaps.beta.fget
    assert right is not None
    monkeypatch.setattr(ladder.Swaps, "beta", property(lambda swaps: right(swaps).roll(3, 1)))
    assert np.abs(energy_scores(run(SPLIT))).max() > 10.0


def test_swaps_of_the_wrong_sign_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ladder.log_acceptance
    monkeypatch.setattr(ladder, "log_acceptance", lambda betas, energies: right(betas, -energies))
    assert np.abs(energy_scores(run(SPLIT))).max() > 10.0


# The same bits as whole ladders


@dataclasses.dataclass(frozen=True)
class Replayed:
    """Heat bath whose random numbers follow from the round and β: parts see those that the whole sees."""

    detailed_balance = True

    def init(self, model: Ising, n_replicas: int, key: Key) -> BlockGibbsState:
        return self.start(model, torch.ones(n_replicas, N))

    def start(self, model: Ising, x: Tensor) -> BlockGibbsState:
        with torch.no_grad():
            return BlockGibbsState(x, model.energy(x))

    def advance(
        self, model: Ising, state: BlockGibbsState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[BlockGibbsState, Info]:
        couplings = model.couplings()
        dense = np.zeros((N, N))
        dense[couplings.i, couplings.j] = dense[couplings.j, couplings.i] = couplings.J
        x = state.x.double().numpy().copy()
        for row, b in zip(x, beta.numpy(), strict=True):
            random = np.random.default_rng([key.round, int(b.view(np.int32))])
            for _ in range(n_sweeps):
                for site, uniform in enumerate(random.random(N)):
                    field = float(dense[site] @ row + couplings.h[site])
                    row[site] = 1.0 if uniform < 1.0 / (1.0 + math.exp(-2.0 * float(b) * field)) else -1.0
        return self.start(model, torch.from_numpy(x).float()), Info(n_sweeps * x.size, 1.0)

    def configuration(self, state: BlockGibbsState) -> Tensor:
        return state.x

    def select(self, state: BlockGibbsState, index: Tensor) -> BlockGibbsState:
        return BlockGibbsState(state.x[index], state.energy[index])


@pytest.mark.parametrize("rungs_per_shard", [1, 2, 4])
def test_parts_that_see_the_same_random_numbers_end_in_the_same_bits(rungs_per_shard: int) -> None:
    whole, split = (dataclasses.replace(SMALL, rungs_per_shard=held) for held in (None, rungs_per_shard))
    result, kernel, here = run(whole, Replayed()), Replayed(), LocalPlacement()
    assert same(result, run(split, kernel))
    assert int(result.round_trips.sum()) > 10
    drawn = [each.draw(MODEL, kernel, 18, KEY, here) for each in (whole, split)]
    assert torch.equal(*drawn)
    assert len(drawn[0].unique(dim=0)) > 5


def test_energies_told_of_another_part_would_change_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    result, right = run(SMALL, Replayed()), split_ladder.sweep

    def wrong(*arguments: Any) -> Any:
        """Tell the energies of the ladders in the wrong order."""
        state, swept = right(*arguments)
        return state, swept._replace(energies=swept.energies.flip(0))

    monkeypatch.setattr(split_ladder, "sweep", wrong)
    assert not same(result, run(SMALL, Replayed()))


@pytest.mark.parametrize(("held", "kernel"), [(6, HeatBath()), (100, BlockGibbs())])
def test_one_part_is_a_whole_ladder(held: int, kernel: Any) -> None:
    result = run(dataclasses.replace(SMALL, rungs_per_shard=None), kernel)
    assert same(result, run(dataclasses.replace(SMALL, rungs_per_shard=held), kernel))
    assert not same(result, run(SMALL, kernel))


def test_a_whole_ladder_is_swept_and_swapped_as_written_out_here() -> None:
    """The rounds of one shard, without the code that whole ladders and parts share."""
    betas, kernel, key = torch.linspace(0.0, 1.3, 6).double(), HeatBath(), KEY.child("by hand").at(shard=3)
    state, _ = ladder.start(None, 3, 4, MODEL, kernel, 6, key)
    particles, replica = state.particles, state.replica
    energies, x_sum = [], torch.zeros(4, N, dtype=torch.float64)
    for i in range(2, 9):
        beta = betas[replica.argsort(1)].flatten().float()
        particles, _ = kernel.advance(MODEL, particles, beta, 2, key.child("move").at(round=i))
        x_sum += kernel.configuration(particles).view(4, 6, N)[torch.arange(4), replica[:, -1]]
        energies.append(particles.energy.view(4, 6).gather(1, replica))
        uniform = torch.from_numpy(key.child("swap").at(round=i).numpy().random((4, 5)))
        replica = ladder.swap(replica, betas, energies[-1], uniform, i % 2)
    end, seen = ladder.advance(state, 3, (2, 9), MODEL, kernel, betas, 2, key)
    assert torch.equal(seen.energies, torch.stack(energies, 1))
    assert torch.equal(seen.x_sum, x_sum)
    assert torch.equal(end.replica, replica)
    assert not torch.equal(replica, state.replica)
    top = kernel.configuration(particles).view(4, 6, N)[torch.arange(4), replica[:, -1]]
    assert torch.equal(seen.x, top)


# Where and when parts are swept


def test_threads_change_no_bit() -> None:
    threads = LocalPlacement(2)
    assert same(run(SMALL), run(SMALL, place=threads))
    threads.close()


@pytest.mark.slow
def test_workers_change_no_bit() -> None:
    result = run(TINY)
    for n_workers in (1, 2):
        place = RayPlacement.local(n_workers)
        try:
            assert same(result, run(TINY, place=place))
        finally:
            place.close()


class Backwards(LocalPlacement):
    """Lets the last shard that waits be the first that is done; notes which rounds are swept."""

    def __init__(self) -> None:
        super().__init__()
        self.room = 100
        self.swept: list[tuple[int, int]] = []

    def submit(self, fn: Callable[..., tuple[Any, Any]], handle: Any, *small: Any) -> tuple[Any, Any]:
        if fn is split_ladder.sweep:
            self.swept.append((small[0], small[1]))
        return super().submit(fn, handle, *small)

    def wait(self, handles: Sequence[Any]) -> list[int]:
        return [len(handles) - 1] if handles else []


def test_groups_do_not_wait_for_each_other_and_their_order_changes_no_bit() -> None:
    place = Backwards()
    result = run(SMALL, place=place)
    assert same(result, run(SMALL))
    # Three groups of two parts: the last one goes through all measured rounds before the first one's second.
    assert place.swept.index((5, 16 + 39)) < place.swept.index((0, 16 + 1))
    assert len(set(place.swept)) == len(place.swept) == 6 * (16 + 40)


def test_progress_rises_to_its_end_and_a_stopped_run_is_the_beginning_of_the_whole() -> None:
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int, **figures: float) -> bool:
        told.append((done, total))
        return len(told) == stop

    stop = 0
    whole = run(SMALL, progress=progress)
    assert told == [(done, 3 * 56) for done in range(1, 3 * 56 + 1)]  # a run can stop after every round
    for stop, n_rounds in ((3 * 16 + 31, 10), (20, 0)):
        told.clear()
        begun = run(SMALL, progress=progress)
        assert len(told) <= stop + 2
        assert abs(begun.energies.shape[1] - n_rounds) <= 1
        assert torch.equal(begun.energies, whole.energies[:, : begun.energies.shape[1]])
        assert begun.energies.shape[1] == 0 or not begun.mean_x.isnan().any()
        assert SMALL.draw(MODEL, HeatBath(), 3, KEY, LocalPlacement(), lambda *_, **__: True).shape == (0, N)


def test_an_energy_that_is_not_finite_stops_the_run() -> None:
    model = Ising.of(Couplings(N, *PAIRS, J, np.full(N, np.inf)))
    with pytest.raises(FloatingPointError, match="energies are not finite: look for"):
        SPLIT.run(model, BlockGibbs(), KEY, LocalPlacement())


@pytest.mark.parametrize("held", [0, -3])
def test_parts_of_no_replica_are_refused(held: int) -> None:
    with pytest.raises(InputError, match=f"^replica exchange: rungs_per_shard is {held}, give at least 1$"):
        ReplicaExchange(rungs_per_shard=held)


# How long a task is


@pytest.mark.parametrize(
    ("n_rounds", "n_updates", "expected"),
    [(1400, 100, 140), (1400, 2e7, 40), (1400, 1e8, 8), (1400, 1e12, 1), (10, 100, 1)],
)
def test_a_task_is_long_but_a_run_has_many(n_rounds: int, n_updates: float, expected: int) -> None:
    assert shards.segment(n_rounds, n_updates) == expected


SAMPLERS: dict[str, Any] = {
    "exchange": dataclasses.replace(SMALL, rungs_per_shard=None, n_rounds=100),
    "split exchange": dataclasses.replace(SMALL, n_ladders=2, n_rounds=400),
    "annealing": SimulatedAnnealing(n_replicas=20, n_temperatures=60, replicas_per_shard=8),
    "recorded annealing": SimulatedAnnealing(
        n_replicas=20, n_temperatures=60, record=True, replicas_per_shard=8
    ),
    "tempering": SimulatedTempering(n_chains=20, n_rungs=4, n_rounds=80, burn_in=40, chains_per_shard=8),
    "population": PopulationAnnealing(n_populations=3, n_walkers=100, n_sweeps=2, ess=0.99, n_pilot=50),
    "jarzynski": Jarzynski(
        n_replicas=20,
        n_steps=60,
        n_reverse=6,
        exchange=ReplicaExchange(n_ladders=2, n_rungs=4, burn_in=16),
        replicas_per_shard=8,
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_length_of_a_task_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (2, len(J)))
    model = Ising.of(Couplings(N, *PAIRS, signs[0], signs[1, :N]))
    lengths: list[int] = []

    def sampled() -> Any:
        count = [0]

        def progress(*_: Any, **__: Any) -> None:
            count[0] += 1

        result = SAMPLERS[name].run(model, HeatBath(), KEY, LocalPlacement(), progress)
        lengths.append(count[0])
        return result

    usual = sampled()
    monkeypatch.setattr(shards, "_UPDATES", 1.0)
    assert same(usual, sampled())
    assert lengths[1] > lengths[0] or name == "annealing"  # whose calls of the kernel are never cut
