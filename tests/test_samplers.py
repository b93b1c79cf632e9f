"""What every sampler promises, wherever it runs; replica exchange and population annealing sample P_β."""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from machines import DoubledBeta, machine
from scipy.stats import chisquare
from summed import MODELS, Summed, Warm, scores
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimators.enumeration import states
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.kernels.metropolis import Metropolis
from genmodels.paths import log_z_0
from genmodels.placement.local import LocalPlacement
from genmodels.placement.ray import RayPlacement
from genmodels.registry import load
from genmodels.samplers import SAMPLERS, ladder, pilot, population, shards
from genmodels.samplers.jarzynski import Jarzynski
from genmodels.samplers.population_annealing import Annealed, PopulationAnnealing
from genmodels.samplers.replica_exchange import Exchanged, ReplicaExchange
from genmodels.samplers.simulated_annealing import SimulatedAnnealing
from genmodels.samplers.simulated_tempering import SimulatedTempering
from genmodels.streams import Key

KEY = Key(11, "test")
EXCHANGE = ReplicaExchange(
    n_ladders=32, n_rungs=6, n_rounds=300, burn_in=64, sweeps_per_round=1, ladders_per_shard=12, beta_max=1.2
)
ANNEALING = PopulationAnnealing(n_populations=32, n_walkers=300, n_sweeps=2, n_pilot=200, beta_max=1.2)


class Ticket(NamedTuple):
    """A handle."""

    number: int


class ShuffledPlacement:
    """Does the work late, in an order of its own, and hands out tickets for handles."""

    n_workers, room = 3, 5

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.values: dict[Ticket, Any] = {}
        self.waiting: dict[Ticket, Callable[[], tuple[Any, Any]]] = {}
        self.numbers = itertools.count(step=2)  # of a state; the small result has the next number
        self.order: list[Ticket] = []

    def put(self, state: Any) -> Ticket:
        ticket = Ticket(next(self.numbers))
        self.values[ticket] = state
        return ticket

    def submit(self, fn: Callable[..., tuple[Any, Any]], handle: Any, *small: Any) -> tuple[Ticket, Ticket]:
        number = next(self.numbers)
        self.waiting[Ticket(number)] = lambda: fn(self.fetch(handle), *(self.fetch(each) for each in small))
        return Ticket(number), Ticket(number + 1)

    def work(self, ticket: Ticket) -> None:
        first = Ticket(ticket.number - ticket.number % 2)
        if first in self.waiting:
            self.order.append(first)
            results = self.waiting.pop(first)()
            self.values[first], self.values[Ticket(first.number + 1)] = results

    def wait(self, handles: Sequence[Ticket]) -> list[int]:
        chosen: list[int] = self.random.permutation(len(handles))[: self.random.integers(1, 4)].tolist()
        for i in chosen:
            self.work(handles[i])
        return chosen

    def fetch(self, handle: Any) -> Any:
        if not isinstance(handle, Ticket):
            return handle
        self.work(handle)
        return self.values[handle]

    def close(self) -> None: ...


def exchange_scores(model: Any, result: Exchanged) -> np.ndarray:
    """Return how many standard errors, over ladders, the mean energy of each rung is off."""
    return scores(result.energies.mean(1).numpy(), Summed(model).energies(result.betas))


def annealing_scores(model: Any, result: Annealed) -> np.ndarray:
    """Return the same at each β of populations weighted by their Ẑ, and of log Ẑ at the last."""
    n, summed = len(result.log_z), Summed(model)
    weighted = (result.weights * n).numpy()
    means = (weighted * result.mean_energy.numpy()).mean(0)
    error = (weighted * (result.mean_energy.numpy() - means)).std(0, ddof=1) / math.sqrt(n)
    energies = (means - summed.energies(result.betas)) / error
    log_z = scores(result.log_z[:, -1].numpy(), np.array(summed.log_z(float(result.betas[-1]))))
    return np.append(energies, log_z)


def same(one: Any, other: Any) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)]
    return all(
        torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)
        if isinstance(a, Tensor) and a.shape == b.shape
        else not isinstance(a, Tensor) and a == b
        for a, b in pairs
    )


# Replica exchange


@pytest.mark.parametrize("name", MODELS)
def test_exchange_keeps_the_marginal_of_every_rung(name: str) -> None:
    result = EXCHANGE.run(MODELS[name], BlockGibbs(), KEY, LocalPlacement())
    assert np.abs(exchange_scores(MODELS[name], result)).max() < 3.5
    moments = Summed(MODELS[name]).moments(float(result.betas[-1]))
    assert np.abs(scores(result.mean_x.numpy(), moments)).max() < 3.5


