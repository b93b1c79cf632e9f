"""The diffusion model's bound and sampler against exact denoisers of known tiny distributions."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from inputs import digits
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.estimators import variational
from genmodels.learners.fit import Shuffled, Whole, fit
from genmodels.learners.gradient import Gradient
from genmodels.models.diffusion import BoundTerms, Diffusion
from genmodels.networks.levels import draw
from genmodels.networks.noise import Noise
from genmodels.networks.schedules import Linear
from genmodels.networks.unet import UNet
from genmodels.streams import Key, Streams

STATES = (torch.arange(16)[:, None] >> torch.arange(4) & 1).double()  # 2×2 pixels
WEIGHTS = torch.tensor([9.0, 1, 2, 1, 1, 7, 1, 3, 1, 2, 12, 1, 5, 1, 1, 4]).double()
LOG_P = (WEIGHTS / WEIGHTS.sum()).log()  # correlated, and unlike under every exchange of pixels


class Exact(Diffusion):
    """The optimal denoiser of P over 2×2 pixels: x̂ is the posterior mean, by enumeration."""

    def own(self, z: Tensor, t: Tensor) -> Tensor:
        return (torch.exp(-self.noise.at(t)) / torch.sigmoid(-self.noise.at(t)).sqrt())[:, None] * z

    def posterior_logits(self, z: Tensor, t: Tensor) -> Tensor:
        # p(z|x) ∝ exp(Σ v_i own_i), up to a factor that does not depend on x
        posterior = torch.softmax(LOG_P + self.own(z, t) @ STATES.T, 1)
        return (torch.log(posterior @ STATES) - torch.log(posterior @ (1.0 - STATES))).to(z.dtype)

    def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.posterior_logits(z, t) - self.own(z, t).to(z.dtype)


class Doubled(Exact):
    """Forgets the ½ of the weights."""

    def bound_terms(self, x: Tensor, generator: torch.Generator, n_times: int = 1) -> BoundTerms:
        terms = super().bound_terms(x, generator, n_times)
        return terms._replace(matching=2.0 * terms.matching)


class NoPrior(Exact):
    """Forgets the prior term."""

    def bound_terms(self, x: Tensor, generator: torch.Generator, n_times: int = 1) -> BoundTerms:
        terms = super().bound_terms(x, generator, n_times)
        return terms._replace(prior=torch.zeros_like(terms.prior))


def exact(kind: type[Exact], T: int, low: float = -4.0, high: float = 8.0) -> Exact:
    return kind((2, 2), (8,), T, 0.0, low, high).double()


def gap(model: Exact, copies: int = 60) -> tuple[float, float]:
    """Return Σ_x P(x) (log P(x) − bound(x)) and its standard error; one level a stratum."""
    x = STATES.repeat(copies, 1)
    values, variances, _ = variational.bound(model, x, Key(1, "gap"), model.T - 1, 8)
    weights = LOG_P.exp().repeat(copies).numpy() / copies
    difference = LOG_P.repeat(copies).numpy() - values
    return float(weights @ difference), math.sqrt(float(weights**2 @ variances))


def test_the_schedule() -> None:
    noise, t = Noise(50, Linear(-5.0, 7.0)), torch.arange(1, 51)
    alpha_bar = torch.sigmoid(-noise.at(t))
    assert noise.table()[[0, -1]].tolist() == [-5.0, 7.0]
    assert bool((alpha_bar.diff() < 0).all())
    torch.testing.assert_close(torch.log((1 - alpha_bar) / alpha_bar), noise.table())
    snr = alpha_bar / (1.0 - alpha_bar)
    torch.testing.assert_close(noise.weight(t[1:]), 0.5 * (snr[:-1] - snr[1:]))
    signal, spread = noise.scales(t, alpha_bar)
    torch.testing.assert_close(signal.square() + spread.square(), torch.ones(50, 1).double())
    x, eps = torch.full((50, 2), 0.5).double(), torch.full((50, 2), -2.0).double()
    torch.testing.assert_close(noise.add(x, t, eps), 0.5 * signal.expand(-1, 2) - 2.0 * spread.expand(-1, 2))


def test_the_prior_term_is_a_divergence_between_normals() -> None:
    noise = Noise(50, Linear(-5.0, 1.5))
    x = torch.tensor([[0.5, -0.5, 0.25], [0.1, 0.2, 0.3]]).double()
    last = torch.sigmoid(-noise.at(torch.tensor(50)))
    encoder = torch.distributions.Normal(last.sqrt() * x, (1.0 - last).sqrt())
    prior = torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
    expected = torch.distributions.kl_divergence(encoder, prior).sum(1)
    torch.testing.assert_close(noise.prior(x), expected)


@pytest.mark.parametrize(("t", "s"), [(30, 29), (50, 12), (2, 1)])
def test_a_step_down_is_the_posterior_and_a_matching_term_its_divergence(t: int, s: int) -> None:
    noise, generator = Noise(50, Linear(-5.0, 7.0)), Key(2, "step").torch()
    z, x, eps = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    later, earlier = torch.sigmoid(-noise.at(torch.tensor([t, s])))
    alpha = later / earlier
    mean = (alpha.sqrt() * (1 - earlier) * z + earlier.sqrt() * (1 - alpha) * x) / (1 - later)
    variance = (1 - alpha) * (1 - earlier) / (1 - later)
    torch.testing.assert_close(noise.step_down(z, x, t, s, eps), mean + variance.sqrt() * eps)
    # Deterministic: the same noise, less of it.
    eps_hat = (z - later.sqrt() * x) / (1 - later).sqrt()
    torch.testing.assert_close(
        noise.step_down(z, x, t, s, eps, eta=0.0), earlier.sqrt() * x + (1 - earlier).sqrt() * eps_hat
    )
    if s == t - 1:
        guess = x + 0.1
        other = noise.step_down(z, guess, t, s, torch.zeros_like(eps))
        divergence = (mean - other).square().sum(1) / (2.0 * variance)
        expected = noise.weight(torch.tensor(t)) * (x - guess).square().sum(1)
        torch.testing.assert_close(divergence, expected)
        # The same in terms of the noise: ½(e^{γ_t − γ_s} − 1)‖ε − ε̂‖².
        eps_guess = (z - later.sqrt() * guess) / (1 - later).sqrt()
        factor = 0.5 * torch.expm1(noise.at(torch.tensor(t)) - noise.at(torch.tensor(s)))
        torch.testing.assert_close(divergence, factor * (eps_hat - eps_guess).square().sum(1))


def test_levels_are_drawn_evenly_whatever_the_strata() -> None:
    noise, n = Noise(21, Linear(-5.0, 7.0)), 6000
    for n_times in (1, 7, 20):
        seen: list[Tensor] = []

        def spy(z: Tensor, t: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(t)
            return torch.zeros_like(z)

        noise.matching(torch.zeros(n, 1), spy, Key(3, "levels").torch(), n_times)
        counts = torch.bincount(seen[0].long(), minlength=22)
        assert int(counts[:2].sum()) == 0
        expected = n * n_times / 20
        assert bool(((counts[2:] - expected).abs() < 4.0 * math.sqrt(expected)).all())


def test_the_gap_of_independent_pixels_is_one_over_the_number_of_levels() -> None:
    bias = torch.tensor([0.7, -1.2, 2.0]).double()

    class Independent(Diffusion):
        def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return bias.expand_as(z)

    x = torch.bernoulli(torch.sigmoid(bias).expand(4000, 3), generator=Key(4, "x").torch())
    log_q = (x * bias - nn.functional.softplus(bias)).sum(1).numpy()
    gaps, errors = [], []
    for T in (11, 21, 41):  # independent pixels leave no gap in the reconstruction, at any γ_min
        model = Independent((3, 1), (8,), T, 0.0, -2.0, 9.0).double()
        values, _, _ = variational.bound(model, x, Key(4, "noise"), T - 1, 6)
        gaps.append(float((log_q - values).mean()))
        errors.append(float((log_q - values).std() / math.sqrt(len(x))))
    assert gaps[0] > 5.0 * errors[0]
    for (coarse, error), (fine, smaller) in pairwise(zip(gaps, errors, strict=True)):
        assert abs(coarse - 2.0 * fine) < 3.0 * math.hypot(error, 2.0 * smaller) + 0.1 * coarse


def test_the_gap_of_correlated_pixels_is_one_over_the_number_of_levels() -> None:
    def halves(kind: type[Exact]) -> bool:
        gaps = [gap(exact(kind, T)) for T in (21, 41, 81)]
        return all(
            fine > 0.0 and abs(coarse - 2.0 * fine) < 3.0 * math.hypot(error, 2.0 * smaller) + 0.1 * coarse
            for (coarse, error), (fine, smaller) in pairwise(gaps)
        )

    assert halves(Exact)
    assert not halves(Doubled)


@pytest.mark.parametrize("kind", [Exact, NoPrior])
def test_the_bound_sums_to_less_than_one_and_without_the_prior_to_more(kind: type[Exact]) -> None:
    model = exact(kind, 40, -5.0, 0.0)  # much is left of x at γ = 0
    x = STATES.repeat(50, 1)
    values, variances, _ = variational.bound(model, x, Key(5, "sum"), 10, 16)
    mean = values.reshape(50, 16).mean(0)
    error = np.sqrt(variances.reshape(50, 16).sum(0)) / 50
    total, noise = np.exp(mean).sum(), math.sqrt((np.exp(2 * mean) * error**2).sum())
    if kind is Exact:
        assert total < 1.0 + 3.0 * noise
    else:
        assert total > 1.0 + 10.0 * noise


class Tilted(Exact):
    """Its log-odds are off by a little."""

    def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().network(z, t, labels) + torch.tensor([0.3, 0.0, -0.3, 0.0]).to(z.dtype)


def test_the_loss_is_least_for_the_posterior_and_then_its_weighted_entropy() -> None:
    model, tilted, rounds = exact(Exact, 100, -3.0, 6.0), exact(Tilted, 100, -3.0, 6.0), 60
    chosen = torch.multinomial(WEIGHTS, 1600 * rounds, True, generator=Key(7, "x").torch()).view(rounds, -1)
    pairs = [(Key(7, "loss", r).torch(), Key(7, "loss", r).torch(), STATES[i]) for r, i in enumerate(chosen)]
    losses = torch.stack([model.loss(x, one)[0] for one, _, x in pairs])
    worse = torch.stack([tilted.loss(x, other)[0] for _, other, x in pairs]) - losses
    assert float(worse.mean()) > 10.0 * float(worse.std()) / math.sqrt(rounds)
    entropies = []
    for r, i in enumerate(chosen):
        generator = Key(7, "entropy", r).torch()
        t = torch.randint(1, 101, (len(i),), generator=generator)
        eps = torch.randn(len(i), 4, generator=generator, dtype=torch.float64)
        p = torch.sigmoid(model.posterior_logits(model.noise.add(STATES[i] - 0.5, t, eps), t))
        entropy = -(torch.xlogy(p, p) + torch.xlogy(1.0 - p, 1.0 - p)).mean(1)
        entropies.append((torch.exp(-model.noise.at(t)).clamp(max=1.0) * entropy).mean())
    expected = torch.stack(entropies)
    error = math.hypot(float(losses.std()), float(expected.std())) / math.sqrt(rounds)
    assert abs(float(losses.mean() - expected.mean())) < 3.0 * error
    assert error < 0.01 * float(expected.mean())


class HalfTheDrift(Exact):
    """Moves half as far."""

    def drift(self, z: Tensor, gamma: float, *rest: Any) -> Tensor:
        return 0.5 * super().drift(z, gamma, *rest)


class ForgetsTheNoise(Noise):
    """Steps to x̂ with fresh noise only, which is not the posterior."""

    def step_down(self, z: Tensor, x: Tensor, t: float, s: float, eps: Tensor, eta: float = 1.0) -> Tensor:
        signal, spread = self.scales(torch.full((len(z),), s), z)
        return signal * x + 0.7 * spread * eps


def chi_square(pictures: Tensor) -> float:
    counts = torch.bincount((pictures.long() * 2 ** torch.arange(4)).sum(1), minlength=16)
    expected = LOG_P.exp() * len(pictures)
    return float((((counts - expected).square() / expected).sum() - 15.0) / math.sqrt(30.0))


@pytest.mark.parametrize(("method", "n_steps"), [("ancestral", 200), ("ddim", 200), ("flow", 25)])
def test_sampling_with_the_exact_denoiser_reproduces_the_distribution(method: str, n_steps: int) -> None:
    model, wrong, n = exact(Exact, 200, -6.0, 10.0), exact(HalfTheDrift, 200, -6.0, 10.0), 5000
    pictures = model.sample(n, Key(8, "sample").torch(), n_steps, method)
    assert abs(chi_square(pictures)) < 3.5
    assert chi_square(pictures[:, [1, 0, 2, 3]]) > 30.0
    wrong.noise.__class__ = ForgetsTheNoise
    assert chi_square(wrong.sample(n, Key(8, "sample").torch(), n_steps, method)) > 10.0


def test_the_error_of_the_bound_is_its_spread_and_its_terms_add_up() -> None:
    model, x = exact(Exact, 30), STATES
    runs = [variational.bound(model, x, Key(seed, "noise"), 4, 6) for seed in range(40)]
    values, variances = (np.stack(part) for part in list(zip(*runs, strict=True))[:2])
    stated = math.sqrt(variances.mean(0).sum()) / 16
    assert abs(values.mean(1).std(ddof=1) / stated - 1.0) < 3.0 / math.sqrt(78)
    bound, variance, terms = runs[0]
    assert -sum(term.value for term in terms.values()) == pytest.approx(bound.mean())
    assert list(terms) == ["reconstruction", "prior", "matching"]
    assert terms["prior"].stderr_estimator == pytest.approx(0.0, abs=1e-12)
    assert 0.3 < terms["matching"].stderr_estimator / (math.sqrt(variance.sum()) / 16) < 3.0


def test_the_spread_of_images_is_told_from_the_noise_of_a_term() -> None:
    draws = Key(5, "draws").numpy().normal(size=(6, 50)) + 0.2 * np.arange(50)
    found = variational._mean(draws, "matching")
    whole, noise = draws.mean(0).var(ddof=1) / 50, (draws.var(0, ddof=1) / 6).sum() / 50**2
    assert found.stderr_estimator**2 == pytest.approx(noise)
    assert found.stderr_images**2 == pytest.approx(whole - noise)
    assert found.stderr**2 == pytest.approx(whole)


def small(shape: tuple[int, ...] = (2, 3), **settings: Any) -> Diffusion:
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return Diffusion(shape, (8, 8), **({"T": 40, "dropout": 0.2} | settings))


def test_an_image_depends_on_its_shard_only_and_dropout_is_off() -> None:
    model, key = small(), Key(10, "noise")
    x = torch.bernoulli(torch.full((70, 6), 0.4), generator=Key(10, "x").torch())
    seen: list[tuple[int, int]] = []
    values, variances, _ = variational.bound(model, x, key, 2, 2, lambda *done: seen.append(done))
    assert seen == [(32, 70), (64, 70), (70, 70)]
    model.eval()
    part, part_variances, _ = variational.bound(model, x[:64], key, 2, 2)
    assert np.array_equal(values[:64], part)
    assert np.array_equal(variances[:64], part_variances)
    model.train()
    with torch.no_grad():
        assert not torch.equal(model.elbo(x, key.torch()), model.elbo(x, key.torch())), "dropout was on here"


def test_a_trained_model_bounds_a_probability() -> None:
    states = (torch.arange(64)[:, None] >> torch.arange(6) & 1).float()
    patterns = torch.tensor([[1.0, 1, 0, 0, 1, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]])
    x = patterns.repeat_interleave(torch.tensor([36, 18, 10]), 0)
    model = small(dropout=0.0, gamma_min=-3.0, gamma_max=-0.25)
    order = Shuffled(x, 64, Key(11, "order"))  # in one order a stratum of levels would name its pattern
    list(fit(model, Gradient(1e-2, 120, warm_up=10, ema=0.9), order, Key(11, "train"), 120))
    values, variances, terms = variational.bound(model, states, Key(11, "bound"), 8, 24)
    weights = np.exp(values)
    noise = math.sqrt((weights**2 * variances).sum())
    assert weights.sum() < 1.0 + 3.0 * noise
    learnt = (states[:, None] == patterns).all(2).any(1).numpy()
    assert weights[learnt].sum() > 0.5 * weights.sum()
    prior = terms["prior"].value
    assert prior is not None
    assert np.exp(values + prior).sum() > 1.0 + 3.0 * noise * math.exp(prior), "a bound without its prior"


@pytest.mark.parametrize(
    ("shape", "channels"), [((28, 28, 1), (8, 8, 8)), ((8, 8), (8, 16)), ((4, 4), (4, 8)), ((5, 3), (6, 12))]
)
def test_any_size_trains_and_samples(shape: tuple[int, ...], channels: tuple[int, ...]) -> None:
    n = math.prod(shape)
    x = torch.bernoulli(torch.full((8, n), 0.3), generator=Key(12, "x").torch())
    model = Diffusion(shape, channels, T=10)
    steps = list(fit(model, Gradient(1e-3, 2), Whole(x), Key(12, "train"), 2))
    assert steps[-1].step == 2
    model.eval()
    means = model.pictures(Streams(Key(12, "sample"), 3), n_steps=4)[1]
    assert means.shape == (3, n)
    assert bool(((means >= 0) & (means <= 1)).all())
    assert set(model.sample(3, Key(12, "sample").torch(), n_steps=4).unique().tolist()) <= {0.0, 1.0}
    again = Diffusion(**model.args())
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval().pictures(Streams(Key(12, "sample"), 3), n_steps=4)[1], means)


class Echo(nn.Module):
    def forward(self, z: Tensor, time: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (z,)


def test_padding_keeps_the_picture_in_its_place() -> None:
    network = UNet(5, 3, (8, 8), 0.0)
    network.net = Echo()
    z = torch.randn(2, 1, 5, 3, generator=Key(13, "z").torch())
    assert torch.equal(network(z, torch.zeros(2)), z)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (8,)}, "height, width"),
        ({"shape": (8, 8), "levels": 1}, "levels: pixels of 1"),
        ({"shape": (8, 8), "levels": 5}, "prediction: logits are of binary pixels"),
        ({"shape": (8, 8), "prediction": "noise"}, "prediction: 'noise' is none of eps, residual"),
        ({"shape": (8, 8), "prediction": "eps"}, "objective: weighted is for"),
        ({"shape": (8, 8), "T": None}, "need compact"),
        ({"shape": (8, 8), "schedule": "learned", "network": "compact"}, "give objective: bound"),
        ({"shape": (8, 8), "label_drop": 1.0}, "label_drop: 1.0"),
        ({"shape": (8, 8), "n_classes": -1}, "n_classes: -1"),
        ({"shape": (8, 8), "T": 1}, "T: 1 noise levels"),
        ({"shape": (8, 8), "gamma_min": 3.0, "gamma_max": 3.0}, "gamma_min: 3.0"),
        ({"shape": (5, 3), "channels": (8, 8, 8)}, "give 1 to 2 entries"),
    ],
)
def test_what_cannot_be_built_says_so_in_a_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Diffusion(**settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_what_cannot_be_estimated_says_so() -> None:
    model = small()
    with pytest.raises(InputError, match="n_repeats: 1"):
        variational.bound(model, torch.zeros(2, 6), Key(0, "noise"), 4, 1)
    with pytest.raises(InputError, match="n_steps: 1"):
        model.sample(2, Key(0, "sample").torch(), n_steps=1)
    with pytest.raises(InputError, match="method: 'euler' is none of ancestral, ddim, flow"):
        model.sample(2, Key(0, "sample").torch(), method="euler")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="built without classes"):
        model.sample(2, Key(0, "sample").torch(), labels=torch.zeros(2))
    with pytest.raises(InputError, match="classes are 0 to 2"):
        small(n_classes=3).sample(2, Key(0, "sample").torch(), labels=torch.full((2,), 3))


@pytest.mark.slow
def test_held_out_digits_are_likelier_than_under_independent_pixels() -> None:
    train, held_out = digits()
    with torch.random.fork_rng():
        torch.manual_seed(20)
        model = Diffusion((8, 8), (32, 32))
    learner = Gradient(4e-3, 300)
    *_, done = fit(model, learner, Shuffled(train, 64, Key(20, "order")), Key(20, "train"), 300)
    learner.export(model, done.state)
    values, variances, _ = variational.bound(model, held_out, Key(20, "noise"), 8, 4)
    rates = (train.sum(0) + 0.5) / (len(train) + 1.0)
    independent = (held_out * rates.log() + (1 - held_out) * (1 - rates).log()).sum(1).numpy()
    gain = values - independent
    error = math.hypot(gain.std() / math.sqrt(len(gain)), math.sqrt(variances.sum()) / len(gain))
    assert gain.mean() - 3.0 * error > 1.0


# Levels, labels and channels


class Told(Diffusion):
    """Its output depends on the label: class c gives c + 1 times what no class gives."""

    def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        told = torch.zeros(len(z)) if labels is None else 1.0 + labels
        return (1.0 + told[:, None]) * torch.sin(z + t[:, None].to(z.dtype) / 10.0)


@pytest.mark.parametrize("prediction", ["eps", "residual", "x", "v", "logits"])
def test_guidance_goes_from_without_labels_through_with_them_and_beyond(prediction: Any) -> None:
    rest: dict[str, Any] = {"prediction": prediction, "objective": "bound", "n_classes": 3, "T": 20}
    model = Told((2, 3), (8,), **rest).double()
    z = torch.randn(5, 6, generator=Key(14, "z").torch(), dtype=torch.float64)
    t, labels = torch.tensor([1, 5, 10, 15, 20]), torch.tensor([0, 1, 2, 1, 0])
    signal, spread = model.noise.scales(t, z)
    for of in (model.eps, model.denoise):
        without, given = of(z, t), of(z, t, labels)
        assert not torch.allclose(without, given)
        torch.testing.assert_close(of(z, t, labels, 0.0), without)
        torch.testing.assert_close(of(z, t, labels, 1.0), given)
        torch.testing.assert_close(of(z, t, labels, 2.0), 2.0 * given - without)
        torch.testing.assert_close(of(z, t, labels, 2.5), without + 2.5 * (given - without))
        torch.testing.assert_close(of(z, t, torch.full((5,), -1), 3.0), without)
    for w in (0.0, 1.0, 2.0):
        both = signal * model.denoise(z, t, labels, w) + spread * model.eps(z, t, labels, w)
        torch.testing.assert_close(both, z)


def test_a_label_is_heard_dropped_in_training_and_absent_from_the_bound() -> None:
    model, key = small(n_classes=3, label_drop=0.25, network="compact"), Key(15, "labels")
    for parameter in model.parameters():  # the compact network starts at zero
        torch.nn.init.normal_(parameter, std=0.2, generator=key.torch())
    model.eval()
    x = torch.bernoulli(torch.full((400, 6), 0.4), generator=key.torch())
    labels = torch.arange(400) % 3
    hidden = model._hidden(labels, key.torch())
    assert hidden is not None
    assert bool((hidden[hidden >= 0] == labels[hidden >= 0]).all())
    assert abs(int((hidden < 0).sum()) - 100) < 3.0 * math.sqrt(400 * 0.25 * 0.75)
    with torch.no_grad():
        plain = torch.stack(list(model.bound_terms(x, key.torch(), 2)))
        none = torch.stack(list(model.bound_terms(x, key.torch(), 2, torch.full((400,), -1))))
        given = torch.stack(list(model.bound_terms(x, key.torch(), 2, labels)))
        assert torch.equal(plain, none)
        assert not torch.allclose(plain, given)
        assert not torch.equal(model.loss(x, key.torch(), labels)[0], model.loss(x, key.torch())[0])


@pytest.mark.parametrize("n_levels", [2, 3, 256])
def test_the_odds_of_levels_sum_to_one_and_follow_distance(n_levels: int) -> None:
    rest: dict[str, Any] = {"levels": n_levels, "prediction": "eps", "objective": "eps", "gamma_min": -5.0}
    model = Diffusion((2, 3), (8,), **rest)
    x = torch.randint(0, n_levels, (40, 6), generator=Key(16, "x").torch()).float()
    z = model.noise.add(
        model.encode(x), model.noise.least(x), torch.randn(x.shape, generator=Key(16, "z").torch())
    )
    log_p = model.decode(z)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(40, 6).double())
    assert float((model.encode(x).abs() - model.reach).max()) < 1e-6
    levels = 2.0 * (torch.arange(n_levels).double() + 0.5) / n_levels - 1.0
    distance = (z.double()[..., None] / math.sqrt(1.0 / (1.0 + math.exp(-5.0))) - levels).abs()
    assert torch.equal(log_p.argmax(-1), distance.argmin(-1))
    energy = -0.5 * math.exp(5.0) * distance.square()
    expected = (energy - energy.logsumexp(-1, keepdim=True)).gather(-1, x.long()[..., None]).sum((1, 2))
    torch.testing.assert_close(model.log_reconstruction(x, z), expected)


def test_drawn_levels_have_their_odds() -> None:
    odds = torch.tensor([0.1, 0.2, 0.0, 0.7]).double()
    drawn = draw(
        odds.expand(40_000, 4), torch.rand(40_000, generator=Key(17, "u").torch(), dtype=torch.float64)
    )
    counts = torch.bincount(drawn.long(), minlength=4)
    assert bool(((counts - 40_000 * odds).abs() <= 3.5 * (40_000 * odds * (1 - odds)).sqrt()).all())


@pytest.mark.parametrize("method", ["ancestral", "ddim", "flow"])
@pytest.mark.parametrize("levels", [2, 5])
def test_a_picture_is_the_same_in_a_batch_of_any_size(method: Any, levels: int) -> None:
    kind: dict[str, Any] = {"levels": levels, "n_classes": 3, "dropout": 0.0, "network": "compact"}
    kind |= {} if levels == 2 else {"prediction": "v", "objective": "eps"}
    model, key = small((4, 4), **kind).eval(), Key(18, "pictures")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=key.torch())
    labels = torch.arange(64) % 4 - 1
    shown = []
    for n in (1, 3, 64):
        pixels, means = model.pictures(Streams(key, n), 6, method, labels[:n], 2.0)
        shown.append(torch.cat([pixels[:1] / (levels - 1), means[:1]]))
        assert pixels.shape == means.shape == (n, 16)
        assert bool(((means >= 0) & (means <= 1)).all())
        assert set(pixels.unique().tolist()) <= set(range(levels))
    for one in shown[1:]:
        assert float((one - shown[0]).abs().max()) < 1.0 / 255.0
    others = model.pictures(Streams(key, 3), 6, method, labels[1:4], 2.0)[1]
    assert float((others[0] - shown[1][1]).abs().max()) > 1.0 / 255.0, "another label"


def test_channels_are_the_last_of_a_site_and_reach_the_network_apart() -> None:
    rest: dict[str, Any] = {"levels": 4, "prediction": "x", "objective": "eps", "network": "compact"}
    model = Diffusion((2, 3, 3), (8, 8), T=10, **rest)
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, z: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
            seen.append(z)
            return 2.0 * z

    model.unet = Spy()
    z = torch.arange(36.0).view(2, 18)
    assert torch.equal(model.network(z, torch.ones(2)), 2.0 * z)
    assert torch.equal(seen[0][1, 2], z[1].view(2, 3, 3)[:, :, 2])


def test_few_images_get_many_draws_of_the_bound() -> None:
    model, x = exact(Exact, 50), STATES
    many = torch.stack([model.elbo(x, Key(23, "many", r).torch()).mean() for r in range(40)])
    one = torch.stack([model.bound_terms(x, Key(23, "one", r).torch()).elbo().mean() for r in range(40)])
    error = math.hypot(float(many.std()), float(one.std())) / math.sqrt(40)
    assert abs(float(many.mean() - one.mean())) < 3.0 * error
    assert float(many.var()) < float(one.var()) / 3.0  # F(39, 39) of equal ones is that once in 2,000


def test_the_loss_can_be_the_bound() -> None:
    model, x = exact(Exact, 50), STATES.repeat(60, 1)
    model.objective = "bound"
    runs = [model.loss(x, Key(19, "bound", r).torch()) for r in range(30)]
    bounds = torch.stack([loss for loss, _ in runs]) * -4.0
    expected = torch.stack([model.elbo(x, Key(19, "terms", r).torch()).mean() for r in range(30)])
    error = math.hypot(float(bounds.std()), float(expected.std())) / math.sqrt(30)
    assert abs(float(bounds.mean() - expected.mean())) < 3.0 * error < 0.3
    for loss, terms in runs:
        costs = terms["reconstruction"] + terms["prior"] + terms["matching"]
        torch.testing.assert_close(costs / 4.0, loss.detach())
