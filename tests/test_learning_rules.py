"""Every learning rule against sums over all states: gradients, step sizes, and what wrong variants do."""

import copy
import dataclasses
import gc
import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from machines import DoubledBeta
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimators.enumeration import states
from genmodels.kernels.block_gibbs import BlockGibbs, BlockGibbsState
from genmodels.kernels.choose import kernel_for
from genmodels.kernels.gibbs_with_gradients import GibbsWithGradients
from genmodels.learners import surrogate
from genmodels.learners.ascent import Tensors
from genmodels.learners.contrast import Contrast
from genmodels.learners.contrastive_divergence import ContrastiveDivergence
from genmodels.learners.exact import Exact
from genmodels.learners.fit import Whole, fit
from genmodels.learners.minimum_probability_flow import MinimumProbabilityFlow
from genmodels.learners.monte_carlo import MonteCarlo
from genmodels.learners.persistent_contrastive_divergence import PersistentContrastiveDivergence
from genmodels.learners.pseudo_likelihood import PseudoLikelihood
from genmodels.learners.tempered import Tempered
from genmodels.models.boltzmann_machine import BoltzmannMachine
from genmodels.models.ising import Ising
from genmodels.models.neural_energy import NeuralEnergy
from genmodels.models.rbm import RBM
from genmodels.protocols import Info
from genmodels.streams import Key

KEY = Key(81, "rules")
N = 5


def randomised(model: Any, scale: float = 0.5) -> Any:
    """Return `model` in float64, its parameters drawn anew and lopsided."""
    model, generator = model.double(), KEY.child("parameters").torch()
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * drawn + 0.15)
    return model


def neural() -> NeuralEnergy:
    model = randomised(NeuralEnergy(N, [6]))
    model.base.fields.copy_(torch.linspace(-0.6, 0.4, N))
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "boltzmann machine": lambda: randomised(BoltzmannMachine(N)),
    "ising": lambda: randomised(Ising(N, [[0, 1], [1, 2], [0, 3], [3, 4]])),
    "rbm": lambda: randomised(RBM(N, 3)),
    "neural energy": neural,
}
EVERY = torch.cat(list(states(N)))
DATA = EVERY[[0, 3, 3, 7, 9, 21, 30, 30, 30]]


def log_likelihood(model: Any, x: Tensor = DATA) -> Tensor:
    """Return the exact mean log-likelihood, differentiable  # (image, visible) -> ()."""
    every = torch.cat(list(states(x.shape[1]))).to(x)
    return (model.log_unnormalised(x) - model.log_unnormalised(every).logsumexp(0)).mean()


