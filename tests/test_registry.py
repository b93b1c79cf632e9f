"""What every registered model, kernel and learner promises: a new one is found here by its name."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from machines import Quadratic
from torch import Tensor

from genmodels.artifacts import load_model, save_model, save_tensors, sha256
from genmodels.errors import InputError
from genmodels.kernels import KERNELS
from genmodels.learners import LEARNERS
from genmodels.models import MODELS
from genmodels.paths import StandardNormal, potential
from genmodels.protocols import (
    CanSample,
    HasBlocks,
    HasComponents,
    HasElbo,
    HasEnergy,
    HasLogProb,
    HasLogUnnormalised,
    HasLogUnnormalisedBound,
    Model,
)
from genmodels.registry import build, load
from genmodels.samplers import SAMPLERS
from genmodels.streams import Key

KEY = Key(61, "contract")
N_PIXELS = 6  # 2 × 3: enumerable, and neither square nor a power of two

# The smallest sensible arguments of each model, for images of N_PIXELS.
SMALL: dict[str, dict[str, Any]] = {
    "independent": {"n_sites": N_PIXELS},
    "independent_levels": {"n_sites": N_PIXELS, "levels": 3},
    "independent_gaussian": {"n_sites": N_PIXELS},
    "gaussian": {"n_sites": N_PIXELS},
    "gaussian_mixture": {"n_sites": N_PIXELS, "components": 2},
    "bernoulli_mixture": {"n_sites": N_PIXELS, "components": 2},
    "ising": {"n_sites": N_PIXELS, "edges": [[0, 1], [1, 2], [0, 3], [3, 4], [2, 5]]},
    "boltzmann_machine": {"n_visible": N_PIXELS},
    "rbm": {"n_visible": N_PIXELS, "n_hidden": 3},
    "dbm": {"n_visible": N_PIXELS, "hidden": [2, 3]},
    "neural_energy": {"n_visible": N_PIXELS, "hidden": [8, 4]},
    "vae": {"shape": [2, 3], "latent": 2, "hidden": [8]},
    "hvae": {"shape": [2, 3], "latents": [2, 1], "hidden": [8, 4]},
    "autoencoder": {"shape": [2, 3], "channels": [8], "latent": 1, "levels": 2},
    "diffusion": {"shape": [2, 3], "channels": [32], "T": 4, "dropout": 0.0},
    "latent_diffusion": {
        "shape": [2, 3], "first_channels": [8], "latent": 1, "levels": 2, "channels": [8], "T": 4,
        "text_width": 4, "empty_tokens": 1,
    },
}  # fmt: skip
CONTINUOUS = "N(0, I) to N(μ, Λ⁻¹)"
# A model that each kernel can move, of few sites: of spins, or of real numbers.
TARGETS: dict[str, Any] = {
    "block_gibbs": ("rbm", {"n_visible": 3, "n_hidden": 2}),
    "coupled_langevin": CONTINUOUS,
    "gibbs_with_gradients": ("rbm", {"n_visible": 3, "n_hidden": 2}),
    "heat_bath": ("ising", SMALL["ising"]),
    "langevin": CONTINUOUS,
    "lifted": ("rbm", {"n_visible": 3, "n_hidden": 2}),
    "mala": CONTINUOUS,
    "metropolis": ("ising", SMALL["ising"]),
}
# The model of SMALL that each learner trains, and the learner's settings.
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "closed_form": ("gaussian", {}),
    "expectation_maximisation": ("gaussian_mixture", {}),
    "exact": ("rbm", {}),
    "monte_carlo": ("boltzmann_machine", {"n_chains": 10, "n_sweeps": 3}),
    "contrastive_divergence": ("rbm", {"n_sweeps": 2}),
    "persistent_contrastive_divergence": ("rbm", {"n_chains": 10}),
    "tempered": ("boltzmann_machine", {"n_chains": 5, "n_rungs": 3}),
    "minimum_probability_flow": ("neural_energy", {"global_flip": True}),
    "pseudo_likelihood": ("rbm", {"ema": 0.9}),
    "gradient": ("vae", {"learning_rate": 1e-3, "n_steps": 10}),
}
COMPARABLE = (HasLogProb, HasElbo, HasLogUnnormalised, HasLogUnnormalisedBound)
ENERGIES = {"ising", "boltzmann_machine", "rbm", "neural_energy"}
# A deep machine has no sum over its hidden units: its rules are those with chains of their own.
DEEP = dict.fromkeys(("monte_carlo", "persistent_contrastive_divergence", "tempered"), ENERGIES | {"dbm"})
# The models that a rule trains, if it is not for all energy models.
TRAINED = DEEP | {
    "closed_form": {"independent", "independent_levels", "independent_gaussian", "gaussian"},
    "expectation_maximisation": {"gaussian_mixture", "bernoulli_mixture"},
    "gradient": {"vae", "hvae", "autoencoder", "diffusion", "latent_diffusion"},
}
# Expectation maximisation but for its start.
DETERMINISTIC = {
    "closed_form",
    "expectation_maximisation",
    "exact",
    "minimum_probability_flow",
    "pseudo_likelihood",
}


def target(name: str) -> Any:
    """Return the model that a kernel moves here."""
    return StandardNormal(Quadratic()) if TARGETS[name] == CONTINUOUS else small(*TARGETS[name])


def offering(contract: Any) -> list[str]:
    return [name for name in MODELS if name in SMALL and isinstance(small(name), contract)]


def small(name: str, args: dict[str, Any] | None = None) -> Any:
    """Return a model of which no parameter is 0."""
    with torch.random.fork_rng(devices=[]):  # from which the layers of networks draw their first weights
        torch.manual_seed(KEY.counter())
        model = load(MODELS, name)(**(SMALL[name] if args is None else args))
    generator = KEY.child("parameters").torch()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator) + 0.1)
    return model.eval()


def images(model: Any) -> Tensor:
    """Return all 2^N binary images in the model's domain  # (image, site)."""
    v = ((torch.arange(2**N_PIXELS)[:, None] >> torch.arange(N_PIXELS)) & 1).float()
    return 2.0 * v - 1.0 if model.domain == "spin" else v


