"""Simulated annealing finds ground states, and what it records of the way is right."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from summed import MODELS, Summed, Warm
from torch import Tensor

from genmodels.couplings import Couplings
from genmodels.errors import InputError
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.models.ising import Ising
from genmodels.placement.local import LocalPlacement
from genmodels.samplers import simulated_annealing
from genmodels.samplers.simulated_annealing import Cooled, SimulatedAnnealing
from genmodels.streams import Key

KEY = Key(51, "test")
ANNEALING = SimulatedAnnealing(
    n_replicas=200, n_temperatures=40, n_sweeps=2, beta_min=0.05, beta_max=4.0, replicas_per_shard=100
)


def run(sampler: SimulatedAnnealing, model: Any, kernel: BlockGibbs | None = None) -> Cooled:
    return sampler.run(model, kernel or BlockGibbs(), KEY, LocalPlacement())


def glass(n_sites: int = 18) -> Ising:
    """Return a glass of ±1 couplings and unequal fields, enumerable."""
    random = np.random.default_rng(3)
    i, j = np.triu_indices(n_sites, 1)
    kept = random.random(len(i)) < 0.4
    J = random.choice([-1.0, 1.0], kept.sum())
    return Ising.of(Couplings(n_sites, i[kept], j[kept], J, random.normal(size=n_sites) * 0.2))


@pytest.mark.parametrize("name", MODELS)
def test_the_ground_state_is_found(name: str) -> None:
    result, summed = run(ANNEALING, MODELS[name]), Summed(MODELS[name])
    assert result.best_energy == pytest.approx(float(summed.energy.min()), rel=1e-6)
    assert torch.equal(result.best_x, summed.x[summed.energy.argmin()])


def test_annealing_beats_descent_from_random_starts_and_that_beats_nothing() -> None:
    model = glass()
    ground = float(Summed(model).energy.min())

    def share(sampler: SimulatedAnnealing) -> float:
        return float((run(sampler, model).energies < ground + 1e-9).double().mean())

    descent = dataclasses.replace(ANNEALING, descent=True)
    assert share(ANNEALING) > 2.0 * share(descent) > 0.0
    hot = dataclasses.replace(ANNEALING, beta_max=0.06)
    assert share(hot) < share(descent)


def test_descent_ends_where_no_flip_gains() -> None:
    model = glass()
    result = run(dataclasses.replace(ANNEALING, descent=True), model)
    flipped = result.x[:, None] * (1.0 - 2.0 * torch.eye(model.n_sites))
    with torch.no_grad():
        cost = model.energy(flipped.flatten(0, 1)).view(200, -1) - result.energies[:, None]
    assert float(cost.min()) > -1e-9
    assert len(result.energies.unique()) > 3


@pytest.mark.parametrize("schedule", ["geometric", "linear"])
def test_schedules_go_from_end_to_end(schedule: str) -> None:
    betas = run(dataclasses.replace(ANNEALING, schedule=schedule), MODELS["rbm"]).betas
    assert (float(betas[0]), float(betas[-1])) == (pytest.approx(0.05), pytest.approx(4.0))
    even = betas.log().diff() if schedule == "geometric" else betas.diff()
    np.testing.assert_allclose(even, float(even.mean()), rtol=1e-4)
    assert betas.float().double().equal(betas)


@pytest.mark.parametrize("name", ["boltzmann machine", "from base rates"])
def test_a_slow_way_is_one_of_equilibria_and_a_beta_off_by_two_per_cent_is_seen(name: str) -> None:
    slow = SimulatedAnnealing(
        n_replicas=80_000, n_temperatures=6, n_sweeps=25, beta_min=0.3, beta_max=1.1, schedule="linear",
        record=True, replicas_per_shard=80_000,
    )  # fmt: skip
    model, summed = MODELS[name], Summed(MODELS[name])
    off = []
    for kernel in (BlockGibbs(), Warm()):
        result = run(slow, model, kernel)
        assert result.mean_energy is not None
        squares = [float(summed.log_p(b).softmax(0) @ summed.energy**2) for b in result.betas.tolist()]
        exact = summed.energies(result.betas)
        error = np.sqrt((np.array(squares) - exact**2) / 80_000)
        off.append(float(np.abs((result.mean_energy.numpy() - exact) / error).max()))
    assert off[0] < 3.5
    assert off[1] > 6.0


def test_many_temperatures_go_in_one_call_unless_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []

    class Watched(BlockGibbs):
        def advance(self, model: Any, state: Any, beta: Tensor, n_sweeps: int, key: Key) -> Any:
            calls.append(beta)
            assert n_sweeps == len(beta)
            return super().advance(model, state, beta, n_sweeps, key)

    one = dataclasses.replace(ANNEALING, replicas_per_shard=200)
    result = run(one, MODELS["rbm"], Watched())
    assert [beta.shape for beta in calls] == [(80, 200)]
    assert torch.equal(calls[0], result.betas.repeat_interleave(2).float()[:, None].expand(-1, 200))
    assert result.n_updates == 200 * 80 * 10
    calls.clear()
    monkeypatch.setattr(simulated_annealing, "_CALL", 200 * 10 * 2 * 16)
    run(one, MODELS["rbm"], Watched())
    assert [len(beta) for beta in calls] == [32, 32, 16]
    calls.clear()
    recorded = run(dataclasses.replace(one, record=True), MODELS["rbm"], Watched())
    assert [len(beta) for beta in calls] == [2] * 40
    assert recorded.mean_energy is not None
    assert float(recorded.mean_energy[-1]) == pytest.approx(float(recorded.energies.mean()))


def test_final_energies_are_those_of_the_configurations() -> None:
    model = glass()
    result = run(ANNEALING, model)
    with torch.no_grad():
        torch.testing.assert_close(result.energies, model.energy(result.x))
    assert bool((result.lowest <= result.energies).all())
    assert float(result.lowest.min()) == result.best_energy


def test_temperatures_are_derived_from_couplings() -> None:
    model = glass()
    result = run(dataclasses.replace(ANNEALING, beta_min=None, beta_max=None), model)
    assert result.best_energy == pytest.approx(float(Summed(model).energy.min()))
    low = dataclasses.replace(ANNEALING, beta_min=None, beta_max=0.001)
    assert run(low, model).betas.max() == pytest.approx(0.001)  # below what would be the first β
    plain = SimpleNamespace(n_sites=6, energy=MODELS["boltzmann machine"].energy)
    with pytest.raises(InputError, match="has no couplings to derive temperatures from: give beta_min"):
        run(dataclasses.replace(ANNEALING, beta_min=None), plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_replicas": 0}, "n_replicas is 0, give at least 1"),
        ({"beta_max": -1.0}, "beta_max is -1.0, give a positive number"),
        ({"beta_min": 5.0}, "beta_min is 5.0, give at most beta_max = 4.0"),
        ({"schedule": "cubic"}, "schedule is 'cubic', give one of"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(ANNEALING, **settings)
