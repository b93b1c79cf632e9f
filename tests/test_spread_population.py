"""Populations that are spread over shards: resampled as wholes, walkers moved, the same bytes everywhere."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from machines import machine
from scipy.stats import chisquare
from summed import MODELS, Summed
from test_samplers import Counted, ShuffledPlacement, annealing_scores, same
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimators.enumeration import states
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.kernels.metropolis import Metropolis
from genmodels.placement.local import LocalPlacement
from genmodels.placement.ray import RayPlacement
from genmodels.samplers import population, resampling, spread
from genmodels.samplers.population_annealing import Annealed, PopulationAnnealing
from genmodels.samplers.resampling import Plan
from genmodels.samplers.shards import Report
from genmodels.streams import Key

KEY = Key(11, "test")
SPREAD = PopulationAnnealing(
    n_populations=32, n_walkers=200, n_sweeps=2, ess=0.7, n_pilot=200, beta_max=1.2, walkers_per_shard=50
)
SMALL = dataclasses.replace(SPREAD, n_populations=3, n_walkers=50, ess=0.9, walkers_per_shard=15)
MODEL = MODELS["boltzmann machine"]


@functools.cache
def local(kernel: Any = None, **settings: Any) -> Annealed:
    return dataclasses.replace(SMALL, **settings).run(MODEL, kernel or BlockGibbs(), KEY, LocalPlacement())


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many walkers move at each step."""
    moved: list[int] = []

    def watched(*arguments: Any) -> Plan:
        planned = resampling.plan(*arguments)
        moved.append(sum(len(move.walkers) for move in planned.moves))
        return planned

    monkeypatch.setattr(spread, "plan", watched)
    return moved


