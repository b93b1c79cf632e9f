"""Work forward and back gives log Z with an honest error, between two biased sides, or says why not."""

import json
import math

import numpy as np
import pytest
import torch
from exact import Exact
from faults import fault_of
from machines import BoltzmannMachine

from genmodels.estimators import averages, free_energy, jackknife, work
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.samplers import work as sampler
from genmodels.samplers.jarzynski import Worked
from genmodels.streams import Key

KEY = Key(43, "test")
EXACT = Exact(BoltzmannMachine(6))
BETAS = np.linspace(0.0, 1.2, 13)
LOG_Z = np.array([EXACT.log_z(beta) for beta in BETAS])
RATES = {"slow": 0.9, "medium": 0.6, "fast": 0.2}  # share of the replicas drawn anew at each β


def driven(betas: np.ndarray, n: int, rate: float, key: Key, late: bool = False) -> np.ndarray:
    """Return the work on n replicas that start in equilibrium  # (replica, step), cumulative.

    Between two steps each is drawn anew from P_β with probability `rate`; `late` charges work after that.
    """
    random, levels = key.numpy(), EXACT.energy.numpy()
    x = random.choice(len(levels), n, p=EXACT.p(betas[0]).numpy())
    total = [np.zeros(n)]
    for before, beta in zip(betas, betas[1:], strict=False):
        new = random.choice(len(levels), n, p=EXACT.p(beta).numpy())
        old, x = x, np.where(random.random(n) < rate, new, x)
        total.append(total[-1] + (beta - before) * levels[x if late else old])
    return np.stack(total, axis=1)


def worked(forward: np.ndarray, back: np.ndarray | None, betas: np.ndarray = BETAS) -> Worked:
    nothing = torch.zeros(len(forward))
    return Worked(
        betas=torch.from_numpy(betas),
        work=torch.from_numpy(forward),
        heat=nothing,
        change=nothing,
        reverse_work=None if back is None else torch.from_numpy(back),
        energies=torch.from_numpy((forward[:, -1] - forward[:, -2]) / (betas[-1] - betas[-2])),
        x=nothing[:, None],
        log_z_0=6 * math.log(2.0),
        best_energy=0.0,
        best_x=nothing[:1],
        n_updates=1,
    )


def run(seed: int, n: int, n_back: int, rate: float = 0.9, late: bool = False) -> Worked:
    key = KEY._replace(seed=seed)
    back = driven(BETAS[::-1], n_back, rate, key.child("back"), late) if n_back else None
    return worked(driven(BETAS, n, rate, key, late), back)


def scores(result: Worked) -> dict[tuple[str, int], float]:
    """Return by how many standard errors log Z is off, of each side, half way and at the end."""
    curves = work.curves(result)
    pairs = [(name, k) for name in curves for k in (6, 12)]
    return {(name, k): (curves[name][k].value - LOG_Z[k]) / curves[name][k].stderr for name, k in pairs}


def faults(n_runs: int, *settings: int, late: bool = False) -> dict[tuple[str, int], str | None]:
    runs = [scores(run(seed, *settings, late=late)) for seed in range(n_runs)]
    return {name: fault_of(np.array([z[name] for z in runs])) for name in runs[0]}


def normal(gap: float, deviation: float, n: int = 2000) -> Worked:
    """Return work of normal distribution in two steps that fulfils Crooks' theorem: log Z falls by `gap`."""
    random, dissipated = KEY.numpy(), 0.5 * deviation**2
    there, home = (sign * gap + dissipated + deviation * random.normal(size=n) for sign in (1.0, -1.0))
    return worked(np.stack([0.0 * there, there], 1), np.stack([0.0 * home, home], 1), np.array([0.0, 1.0]))


# Against enumeration


@pytest.mark.parametrize("n_back", [300, 200, 0])
def test_errors_of_both_sides_and_of_all_of_it(n_back: int) -> None:
    found = faults(50, 300, n_back)
    assert set(found.values()) == {None}, found
    assert len(found) == (8 if n_back else 2)