@pytest.mark.parametrize("name", ["boltzmann machine", "from base rates"])
def test_exchange_at_a_beta_off_by_two_per_cent_is_seen(name: str) -> None:
    sampler = dataclasses.replace(EXCHANGE, n_ladders=3000, ladders_per_shard=3000, n_rounds=60, burn_in=32)
    model, here = MODELS[name], LocalPlacement()
    assert np.abs(exchange_scores(model, sampler.run(model, BlockGibbs(), KEY, here))).max() < 3.5
    assert np.abs(exchange_scores(model, sampler.run(model, Warm(), KEY, here))).max() > 6.0


def test_the_flow_is_that_counted_by_hand_and_falls_from_one_end_to_the_other() -> None:
    result = EXCHANGE.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    place, model = LocalPlacement(), MODELS["rbm"]
    small = (model, BlockGibbs(), result.betas, 1, KEY)
    state, _ = place.submit(ladder.start, None, 0, 4, model, BlockGibbs(), 6, KEY)
    up, down = np.zeros(6), np.zeros(6)
    met: dict[tuple[int, int], str] = {}
    total = torch.zeros(2, 6)
    for i in range(80):
        state, seen = ladder.advance(state, 0, (i, i + 1), *small)
        total += torch.stack([seen.up, seen.down])
        for one, rungs in enumerate(state.replica.tolist()):
            met[one, rungs[0]] = "up"
            if met.get((one, rungs[-1])):
                met[one, rungs[-1]] = "down"
            for k, replica in enumerate(rungs):
                up[k] += met.get((one, replica)) == "up"
                down[k] += met.get((one, replica)) == "down"
    assert total.tolist() == [up.tolist(), down.tolist()]
    assert (float(result.flow[0]), float(result.flow[-1])) == (1.0, 0.0)
    assert bool((result.flow.diff() < -0.1).all())
    assert min(up[:-1].min(), down[1:].min()) > 10


def test_swaps_with_the_wrong_sign_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ladder.log_acceptance

    def wrong(betas: Tensor, energies: Tensor) -> Tensor:
        return right(betas, -energies)

    monkeypatch.setattr(ladder, "log_acceptance", wrong)
    result = EXCHANGE.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    assert np.abs(exchange_scores(MODELS["rbm"], result)).max() > 7.0


def test_a_kernel_with_twice_the_beta_is_seen() -> None:
    result = EXCHANGE.run(MODELS["rbm"], DoubledBeta(), KEY, LocalPlacement())
    assert np.abs(exchange_scores(MODELS["rbm"], result)).max() > 7.0


def test_acceptance_is_the_ratio_of_joint_probabilities() -> None:
    betas, energies = torch.tensor([0.2, 0.5, 1.1]).double(), torch.tensor([[-3.0, 1.0, -7.0]]).double()
    log_p = -betas[:, None] * energies  # (rung, whose energy)
    ratios = [log_p[k, k + 1] + log_p[k + 1, k] - log_p[k, k] - log_p[k + 1, k + 1] for k in range(2)]
    expected = [min(0.0, float(ratio)) for ratio in ratios]
    assert ladder.log_acceptance(betas, energies)[0].tolist() == pytest.approx(expected)
    assert expected[1] < 0.0 == expected[0]


@pytest.mark.parametrize("parity", [0, 1])
def test_swaps_exchange_neighbours_of_one_parity(parity: int) -> None:
    n_rungs, betas = 7, torch.linspace(0.0, 1.0, 7).double()
    replica = torch.stack([torch.randperm(n_rungs, generator=KEY.at(round=i).torch()) for i in range(50)])
    energies = torch.randn(50, n_rungs, generator=KEY.torch(), dtype=torch.float64) * 5.0
    uniform = torch.rand(50, n_rungs - 1, generator=KEY.child("u").torch(), dtype=torch.float64)
    swapped = ladder.swap(replica, betas, energies, uniform, parity)
    expected = replica.clone()
    for row in range(50):
        for k in range(parity, n_rungs - 1, 2):
            a, b = energies[row, k], energies[row, k + 1]
            if uniform[row, k] < torch.exp((betas[k] - betas[k + 1]) * (a - b)):
                expected[row, [k, k + 1]] = replica[row, [k + 1, k]]
    assert torch.equal(swapped, expected)
    assert not torch.equal(swapped, replica)
    assert not torch.equal(swapped, ladder.swap(replica, betas, energies, uniform, 1 - parity))


