"""Figures while a model learns: log Z along the training, the best parameters, the last good state."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from exact import Exact as Summed
from machines import DoubledBeta
from torch import Tensor

from genmodels.artifacts import load_tensors
from genmodels.estimators import enumeration
from genmodels.estimators.trajectory import Trajectory
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.learners.fit import Shuffled, fit
from genmodels.learners.monitor import Monitor
from genmodels.learners.persistent_contrastive_divergence import PersistentContrastiveDivergence
from genmodels.models.boltzmann_machine import BoltzmannMachine
from genmodels.models.neural_energy import NeuralEnergy
from genmodels.models.rbm import RBM
from genmodels.streams import Key
from pipelines.early_stopping import METRIC, EarlyStopping
from pipelines.tracking import Silent
from pipelines.training import train

KEY = Key(87, "monitor")
N = 8


def truth() -> BoltzmannMachine:
    model, generator = BoltzmannMachine(N), KEY.child("truth").torch()
    with torch.no_grad():
        model.J.copy_(0.5 * torch.randn(N, N, generator=generator).triu(1))
        model.h.copy_(torch.linspace(-0.4, 0.6, N))
    return model


X: Tensor = Summed(truth()).draws(1.0, 600, KEY.child("data"))


def followed(model: Any, trajectory: Trajectory, n_steps: int, key: Key = KEY) -> float:
    """Return by how many standard errors log Z along a training is off at its end."""
    learner = PersistentContrastiveDivergence(n_chains=200, n_sweeps=2, learning_rate=0.05)
    walkers = None
    for done in fit(model, learner, Shuffled(X, 200, key), key, n_steps):
        if done.step % (n_steps // 4) == 0:
            walkers = walkers or trajectory.start(model, key)
            walkers = trajectory.follow(model, walkers, key.child("follow").at(round=done.step))
    assert walkers is not None
    found, exact = trajectory.log_z(walkers), enumeration.known_log_z(model)
    assert found.value is not None
    assert exact is not None
    assert found.stderr is not None
    assert 0.0 < found.stderr < 0.3
    return (found.value - exact.value) / found.stderr


@pytest.mark.parametrize(
    ("make", "n_steps"),
    [
        (lambda: RBM(N, 6), 200),
        (lambda: BoltzmannMachine(N), 200),
        (lambda: NeuralEnergy(N, [8]), 12),
    ],
)
def test_log_z_along_a_training_is_log_z(make: Any, n_steps: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = make()
    assert abs(followed(model, Trajectory(n_walkers=64, n_between=20), n_steps)) < 4.0


def test_walkers_moved_at_twice_the_beta_are_wrong() -> None:
    sizes: dict[str, Any] = {"n_walkers": 256, "n_between": 10}
    assert abs(followed(RBM(N, 6), Trajectory(**sizes, kernel=BlockGibbs()), 400)) < 4.0
    assert abs(followed(RBM(N, 6), Trajectory(**sizes, kernel=DoubledBeta()), 400)) > 10.0


def test_the_figures_are_what_their_names_say() -> None:
    model, learner = RBM(N, 6), PersistentContrastiveDivergence(n_chains=50, learning_rate=0.05)
    *_, done = fit(model, learner, Shuffled(X, 200, KEY), KEY, 40)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    chains = done.state.chains.particles.x.clone()
    figures = Monitor({"train": X[:500], "validation": X[500:]}, KEY)(model, done.state)
    exact = enumeration.log_z(model).value
    held_out = model.log_unnormalised(X[500:]).detach().double().numpy() - exact
    assert figures["log_likelihood_validation"] == pytest.approx(held_out.mean(), abs=1e-6)
    error = held_out.std(ddof=1) / math.sqrt(100)
    assert figures["log_likelihood_validation_stderr"] == pytest.approx(error, rel=1e-6)
    singular = np.linalg.svd(model.W.detach().numpy())[1]
    shown = [figures[f"singular_value_{k}"] for k in (1, 2, 3)]
    assert shown == pytest.approx(singular[:3].tolist(), rel=1e-4)
    back = torch.tanh(torch.tanh(X[:500] @ model.W + model.c) @ model.W.T + model.b)
    assert figures["reconstruction_error"] == pytest.approx(float((X[:500] - back).square().mean() / 4.0))
    assert 0.3 < figures["autocorrelation_time"] < 20.0
    assert figures["pseudo_likelihood_train"] < 0.0
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert torch.equal(done.state.chains.particles.x, chains)


def test_a_resumed_monitor_goes_on_as_if_never_interrupted() -> None:
    model, learner = BoltzmannMachine(20), PersistentContrastiveDivergence(n_chains=20, n_sweeps=1)
    x = torch.cat([X, X, X[:, :4]], 1)
    splits = {"train": x, "validation": x[:100]}
    one, follow = None, Trajectory(n_populations=2, n_walkers=8, n_between=3)
    rows, kept = [], {}
    for done in fit(model, learner, Shuffled(x, 100, KEY), KEY, 9):
        if done.step % 3 == 0:
            one = one or Monitor(splits, KEY, follow)
            rows.append(one(model, done.state))
            if done.step == 6:
                kept = {name: tensor.clone() for name, tensor in one.tensors().items()}
    again = Monitor(splits, KEY, follow)
    again.restore(kept)
    assert again(model, done.state) == rows[-1]
    assert Monitor(splits, KEY, follow)(model, done.state) != rows[-1]


def scratch(folder: Path) -> Any:
    return SimpleNamespace(scratch=folder, name="train@rbm", run=Silent())


def held_out(values: list[float]) -> Any:
    """Return a monitor that tells these figures, one a call."""
    told = iter(values)
    return lambda model, state: {METRIC: next(told)}


def test_the_best_parameters_are_kept_and_the_rest_not_waited_for(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def monitor(model: Any, state: Any) -> dict[str, float]:
        seen.append(model.W.detach().clone())
        return {METRIC: [-3.0, -2.0, -2.5, -2.4, -1.0][len(seen) - 1]}

    model, learner = RBM(N, 3), PersistentContrastiveDivergence(n_chains=10, learning_rate=0.1)
    batches = Shuffled(X, 50, KEY)
    rows = train(scratch(tmp_path), "fit", model, learner, batches, KEY, 200, monitor, EarlyStopping(2))
    assert len(seen) == 4
    assert rows[-1]["step"] == 80.0
    assert torch.equal(model.W, seen[1])
    assert not torch.equal(seen[1], seen[3])


def test_without_patience_the_last_parameters_are_kept(tmp_path: Path) -> None:
    model, learner = RBM(N, 3), PersistentContrastiveDivergence(n_chains=10, learning_rate=0.1)
    falling = held_out([-float(k) for k in range(20)])
    rows = train(scratch(tmp_path), "fit", model, learner, Shuffled(X, 50, KEY), KEY, 200, falling)
    assert rows[-1]["step"] == 200.0


def test_early_stopping_is_resumed() -> None:
    one, model = EarlyStopping(3), RBM(N, 3)
    for value in (-5.0, -4.0, -6.0):
        assert not one.see({METRIC: value}, model)
    other = EarlyStopping(3)
    other.restore(one.tensors())
    assert (other.waited, other.value, sorted(other.best)) == (1, -4.0, ["W", "b", "c"])
    assert not other.see({}, model)
    assert not other.see({METRIC: -4.5}, model)
    assert other.see({METRIC: -4.4}, model)


def test_a_diverging_training_says_where_its_last_good_state_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.training._FROZEN", float("inf"))  # else it ends before it overflows
    model = BoltzmannMachine(N)
    learner = PersistentContrastiveDivergence(n_chains=10, learning_rate=30.0, weight_decay=1.0)
    with pytest.raises(FloatingPointError, match=r"last good state, of step \d+, is in .*-diverged") as info:
        train(scratch(tmp_path), "fit", model, learner, Shuffled(X, 50, KEY), KEY, 100)
    assert "\n" not in str(info.value)
    kept = load_tensors(tmp_path / "fit-diverged" / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())
    assert torch.equal(kept["J"], model.J)