def gradient(model: Any, objective: Tensor) -> Tensors:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(objective, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def direction(rule: Any, model: Any, x: Tensor = DATA, key: Key = KEY) -> Tensors:
    """Return where the rule goes from the model's parameters, without moving them."""
    with torch.no_grad():
        state = rule.init(model)
        state = state._replace(chains=rule.start(model, x, key.child("chains")))
        return rule.direction(model, state, x, key).ascent


def flat(tensors: Tensors) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize("name", MODELS)
def test_the_exact_direction_is_the_gradient_of_the_enumerated_likelihood(name: str) -> None:
    model = MODELS[name]()
    expected = flat(gradient(model, log_likelihood(model)))
    found = flat(direction(Exact(centred=False), model))
    assert torch.allclose(found, expected, atol=1e-10)
    assert not torch.allclose(-found, expected, atol=1e-2)


@pytest.mark.parametrize("name", MODELS)
def test_decay_is_the_gradient_of_its_penalty(name: str) -> None:
    model = MODELS[name]()
    weights = [parameter for n, parameter in model.named_parameters() if n in model.weight_names]
    penalised = log_likelihood(model) - 0.15 * sum(weight.square().sum() for weight in weights)
    found = direction(Exact(centred=False, weight_decay=0.3), model)
    assert torch.allclose(flat(found), flat(gradient(model, penalised)), atol=1e-10)
    assert len(weights) >= 1


def test_the_centred_direction_of_a_boltzmann_machine_is_the_gradient_in_centred_parameters() -> None:
    model, mu = MODELS["boltzmann machine"](), DATA.mean(0)
    J = model.J.detach().triu(1).requires_grad_()
    h0 = (model.h + model.matrix() @ mu).detach().requires_grad_()  # E = −½(x − μ)ᵀJ(x − μ) − h0ᵀx

    def log_unnormalised(x: Tensor) -> Tensor:
        return ((x - mu) @ J.triu(1) * (x - mu)).sum(1) + x @ h0

    objective = log_unnormalised(DATA).mean() - log_unnormalised(EVERY).logsumexp(0)
    dJ, dh0 = torch.autograd.grad(objective - 0.1 * J.square().sum(), [J, h0])
    found = direction(Exact(weight_decay=0.2), model)
    assert torch.allclose(model.log_unnormalised(EVERY).softmax(0), log_unnormalised(EVERY).softmax(0))
    assert torch.allclose(found["J"], dJ, atol=1e-10)
    assert torch.allclose(found["h"], dh0 - (dJ + dJ.T) @ mu, atol=1e-10)
    assert not torch.allclose(found["J"], direction(Exact(centred=False, weight_decay=0.2), model)["J"])


def standard_error(model: Any, n_images: int, n: int) -> Tensor:
    """Return that of each component of ⟨s⟩_data − ⟨s⟩_model from n independent draws of the model."""
    p = model.log_unnormalised(EVERY).softmax(0)
    each = torch.stack([flat(model.statistics(x[None])) for x in EVERY]).detach()
    mean = p @ each
    return (p @ (each - mean).square() / n).sqrt()


def z_scores(rule: Contrast, n: int, model: Any) -> Tensor:
    """Return by how many standard errors the rule's direction misses the gradient, by component."""
    exact = flat(direction(Exact(centred=False), model))
    error = standard_error(model, len(DATA), n)
    single = copy.deepcopy(model).float()  # as the chains are
    return ((flat(direction(rule, single, DATA.float())) - exact) / error)[error > 1e-9].detach()


CHAINS = 8000
SAMPLED: dict[str, Contrast] = {
    "monte carlo": MonteCarlo(n_chains=CHAINS, n_sweeps=40, centred=False),
    "persistent": PersistentContrastiveDivergence(n_chains=CHAINS, n_sweeps=40, centred=False),
    "tempered": Tempered(n_chains=CHAINS // 2, n_rungs=4, n_rounds=30, centred=False),
}


@pytest.mark.parametrize("rule", SAMPLED)
@pytest.mark.parametrize("name", ["boltzmann machine", "ising", "rbm"])
def test_sampled_directions_are_the_gradient_but_for_noise(name: str, rule: str) -> None:
    model, n = MODELS[name](), CHAINS // 2 if rule == "tempered" else CHAINS
    z = z_scores(SAMPLED[rule], n, model)
    assert float(z.abs().max()) < 4.5
    assert 0.3 < float(z.square().mean()) < 2.5  # the noise is there, and no more than that of the draws


@pytest.mark.parametrize("rule", SAMPLED)
def test_chains_at_twice_the_beta_are_seen(rule: str) -> None:
    wrong = dataclasses.replace(SAMPLED[rule], kernel=DoubledBeta())
    assert float(z_scores(wrong, CHAINS // 2, MODELS["rbm"]()).abs().max()) > 10.0


class FreeEnergies(BlockGibbs):
    """A wrong kernel for swaps: it tells the free energies of the visible sites instead of the energies."""

    def advance(self, model: Any, *rest: Any) -> tuple[BlockGibbsState, Info]:
        state, info = super().advance(model, *rest)
        return state._replace(energy=-model.log_unnormalised(state.x[:, :N]).detach()), info


def test_swaps_by_free_energies_of_the_visible_sites_are_seen() -> None:
    model, n = randomised(RBM(N, 3), 1.3), 20_000
    rule = Tempered(n_chains=n, n_rungs=5, n_rounds=30, centred=False)
    assert float(z_scores(rule, n, model).abs().max()) < 4.5
    wrong = dataclasses.replace(rule, kernel=FreeEnergies())
    assert float(z_scores(wrong, n, model).abs().max()) > 8.0


def test_a_neural_energy_is_sampled_along_its_gradient() -> None:
    model = MODELS["neural energy"]()
    rule = MonteCarlo(n_chains=3000, n_sweeps=12, centred=False)
    assert kernel_for(model) == GibbsWithGradients()
    assert float(z_scores(rule, 3000, model).abs().max()) < 4.5


def test_contrastive_divergence_is_biased_until_it_has_forgotten_the_data() -> None:
    model, x = MODELS["rbm"](), DATA.repeat(900, 1)
    exact, error = flat(direction(Exact(centred=False), model)), standard_error(model, len(x), len(x))
    off = {}
    for n_sweeps in (1, 60):
        rule = ContrastiveDivergence(n_sweeps=n_sweeps, centred=False)
        found = flat(direction(rule, copy.deepcopy(model).float(), x.float()))
        off[n_sweeps] = float(((found - exact) / error).detach().abs().max())
    assert off[60] < 4.5
    assert off[1] > 10.0


def flow(model: Any, x: Tensor, neighbours: Callable[[Tensor], list[Tensor]]) -> Tensor:
    """Return K of minimum probability flow, state by state."""
    total = torch.zeros((), dtype=torch.float64)
    for image in x:
        for other in neighbours(image):
            gap = model.log_unnormalised(other[None]) - model.log_unnormalised(image[None])
            total = total + torch.exp(0.5 * gap[0])
    return total / len(x)


def flips(image: Tensor) -> list[Tensor]:
    return [torch.where(torch.arange(N) == i, -image, image) for i in range(N)]


@pytest.mark.parametrize("name", MODELS)
def test_minimum_probability_flow_is_the_gradient_of_its_definition(name: str) -> None:
    model = MODELS[name]()
    present = {tuple(row) for row in DATA.tolist()}

    def all_ways(image: Tensor) -> list[Tensor]:
        return [*flips(image), -image]

    def unseen(image: Tensor) -> list[Tensor]:
        return [other for other in all_ways(image) if tuple(other.tolist()) not in present]

    cases = [
        (MinimumProbabilityFlow(), flips),
        (MinimumProbabilityFlow(global_flip=True), all_ways),
        (MinimumProbabilityFlow(global_flip=True, leave_out_data=True), unseen),
    ]
    found = [flat(direction(rule, model)) for rule, _ in cases]
    for one, (_, neighbours) in zip(found, cases, strict=True):
        assert torch.allclose(one, -flat(gradient(model, flow(model, DATA, neighbours))), atol=1e-10)
    assert all(not torch.allclose(one, other, atol=1e-3) for one, other in combinations(found, 2))


@pytest.mark.parametrize("name", MODELS)
def test_pseudo_likelihood_is_the_gradient_of_its_definition(name: str) -> None:
    model = MODELS[name]()
    log_q = model.log_unnormalised(EVERY).log_softmax(0)
    code = {tuple(row): number for number, row in enumerate(EVERY.tolist())}
    total = torch.zeros((), dtype=torch.float64)
    for image in DATA:
        here = log_q[code[tuple(image.tolist())]]
        for other in flips(image):
            there = log_q[code[tuple(other.tolist())]]
            total = total + here - torch.logaddexp(here, there)
    expected = flat(gradient(model, total / len(DATA)))
    assert torch.allclose(flat(direction(PseudoLikelihood(), model)), expected, atol=1e-10)


def test_at_the_data_s_own_parameters_flow_and_pseudo_likelihood_are_at_rest() -> None:
    # With all states weighted as the model has them: both are consistent.
    model = randomised(BoltzmannMachine(3), 0.4)
    every = torch.cat(list(states(3)))
    counts = (model.log_unnormalised(every).softmax(0) * 2e4).round().long()
    x = every.repeat_interleave(counts, 0)
    for rule in (MinimumProbabilityFlow(), PseudoLikelihood()):
        assert float(flat(direction(rule, model, x)).abs().max()) < 2e-3
        away = BoltzmannMachine(3).double()
        assert float(flat(direction(rule, away, x)).abs().max()) > 0.05


# How long a step is


def covariance(model: Any, p: Tensor) -> Tensor:
    """Return Cov[−∂E/∂θ] of weighted configurations of the whole model  # (state,)."""
    rows = []
    for x in torch.cat(list(states(model.n_sites))):
        rows.append(flat({n: -g for n, g in gradient(model, model.energy(x[None]).sum()).items()}))
    s = torch.stack(rows).detach()
    mean = p @ s
    return (s - mean).T @ (p[:, None] * (s - mean))


@pytest.mark.parametrize("make", [lambda: BoltzmannMachine(4), lambda: RBM(3, 2), lambda: RBM(1, 3)])
def test_the_global_bound_is_reached_by_two_states_and_passed_by_none(make: Callable[[], Any]) -> None:
    model = randomised(make())
    n = 2**model.n_sites
    largest = 0.0
    for k in range(1, n):  # by symmetry one of the two states may be the first
        p = torch.zeros(n, dtype=torch.float64)
        p[0] = p[k] = 0.5
        largest = max(largest, float(torch.linalg.eigvalsh(covariance(model, p))[-1]))
    assert largest == pytest.approx(model.curvature_bound)
    p = (-model.energy(torch.cat(list(states(model.n_sites))))).softmax(0).detach()
    assert float(torch.linalg.eigvalsh(covariance(model, p))[-1]) < model.curvature_bound


def test_power_iteration_finds_the_largest_curvature() -> None:
    model = MODELS["boltzmann machine"]()
    p = model.log_unnormalised(EVERY).softmax(0).detach()
    exact = float(torch.linalg.eigvalsh(covariance(model, p))[-1])
    found = surrogate.largest_curvature(model, surrogate.Samples(DATA, EVERY, p), KEY)
    assert 0.97 * exact < found < exact * (1.0 + 1e-9)


def climbed(rule: Any, model: Any, n_steps: int, x: Tensor = DATA) -> list[float]:
    """Return the exact log-likelihood before the first and after each step."""
    values = [float(log_likelihood(model, x))]
    for _ in fit(model, rule, Whole(x), KEY, n_steps):
        values.append(float(log_likelihood(model, x)))
    return values


@pytest.mark.parametrize("step", ["global", "local"])
@pytest.mark.parametrize("name", ["boltzmann machine", "rbm"])
def test_the_likelihood_never_falls_by_surrogate_steps(name: str, step: Any) -> None:
    model = MODELS[name]()
    values = climbed(Exact(centred=False, surrogate=step), model, 60)
    assert min(b - a for a, b in zip(values, values[1:], strict=False)) > -1e-12
    assert values[-1] > values[0] + 0.2
    if step == "local":
        assert values[-1] > climbed(Exact(centred=False, surrogate="global"), MODELS[name](), 60)[-1] + 0.02


def frozen_wrong() -> BoltzmannMachine:
    """Return a machine that is sure of what the data are not: its covariance says nothing of how to leave."""
    model = randomised(BoltzmannMachine(N), 0.1)
    with torch.no_grad():
        model.h.fill_(-2.5)
    return model


def test_a_local_step_without_its_check_can_lower_the_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = climbed(Exact(centred=False, surrogate="local"), frozen_wrong(), 10)
    assert min(b - a for a, b in zip(checked, checked[1:], strict=False)) > -1e-12
    monkeypatch.setattr(surrogate, "_gain", lambda before, after, weights: 1.0)
    unchecked = climbed(Exact(centred=False, surrogate="local"), frozen_wrong(), 10)
    assert min(b - a for a, b in zip(unchecked, unchecked[1:], strict=False)) < -0.1


def test_the_measured_gain_is_the_gain() -> None:
    model = MODELS["rbm"]()
    before = log_likelihood(model) - 0.05 * model.W.square().sum()
    learner = Exact(centred=False, surrogate="local", weight_decay=0.1)
    *_, last = fit(model, learner, Whole(DATA), KEY, 1)
    after = log_likelihood(model) - 0.05 * model.W.square().sum()
    assert last.metrics["surrogate_gain"] == pytest.approx(float(after - before), abs=1e-9)


def test_what_has_no_bound_and_what_is_centred_is_refused() -> None:
    with pytest.raises(InputError, match="NeuralEnergy has no global bound"):
        direction(Exact(centred=False, surrogate="global"), neural())
    with pytest.raises(InputError, match="set centred to false"):
        Exact(surrogate="local")


# The common update


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", [0.4, 0.3, 0.2]),
        ("cosine", [0.4, 0.3414214, 0.2]),
        ("inverse", [0.4, 0.1230769, 0.0727273]),
    ],
)
def test_rates_follow_their_schedule(schedule: Any, rates: list[float]) -> None:
    rule = Exact(learning_rate=0.4, n_steps=4, schedule=schedule)
    assert [rule.rate(step) for step in range(3)] == pytest.approx(rates, abs=1e-6)
    assert dataclasses.replace(rule, n_steps=None).rate(3) == 0.4


def test_a_step_goes_along_the_direction_and_the_average_follows() -> None:
    model, rule = MODELS["rbm"](), Exact(learning_rate=0.3, ema=0.9)
    state = rule.init(model)
    shown, mean = [], model.W.detach().clone()
    for step in range(5):
        before, to = model.W.detach().clone(), direction(rule, model)["W"] if step == 0 else None
        state, _ = rule.step(model, state, DATA, KEY.at(round=step))
        if to is not None:
            assert torch.allclose(model.W, before + 0.3 * to, atol=1e-12)
        share = 1.0 - min(0.9, (1 + step) / (10 + step))
        mean = (1.0 - share) * mean + share * model.W.detach()
        shown.append(model.W.detach().clone())
    rule.export(model, state)
    assert torch.allclose(model.W, mean, atol=1e-12)
    assert not torch.allclose(shown[-1], mean, atol=1e-3)


@pytest.mark.parametrize("rule", [ContrastiveDivergence(), Exact(), PseudoLikelihood()])
def test_a_diverging_run_stops_with_one_line_and_the_last_good_parameters(rule: Any) -> None:
    model = BoltzmannMachine(N)
    # Decay by more than twice what there is: the weights change their sign and grow at every step.
    steep = dataclasses.replace(rule, learning_rate=30.0, weight_decay=1.0)
    steps = fit(model, steep, Whole(DATA.float()), KEY, 50)
    good: list[Tensors] = []

    def run() -> None:
        for _ in steps:
            good.append({name: p.detach().clone() for name, p in model.named_parameters()})

    with pytest.raises(FloatingPointError, match=r"not finite at step \d+: try a smaller") as info:
        run()
    assert "\n" not in str(info.value)
    assert all(torch.equal(parameter, good[-1][name]) for name, parameter in model.named_parameters())
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def n_elements() -> int:
    gc.collect()
    return sum(each.numel() for each in gc.get_objects() if issubclass(type(each), Tensor))


@pytest.mark.parametrize(
    "rule",
    [
        ContrastiveDivergence(),
        PersistentContrastiveDivergence(n_chains=20),
        Tempered(n_chains=5, n_rungs=4),
        PseudoLikelihood(ema=0.9),
    ],
)
def test_memory_does_not_grow_with_the_number_of_updates(rule: Any) -> None:
    model = RBM(N, 3)
    sizes = []
    for done in fit(model, rule, Whole(DATA.float()), KEY, 60):
        if done.step in (10, 60):
            del done
            sizes.append(n_elements())
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "sudden"}, "schedule is 'sudden'"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"surrogate": "some"}, "surrogate is 'some'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Exact(**settings)


def test_states_that_are_too_many_are_refused() -> None:
    with pytest.raises(InputError, match="21 visible sites, 20 is the most"):
        direction(Exact(), BoltzmannMachine(21), torch.ones(3, 21))


def test_a_ladder_of_one_rung_is_refused() -> None:
    with pytest.raises(InputError, match="n_rungs is 1"):
        Tempered(n_rungs=1)
    assert math.isfinite(Tempered(n_rungs=2).learning_rate)