def test_round_trips_are_counted_from_end_to_end() -> None:
    n_rungs, generator = 3, KEY.torch()
    heading, counted = torch.zeros(1, n_rungs, dtype=torch.int8), 0
    visits: list[list[str]] = [[] for _ in range(n_rungs)]
    for _ in range(200):
        replica = torch.randperm(n_rungs, generator=generator)[None]
        counted += int(ladder.turn(heading, replica))
        visits[int(replica[0, 0])].append("0")
        visits[int(replica[0, -1])].append("1")
    trips = 0
    for visit in visits:
        text = "".join(visit).lstrip("1")
        runs = "".join(a for a, b in zip(text, " " + text, strict=False) if a != b)
        trips += (len(runs) - 1) // 2
    assert counted == trips > 20


def test_adaptation_makes_rejections_equal() -> None:
    # Normal energies of variance s² and mean −s² β: rejections depend on the differences of β only.
    betas = torch.tensor([0.0, 0.02, 0.05, 0.1, 0.6, 1.0]).double()
    noise = torch.randn(4000, 6, generator=KEY.torch(), dtype=torch.float64)
    before = ladder.rejection(betas, 9.0 * -betas + 3.0 * noise)
    after = betas
    for _ in range(4):
        after = ladder.adapted(after, ladder.rejection(after, 9.0 * -after + 3.0 * noise))
    rates = ladder.rejection(after, 9.0 * -after + 3.0 * noise)
    assert after[0] == 0.0
    assert after[-1] == 1.0
    assert after.float().double().equal(after)
    np.testing.assert_allclose(after.diff(), 0.2, atol=0.02)
    assert float(rates.max() - rates.min()) < 0.03 < float(before.max() - before.min())


def test_ladder_is_frozen_after_half_the_burn_in(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[int, Tensor]] = []
    plain = ladder.advance

    def watched(state: Any, shard: int, rounds: tuple[int, int], *rest: Any) -> Any:
        used.append((rounds[0], rest[2]))
        return plain(state, shard, rounds, *rest)

    monkeypatch.setattr(ladder, "advance", watched)
    sampler = dataclasses.replace(EXCHANGE, burn_in=256)
    result = sampler.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    assert all(torch.equal(betas, result.betas) == (first >= 128) for first, betas in used)
    rates = result.rejection
    assert float(rates.max() - rates.min()) < 0.05
    assert result.summary()["barrier"] == pytest.approx(float(rates.sum()))


def test_the_ladder_tells_how_far_apart_configurations_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "rejection", lambda betas, energies: torch.tensor([0.5, 0.75]))
    monkeypatch.setattr(ladder, "adapted", lambda betas, rejection: betas)
    sampler = dataclasses.replace(EXCHANGE, n_ladders=2, n_rungs=3, burn_in=64)
    met: list[tuple[int, dict[str, float]]] = []

    def progress(done: int, total: int, **figures: float) -> bool:
        met.append((total, figures))
        return False

    sampler.draw(MODELS["rbm"], BlockGibbs(), 6, KEY, LocalPlacement(), progress)
    # Every 2 + 2 Σ r/(1 − r) = 10 rounds: three draws of both ladders, which are one shard.
    assert met[-1][0] - met[0][0] == 10 * 3
    assert met[-1][1]["swap_rate"] == 0.25


def test_drawn_configurations_follow_the_model() -> None:
    model = machine(3, 2)
    settings = dataclasses.replace(EXCHANGE, beta_max=0.8)
    with torch.no_grad():
        energy = model.energy(next(states(5)).float()).double()
    exact = [torch.softmax(-beta * energy, 0) for beta in (0.8, 1.6)]
    p_values = []
    for kernel in (BlockGibbs(), DoubledBeta()):
        x = settings.draw(model, kernel, 3000, KEY, LocalPlacement())
        assert x.shape == (3000, 5)
        index = ((x > 0).long() * 2 ** torch.arange(4, -1, -1)).sum(1)
        counts = np.bincount(index.numpy(), minlength=32)
        p_values.append([chisquare(counts, 3000 * p.numpy()).pvalue for p in exact])
    assert p_values[0][0] > 1e-3
    assert p_values[0][1] < 1e-6
    assert p_values[1][0] < 1e-6


def test_a_longer_draw_begins_like_a_shorter_one() -> None:
    settings = dataclasses.replace(EXCHANGE, n_ladders=5, burn_in=16, ladders_per_shard=2)
    x = settings.draw(MODELS["rbm"], BlockGibbs(), 7, KEY, LocalPlacement())
    assert torch.equal(x[:3], settings.draw(MODELS["rbm"], BlockGibbs(), 3, KEY, LocalPlacement()))


