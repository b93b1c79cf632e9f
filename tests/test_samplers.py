"""Replica exchange and population annealing sample P_β, wherever their shards run."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from machines import BoltzmannMachine, DoubledBeta, machine
from scipy.stats import chisquare
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.estimators.enumeration import states
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.placement.local import LocalPlacement
from genmodels.samplers import ladder, population
from genmodels.samplers.population_annealing import Annealed, PopulationAnnealing
from genmodels.samplers.replica_exchange import Exchanged, ReplicaExchange
from genmodels.streams import Key

KEY = Key(11, "test")
EXCHANGE = ReplicaExchange(
    n_ladders=32, n_rungs=6, n_rounds=300, burn_in=64, sweeps_per_round=1, ladders_per_shard=12, beta_max=1.2
)
ANNEALING = PopulationAnnealing(n_populations=32, n_walkers=300, n_sweeps=2, n_pilot=200, beta_max=1.2)


MODELS = {"rbm": machine(), "boltzmann machine": BoltzmannMachine(6)}


class ShuffledPlacement:
    """Does the work late, in an order of its own, and hands out tickets for handles."""

    n_workers = 3

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.values: dict[int, Any] = {}
        self.waiting: dict[int, Callable[[], tuple[Any, Any]]] = {}
        self.tickets = itertools.count(step=2)  # of a state; the small result has the next number
        self.order: list[int] = []

    def put(self, state: Any) -> int:
        ticket = next(self.tickets)
        self.values[ticket] = state
        return ticket

    def submit(self, fn: Callable[..., tuple[Any, Any]], handle: int, *small: Any) -> tuple[int, int]:
        ticket = next(self.tickets)
        self.waiting[ticket] = lambda: fn(self.fetch(handle), *small)
        return ticket, ticket + 1

    def work(self, ticket: int) -> None:
        ticket -= ticket % 2
        if ticket in self.waiting:
            self.order.append(ticket)
            self.values[ticket], self.values[ticket + 1] = self.waiting.pop(ticket)()

    def wait(self, handles: Sequence[int]) -> Iterator[int]:
        for i in self.random.permutation(len(handles)).tolist():
            self.work(handles[i])
            yield i

    def fetch(self, handle: int) -> Any:
        self.work(handle)
        return self.values[handle]

    def close(self) -> None: ...


def exact_energies(model: nn.Module, betas: Tensor) -> np.ndarray:
    with torch.no_grad():
        energy = torch.cat([model.energy(x.float()) for x in states(model.n_sites)]).double()
    return np.array([float((torch.softmax(-beta * energy, 0) * energy).sum()) for beta in betas.tolist()])


def exact_log_z(model: nn.Module, beta: float) -> float:
    with torch.no_grad():
        energy = torch.cat([model.energy(x.float()) for x in states(model.n_sites)]).double()
    return float((-beta * energy).logsumexp(0))


def exchange_scores(model: nn.Module, result: Exchanged) -> np.ndarray:
    """Return how many standard errors, over ladders, the mean energy of each rung is off."""
    means = result.energies.mean(1).numpy()
    error = means.std(0, ddof=1) / math.sqrt(len(means))
    return (means.mean(0) - exact_energies(model, result.betas)) / error


def annealing_scores(model: nn.Module, result: Annealed) -> np.ndarray:
    """Return the same at each β of populations weighted by their Ẑ, and of log Ẑ at the last."""
    n = len(result.log_z)
    weighted = (result.weights * n).numpy()
    means = (weighted * result.mean_energy.numpy()).mean(0)
    error = (weighted * (result.mean_energy.numpy() - means)).std(0, ddof=1) / math.sqrt(n)
    energies = (means - exact_energies(model, result.betas)) / error
    last = result.log_z[:, -1].numpy()
    log_z = (last.mean() - exact_log_z(model, float(result.betas[-1]))) / (last.std(ddof=1) / math.sqrt(n))
    return np.append(energies, log_z)


def same(one: Exchanged | Annealed, other: Exchanged | Annealed) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


# Replica exchange


@pytest.mark.parametrize("name", MODELS)
def test_exchange_keeps_the_marginal_of_every_rung(name: str) -> None:
    result = EXCHANGE.run(MODELS[name], BlockGibbs(), KEY, LocalPlacement())
    assert np.abs(exchange_scores(MODELS[name], result)).max() < 3.5


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


def test_draw_gives_as_many_as_asked_for_and_independent_of_run() -> None:
    settings = dataclasses.replace(EXCHANGE, n_ladders=5, burn_in=16, ladders_per_shard=2)
    x = settings.draw(MODELS["rbm"], BlockGibbs(), 7, KEY, LocalPlacement())
    assert x.shape == (7, 10)
    assert bool((x.abs() == 1.0).all())
    assert torch.equal(x[:3], settings.draw(MODELS["rbm"], BlockGibbs(), 3, KEY, ShuffledPlacement(1)))


def test_draw_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="0 configurations asked for"):
        EXCHANGE.draw(MODELS["rbm"], BlockGibbs(), 0, KEY, LocalPlacement())


# Population annealing


@pytest.mark.parametrize("name", MODELS)
def test_annealing_keeps_the_marginal_at_every_beta(name: str) -> None:
    result = ANNEALING.run(MODELS[name], BlockGibbs(), KEY, LocalPlacement())
    assert np.abs(annealing_scores(MODELS[name], result)).max() < 3.5


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


def test_longest_step_leaves_the_share_asked_for() -> None:
    energy = torch.randn(500, generator=KEY.torch(), dtype=torch.float64) * 4.0
    step = population.longest_step(energy, 1.0, 0.9)
    weights = torch.exp(-step * energy)
    assert float(weights.sum() ** 2 / (500 * weights.square().sum())) == pytest.approx(0.9, abs=1e-9)
    assert population.longest_step(energy, 0.5 * step, 0.9) == 0.5 * step


def test_families_entropy_and_rho_t() -> None:
    family = torch.tensor([[0, 0, 1, 3], [2, 2, 2, 2]])
    families = torch.tensor([[4.0, 1 / (0.25 + 2 / 16)], [4.0, 1.0]]).double()
    some = torch.zeros(2, 2).double()
    result = Annealed(torch.tensor([0.0, 1.0]), some, some, some, families, family, some, 3, 0)
    assert population.shares(family[0]).tolist() == [0.5, 0.25, 0.0, 0.25]
    assert result.family_entropy.tolist() == pytest.approx([1.5 * math.log(2.0), 0.0])
    assert result.rho_t.tolist() == pytest.approx([4 * 0.375, 4.0])


def test_families_only_die_out() -> None:
    result = ANNEALING.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    n_walkers = result.family.shape[1]
    assert bool((result.families[:, 0] == n_walkers).all())
    shares = torch.stack([population.shares(family) for family in result.family])
    torch.testing.assert_close(result.families[:, -1], 1.0 / shares.square().sum(1))
    assert float(result.families[:, -1].max()) < n_walkers
    assert float((result.ess[:, 1:].mean(0) - 0.9).abs()[:-1].max()) < 0.05
    assert bool((result.betas.diff() > 0.0).all())
    assert result.betas[-1] == pytest.approx(1.2)


# Both


SMALL: list[Any] = [
    dataclasses.replace(EXCHANGE, n_ladders=5, n_rounds=120, burn_in=40, ladders_per_shard=2),
    dataclasses.replace(ANNEALING, n_populations=4, n_walkers=50, ess=0.99),
]
NAMES = ["exchange", "annealing"]


@pytest.mark.parametrize("sampler", SMALL, ids=NAMES)
def test_the_order_of_the_work_changes_no_bit(sampler: Any) -> None:
    here = sampler.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    orders = []
    for seed in (1, 2):
        placement = ShuffledPlacement(seed)
        assert same(here, sampler.run(MODELS["rbm"], BlockGibbs(), KEY, placement))
        orders.append(placement.order)
    assert orders[0] != sorted(orders[0])
    assert not same(here, sampler.run(MODELS["rbm"], BlockGibbs(), KEY._replace(seed=12), LocalPlacement()))


@pytest.mark.parametrize("sampler", SMALL, ids=NAMES)
def test_every_ladder_or_population_has_a_stream_of_its_own(sampler: Any) -> None:
    result = sampler.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    rows = result.energies.flatten(1)
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


@pytest.mark.parametrize("sampler", SMALL, ids=NAMES)
def test_progress_rises_to_its_end(sampler: Any) -> None:
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int, **figures: float) -> None:
        calls.append((done, total))

    sampler.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement(), progress)
    done, totals = zip(*calls, strict=True)
    assert list(done) == sorted(set(done))
    assert set(totals) == {done[-1]}


@pytest.mark.parametrize("sampler", SMALL, ids=NAMES)
def test_results_are_written_as_tensors_and_json(sampler: Any) -> None:
    result = sampler.run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    assert all(tensor.isfinite().all() for tensor in result.tensors().values())
    summary = result.summary()
    assert summary["n_updates"] == result.n_updates > 0
    plain = [value for entry in summary.values() for value in (entry if isinstance(entry, list) else [entry])]
    assert all(type(value) in (int, float) and math.isfinite(value) for value in plain)


def test_updates_are_counted() -> None:
    result = SMALL[0].run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    assert result.n_updates == 5 * 6 * (120 + 40) * 10
    assert result.energies.shape == (5, 120, 6)
    annealed = SMALL[1].run(MODELS["rbm"], BlockGibbs(), KEY, LocalPlacement())
    assert annealed.n_updates == (4 * 50 + 200) * (len(annealed.betas) - 1) * 2 * 10


@pytest.mark.parametrize("sampler", SMALL, ids=NAMES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_energies_that_are_not_finite_stop_the_run(sampler: Any, bad: float) -> None:
    model = machine()
    with torch.no_grad():
        model.b[2] = bad
    with pytest.raises(FloatingPointError, match=r"energies are not finite: look for") as caught:
        sampler.run(model, BlockGibbs(), KEY, LocalPlacement())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [(ReplicaExchange, {name: 0}) for name in ("n_ladders", "n_rungs", "n_rounds", "burn_in")]
    + [(ReplicaExchange, {name: 0}) for name in ("sweeps_per_round", "ladders_per_shard")]
    + [(ReplicaExchange, {"beta_max": math.inf})]
    + [(PopulationAnnealing, {name: 1}) for name in ("n_populations", "n_walkers", "n_pilot", "ess")]
    + [(PopulationAnnealing, {"n_sweeps": 0}), (PopulationAnnealing, {"beta_max": -1.0})],
)
def test_settings_that_make_no_sense_are_named(sampler: Any, settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(InputError, match=rf"{name} is .*, give") as caught:
        sampler(**settings)
    assert "\n" not in str(caught.value)
