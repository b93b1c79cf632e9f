"""The probability flow's likelihood against densities and probabilities in closed form."""

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from optimal import LOG_P, STATES, Gaussian, Levels
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimators import probability_flow, variational
from genmodels.models.diffusion import Diffusion
from genmodels.streams import Key

T_0 = torch.tensor(1.0)


class Explodes(Gaussian):
    """Its flow runs the other way, and so does its divergence."""

    def drift(self, z: Tensor, gamma: float, *rest: Any) -> Tensor:
        return -super().drift(z, gamma, *rest)


def flows(kind: type[Gaussian], trace: str, **settings: Any) -> tuple[float, float]:
    """Return the mean of log p_0(z) − its true value over samples z, and its standard error."""
    model = kind(gamma_max=12.0, **settings)
    exact = model.density(T_0)
    key = Key(1, "flow")
    z = exact.mean + torch.randn(800, 3, generator=key.torch(), dtype=torch.float64) @ exact.scale_tril.T
    bits = torch.randint(0, 2, z.shape, generator=key.child("probe").torch())
    probe = (2 * bits - 1).double() if trace == "hutchinson" else None
    off = probability_flow.log_density(model, z, 15, probe) - exact.log_prob(z)
    return float(off.mean()), float(off.std()) / math.sqrt(len(off))


@pytest.mark.parametrize("prediction", ["eps", "x"])
def test_the_density_of_gaussian_data_is_exact_with_the_exact_trace(prediction: str) -> None:
    off, error = flows(Gaussian, "exact", prediction=prediction)
    assert abs(off) < 2e-3
    assert error < 1e-3
    assert abs(flows(Explodes, "exact")[0]) > 1.0


def test_an_estimated_trace_is_right_in_the_mean() -> None:
    off, error = flows(Gaussian, "hutchinson")
    assert error < 0.05
    assert abs(off) < 3.0 * error
    assert abs(flows(Explodes, "hutchinson")[0]) > 1.0


def test_the_wrong_sign_of_the_divergence_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = probability_flow._divergence
    monkeypatch.setattr(probability_flow, "_divergence", lambda *given: -right(*given))
    assert abs(flows(Gaussian, "exact")[0]) > 1.0


def test_the_flow_finds_the_density_of_noisy_levels() -> None:
    model, key = Levels(0.5), Key(2, "noisy")
    chosen = torch.multinomial(LOG_P.exp(), 300, True, generator=key.torch())
    x = STATES[chosen]
    z = model.noise.add(model.encode(x), model.noise.least(x), torch.randn(300, 2, generator=key.torch()))
    signal, spread = model.noise.scales(T_0[None], z)
    away = (z[:, None] - signal * model.encode(STATES)) / spread
    normal = -0.5 * (away.square() + math.log(2.0 * math.pi)) - spread.log()
    exact = (LOG_P + normal.sum(2)).logsumexp(1)
    assert float((probability_flow.log_density(model, z, 40) - exact).abs().max()) < 5e-3


@functools.cache
def integrals() -> tuple[float, float]:
    """Return Σ P of E_q log [q(x|z) p_0(z)/q(z|x)] and of log ∫ q(x|z) p_0(z) dz, on a fine grid of z."""
    model = Levels(-3.0)
    line = torch.linspace(-2.2, 2.2, 351, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).view(-1, 2)
    signal, spread = (scale[0, 0] for scale in model.noise.scales(T_0[None], z))
    away = (z[:, None] - signal * model.encode(STATES)) / spread
    log_q = (-0.5 * (away.square() + math.log(2.0 * math.pi)) - spread.log()).sum(2)  # (z, state)
    log_p0 = (LOG_P + log_q).logsumexp(1)
    log_x = torch.stack([model.log_reconstruction(x.expand_as(z), z) for x in STATES], 1)
    cell = float(line[1] - line[0]) ** 2
    plain = (log_q.exp() * (log_x + log_p0[:, None] - log_q)).sum(0) * cell
    whole = (log_x + log_p0[:, None]).logsumexp(0) + math.log(cell)
    return float(LOG_P.exp() @ plain), float(LOG_P.exp() @ whole)