# Population annealing


@pytest.mark.parametrize("name", MODELS)
def test_annealing_keeps_the_marginal_at_every_beta(name: str) -> None:
    result = ANNEALING.run(MODELS[name], BlockGibbs(), KEY, LocalPlacement())
    assert np.abs(annealing_scores(MODELS[name], result)).max() < 3.5
    n, exact = len(result.log_z), Summed(MODELS[name]).moments(1.2)
    weighted = (result.weights[:, -1:] * n).numpy()
    mean = (weighted * result.mean_x.numpy()).mean(0)
    error = (weighted * (result.mean_x.numpy() - mean)).std(0, ddof=1) / math.sqrt(n)
    assert np.abs((mean - exact) / error).max() < 3.5


@pytest.mark.parametrize("name", ["boltzmann machine", "from base rates"])
def test_annealing_at_a_beta_off_by_two_per_cent_is_seen(name: str) -> None:
    sampler = dataclasses.replace(ANNEALING, n_populations=16, n_walkers=8000, n_sweeps=3)
    model, here = MODELS[name], LocalPlacement()
    assert np.abs(annealing_scores(model, sampler.run(model, BlockGibbs(), KEY, here))).max() < 3.5
    assert np.abs(annealing_scores(model, sampler.run(model, Warm(), KEY, here))).max() > 6.0


def test_weights_of_the_wrong_sign_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = population.log_weights
    monkeypatch.setattr(population, "log_weights", lambda energy, step: right(energy, -step))
    result = ANNEALING.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    assert np.abs(annealing_scores(MODELS["rbm"], result)).max() > 7.0


def test_walkers_that_are_not_resampled_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "systematic", lambda log_w, uniform: torch.arange(len(log_w)))
    result = ANNEALING.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    assert np.abs(annealing_scores(MODELS["rbm"], result)).max() > 7.0


def test_annealing_with_twice_the_beta_is_seen() -> None:
    result = ANNEALING.run(MODELS["rbm"], DoubledBeta(), KEY, LocalPlacement())
    assert np.abs(annealing_scores(MODELS["rbm"], result)).max() > 7.0


def test_systematic_resampling_gives_the_expected_copies() -> None:
    log_w = torch.randn(40, generator=KEY.torch(), dtype=torch.float64) * 1.5 - 700.0
    expected = log_w.softmax(0) * 40
    grid = (torch.arange(2000) + 0.5) / 2000
    copies = torch.stack([torch.bincount(population.systematic(log_w, float(u)), minlength=40) for u in grid])
    assert bool((copies.sum(1) == 40).all())
    assert bool(((copies - expected).abs() < 1.0).all())
    # Copies change at one u at most each way, so the grid misses the mean over u by half a spacing at each.
    np.testing.assert_allclose(copies.double().mean(0), expected, atol=1e-3)
    assert float((copies.double().mean(0) - 1.0).abs().max()) > 1.0


def test_who_survives_resampling_keeps_its_place() -> None:
    log_w = torch.tensor([0.5, 3.4, 0.2, 1.1, 0.4, 0.4]).double().log()
    index = population.systematic(log_w, 0.3)
    assert index.tolist() == [0, 1, 1, 3, 4, 1]  # copies of 1 in the places of 2 and 5
    wide = torch.randn(500, generator=KEY.torch(), dtype=torch.float64)
    index = population.systematic(wide, 0.7)
    alive = torch.bincount(index, minlength=500) > 0
    assert torch.equal(index[alive], torch.arange(500)[alive])
    assert bool((index[~alive].diff() >= 0).all())
    assert 50 < int((~alive).sum()) < 450


def test_longest_step_leaves_the_share_asked_for() -> None:
    energy = torch.randn(500, generator=KEY.torch(), dtype=torch.float64) * 4.0
    step = pilot.longest_step(energy, 1.0, 0.9)
    weights = torch.exp(-step * energy)
    assert float(weights.sum() ** 2 / (500 * weights.square().sum())) == pytest.approx(0.9, abs=1e-9)
    assert pilot.longest_step(energy, 0.5 * step, 0.9) == 0.5 * step