def test_work_charged_at_the_wrong_time_is_seen() -> None:
    assert None not in faults(50, 300, 0, late=True).values()
    assert "nats apart" in work.evaluate(run(1, 300, 300, late=True))[0][-1].reason


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
def test_the_equality_holds_at_any_speed_and_the_bounds_are_bounds(rate: float) -> None:
    result = run(1, 50_000, 50_000, rate)
    assert all(abs(z) < 3.5 for z in scores(result).values())
    lower, upper = work.bounds(result)
    assert (lower.kind, upper.kind) == ("lower", "upper")
    assert lower.value + 3.0 * lower.stderr < LOG_Z[-1] < upper.value - 3.0 * upper.stderr


def test_the_slower_the_closer_the_bounds() -> None:
    gaps = [work.bounds(run(1, 5000, 5000, rate)) for rate in RATES.values()]
    widths = [upper.value - lower.value for lower, upper in gaps]
    assert widths == sorted(widths)


def test_energies_are_weighted_by_the_work() -> None:
    truth = [[f(beta) for beta in BETAS[[6, 12]]] for f in (EXACT.mean_energy, EXACT.specific_heat)]
    z = np.empty((50, 2, 2))
    for seed in range(50):
        result = run(seed, 2000, 0, 0.4)
        curve = work.evaluate(result)[0]
        for i, average in enumerate((averages.energies, averages.specific_heat)):
            z[seed, i] = [
                (average(result, curve)[k].value - exact) / average(result, curve)[k].stderr
                for k, exact in zip((6, 12), truth[i], strict=True)
            ]
    assert [fault_of(column) for column in z.reshape(50, 4).T] == [None] * 4
    steps = np.diff(result.work.numpy(), axis=1).mean(0) / np.diff(BETAS)
    assert abs(steps[-1] - truth[0][1]) > 0.3  # unweighted it is off


# Both ways


def test_bennetts_ratio_of_normal_work() -> None:
    # Fulfilling Crooks' theorem, W is normal with variance σ² and means ±ΔF + σ²/2.
    curves = work.curves(normal(gap=-3.0, deviation=1.0))
    exact = 6 * math.log(2.0) + 3.0
    z = {name: (curve[-1].value - exact) / curve[-1].stderr for name, curve in curves.items()}
    assert max(map(abs, z.values())) < 3.5
    errors = {name: curve[-1].stderr for name, curve in curves.items()}
    assert errors[work.BENNETT] < 0.95 * errors[work.BOTH]
    assert errors[work.BOTH] < 0.8 * min(errors[work.FORWARD], errors[work.REVERSE])


def test_the_last_step_of_bennetts_ratio_solves_his_equation() -> None:
    result = run(1, 300, 200)
    c = work.curves(result)[work.BENNETT][-1].value - result.log_z_0
    there, home = (result.work[:, -1].numpy(), result.reverse_work[:, -1].numpy())
    m = math.log(300 / 200)
    left = (1.0 / (1.0 + np.exp(m + there + c))).sum()
    assert left == pytest.approx((1.0 / (1.0 + np.exp(home - m - c))).sum(), rel=1e-9)


def test_a_batch_left_out_is_as_if_it_had_never_been() -> None:
    work_, back = (part.numpy() for part in (run(1, 40, 40).work, run(1, 40, 40).reverse_work))
    every, rest = work._bennett(work_, back)
    without = [work._bennett(np.delete(work_, i, 0), np.delete(back, i, 0)).every for i in range(40)]
    moved = np.abs(np.stack(without) - every).max()
    assert np.abs(np.stack(without) - rest).max() < moved**2
    assert moved > 1e-3
    assert every[0] == pytest.approx(0.0, abs=1e-9)


def test_groups_are_of_equal_size() -> None:
    for n in (7, 100, 151, 1000, 12345):
        n_groups = jackknife.n_groups(n)
        grouped = jackknife.grouped(np.arange(n), n_groups)
        assert grouped.size > 0.98 * n
        assert min(n, 20) <= n_groups <= 100