def averages(copies: int = 3, **settings: Any) -> tuple[float, float]:
    """Return Σ P of the bound, and its standard error."""
    x = STATES.repeat(copies, 1)
    defaults: dict[str, Any] = {"n_steps": 15, "n_repeats": 8, "trace": "exact"}
    values, variances = probability_flow.bound(Levels(-3.0), x, Key(3, "bound"), **(defaults | settings))
    weights = LOG_P.exp().repeat(copies).numpy() / copies
    return float(weights @ values), math.sqrt(float(weights**2 @ variances))


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_levels_are_bounded_as_an_integral_says(trace: str) -> None:
    value, error = averages(trace=trace)
    assert abs(value - integrals()[0]) < 3.0 * error
    assert error < (0.1 if trace == "exact" else 0.2)
    assert value < float((LOG_P.exp() * LOG_P).sum())


def test_the_weighted_bound_is_between_the_plain_one_and_the_whole_integral() -> None:
    plain, whole = integrals()
    value, error = averages(weighted=True, n_repeats=64, n_steps=10)
    assert plain + 3.0 * error < value < whole + 3.0 * error


def test_the_bound_of_independent_levels_is_that_of_a_sum_over_cells() -> None:
    # A flow that is exact for N(0, 1) pixels: P(v) is bounded by the density over a level's cell.
    class Normal(Diffusion):
        def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return torch.zeros_like(z)

    settings: dict[str, Any] = {"levels": 4, "prediction": "residual", "objective": "eps"}
    model = Normal((2, 1), (8,), 20, 0.0, -6.0, 6.0, **settings).double()
    x = torch.tensor([[0.0, 3.0], [1.0, 1.0]]).double().repeat(400, 1)
    key = Key(4, "cells")
    values, variances = probability_flow.bound(model, x, key, 4, 8, "exact", "uniform")
    signal = math.sqrt(1.0 / (1.0 + math.exp(-6.0)))
    edges = signal * torch.stack([model.encode(x) - 0.25, model.encode(x) + 0.25])
    # E log N(z) over a cell of z plus the logarithm of its width
    square = (edges[1] ** 3 - edges[0] ** 3) / (3.0 * (edges[1] - edges[0]))
    expected = (-0.5 * (square + math.log(2.0 * math.pi)) + (edges[1] - edges[0]).log()).sum(1).numpy()
    error = math.sqrt(variances.sum()) / len(x)
    assert abs((values - expected).mean()) < 3.0 * error
    assert error < 0.01


def test_what_cannot_be_estimated_says_so() -> None:
    x, key = STATES, Key(0, "none")
    with pytest.raises(InputError, match="mean of likelihoods too large"):
        probability_flow.bound(Levels(-3.0), x, key, weighted=True)
    with pytest.raises(InputError, match="n_repeats: 1"):
        probability_flow.bound(Levels(-3.0), x, key, n_repeats=1)
    with pytest.raises(InputError, match="trace: 'none' is none of exact, hutchinson"):
        probability_flow.bound(Levels(-3.0), x, key, trace="none")
    with pytest.raises(InputError, match="n_steps: 0"):
        probability_flow.bound(Levels(-3.0), x, key, n_steps=0)


def test_an_image_depends_on_its_shard_only() -> None:
    model, x, key = Levels(-3.0), STATES.repeat(8, 1), Key(5, "shard")
    seen: list[tuple[int, int]] = []
    values, variances = probability_flow.bound(model, x, key, 3, 2, progress=lambda *done: seen.append(done))
    part, others = probability_flow.bound(model, x[:64], key, 3, 2)
    assert seen == [(32, 72), (64, 72), (72, 72)]
    assert np.array_equal(values[:64], part)
    assert np.array_equal(variances[:64], others)


def test_flow_and_chain_bound_the_same_likelihood() -> None:
    model, x = Levels(-3.0, T=400), STATES.repeat(7, 1)
    flow, noise = probability_flow.bound(model, x, Key(6, "flow"), 15, 8, "exact")
    chain, scatter, _ = variational.bound(model, x, Key(6, "chain"), 399, 4)
    error = math.sqrt(noise.sum() + scatter.sum()) / len(x)
    assert abs(flow.mean() - chain.mean()) < 3.0 * error + 0.15  # the chain's gap, O(1/T)