def test_families_entropy_and_rho_t() -> None:
    small = dataclasses.replace(ANNEALING, n_walkers=40)
    result = small.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    for m, family in enumerate(result.family):
        n = np.array([float((family == walker).double().mean()) for walker in range(40)])
        n = n[n > 0.0]
        assert float(result.family_entropy[m]) == pytest.approx(-(n * np.log(n)).sum())
        assert float(result.rho_t[m]) == pytest.approx(40 * (n**2).sum())
    assert result.entropy.shape == result.log_z.shape
    assert result.entropy[:, 0].tolist() == pytest.approx([math.log(40)] * 32)
    assert torch.equal(result.entropy[:, -1], result.family_entropy)
    assert float(result.family_entropy.max()) < math.log(40)


def test_a_summary_names_the_worst_population() -> None:
    result = local("population_annealing")
    summary = result.summary()
    assert summary["lowest_ess"] == float(result.ess.min()) < float(result.ess.max())
    entropy = result.family_entropy
    assert summary["family_entropy"] == float(entropy.min()) < float(entropy.max())
    assert summary["rho_t"] == float(result.rho_t.max()) > float(result.rho_t.min())


def test_walkers_that_are_drawn_follow_the_model() -> None:
    model = machine(3, 2)
    with torch.no_grad():
        energy = model.energy(next(states(5)).float()).double()
    exact = [torch.softmax(-beta * energy, 0) for beta in (0.8, 1.6)]
    settings = dataclasses.replace(ANNEALING, n_walkers=4000, n_populations=8, beta_max=0.8)
    x = settings.draw(model, BlockGibbs(), 3000, KEY, LocalPlacement())
    assert x.shape == (3000, 5)
    counts = np.bincount(((x > 0).long() * 2 ** torch.arange(4, -1, -1)).sum(1).numpy(), minlength=32)
    p_values = [chisquare(counts, 3000 * p.numpy()).pvalue for p in exact]
    assert p_values[0] > 1e-3
    assert p_values[1] < 1e-6


def test_populations_are_drawn_from_by_their_weight() -> None:
    # Of two walkers each: the weights of populations differ, and without them the draws are biased.
    settings = dataclasses.replace(ANNEALING, n_populations=200, n_walkers=2, n_pilot=50, n_sweeps=1, ess=0.4)
    model, summed = MODELS["boltzmann machine"], Summed(MODELS["boltzmann machine"])
    result = settings.run(model, BlockGibbs(), KEY, LocalPlacement())
    assert float(result.log_z[:, -1].std()) > 0.3
    x = settings.draw(model, BlockGibbs(), 1500, KEY, LocalPlacement())
    with torch.no_grad():
        drawn = float(model.energy(x).mean())
    plain, exact = float(result.energies.mean()), summed.energies(torch.tensor([1.2]))[0]
    assert abs(drawn - exact) < 0.5 * abs(plain - exact)


def test_families_only_die_out() -> None:
    result = ANNEALING.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    n_walkers = result.family.shape[1]
    assert bool((result.families[:, 0] == n_walkers).all())
    shares = torch.stack([family.bincount(minlength=n_walkers) for family in result.family]) / n_walkers
    torch.testing.assert_close(result.families[:, -1], 1.0 / shares.double().square().sum(1))
    assert float(result.families[:, -1].max()) < n_walkers
    assert float((result.ess[:, 1:].mean(0) - 0.9).abs()[:-1].max()) < 0.05
    assert bool((result.betas.diff() > 0.0).all())
    assert result.betas[-1] == pytest.approx(1.2)


# All samplers


SMALL: dict[str, Any] = {
    "simulated_annealing": SimulatedAnnealing(
        n_replicas=20, n_temperatures=20, beta_min=0.1, beta_max=2.0, record=True, replicas_per_shard=8
    ),
    "simulated_tempering": SimulatedTempering(
        n_chains=20, n_rungs=4, n_rounds=120, burn_in=40, chains_per_shard=8, beta_max=1.2
    ),
    "replica_exchange": dataclasses.replace(
        EXCHANGE, n_ladders=5, n_rounds=120, burn_in=40, ladders_per_shard=2
    ),
    "jarzynski": Jarzynski(
        n_replicas=20,
        n_steps=120,
        n_reverse=10,
        exchange=ReplicaExchange(n_ladders=2, n_rungs=4, burn_in=16),
        replicas_per_shard=8,
        beta_max=1.2,
    ),
    "population_annealing": dataclasses.replace(ANNEALING, n_populations=4, n_walkers=50, ess=0.99),
}
WITH_DRAW = ("replica_exchange", "population_annealing")


def test_every_registered_sampler_is_tested_here() -> None:
    assert set(SMALL) == set(SAMPLERS)
    assert all(type(SMALL[name]) is load(SAMPLERS, name) for name in SMALL)