@pytest.mark.slow
def test_sweeps_in_a_fixed_order_bias_bennetts_ratio_and_nothing_else() -> None:
    model, kernel, n = BoltzmannMachine(6), BlockGibbs(), 600_000
    betas = torch.tensor([0.0, 0.1, 0.4, 1.2], dtype=torch.float32).double()
    state, _ = sampler.draw(None, 0, n, model, kernel, KEY)
    there = sampler.advance(state, 0, (0, 3), model, kernel, betas, 1, KEY)[1].work
    state, _ = sampler.start(None, EXACT.draws(1.2, n, KEY.child("start")), model, kernel, float(betas[-1]))
    back = sampler.advance(state, 0, (0, 3), model, kernel, betas.flip(0), 1, KEY.child("back"))[1].work
    both = (np.pad(part.numpy(), ((0, 0), (1, 0))) for part in (there, back))
    curves, z = work.curves(worked(*both, betas.numpy())), {}
    for name, curve in curves.items():
        z[name] = (curve[-1].value - EXACT.log_z(float(betas[-1]))) / curve[-1].stderr
    assert abs(z.pop(work.BENNETT)) > 7.0
    assert max(map(abs, z.values())) < 3.5


# What it says


def test_the_curve_and_its_figures() -> None:
    curve, figures = work.evaluate(run(1, 300, 300))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert (curve[0].kind, curve[0].value) == ("exact", 6 * math.log(2.0))
    assert (curve[-1].kind, curve[-1].method, curve[-1].n) == ("estimate", work.BOTH, 300)
    assert list(figures["checks"]) == [work.FORWARD, work.REVERSE, work.BOTH, work.BENNETT]
    assert figures["checks"][work.BOTH] == {"value": curve[-1].value, "stderr": curve[-1].stderr}
    assert set(figures["bounds"]) == {"lower", "upper"}
    one_way, figures = work.evaluate(run(1, 300, 0))
    assert one_way[-1].method == "Jarzynski, forward (biased low)"
    assert set(figures["checks"]) == {work.FORWARD}
    assert set(figures["bounds"]) == {"lower"}
    assert 30.0 < figures["forward_ess"] < 300.0


def test_weights_that_are_worth_little_are_refused() -> None:
    curve, figures = work.evaluate(worked(normal(0.0, 3.0, 300).work.numpy(), None, np.array([0.0, 1.0])))
    assert figures["forward_ess"] < 30.0
    assert "are worth" in curve[-1].reason
    assert curve[-1].reason.endswith("give more replicas or sweeps")
    lopsided = normal(0.0, 1.0)
    back = lopsided.reverse_work.clone()
    back[:20, -1] -= 12.0
    curve, _ = work.evaluate(worked(lopsided.work.numpy(), back.numpy(), np.array([0.0, 1.0])))
    assert curve[-1].kind == "undetermined"


def test_sides_that_are_apart_are_refused() -> None:
    result = normal(gap=-3.0, deviation=1.0)
    late, ends = result.work.numpy() + np.array([0.0, 0.8]), np.array([0.0, 1.0])
    curve, figures = work.evaluate(worked(late, result.reverse_work.numpy(), ends))
    assert "nats apart at β = 1" in curve[-1].reason
    assert curve[0].kind == "exact"
    assert free_energy.agree(curve[-1], curve[0]) is False
    assert figures["forward_ess"] > 30.0


def test_both_ways_count_as_two_estimates_and_a_way_alone_as_one() -> None:
    result = run(5, 400, 400)
    ways = free_energy.independent(result)
    assert list(ways) == ["forward", "reverse"]
    assert [curve[-1] for curve in ways.values()] == [
        work.curves(result)[name][-1] for name in (work.FORWARD, work.REVERSE)
    ]
    together, both = free_energy.combined([curve[-1] for curve in ways.values()]), free_energy.log_z(result)
    assert together.value == pytest.approx(both.value, abs=1e-9)
    assert abs(together.value - LOG_Z[-1]) < 4.0 * together.stderr
    alone = run(5, 400, 0)
    assert free_energy.independent(alone) == {"": free_energy.evaluate(alone)[0]}
    biased = run(5, 400, 400, late=True)  # work charged after the sweep: the ways part
    assert not free_energy.agree(*(curve[-1] for curve in free_energy.independent(biased).values()))