def with_global_generator_untouched(draw: Callable[[], Tensor]) -> Tensor:
    before = torch.get_rng_state()
    drawn = draw()
    assert torch.equal(torch.get_rng_state(), before)
    return drawn


def test_everything_registered_is_tested_here() -> None:
    assert (set(SMALL), set(TARGETS), set(RULES)) == (set(MODELS), set(KERNELS), set(LEARNERS))


@pytest.mark.parametrize("entries", [MODELS, KERNELS, LEARNERS, SAMPLERS])
def test_every_entry_names_a_documented_class(entries: dict[str, str]) -> None:
    for name, entry in entries.items():
        found = load(entries, name)
        assert isinstance(found, type)
        assert entry == f"{found.__module__}:{found.__name__}"
        assert found.__module__.rsplit(".", 1)[1] == name  # one file each, of the same name
        assert found.__doc__


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rmb", "unknown name 'rmb': did you mean 'rbm'?"),
        ("gausian", "unknown name 'gausian': did you mean 'gaussian'?"),
        ("", "known are autoencoder, bernoulli_mixture, boltzmann_machine, dbm, diffusion, gaussian,"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(MODELS, name)
    assert message in str(caught.value)


def test_build_takes_of_the_settings_those_that_the_class_knows() -> None:
    settings = {"n_sites": 5, "components": 3, "track": "binary", "restarts": 2}
    assert build(MODELS, "bernoulli_mixture", settings).args() == {"n_sites": 5, "components": 3}
    assert build(MODELS, "independent", settings).args() == {"n_sites": 5}
    with pytest.raises(InputError, match="did you mean 'rbm'"):
        build(MODELS, "rbn", settings)
    with pytest.raises(TypeError, match="n_visible"):
        build(MODELS, "rbm", settings)


def test_a_name_imports_its_own_module_only() -> None:
    program = (
        "import sys; from genmodels.registry import load; from genmodels.models import MODELS;"
        "assert not any(m.startswith('genmodels.models.') for m in sys.modules);"
        "load(MODELS, 'rbm');"
        "print([m for m in sys.modules if m.startswith('genmodels.models.')])"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "['genmodels.models.rbm']"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_its_arguments_and_its_tensors(name: str, tmp_path: Path) -> None:
    model = small(name)
    assert isinstance(model, Model)
    assert model.domain in ("spin", "binary", "grey")
    assert json.loads(json.dumps(model.args(), allow_nan=False)).keys() >= SMALL[name].keys()
    save_model(tmp_path / "one", name, model, {"shape": [1, 1, 1]})
    loaded = load_model(tmp_path / "one")
    assert loaded.args() == model.args()
    save_model(tmp_path / "two", name, loaded, {"shape": [1, 1, 1]})
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), loaded.buffers(), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_offers_something_to_compare_it_by(name: str) -> None:
    assert any(isinstance(small(name), contract) for contract in COMPARABLE)


@pytest.mark.parametrize("name", offering(HasLogProb))
def test_a_log_prob_is_one_number_an_image_and_normalised(name: str) -> None:
    model = small(name)
    log_prob = model.log_prob(images(model))
    assert log_prob.shape == (2**N_PIXELS,)
    assert torch.isfinite(log_prob).all()
    alone = torch.cat([model.log_prob(image[None]) for image in images(model)[:5]])
    assert torch.allclose(alone, log_prob[:5], rtol=1e-6)
    if model.domain != "grey":
        assert float(log_prob.double().exp().sum()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", offering(HasElbo))
def test_a_bound_is_one_number_an_image_from_the_given_stream(name: str) -> None:
    model = small(name)
    x = images(model)
    elbo = with_global_generator_untouched(lambda: model.elbo(x, KEY.torch()).detach())
    assert elbo.shape == (len(x),)
    assert torch.isfinite(elbo).all()
    assert torch.equal(elbo, model.elbo(x, KEY.torch()).detach())
    assert not torch.equal(elbo, model.elbo(x, KEY.at(round=1).torch()).detach())


@pytest.mark.parametrize("name", offering(CanSample))
def test_samples_lie_in_the_domain_and_come_from_the_given_stream(name: str) -> None:
    model = small(name)
    x = with_global_generator_untouched(lambda: model.sample(50, KEY.torch()))
    assert (x.shape, x.dtype) == ((50, N_PIXELS), torch.float32)
    assert torch.isfinite(x).all()
    if model.domain != "grey":
        assert set(x.unique().tolist()) == set(images(model).unique().tolist())
    assert torch.equal(x, model.sample(50, KEY.torch()))
    assert not torch.equal(x, model.sample(50, KEY.at(round=1).torch()))


@pytest.mark.parametrize("name", offering(HasComponents))
def test_components_are_weights_means_and_covariances(name: str) -> None:
    weights, means, covariances = small(name).components()
    n = len(weights)
    assert (means.shape, covariances.shape) == ((n, N_PIXELS), (n, N_PIXELS, N_PIXELS))
    assert float(weights.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", offering(HasEnergy))
def test_an_energy_has_a_marginal_and_conditionals_that_fit_it(name: str) -> None:
    model = small(name).double()
    n = model.n_sites
    x = (((torch.arange(2**n)[:, None] >> torch.arange(n - 1, -1, -1)) & 1) * 2 - 1).double()
    energy = model.energy(x).detach()
    assert energy.shape == (2**n,)
    if isinstance(model, HasLogUnnormalised):
        whole = potential(model, x, torch.ones(2**n).double()).detach()
        marginal = (-whole).view(2**N_PIXELS, -1).logsumexp(1)
        visible = x[:: len(x) // 2**N_PIXELS, :N_PIXELS]
        assert torch.allclose(model.log_unnormalised(visible).detach(), marginal, atol=1e-10)
    if isinstance(model, HasBlocks):
        blocks = [torch.arange(n)[block].tolist() for block in model.blocks]
        assert sorted(sum(blocks, [])) == list(range(n))
        beta = torch.full((len(x),), 0.6, dtype=torch.float64)
        for index, block in enumerate(blocks):
            p = model.conditional(index, x, beta).detach()
            for place, site in enumerate(block):
                flipped = x.clone()
                flipped[:, site] *= -1.0
                up = torch.sigmoid(0.6 * x[:, site] * (model.energy(flipped).detach() - energy))
                assert torch.allclose(p[:, place], up, atol=1e-10)


def codes(x: Tensor) -> Tensor:
    """Return the number of each ±1 state, the first site its highest digit."""
    return ((x > 0).long() << torch.arange(x.shape[1] - 1, -1, -1)).sum(1)


def chi_square(x: Tensor, p: Tensor) -> float:
    """Return the z-score of Pearson's χ² of the states  # (replica, site), (state,)."""
    expected = len(x) * p
    value = float(((torch.bincount(codes(x), minlength=len(p)) - expected) ** 2 / expected).sum())
    return (value - (len(p) - 1)) / math.sqrt(2.0 * (len(p) - 1))


@pytest.mark.parametrize("name", [name for name in KERNELS if TARGETS.get(name) != CONTINUOUS])
def test_a_kernel_keeps_the_distribution_of_each_temperature(name: str) -> None:
    model, kernel = target(name), load(KERNELS, name)()
    n_sites, n = model.n_sites, 30_000
    states = (((torch.arange(2**n_sites)[:, None] >> torch.arange(n_sites - 1, -1, -1)) & 1) * 2 - 1).float()
    state = kernel.init(model, n, KEY.child("init"))
    assert abs(chi_square(kernel.configuration(state), torch.full((len(states),), 1.0 / len(states)))) < 4.0
    betas = (0.5, 1.4)
    p = {beta: (-beta * model.energy(states).detach().double()).softmax(0) for beta in (*betas, 2.8)}
    # Exact samples: of each drawn state any replica that is in it.
    holder = torch.empty(len(states), dtype=torch.long)
    holder[codes(kernel.configuration(state))] = torch.arange(n)
    generator = KEY.child("draw").torch()
    drawn = [torch.multinomial(p[beta], n, replacement=True, generator=generator) for beta in betas]
    state = kernel.select(state, holder[torch.cat(drawn)])
    beta = torch.tensor(betas).repeat_interleave(n)
    after, info = kernel.advance(model, state, beta, 2, KEY.child("advance"))
    x = kernel.configuration(after)
    assert not torch.equal(x, kernel.configuration(state))
    assert abs(chi_square(x[:n], p[0.5])) < 4.0
    assert abs(chi_square(x[n:], p[1.4])) < 4.0
    doubled, _ = kernel.advance(model, state, 2.0 * beta, 2, KEY.child("advance"))
    assert chi_square(kernel.configuration(doubled)[n:], p[1.4]) > 20.0
    assert (info.n_updates, info.n_nonfinite) == (2 * 2 * n * n_sites, 0)
    assert 0.0 < info.acceptance <= 1.0


@pytest.mark.parametrize("name", [name for name in KERNELS if TARGETS.get(name) == CONTINUOUS])
def test_a_continuous_kernel_keeps_the_distribution_of_each_temperature(name: str) -> None:
    # In steps so short that an error O(dt) is beyond the resolution.
    model, kernel, n, betas = target(name), load(KERNELS, name)(dt=0.004, n_steps=40), 20_000, (0.5, 1.4)
    inner, generator = model.model, KEY.child("draw").torch()

    def exact(beta: float) -> torch.distributions.MultivariateNormal:
        precision = (beta * inner.precision + (1.0 - beta) * torch.eye(inner.n_sites)).detach().float()
        pull = (beta * inner.precision @ inner.mean).detach().float()
        return torch.distributions.MultivariateNormal(torch.linalg.solve(precision, pull), None, precision)

    def z_score(x: Tensor, beta: float) -> float:
        """Return that of the mean of (x − m)ᵀΛ(x − m)/n_sites, which is 1."""
        away = (x - exact(beta).mean) @ torch.linalg.cholesky(exact(beta).precision_matrix)
        return (float(away.square().mean()) - 1.0) * math.sqrt(away.numel() / 2.0)

    first = kernel.configuration(kernel.init(model, n, KEY.child("init")))
    assert abs(z_score(first, 0.0)) < 4.0
    noise = torch.randn(n, len(betas), inner.n_sites, generator=generator)
    drawn = [exact(b).mean + noise[:, k] @ exact(b).scale_tril.T for k, b in enumerate(betas)]
    state = kernel.start(model, torch.stack(drawn, 1).flatten(0, 1))
    beta = torch.tensor(betas).repeat(n)
    after, info = kernel.advance(model, state, beta, 2, KEY.child("advance"))
    assert not torch.equal(kernel.configuration(after), kernel.configuration(state))
    doubled, _ = kernel.advance(model, state, 2.0 * beta, 2, KEY.child("advance"))
    for k, b in enumerate(betas):
        assert abs(z_score(kernel.configuration(after)[k::2], b)) < 4.0
        assert abs(z_score(kernel.configuration(doubled)[k::2], b)) > 20.0
    assert (info.n_updates, info.n_nonfinite) == (2 * 2 * n * 40 * inner.n_sites, 0)
    assert 0.9 < info.acceptance <= 1.0


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_is_a_pure_function_of_state_and_key(name: str) -> None:
    model, kernel = target(name), load(KERNELS, name)()
    assert isinstance(kernel.detailed_balance, bool)
    assert dataclasses.is_dataclass(kernel)
    with pytest.raises(dataclasses.FrozenInstanceError):
        kernel.anything = 1
    state, beta = kernel.init(model, 20, KEY), torch.full((20,), 0.7)
    before = kernel.configuration(state).clone()
    after = with_global_generator_untouched(
        lambda: kernel.configuration(kernel.advance(model, state, beta, 3, KEY)[0])
    )
    assert torch.equal(kernel.configuration(state), before)
    again, _ = kernel.advance(model, state, beta, 3, KEY)
    assert torch.equal(kernel.configuration(again), after)
    schedule, _ = kernel.advance(model, state, beta.expand(3, 20), 3, KEY)
    assert torch.equal(kernel.configuration(schedule), after)
    other, _ = kernel.advance(model, state, beta, 3, KEY.at(round=1))
    assert not torch.equal(kernel.configuration(other), after)
    assert torch.allclose(again.energy, model.energy(after).detach(), atol=1e-5)
    index = torch.tensor([3, 3, 0])
    assert torch.equal(kernel.configuration(kernel.select(again, index)), after[index])
    assert torch.equal(kernel.select(again, index).energy, again.energy[index])


def learned(name: str, folder: Path, interrupted: bool = False, seed: int = 61) -> str:
    """Return the digest of model and state after three steps, both rebuilt before the last if interrupted."""
    model_name, settings = RULES[name]
    learner, model = load(LEARNERS, name)(**settings), small(model_name)
    batch = images(model)[5:40]
    state = learner.init(model)
    for step in range(3):
        if interrupted and step == 2:
            tensors = {key: tensor.clone() for key, tensor in learner.tensors(state).items()}
            weights, model = model.state_dict(), small(model_name)
            model.load_state_dict(weights)
            state = learner.restore(model, tensors)
            assert all(torch.equal(tensor, tensors[key]) for key, tensor in learner.tensors(state).items())
        state, metrics = learner.step(model, state, batch, KEY._replace(seed=seed, round=step))
        assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
        assert metrics
    save_tensors(folder / "state.safetensors", learner.tensors(state))
    save_tensors(folder / "model.safetensors", model.state_dict())
    return sha256(folder / "model.safetensors") + sha256(folder / "state.safetensors")


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_depends_on_state_batch_and_key_alone(name: str, tmp_path: Path) -> None:
    assert dataclasses.is_dataclass(load(LEARNERS, name))
    before = torch.get_rng_state()
    digest = learned(name, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert learned(name, tmp_path) == digest
    assert learned(name, tmp_path, interrupted=True) == digest
    save_tensors(tmp_path / "untrained.safetensors", small(RULES[name][0]).state_dict())
    assert sha256(tmp_path / "untrained.safetensors") != digest[:64]
    if name not in DETERMINISTIC:
        assert learned(name, tmp_path, seed=62) != digest


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_trains_a_model_or_says_in_a_line_that_it_cannot(name: str) -> None:
    for model_name in MODELS:
        model, learner = small(model_name), load(LEARNERS, name)(**RULES[name][1])

        def step(model: Any = model, learner: Any = learner) -> dict[str, float]:
            return learner.step(model, learner.init(model), images(model)[5:40], KEY)[1]

        if model_name in TRAINED.get(name, ENERGIES):
            assert all(math.isfinite(value) for value in step().values())
        else:
            with pytest.raises(InputError, match=rf"{type(model).__name__}(?!.*\n)"):
                step()