@functools.cache
def local(name: str, model: str = "rbm", **settings: Any) -> Any:
    sampler = dataclasses.replace(SMALL[name], **settings)
    return sampler.run(MODELS[model], BlockGibbs(), KEY, LocalPlacement())


@pytest.mark.parametrize("name", SMALL)
def test_the_order_of_the_work_changes_no_bit(name: str) -> None:
    sampler, here = SMALL[name], local(name)
    orders = []
    for seed in (1, 2):
        placement = ShuffledPlacement(seed)
        assert same(here, sampler.run(MODELS["rbm"], BlockGibbs(), KEY, placement))
        orders.append(placement.order)
    assert orders[0] != sorted(orders[0])
    assert not same(here, sampler.run(MODELS["rbm"], BlockGibbs(), KEY._replace(seed=12), LocalPlacement()))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kernel", [BlockGibbs(), Metropolis()], ids=["torch", "compiled"])
def test_threads_change_no_bit(name: str, kernel: Any) -> None:
    here = SMALL[name].run(MODELS["boltzmann machine"], kernel, KEY, LocalPlacement())
    threads = LocalPlacement(3)
    assert same(here, SMALL[name].run(MODELS["boltzmann machine"], kernel, KEY, threads))
    threads.close()


@pytest.mark.slow
def test_ray_changes_no_bit() -> None:
    place = RayPlacement.local(2)
    for name, sampler in SMALL.items():
        assert same(local(name), sampler.run(MODELS["rbm"], BlockGibbs(), KEY, place)), name
        model = MODELS["from base rates"]
        assert same(local(name, "from base rates"), sampler.run(model, BlockGibbs(), KEY, place)), name
    place.close()


@pytest.mark.parametrize("name", SMALL)
def test_the_model_is_put_where_the_workers_are_once(name: str) -> None:
    class Counting(LocalPlacement):
        models = 0

        def put(self, state: Any) -> Any:
            self.models += state is MODELS["rbm"]
            return {"a handle of": state} if state is MODELS["rbm"] else state

        def submit(self, fn: Callable[..., tuple[Any, Any]], handle: Any, *small: Any) -> tuple[Any, Any]:
            assert MODELS["rbm"] not in [each for each in small if each is MODELS["rbm"]]
            values = [each["a handle of"] if isinstance(each, dict) else each for each in small]
            return super().submit(fn, handle, *values)

    place = Counting()
    assert same(local(name), SMALL[name].run(MODELS["rbm"], BlockGibbs(), KEY, place))
    assert place.models == (2 if name == "jarzynski" else 1)  # and once by the exchange within


@pytest.mark.parametrize("name", SMALL)
def test_every_batch_has_a_stream_of_its_own(name: str) -> None:
    result = local(name)
    if name == "simulated_annealing":  # replicas may end in the same state: the shards of 8 differ as wholes
        rows = result.x[:16].view(2, -1)
    else:
        rows = (result.work if name == "jarzynski" else result.energies).flatten(1)
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", SMALL)
def test_the_best_energy_is_that_of_the_best_configuration(name: str, model: str) -> None:
    result, summed = local(name, model), Summed(MODELS[model])
    with torch.no_grad():
        energy = float(MODELS[model].energy(result.best_x[None])[0])
    assert result.best_energy == pytest.approx(energy, abs=1e-5)
    assert result.best_energy == pytest.approx(float(summed.energy.min()), abs=1e-5)  # easily found here
    assert result.best_x.shape == (MODELS[model].n_sites,)
    assert float(result.energies.min()) >= result.best_energy
    assert result.log_z_0 == log_z_0(MODELS[model]) == pytest.approx(summed.log_z(0.0))
    assert result.betas.dtype == torch.float64
    assert bool((result.betas.diff() > 0.0).all())