@pytest.fixture
def restless(moves: list[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The same, of shards that may hold their fair shares only."""
    monkeypatch.setattr(resampling, "_DRIFT", 1.0)
    return moves


# Against enumeration


def all_scores(name: str, result: Annealed) -> np.ndarray:
    """Return how many standard errors energies, log Z and the mean of each spin at the last β are off."""
    n, exact = len(result.log_z), Summed(MODELS[name]).moments(1.2)
    weighted = (result.weights[:, -1:] * n).numpy()
    mean = (weighted * result.mean_x.numpy()).mean(0)
    error = (weighted * (result.mean_x.numpy() - mean)).std(0, ddof=1) / math.sqrt(n)
    return np.append(annealing_scores(MODELS[name], result), (mean - exact) / error)


@pytest.mark.parametrize("name", MODELS)
def test_a_spread_population_keeps_the_marginal_at_every_beta(name: str) -> None:
    result = SPREAD.run(MODELS[name], BlockGibbs(), KEY, LocalPlacement())
    assert np.abs(all_scores(name, result)).max() < 3.5


def test_walkers_that_move_all_the_time_keep_it_too(restless: list[int]) -> None:
    result = SPREAD.run(MODEL, Metropolis(), KEY, LocalPlacement())
    assert np.abs(all_scores("boltzmann machine", result)).max() < 3.5
    assert len(restless) == 32 * (len(result.betas) - 1)
    assert min(restless) < max(restless)
    assert sum(moved > 0 for moved in restless) > 0.9 * len(restless)


def alone(log_w: Tensor, sizes: Sequence[int], uniform: float) -> Plan:
    """Resample each shard by itself, whatever the weight of the shard."""
    planned = resampling.plan(log_w, sizes, uniform)
    stay = [population.systematic(each, uniform) for each in torch.split(log_w, list(sizes))]
    return planned._replace(stay=stay, moves=[])


def of_the_next_shard(log_w: Tensor, sizes: Sequence[int], uniform: float) -> Plan:
    """Give walkers the weights of others."""
    return resampling.plan(log_w.roll(sizes[0]), sizes, uniform)


def of_half_the_step(log_w: Tensor, sizes: Sequence[int], uniform: float) -> Plan:
    """Weigh by half of what β rises."""
    return resampling.plan(0.5 * log_w, sizes, uniform)


@functools.cache
def in_shreds(wrong: Any = None) -> float:
    """Return the largest score of populations in shards of three, each of which says little of the whole."""
    sampler = dataclasses.replace(SPREAD, n_walkers=36, n_sweeps=1, ess=0.5, walkers_per_shard=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spread, "plan", wrong or resampling.plan)
        result = sampler.run(MODEL, BlockGibbs(), KEY, LocalPlacement())
    return float(np.abs(all_scores("boltzmann machine", result)).max())


@pytest.mark.parametrize("wrong", [alone, of_the_next_shard, of_half_the_step])
def test_a_plan_that_is_wrong_is_seen(wrong: Any) -> None:
    assert in_shreds() < 3.5
    assert in_shreds(wrong) > 6.0


# Who is copied and who moves


def drifted(seed: int) -> tuple[Tensor, list[int], Plan]:
    """Return log weights, sizes of shards that have drifted, and the plan."""
    random = Key(seed, "drifted").numpy()
    sizes = random.integers(1, 40, 6).tolist()
    log_w = torch.from_numpy(random.normal(size=sum(sizes)) - 700.0)
    return log_w, sizes, resampling.plan(log_w, sizes, float(random.random()))


def dealt(sizes: list[int], plan: Plan) -> list[Tensor]:
    """Return the copies of each shard's walkers, of those that stay and those that go  # (shard,)."""
    every = [[stay] for stay in plan.stay]
    for source, _, walkers in plan.moves:
        every[source].append(walkers)
    return [torch.bincount(torch.cat(each), minlength=n) for each, n in zip(every, sizes, strict=True)]


def after(plan: Plan) -> list[int]:
    sizes = [len(stay) for stay in plan.stay]
    for _, target, walkers in plan.moves:
        sizes[target] += len(walkers)
    return sizes


@pytest.mark.parametrize("seed", range(20))
def test_copies_are_those_of_the_population_as_a_whole(seed: int) -> None:
    log_w, sizes, plan = drifted(seed)
    n, expected = len(log_w), log_w.softmax(0) * len(log_w)
    copies = dealt(sizes, plan)
    assert len(torch.cat(copies)) == n == int(torch.cat(copies).sum()) == sum(after(plan))
    assert bool(((torch.cat(copies) - expected).abs() < 1.0).all())
    # The points of a shard are neighbours: it gets ⌊ ⌋ or ⌈ ⌉ of what its weight says, too.
    for each, weight in zip(copies, torch.split(expected, sizes), strict=True):
        assert math.floor(weight.sum()) <= int(each.sum()) <= math.ceil(weight.sum())
    assert float(plan.log_ratio) + 700.0 == pytest.approx(math.log(float((log_w + 700.0).exp().mean())))
    assert float(plan.ess) == pytest.approx(float(n / expected.square().sum()))


def test_on_average_every_walker_gets_what_its_weight_says() -> None:
    log_w, sizes, _ = drifted(0)
    plans = [resampling.plan(log_w, sizes, (i + 0.5) / 400) for i in range(400)]
    copies = torch.stack([torch.cat(dealt(sizes, plan)) for plan in plans]).double().mean(0)
    np.testing.assert_allclose(copies, log_w.softmax(0) * len(log_w), atol=5e-3)


def test_walkers_move_only_where_shares_have_drifted_too_far() -> None:
    even, n = torch.zeros(40, dtype=torch.float64), 0
    assert resampling.plan(even, [12, 8, 10, 10], 0.4).moves == []
    for sizes in ([13, 9, 9, 9], [11, 11, 11, 7], [40, 0, 0, 0], [0, 1, 0, 39]):
        plan = resampling.plan(even, sizes, 0.4)
        n += len(plan.moves)
        assert after(plan) == [10, 10, 10, 10]
        assert sum(len(move.walkers) for move in plan.moves) == sum(max(0, size - 10) for size in sizes)
    assert n == 3 + 3 + 3 + 3


@pytest.mark.parametrize("seed", range(5))
def test_what_moves_turns_what_is_held_into_fair_shares(seed: int) -> None:
    random = Key(seed, "held").numpy()
    held = random.integers(0, 50, 7).tolist()
    shares, moved = resampling.fair(sum(held), 7), np.array(held)
    assert sum(shares) == sum(held)
    assert max(shares) - min(shares) <= 1
    for source, target, n in resampling.transport(held, shares):
        assert n > 0
        assert held[source] > shares[source]
        assert held[target] < shares[target]
        moved[source] -= n
        moved[target] += n
    assert moved.tolist() == shares


def test_who_is_placed_keeps_its_place_whatever_the_number_of_copies() -> None:
    for copies, index in (
        ([0, 3, 0, 1, 1, 1], [1, 1, 1, 3, 4, 5]),
        ([0, 1, 0, 0, 1, 2], [4, 1, 5, 5]),
        ([2, 1, 3], [0, 1, 2, 0, 2, 2]),
        ([0, 0], []),
    ):
        assert population.placed(torch.tensor(copies)).tolist() == index


def test_walkers_that_are_given_arrive_with_their_families() -> None:
    (one, _), (other, _) = (
        spread.start(None, shard, 10 * shard, 10, MODEL, Metropolis(), KEY) for shard in (0, 1)
    )
    gift, _ = spread.give(other, torch.tensor([7, 7, 2]), Metropolis())
    stay = torch.tensor([0, 0, 9])
    small = (1.2, 0, MODEL, Metropolis(), KEY)  # no sweeps
    state, seen = spread.advance(one, stay, *small, gift, gift)
    x = torch.cat([Metropolis().configuration(each.walkers) for each in (one, other)])
    rows = [0, 0, 9, 17, 17, 12, 17, 17, 12]
    assert torch.equal(Metropolis().configuration(state.walkers), x[rows])
    assert seen.family.tolist() == state.family.tolist() == rows
    with torch.no_grad():
        torch.testing.assert_close(seen.energies, MODEL.energy(x[rows]).double(), rtol=0.0, atol=1e-5)
    alone, _ = spread.advance(one, stay[:0], *small, gift)
    assert alone.family.tolist() == [17, 17, 12]


# What the result says


@pytest.mark.parametrize("walkers_per_shard", [15, 1])
@pytest.mark.parametrize("kernel", [BlockGibbs(), Metropolis()], ids=["torch", "compiled"])
def test_the_result_is_that_of_the_walkers_where_they_are(
    kernel: Any, walkers_per_shard: int, moves: list[int]
) -> None:
    sampler = dataclasses.replace(SMALL, walkers_per_shard=walkers_per_shard)
    result, ends = sampler._run(MODEL, kernel, KEY, LocalPlacement(), Report(None))
    assert sum(moves) > 0
    for m, held in enumerate(ends):
        x = torch.cat([kernel.configuration(state.walkers) for state, _ in held])
        assert [len(state.family) for state, _ in held] == [n for _, n in held]
        assert torch.equal(torch.cat([state.family for state, _ in held]), result.family[m])
        with torch.no_grad():
            torch.testing.assert_close(result.energies[m], MODEL.energy(x).double(), rtol=0.0, atol=1e-5)
        torch.testing.assert_close(result.mean_x[m], x.double().mean(0))
    shares = torch.stack([family.bincount(minlength=50) for family in result.family]).double() / 50
    torch.testing.assert_close(result.rho_t, 50 * shares.square().sum(1))
    torch.testing.assert_close(result.family_entropy, torch.special.entr(shares).sum(1))
    torch.testing.assert_close(result.mean_energy[:, -1], result.energies.mean(1))
    assert result.entropy[:, 0].tolist() == pytest.approx([math.log(50)] * 3)
    assert result.families[:, 0].tolist() == pytest.approx([50.0] * 3)
    assert float(result.families[:, -1].max()) < 50.0
    assert float((result.ess[:, 1:-1].mean(0) - 0.9).abs().max()) < 0.05
    assert result.n_updates == (3 * 50 + 200) * (len(result.betas) - 1) * 2 * 6
    assert (
        float(result.energies.min()) >= result.best_energy == pytest.approx(float(Summed(MODEL).energy.min()))
    )


def test_walkers_that_are_drawn_follow_the_model() -> None:
    model = machine(3, 2)
    with torch.no_grad():
        energy = model.energy(next(states(5)).float()).double()
    exact = [torch.softmax(-beta * energy, 0) for beta in (0.8, 1.6)]
    sampler = dataclasses.replace(
        SPREAD, n_walkers=4000, n_populations=8, beta_max=0.8, walkers_per_shard=600
    )
    x = sampler.draw(model, BlockGibbs(), 3000, KEY, LocalPlacement())
    assert x.shape == (3000, 5)
    counts = np.bincount(((x > 0).long() * 2 ** torch.arange(4, -1, -1)).sum(1).numpy(), minlength=32)
    p_values = [chisquare(counts, 3000 * p.numpy()).pvalue for p in exact]
    assert p_values[0] > 1e-3
    assert p_values[1] < 1e-6


@pytest.mark.parametrize("kernel", [BlockGibbs(), Metropolis()], ids=["torch", "compiled"])
def test_a_population_in_one_shard_gives_the_bytes_of_one_that_is_not_spread(kernel: Any) -> None:
    assert same(local(kernel, walkers_per_shard=50), local(kernel, walkers_per_shard=None))
    assert same(local(kernel, walkers_per_shard=70), local(kernel, walkers_per_shard=None))
    assert not same(local(kernel), local(kernel, walkers_per_shard=None))
    one, whole = (dataclasses.replace(SMALL, walkers_per_shard=n) for n in (50, None))
    drawn = [each.draw(MODEL, kernel, 40, KEY, LocalPlacement()) for each in (one, whole)]
    assert torch.equal(*drawn)


# Where it runs


class Backwards(LocalPlacement):
    """Says of the last handles that they are done first, for as long as there are some."""

    def __init__(self) -> None:
        super().__init__()
        self.room = 100

    def wait(self, handles: Sequence[Any]) -> list[int]:
        return [len(handles) - 1] if handles else []


def test_neither_threads_nor_the_order_of_the_work_change_a_bit() -> None:
    threads = LocalPlacement(2)
    x = SMALL.draw(MODEL, BlockGibbs(), 40, KEY, LocalPlacement())
    for place in (threads, Backwards(), ShuffledPlacement(1), ShuffledPlacement(2)):
        assert same(local(), SMALL.run(MODEL, BlockGibbs(), KEY, place))
        assert torch.equal(x, SMALL.draw(MODEL, BlockGibbs(), 40, KEY, place))
    assert same(local(Metropolis()), SMALL.run(MODEL, Metropolis(), KEY, threads))
    threads.close()


def test_populations_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    plain = spread.advance

    def watched(*arguments: Any) -> Any:
        calls.append(arguments[6].shard // 4)  # the population, of four shards each
        return plain(*arguments)

    monkeypatch.setattr(spread, "advance", watched)
    assert same(local(), SMALL.run(MODEL, BlockGibbs(), KEY, Backwards()))
    n = 4 * (len(local().betas) - 1)

    assert calls == [2] * n + [1] * n + [0] * n
    calls.clear()
    SMALL.run(MODEL, BlockGibbs(), KEY, LocalPlacement())
    assert calls == [0] * 4 + [1] * 4 + [2] * 4 + calls[:-12]  # in turns


@pytest.mark.slow
def test_ray_changes_no_bit(moves: list[int]) -> None:
    assert same(local(), SMALL.run(MODEL, BlockGibbs(), KEY, LocalPlacement()))
    assert sum(moves) > 0  # as they do on Ray
    bad = machine()
    with torch.no_grad():
        bad.b[2] = torch.nan
    for n_workers in (1, 2):
        place = RayPlacement.local(n_workers)
        try:
            assert same(local(), SMALL.run(MODEL, BlockGibbs(), KEY, place))
            if n_workers == 2:
                with pytest.raises(FloatingPointError, match="energies are not finite: look for"):
                    SMALL.run(bad, BlockGibbs(), KEY, place)
        finally:
            place.close()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_energies_that_are_not_finite_stop_the_run(n_threads: int) -> None:
    model, place = machine(), LocalPlacement(n_threads)
    with torch.no_grad():
        model.b[2] = torch.nan
    with pytest.raises(FloatingPointError, match="energies are not finite: look for"):
        SMALL.run(model, BlockGibbs(), KEY, place)
    place.close()


# Progress and the end


@pytest.mark.parametrize("place", [LocalPlacement, Backwards])
@pytest.mark.parametrize("n_reports", [1, 2, 12, 16])
def test_a_run_that_is_stopped_is_the_beginning_of_the_whole(n_reports: int, place: Any) -> None:
    reports, whole = itertools.count(1), local()

    def progress(done: int, total: int, **figures: float) -> bool:
        return next(reports) >= n_reports

    result = SMALL.run(MODEL, BlockGibbs(), KEY, place(), progress)
    n = len(result.betas)
    assert n < len(whole.betas)
    for name in ("log_z", "mean_energy", "ess", "families", "entropy"):
        assert torch.equal(getattr(result, name), getattr(whole, name)[:, :n])
    assert result.energies.shape == result.family.shape == (3, 50)
    torch.testing.assert_close(result.energies.mean(1), result.mean_energy[:, -1])
    assert result.mean_x.shape == (3, 6)
    drawn = SMALL.draw(MODEL, BlockGibbs(), 5, KEY, place(), lambda done, total, **figures: True)
    assert drawn.shape == (0, 6)


def test_steps_that_all_have_reached_count() -> None:
    lengths = []
    for n_reports in (4, 9):
        reports, place = itertools.count(1), Counted()

        def progress(done: int, total: int, **figures: float) -> bool:
            return "pilot" not in figures and next(reports) >= n_reports  # noqa: B023

        lengths.append(len(SMALL.run(MODEL, BlockGibbs(), KEY, place, progress).betas))
        pilot = 1 + math.ceil((len(local().betas) - 1) / 10)
        # Starts, advances and judgements of so many steps of three populations of four shards, and means.
        assert place.started <= pilot + 3 * 5 * (lengths[-1] + 1) + 3 * 4
    assert lengths == [3, 4]  # of β, 0 included: steps under way are finished


def test_progress_rises_to_its_end() -> None:
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int, **figures: float) -> None:
        calls.append((done, total)) if "pilot" not in figures else None

    SMALL.run(MODEL, BlockGibbs(), KEY, LocalPlacement(), progress)
    n = 3 * (len(local().betas) - 1)
    assert calls == [(i + 1, n) for i in range(n)]


@pytest.mark.parametrize("bad", [0, -3])
def test_shards_without_walkers_are_refused(bad: int) -> None:
    with pytest.raises(
        InputError, match=f"^population annealing: walkers_per_shard is {bad}, give at least 1$"
    ):
        PopulationAnnealing(walkers_per_shard=bad)
