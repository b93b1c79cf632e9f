"""Work on driven replicas: Jarzynski's equality at any speed, both ways, and the first law."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from machines import Quadratic
from summed import MODELS, Summed, Warm, ratio_scores, scores
from torch import Tensor

from genmodels.kernels.block_gibbs import BlockGibbs, BlockGibbsState
from genmodels.kernels.mala import MALA
from genmodels.paths import StandardNormal
from genmodels.placement.local import LocalPlacement
from genmodels.protocols import Info
from genmodels.samplers.jarzynski import Jarzynski, Worked
from genmodels.samplers.replica_exchange import ReplicaExchange
from genmodels.streams import Key

KEY = Key(41, "test")
EXCHANGE = ReplicaExchange(n_ladders=100, n_rungs=5, burn_in=64, sweeps_per_round=1, ladders_per_shard=100)
WORK = Jarzynski(n_replicas=6000, n_steps=12, n_pilot=100, replicas_per_shard=3000, beta_max=1.2)
BOTH = dataclasses.replace(WORK, n_reverse=4000, exchange=EXCHANGE)
SPEEDS = {"fast": 3, "slower": 12, "slow": 48}


def run(sampler: Jarzynski, name: str, kernel: Any = None) -> Worked:
    return sampler.run(MODELS[name], kernel or BlockGibbs(), KEY, LocalPlacement())


def z_scores(name: str, work: Tensor, betas: Tensor) -> np.ndarray:
    """Return how many standard errors ⟨exp(−W)⟩ is off Z(β_t)/Z(β_0) of work along some βs, t > 0."""
    log_z = Summed(MODELS[name]).log_zs(betas)
    ratios = np.exp(-work.numpy() - (log_z - log_z[0]))
    return scores(ratios[:, 1:], np.ones(len(betas) - 1))


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_mean_of_exp_minus_work_is_the_ratio_of_partition_functions(name: str, speed: str) -> None:
    result = run(dataclasses.replace(WORK, n_steps=SPEEDS[speed]), name)
    assert result.work.shape == (6000, SPEEDS[speed] + 1)
    assert np.abs(z_scores(name, result.work, result.betas)).max() < 3.5


@pytest.mark.parametrize("schedule", ["adapted", "quadratic"])
def test_the_mean_work_is_more_than_the_free_energy_and_less_the_slower(schedule: str) -> None:
    summed = Summed(MODELS["rbm"])
    dissipated = []
    for n_steps in SPEEDS.values():
        result = run(dataclasses.replace(WORK, n_steps=n_steps, schedule=schedule), "rbm")
        dissipated.append(float(result.work[:, -1].mean()) + summed.log_z(1.2) - summed.log_z(0.0))
    assert dissipated[0] > dissipated[1] > dissipated[2] > 0.0
    assert dissipated[0] > 4.0 * dissipated[2]


@pytest.mark.parametrize("name", MODELS)
def test_forward_and_reverse_bracket_log_z(name: str) -> None:
    result, summed = run(BOTH, name), Summed(MODELS[name])
    assert result.reverse_work is not None
    assert result.reverse_work.shape == (4000, 13)
    assert np.abs(z_scores(name, result.reverse_work, result.betas.flip(0))).max() < 3.5
    change = summed.log_z(float(result.betas[-1])) - summed.log_z(0.0)
    assert float(-result.work[:, -1].mean()) < change < float(result.reverse_work[:, -1].mean())


def test_starts_that_are_not_in_equilibrium_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def uniform(self: Any, model: Any, kernel: Any, n: int, key: Key, *rest: Any) -> Tensor:
        return torch.randint(0, 2, (n, model.n_sites), generator=key.torch()).float() * 2.0 - 1.0

    monkeypatch.setattr(ReplicaExchange, "draw", uniform)
    result = run(BOTH, "boltzmann machine")
    assert result.reverse_work is not None
    assert np.abs(z_scores("boltzmann machine", result.reverse_work, result.betas.flip(0))).max() > 7.0


@dataclasses.dataclass(frozen=True)
class Ahead(BlockGibbs):
    """Moves x at the next β already: the work of a step is charged after the move it should precede."""

    betas: tuple[float, ...] = ()

    def advance(
        self, model: Any, state: BlockGibbsState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[BlockGibbsState, Info]:
        betas = torch.tensor(self.betas)
        later = betas[(torch.searchsorted(betas, beta) + 1).clamp(max=len(betas) - 1)]
        return super().advance(model, state, later, n_sweeps, key)


@pytest.mark.parametrize("speed", ["fast", "slower"])
@pytest.mark.parametrize("name", MODELS)
def test_work_charged_after_the_move_is_seen(name: str, speed: str) -> None:
    sampler = dataclasses.replace(WORK, n_steps=SPEEDS[speed], schedule="quadratic")
    right = run(sampler, name)
    assert np.abs(z_scores(name, right.work, right.betas)).max() < 3.5
    wrong = run(sampler, name, Ahead(betas=tuple(right.betas.tolist())))
    assert torch.equal(wrong.betas, right.betas)
    assert np.abs(z_scores(name, wrong.work, wrong.betas)).max() > 7.0


@pytest.mark.parametrize("name", ["boltzmann machine", "from base rates"])
def test_a_beta_off_by_two_per_cent_is_seen(name: str) -> None:
    # Many sweeps, so that the replicas are near equilibrium, at the wrong β.
    sampler = dataclasses.replace(
        WORK, n_replicas=60_000, replicas_per_shard=60_000, n_steps=16, n_sweeps=4, schedule="quadratic"
    )
    right, wrong = run(sampler, name), run(sampler, name, Warm())
    assert np.abs(z_scores(name, right.work, right.betas)).max() < 3.5
    assert np.abs(z_scores(name, wrong.work, wrong.betas)).max() > 6.0


@pytest.mark.parametrize("name", MODELS)
def test_weighted_energies_and_spins_at_the_end_are_those_of_the_model(name: str) -> None:
    result, summed = run(WORK, name), Summed(MODELS[name])
    weights = (-result.work[:, -1]).softmax(0).numpy()
    beta = result.betas[-1:]
    assert abs(ratio_scores(result.energies.numpy(), weights, summed.energies(beta)[0])) < 3.5
    spins = ratio_scores(result.x.double().numpy(), weights[:, None], summed.moments(float(beta)))
    assert np.abs(spins).max() < 3.5
    # Without the weights they lag behind.
    assert abs(scores(result.energies.numpy(), summed.energies(beta)[0])) > 7.0


@pytest.mark.parametrize("name", MODELS)
def test_work_and_heat_add_up_to_the_change(name: str) -> None:
    result = run(BOTH, name)
    tolerance = 1e-5 if name == "rbm" else 1e-6  # energies in float32
    torch.testing.assert_close(result.work[:, -1] + result.heat, result.change, rtol=0.0, atol=tolerance)
    assert float(result.heat.std()) > 0.3
    assert float((result.work[:, -1] - result.change).abs().max()) > 1.0


class Forgetful(BlockGibbs):
    """A wrong kernel: it moves, and tells the energies from before."""

    def advance(
        self, model: Any, state: BlockGibbsState, beta: Tensor, n_sweeps: int, key: Key
    ) -> tuple[BlockGibbsState, Info]:
        after, info = super().advance(model, state, beta, n_sweeps, key)
        return after._replace(energy=state.energy), info


def test_energies_that_are_not_those_of_the_configurations_break_the_first_law() -> None:
    result = run(WORK, "boltzmann machine", Forgetful())
    assert float((result.work[:, -1] + result.heat - result.change).abs().max()) > 0.1


def test_continuous_states_from_a_normal_distribution() -> None:
    # E = ½(x − μ)ᵀΛ(x − μ): log Z(1) = ½ N log 2π − ½ log det Λ.
    model = StandardNormal(Quadratic())
    exact = 2.0 * math.log(2.0 * math.pi) - 0.5 * float(model.model.precision.detach().logdet())
    sampler = Jarzynski(
        n_replicas=3000, n_steps=30, n_sweeps=2, n_pilot=100, replicas_per_shard=1500, n_reverse=1000,
        exchange=ReplicaExchange(n_ladders=50, n_rungs=5, burn_in=64, ladders_per_shard=50),
    )  # fmt: skip
    result = sampler.run(model, MALA(), KEY, LocalPlacement())
    assert result.reverse_work is not None
    forward = np.exp(-result.work[:, -1].numpy() - (exact - result.log_z_0))
    back = np.exp(-result.reverse_work[:, -1].numpy() + (exact - result.log_z_0))
    assert abs(scores(forward, np.array(1.0))) < 3.5
    assert abs(scores(back, np.array(1.0))) < 3.5
    assert abs(exact - result.log_z_0) > 1.0
    torch.testing.assert_close(result.work[:, -1] + result.heat, result.change, rtol=0.0, atol=1e-4)


def test_an_adapted_schedule_spreads_the_difficulty_over_its_steps() -> None:
    hard = []  # what four steps in five do not reach: the hardest of all is a matter of a few walkers
    for schedule in ("adapted", "quadratic"):
        harder = dataclasses.replace(WORK, n_steps=20, n_sweeps=4, n_pilot=1000, beta_max=5.0)
        result = run(dataclasses.replace(harder, schedule=schedule), "rbm")
        steps, weights = result.work.diff(dim=1), (-result.work[:, :-1]).softmax(0)
        mean = (weights * steps).sum(0)
        hard.append(float((weights * (steps - mean) ** 2).sum(0).quantile(0.8)))
        assert result.betas[-1] == pytest.approx(5.0)
        assert bool((result.betas.diff() > 0.0).all())
    assert hard[0] < 0.5 * hard[1]


def test_both_ways_start_without_work() -> None:
    result = run(BOTH, "rbm")
    assert result.reverse_work is not None
    assert bool((result.work[:, 0] == 0.0).all())
    assert bool((result.reverse_work[:, 0] == 0.0).all())
    summary = result.summary()
    assert (summary["n_replicas"], summary["n_reverse"], summary["n_steps"]) == (6000, 4000, 12)
    assert 0.0 < summary["ess"] < 1.0
    assert run(WORK, "rbm").reverse_work is None