@pytest.mark.parametrize("name", SMALL)
def test_progress_rises_to_its_end(name: str) -> None:
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int, **figures: float) -> None:
        calls.append((done, total))

    SMALL[name].run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement(), progress)
    done, totals = zip(*calls, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == totals[-1] > 0
    if name not in ("jarzynski", "population_annealing"):  # these learn on their way how far it is
        assert set(totals) == {done[-1]}


class Counted(LocalPlacement):
    """Counts the tasks that are started."""

    started = 0

    def submit(self, fn: Callable[..., tuple[Any, Any]], handle: Any, *small: Any) -> tuple[Any, Any]:
        self.started += 1
        return super().submit(fn, handle, *small)


def add(state: int, shard: int, segment: int) -> tuple[int, int]:
    return state + segment, shard


class Crowded(ShuffledPlacement):
    """Notes how many tasks were under way at once."""

    most = 0

    def submit(self, fn: Callable[..., tuple[Any, Any]], handle: Any, *small: Any) -> tuple[Ticket, Ticket]:
        begun = super().submit(fn, handle, *small)
        self.most = max(self.most, len(self.waiting))
        return begun


@pytest.mark.parametrize("n_shards", [1, 4, 30])
def test_shards_take_turns_where_there_is_no_room_for_all(n_shards: int) -> None:
    place = Crowded(1)
    handles = [place.put(100 * shard) for shard in range(n_shards)]
    states, seen = shards.run(place, add, handles, range(1, 9), join=lambda one, other: other)
    assert [place.fetch(state) for state in states] == [100 * shard + 36 for shard in range(n_shards)]
    assert seen == [[shard] for shard in range(n_shards)]
    assert place.most == min(n_shards, place.room)
    at = [place.order.index(handle) for handle in states]
    assert min(at) >= 0.6 * len(place.order)  # nobody is done long before the others


def stopped(name: str, n_tasks: int, place: Any = None) -> Any:
    """Return the result of a run that is stopped after so many reports."""
    reports = itertools.count(1)
    sampler = SMALL[name]
    if name == "simulated_annealing":
        sampler = dataclasses.replace(sampler, n_temperatures=400, beta_min=0.5)

    def progress(done: int, total: int, **figures: float) -> bool:
        return next(reports) >= n_tasks

    return sampler.run(MODELS["rbm"], BlockGibbs(), KEY, place or LocalPlacement(), progress)


@pytest.mark.parametrize("n_tasks", [1, 2, 9])
@pytest.mark.parametrize("name", SMALL)
def test_a_run_that_is_stopped_returns_what_it_has(name: str, n_tasks: int) -> None:
    place = Counted()
    result = stopped(name, n_tasks, place)
    # At most: the starts, the first tasks of all shards, one for each report, configurations at the end.
    assert place.started <= 4 * 4 + n_tasks
    with torch.no_grad():
        energy = float(MODELS["rbm"].energy(result.best_x[None])[0])
    assert result.best_energy == pytest.approx(energy, abs=1e-5)
    json.dumps(result.summary(), allow_nan=False)
    tensors = result.tensors()
    assert tensors["betas"].isfinite().all()
    assert tensors["energies"].isfinite().all()
    assert same(result, stopped(name, n_tasks))


def test_what_a_stopped_run_has_is_the_beginning_of_the_whole() -> None:
    cooled = stopped("simulated_annealing", 7)
    assert len(cooled.betas) == len(cooled.mean_energy) == 2 * 40  # the second task of all three shards
    exchanged, whole = stopped("replica_exchange", 31), local("replica_exchange")
    assert 0 < exchanged.energies.shape[1] < 120
    assert torch.equal(exchanged.energies, whole.energies[:, : exchanged.energies.shape[1]])
    assert stopped("replica_exchange", 2).summary()["n_rounds"] == 0
    assert stopped("replica_exchange", 2).summary()["swap_rates"] is None
    assert stopped("replica_exchange", 2).mean_x.isnan().all()
    tempered, whole = stopped("simulated_tempering", 31), local("simulated_tempering")
    assert 0 < tempered.rung.shape[1] < 120
    assert torch.equal(tempered.rung, whole.rung[:, : tempered.rung.shape[1]])
    assert stopped("simulated_tempering", 2).rung.shape == (20, 0)
    whole = local("population_annealing")
    for n_tasks, least in ((1, 1), (30, 5)):
        annealed = stopped("population_annealing", n_tasks)
        n = len(annealed.betas)
        assert least <= n < len(whole.betas)
        assert torch.equal(annealed.log_z, whole.log_z[:, :n])
        assert annealed.ess.shape == annealed.entropy.shape == (4, n)


def test_stopped_work_ends_at_the_beta_reached_and_has_no_way_back() -> None:
    whole = local("jarzynski")
    assert whole.reverse_work is not None
    lengths = []
    for n_tasks in (1, 10, 45):
        result = stopped("jarzynski", n_tasks)
        lengths.append(len(result.betas))
        assert result.reverse_work is None
        assert torch.equal(result.work, whole.work[:, : lengths[-1]])
        torch.testing.assert_close(result.work[:, -1] + result.heat, result.change, rtol=0.0, atol=1e-4)
    assert lengths[0] == 1 < lengths[1] < lengths[2] == 121


@pytest.mark.parametrize(("n_tasks", "moves"), [(1, False), (30, True)])
def test_populations_do_not_move_once_their_pilot_was_stopped(n_tasks: int, moves: bool) -> None:
    class Named(LocalPlacement):
        moved = 0

        def submit(self, fn: Callable[..., tuple[Any, Any]], handle: Any, *small: Any) -> tuple[Any, Any]:
            self.moved += fn is population.advance
            return super().submit(fn, handle, *small)

    place = Named()
    stopped("population_annealing", n_tasks, place)
    assert (place.moved > 0) == moves


@pytest.mark.parametrize("name", WITH_DRAW)
def test_a_draw_that_is_stopped_returns_fewer(name: str) -> None:
    def progress(done: int, total: int, **figures: float) -> bool:
        return done > 0

    x = SMALL[name].draw(MODELS["rbm"], BlockGibbs(), 9, KEY, LocalPlacement(), progress)
    assert x.shape == (0, 10)


@pytest.mark.parametrize("name", WITH_DRAW)
def test_a_draw_gives_as_many_as_asked_for(name: str) -> None:
    def draw(n: int, place: Any) -> Tensor:
        drawn: Tensor = SMALL[name].draw(MODELS["rbm"], BlockGibbs(), n, KEY, place)
        return drawn

    for n in (1, 7, 300):
        x = draw(n, LocalPlacement())
        assert x.shape == (n, 10)
        assert n == 300 or torch.equal(x, draw(n, ShuffledPlacement(1)))
        assert bool((x.abs() == 1.0).all())
    with pytest.raises(InputError, match="0 configurations asked for"):
        SMALL[name].draw(MODELS["rbm"], BlockGibbs(), 0, KEY, LocalPlacement())


@pytest.mark.parametrize("name", SMALL)
def test_results_are_written_as_tensors_and_json(name: str) -> None:
    result = local(name)
    assert all(tensor.isfinite().all() for tensor in result.tensors().values())
    assert {"betas", "best_x"} <= result.tensors().keys()
    summary = result.summary()
    assert summary["n_updates"] == result.n_updates > 0
    assert summary["best_energy"] == result.best_energy
    plain = [value for entry in summary.values() for value in (entry if isinstance(entry, list) else [entry])]
    assert all(type(value) in (int, float) and math.isfinite(value) for value in plain)


def test_updates_are_counted() -> None:
    result = local("replica_exchange")
    assert result.n_updates == 5 * 6 * (120 + 40) * 10
    assert result.energies.shape == (5, 120, 6)
    annealed = local("population_annealing")
    assert annealed.n_updates == (4 * 50 + 200) * (len(annealed.betas) - 1) * 2 * 10
    assert local("simulated_annealing").n_updates == 20 * 20 * 2 * 10
    worked = local("jarzynski", schedule="quadratic")
    assert worked.n_updates == (20 + 10) * 119 * 10


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_energies_that_are_not_finite_stop_the_run(name: str, bad: float, n_threads: int) -> None:
    model, place = machine(), LocalPlacement(n_threads)
    with torch.no_grad():
        model.b[2] = bad
    with pytest.raises(FloatingPointError, match=r"energies are not finite: look for") as caught:
        SMALL[name].run(model, BlockGibbs(), KEY, place)
    assert "\n" not in str(caught.value)
    place.close()


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [(ReplicaExchange, {name: 0}) for name in ("n_ladders", "n_rungs", "n_rounds", "burn_in")]
    + [(ReplicaExchange, {name: 0}) for name in ("sweeps_per_round", "ladders_per_shard")]
    + [(ReplicaExchange, {"beta_max": math.inf})]
    + [(PopulationAnnealing, {name: 1}) for name in ("n_populations", "n_walkers", "n_pilot", "ess")]
    + [(PopulationAnnealing, {"n_sweeps": 0}), (PopulationAnnealing, {"beta_max": -1.0})]
    + [(SimulatedTempering, {name: 0}) for name in ("n_chains", "n_rungs", "n_rounds", "burn_in", "beta_max")]
    + [(Jarzynski, {name: 0}) for name in ("n_replicas", "n_steps", "n_sweeps", "n_pilot", "beta_max")]
    + [(Jarzynski, {"n_reverse": 1}), (Jarzynski, {"schedule": "cubic"})],
)
def test_settings_that_make_no_sense_are_named(sampler: Any, settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(InputError, match=rf"{name} is .*, give") as caught:
        sampler(**settings)
    assert "\n" not in str(caught.value)
