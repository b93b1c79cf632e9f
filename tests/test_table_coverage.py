"""The table's errors on bars and stripes, whose truth is summed: over 200 seeds, and mistakes that show."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from encoders import all_images
from faults import fault_of
from test_vae import quadrature, small
from torch import Tensor

from genmodels.data.bars_and_stripes import bars_and_stripes
from genmodels.data.sources import Request
from genmodels.estimate import Estimate
from genmodels.estimators import enumeration, exchange, free_energy, importance_weighted, likelihood
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.models.rbm import RBM
from genmodels.models.vae import VAE
from genmodels.placement.local import LocalPlacement
from genmodels.samplers.jarzynski import Jarzynski
from genmodels.samplers.population_annealing import PopulationAnnealing
from genmodels.samplers.replica_exchange import ReplicaExchange
from genmodels.streams import Key

SEEDS = 200
TARGET = bars_and_stripes(Request(size=(4, 4))).target
V = torch.from_numpy(TARGET.states).float()
_ROUND: dict[str, Any] = {"burn_in": 32, "sweeps_per_round": 1}
STARTS = ReplicaExchange(n_ladders=200, n_rungs=4, n_rounds=4, ladders_per_shard=200, **_ROUND)
SAMPLERS: dict[str, Any] = {
    "replica_exchange": ReplicaExchange(
        n_ladders=32, n_rungs=6, n_rounds=120, ladders_per_shard=32, **_ROUND
    ),
    "population_annealing": PopulationAnnealing(
        n_populations=24, n_walkers=400, n_sweeps=2, ess=0.7, n_pilot=200
    ),
    "jarzynski": Jarzynski(
        n_replicas=1200, n_steps=40, schedule="quadratic", n_reverse=1200, exchange=STARTS,
        replicas_per_shard=1200,
    ),
}  # fmt: skip


def machine() -> RBM:
    """Return a machine of 4×4 pixels and 6 hidden units with fields, weights at random."""
    model, generator = RBM(16, 6), Key(5, "weights").torch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.35 * torch.randn(parameter.shape, generator=generator))
    return model


EXACT = enumeration.log_z(machine())


def answers(name: str, model: Any, seed: int) -> dict[str, Estimate]:
    """Return log Z of a run in the ways that the table knows, by the names that it gives them."""
    result = SAMPLERS[name].run(model, BlockGibbs(), Key(seed, f"table/{name}"), LocalPlacement())
    ways = free_energy.independent(result)
    found = {f"{name}_{way}".strip("_"): curve[-1] for way, curve in ways.items()}
    if name == "replica_exchange":
        found["mbar"] = exchange.curves(result)["MBAR"][-1]
    return found


def z_scores(name: str, n: int) -> dict[str, np.ndarray]:
    """Return by how many of their errors the table's likelihoods are off, a run a seed; few are refused."""
    model = machine()
    truth = likelihood.routes(model, V, Key(0, "truth"), {likelihood.ENUMERATION: EXACT})[0].mean().value
    z: dict[str, list[float]] = {}
    for seed in range(n):
        routes = likelihood.routes(model, V, Key(0, "table"), answers(name, model, seed))
        for route in (route for route in routes if route.name and route.values is not None):
            mean = route.mean()
            z.setdefault(route.name, []).append((mean.value - truth) / mean.stderr_estimator)
    assert all(len(values) >= 0.97 * n for values in z.values())
    return {way: np.array(values) for way, values in z.items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_estimators_error_covers_over_200_seeds(name: str) -> None:
    # The bands are those of 400 values, which is stricter than 200 need.
    for way, z in z_scores(name, SEEDS).items():
        share, sd = float((np.abs(z) < 1.0).mean()), float(z.std(ddof=1))
        assert 0.60 <= share <= 0.76, (way, share)
        assert abs(z.mean()) < 4.0 / math.sqrt(SEEDS), (way, z.mean())
        assert 0.85 <= sd <= 1.2, (way, sd)
        assert fault_of(1.6 * z) is not None, way


# Mistakes


def without_bias() -> RBM:
    model = machine()
    torch.nn.init.zeros_(model.b)
    return model


def twice() -> RBM:
    """β twice: in the energy, and again where the sampler applies it."""
    model = machine()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


@pytest.mark.parametrize("name", ["replica_exchange", "population_annealing"])
def test_a_right_log_z_agrees_with_enumeration(name: str) -> None:
    log_z = likelihood.with_enumeration(machine(), answers(name, machine(), 1))
    assert {estimate.kind for estimate in log_z.values()} == {"exact", "estimate"}


@pytest.mark.parametrize("mistaken", [without_bias, twice])
@pytest.mark.parametrize("name", ["replica_exchange", "population_annealing"])
def test_a_wrong_energy_contradicts_enumeration_and_is_refused(
    name: str, mistaken: Callable[[], RBM]
) -> None:
    wrong = answers(name, mistaken(), 1)
    assert all(estimate.value is not None for estimate in wrong.values())
    log_z = likelihood.with_enumeration(machine(), wrong)
    for way in wrong:
        assert log_z[way].kind == "undetermined", way
        assert "contradicts the exact" in log_z[way].reason


def test_a_log_z_of_the_wrong_sign_is_refused() -> None:
    found = answers("replica_exchange", machine(), 1)["replica_exchange"]
    turned = Estimate.from_dict(found.to_dict() | {"value": -found.value})
    log_z = likelihood.with_enumeration(machine(), {"turned": turned})
    routes = {route.name: route for route in likelihood.routes(machine(), V, Key(0, "t"), log_z)}
    assert routes["turned"].values is None
    assert routes[""].kind == "exact"


# Bounds


@functools.cache
def bounded() -> tuple[VAE, Tensor, Tensor]:
    model, x = small(VAE, 2), all_images(6)
    return model, x, quadrature(model, x)


BOUNDS: dict[str, Callable[[Key], tuple[np.ndarray, np.ndarray]]] = {
    "weighted": lambda key: importance_weighted.bounds(bounded()[0], bounded()[1], key, 50).weighted,
    "elbo": lambda key: importance_weighted.bounds(bounded()[0], bounded()[1], key, 50).elbo,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_lower_bounds_do_not_pass_the_truth(name: str) -> None:
    exact = bounded()[2].numpy()
    above = []
    for seed in range(SEEDS):
        values, variances = BOUNDS[name](Key(seed, "bounds"))
        above.append((values - exact).sum() / math.sqrt(variances.sum()))
    assert max(above) < 3.0
    # Raised to the truth in the mean, and half a nat more on every image, it would pass it.
    raised = values + (exact - values).mean() + 0.5
    assert (raised - exact).sum() / math.sqrt(variances.sum()) > 3.0
