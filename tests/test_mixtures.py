"""Mixtures: their densities, EM step for step against scikit-learn, and the ascent that EM promises."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture as Reference
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimators import selection, sequential
from genmodels.learners import covariance, expectation_maximisation, kmeans
from genmodels.learners.expectation_maximisation import Ascent, ExpectationMaximisation
from genmodels.learners.fit import Whole, fit
from genmodels.models.bernoulli_mixture import BernoulliMixture
from genmodels.models.gaussian_mixture import GaussianMixture
from genmodels.streams import Key

KEY = Key(12, "mixtures")
AGAIN = Ascent(1, -math.inf)  # a state that keeps the parameters it finds: no start by k-means


def overlapping(n: int) -> Tensor:
    """Return points of three Gaussians of unequal shares and shapes, which overlap  # (n, 4)."""
    generator = KEY.child("points").torch()
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    group = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), n, replacement=True, generator=generator)
    scales = torch.tensor([[1.0, 0.5, 2.0, 1.0], [0.3, 1.0, 1.0, 1.5], [1.0, 1.0, 0.2, 0.2]])
    shifts = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.5, -1.0, 0.5, 0.0], [-1.0, 2.0, 0.0, 1.0]])
    return x * scales[group] + shifts[group]


def stripes(n: int, n_sites: int = 12) -> Tensor:
    """Return noisy binary images of three prototypes, their last pixel constant  # (n, n_sites)."""
    generator = KEY.child("stripes").torch()
    group = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), n, replacement=True, generator=generator)
    p = torch.rand(3, n_sites, generator=generator).pow(2) * 0.9 + 0.05
    v = (torch.rand(n, n_sites, generator=generator) < p[group]).float()
    v[:, -1] = 0.0
    return v


def random_gaussians(n_components: int) -> GaussianMixture:
    model = GaussianMixture(4, n_components)
    generator = KEY.child("start").torch()
    model.means.copy_(torch.randn(n_components, 4, generator=generator))
    shares = torch.arange(1, n_components + 1).double()
    model.weights.copy_(shares / shares.sum())
    roots = torch.randn(n_components, 4, 4, generator=generator, dtype=torch.float64)
    model.covariances.copy_(torch.eye(4) + roots @ roots.transpose(1, 2))
    return model


def objectives(model: GaussianMixture, learner: ExpectationMaximisation, x: Tensor) -> np.ndarray:
    return np.array([p.metrics["objective"] for p in fit(model, learner, Whole(x), KEY, 60)])


def test_a_gaussian_mixture_is_the_sum_of_scipys() -> None:
    model, x = random_gaussians(3), overlapping(20)
    density = sum(
        float(c) * multivariate_normal(m.numpy(), s.numpy()).pdf(x)
        for c, m, s in zip(*model.components(), strict=True)
    )
    assert np.allclose(model.log_prob(x), np.log(density), rtol=1e-12)
    model.weights.copy_(model.weights.flip(0))
    assert not np.allclose(model.log_prob(x), np.log(density), rtol=1e-3)


def test_a_bernoulli_mixture_sums_to_1_and_is_the_sum_of_products() -> None:
    model = BernoulliMixture(5, 2)
    model.weights.copy_(torch.tensor([0.3, 0.7]))
    model.probabilities.copy_(torch.rand(2, 5, generator=KEY.torch()) * 0.98 + 0.01)
    v = ((torch.arange(32)[:, None] >> torch.arange(5)) & 1).float()
    products = [torch.where(v.bool(), p, 1.0 - p).prod(1) for p in model.probabilities]
    assert torch.allclose(model.log_prob(v).exp(), 0.3 * products[0] + 0.7 * products[1], rtol=1e-10)
    assert float(model.log_prob(v).exp().sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("ridge", [1e-6, 0.2])
def test_em_is_scikit_learns_step_for_step(ridge: float) -> None:
    x, model = overlapping(400), random_gaussians(3)
    weights, means, covariances = (part.numpy().copy() for part in model.components())
    learner = ExpectationMaximisation(ridge=ridge, eigenvalue_floor=1e-12)
    for n_steps in (1, 2, 10):
        reference = Reference(
            3, reg_covar=ridge, tol=0.0, max_iter=n_steps, weights_init=weights, means_init=means,
            precisions_init=np.linalg.inv(covariances),
        )  # fmt: skip
        with pytest.warns(Warning, match="did not converge"):
            reference.fit(x.numpy())
        ours, state = random_gaussians(3), AGAIN
        for _ in range(n_steps):
            state, metrics = learner.step(ours, state, x, KEY)
        assert np.allclose(ours.weights, reference.weights_, atol=1e-9)
        assert np.allclose(ours.means, reference.means_, atol=1e-9)
        assert np.allclose(ours.covariances, reference.covariances_, atol=1e-9)
        assert metrics["log_likelihood"] == pytest.approx(reference.lower_bound_, abs=1e-10)
    other = random_gaussians(3)
    learner.step(other, AGAIN, x, KEY)
    assert not np.allclose(other.means, reference.means_, atol=1e-3)


def test_em_in_float32_is_scikit_learns_in_float64() -> None:
    x, model = overlapping(400), random_gaussians(3)
    weights, means, covariances = (part.numpy().copy() for part in model.components())
    reference = Reference(
        3, reg_covar=1e-6, tol=0.0, max_iter=10, weights_init=weights, means_init=means,
        precisions_init=np.linalg.inv(covariances),
    )  # fmt: skip
    with pytest.warns(Warning, match="did not converge"):
        reference.fit(x.numpy())
    learner, state = ExpectationMaximisation(ridge=1e-6, eigenvalue_floor=1e-12, products="float32"), AGAIN
    for _ in range(10):
        state, metrics = learner.step(model, state, x, KEY)
    # Ten steps carry on what the first ones round, which is 6e-8 of the data.
    assert np.allclose(model.means, reference.means_, atol=1e-5)
    assert np.allclose(model.covariances, reference.covariances_, atol=1e-5)
    assert metrics["log_likelihood"] == pytest.approx(reference.lower_bound_, abs=1e-6)
    assert not np.array_equal(model.means, reference.means_)


def test_shares_that_are_left_out_change_less_than_rounding() -> None:
    # Two far clusters: nearly all shares are below the threshold, and one is just above it.
    x = torch.cat([overlapping(300), overlapping(200) + 60.0]).float()
    shares = torch.full((500,), 1e-12, dtype=torch.float64)
    shares[:300], shares[300] = 1.0, 0.3e-7
    kept, weights = expectation_maximisation._members(x, shares)
    assert len(kept) == 300
    weights_all = shares / shares.sum()
    exact = weights_all @ x.double()
    found = (weights.double() / weights.double().sum()) @ kept.double()
    spread = float((x.max(0).values - x.min(0).values).max())
    assert float((found - exact).abs().max()) < 1e-7 * spread
    cut = shares > 0.999
    cut[:60] = False  # a threshold that takes some of what counts
    wrong = x[cut].double().mean(0)
    assert float((wrong - exact).abs().max()) > 1e-4 * spread


@pytest.mark.parametrize(("products", "fall"), [("float64", 1e-12), ("float32", 2e-6)])
def test_em_never_lets_the_likelihood_fall(products: Any, fall: float) -> None:
    x = overlapping(60)
    x[:, 3] = 1.0  # a constant pixel: the floor is at work in every step
    learner = ExpectationMaximisation(eigenvalue_floor=0.05, products=products)
    rises = np.diff(objectives(GaussianMixture(4, 5), learner, x))
    assert rises.min() > -fall
    assert rises.max() > 0.01


@pytest.mark.parametrize("products", ["float64", "float32"])
def test_fewer_images_than_pixels_and_constant_ones_leave_it_finite(products: Any) -> None:
    x = torch.cat([overlapping(12), torch.zeros(12, 30, dtype=torch.float64)], 1)  # 12 images of 34 pixels
    model, learner = GaussianMixture(34, 3), ExpectationMaximisation(products=products)
    metrics = [done.metrics for done in fit(model, learner, Whole(x), KEY, 15)]
    assert metrics[-1]["n_floored"] >= 3 * 30
    assert torch.isfinite(model.log_prob(x)).all()
    assert float(torch.linalg.eigvalsh(model.covariances).min()) > 0.99e-2
    assert np.diff([each["objective"] for each in metrics]).min() > -1e-5


def test_no_eigenvalues_are_sought_where_none_is_below_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.linalg, "eigh", lambda _: pytest.fail("sought"))
    covariance_of = torch.tensor([[2.0, 0.9], [0.9, 0.5]], dtype=torch.float64)
    least = float(torch.linalg.eigvalsh(covariance_of)[0])
    same, n_raised = covariance.floored(covariance_of, 0.999 * least)
    assert same is covariance_of
    assert n_raised == 0
    monkeypatch.undo()
    assert covariance.floored(covariance_of, 1.001 * least)[1] == 1


def test_held_out_images_choose_the_number_of_components() -> None:
    truth = BernoulliMixture(12, 3)
    truth.weights.copy_(torch.tensor([0.5, 0.3, 0.2]))
    truth.probabilities.copy_(torch.rand(3, 12, generator=KEY.child("truth").torch()).round() * 0.8 + 0.1)
    seen, unseen = (truth.sample(n, KEY.child("choice").at(shard=n).torch()) for n in (600, 4000))
    models = {k: BernoulliMixture(12, k) for k in (1, 3, 40)}
    last = {}
    for k, model in models.items():
        for done in fit(model, ExpectationMaximisation(pseudo_count=1e-3), Whole(seen), KEY, 60):
            last[k] = done.metrics["log_likelihood"]
    chosen, scores = selection.likeliest(models, unseen, KEY)
    assert chosen == 3
    assert max(last, key=lambda k: last[k]) == 40  # what the images of the training would have chosen
    assert selection.likeliest(models, seen, KEY)[0] == 40
    best, error = scores[3]
    assert best == pytest.approx(float(models[3].log_prob(unseen).mean()))
    # What a fit of d parameters to n images loses on others is χ²_d/2n.
    lost, n_parameters = truth.log_prob(unseen) - models[3].log_prob(unseen), 38
    stderr = math.hypot(math.sqrt(2.0 * n_parameters) / 1200, float(lost.std()) / math.sqrt(len(unseen)))
    assert abs(float(lost.mean()) - n_parameters / 1200) < 4.0 * stderr
    assert best - scores[1].mean > 10.0 * error


def test_gaussians_are_chosen_by_their_probabilities_of_binary_images() -> None:
    model, v = random_gaussians(2), (overlapping(20) > 0).double()
    found = selection.score(model, v, KEY)
    assert found.mean == pytest.approx(float(sequential.log_prob(model, v).mean()))
    assert found.stderr == pytest.approx(float(sequential.log_prob(model, v).std()) / math.sqrt(len(v)))
    assert found.mean != pytest.approx(float(model.log_prob(v).mean()), abs=0.01)


def test_a_ridge_lets_the_likelihood_fall() -> None:
    # From the optimum of the likelihood a ridge can only lead away; the floor, at work or not, stays there.
    x, model = overlapping(400), GaussianMixture(4, 2)
    plain = ExpectationMaximisation(eigenvalue_floor=0.05)
    best = objectives(model, plain, x)[-1]
    for learner, falls in ((plain, False), (ExpectationMaximisation(ridge=0.05), True)):
        state = AGAIN
        for _ in range(2):
            state, metrics = learner.step(model, state, x, KEY)
        assert (metrics["log_likelihood"] < best - 1e-3) == falls
        assert abs(metrics["log_likelihood"] - best) < 0.1


def test_em_of_bernoullis_raises_the_penalised_objective_and_not_always_the_likelihood() -> None:
    v, model = stripes(80), BernoulliMixture(12, 6)
    learner = ExpectationMaximisation(pseudo_count=2.0)
    metrics = [p.metrics for p in fit(model, learner, Whole(v), KEY, 60)]
    objective = np.array([m["objective"] for m in metrics])
    assert np.diff(objective).min() > -1e-12
    assert objective[-1] - objective[0] > 0.01
    assert np.diff([m["log_likelihood"] for m in metrics]).min() < -1e-4
    p = model.probabilities
    penalty = 2.0 / 80 * float((p * (1.0 - p)).log().sum())
    after = float(model.log_prob(v).mean()) + penalty
    assert after == pytest.approx(objective[-1], abs=1e-4)
    assert after >= objective[-1]


def test_the_m_step_is_the_mode_of_the_penalised_objective() -> None:
    # At the fixed point no parameter moved alone raises the objective: its gradient vanishes.
    v, model = stripes(200), BernoulliMixture(12, 3)
    a = 0.7
    for _ in fit(model, ExpectationMaximisation(pseudo_count=a), Whole(v), KEY, 2000):
        pass
    p = model.probabilities.clone().requires_grad_()
    c = model.weights.log().clone().requires_grad_()
    log_joint = v.double() @ p.log().T + (1.0 - v.double()) @ (1.0 - p).log().T + c.log_softmax(0)
    log_joint.logsumexp(1).mean().backward()
    penalty = a / 200 * (1.0 / p - 1.0 / (1.0 - p)).detach()
    assert float((p.grad + penalty).abs().max()) < 1e-6
    assert float(c.grad.abs().max()) < 1e-6
    assert float((p.grad + 1.5 * penalty).abs().max()) > 1e-3


def test_components_are_found_again_within_their_fisher_information() -> None:
    n, truth = 6000, BernoulliMixture(12, 3)
    truth.weights.copy_(torch.tensor([0.5, 0.3, 0.2]))
    truth.probabilities.copy_(torch.rand(3, 12, generator=KEY.child("truth").torch()) * 0.9 + 0.05)
    v = truth.sample(n, KEY.child("sample").torch()).double()
    model = BernoulliMixture(12, 3)
    for _ in fit(model, ExpectationMaximisation(), Whole(v), KEY, 100):
        pass
    order = torch.cdist(truth.probabilities, model.probabilities).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    p, shares = truth.probabilities, truth.log_joint(v).softmax(1)
    scores = shares[:, :, None] * (v[:, None] - p) / (p * (1.0 - p))
    scores = torch.cat([scores.flatten(1), (shares - truth.weights)[:, :2]], 1)  # c as logits, the last one 0
    logits = (model.weights[order] / truth.weights).log()
    off = torch.cat([(model.probabilities[order] - p).flatten(), (logits - logits[2])[:2]])
    chi_square = float((scores @ off).square().sum())
    n_parameters = 38
    assert abs(chi_square - n_parameters) < 4.0 * math.sqrt(2.0 * n_parameters)
    off[0] += 0.05  # one pixel's probability of one component
    assert float((scores @ off).square().sum()) > 2.0 * n_parameters


def test_samples_follow_the_density() -> None:
    n, model = 60_000, random_gaussians(2)
    x = model.sample(n, KEY.child("sample").torch()).double()
    mean = model.weights @ model.means
    second = model.covariances + model.means[:, :, None] * model.means[:, None, :]
    products = x[:, :, None] * x[:, None, :]
    error = products.std(0) / math.sqrt(n)
    assert float(((x.mean(0) - mean).abs() / (x.std(0) / math.sqrt(n))).max()) < 4.0
    assert float(((products.mean(0) - torch.tensordot(model.weights, second, 1)).abs() / error).max()) < 4.0
    swapped = torch.tensordot(model.weights.flip(0), second, 1)
    assert float(((products.mean(0) - swapped).abs() / error).max()) > 20.0


def test_samples_of_bernoullis_follow_their_probabilities() -> None:
    n, model = 60_000, BernoulliMixture(4, 2)
    model.weights.copy_(torch.tensor([0.25, 0.75]))
    model.probabilities.copy_(torch.tensor([[0.9, 0.2, 0.6, 0.5], [0.1, 0.3, 0.7, 0.5]]))
    states = ((torch.arange(16)[:, None] >> torch.arange(4)) & 1).float()
    expected = model.log_prob(states).exp() * n
    sampled = model.sample(n, KEY.child("bits").torch()) @ torch.tensor([1.0, 2.0, 4.0, 8.0])
    counts = torch.bincount(sampled.long(), minlength=16)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - 15.0) < 4.0 * math.sqrt(30.0)
    independent = torch.full((16,), n / 16.0)
    assert float(((counts - independent) ** 2 / independent).sum()) > 1000.0


def test_em_says_when_it_has_converged() -> None:
    v = stripes(80)
    learner = ExpectationMaximisation(tolerance=1e-3)
    metrics = [p.metrics for p in fit(BernoulliMixture(12, 3), learner, Whole(v), KEY, 60)]
    gains = np.diff([m["objective"] for m in metrics])
    assert [m["converged"] for m in metrics] == [0.0, *(gains < 1e-3).astype(float)]
    assert metrics[-1]["converged"] == 1.0


def test_a_component_without_images_is_counted_and_stays() -> None:
    x, model = overlapping(50), random_gaussians(3)
    model.means[2] = 1e4
    before = model.covariances[2].clone()
    _, metrics = ExpectationMaximisation().step(model, AGAIN, x, KEY)
    assert metrics["n_empty"] == 1.0
    assert float(model.weights[2]) == 0.0
    assert torch.equal(model.covariances[2], before)
    assert torch.isfinite(model.log_prob(x)).all()


def test_k_means_plus_plus_draws_by_squared_distance() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    pairs: dict[tuple[float, float], int] = {}
    n = 6000
    for i in range(n):
        first, second = kmeans.plus_plus(x, 2, KEY.child("++").at(round=i).torch())[:, 0].tolist()
        pairs[first, second] = pairs.get((first, second), 0) + 1
    for (first, second), share in {(0.0, 1.0): 1 / 10, (1.0, 0.0): 1 / 5, (3.0, 1.0): 4 / 13}.items():
        p = share / 3.0
        assert abs(pairs[first, second] - n * p) < 4.0 * math.sqrt(n * p * (1.0 - p))
        p = abs(second - first) / sum(abs(float(other) - first) for other in x) / 3.0  # by plain distance
        assert abs(pairs[first, second] - n * p) > 4.0 * math.sqrt(n * p * (1.0 - p))


def test_k_means_lowers_the_distances_and_uses_every_centre() -> None:
    x = overlapping(300)

    def spread(n_rounds: int) -> float:
        nearest = kmeans.assignments(x, 4, n_rounds, KEY.child("start").torch())
        assert set(nearest.tolist()) == {0, 1, 2, 3}
        return sum(float((x[nearest == k] - x[nearest == k].mean(0)).square().sum()) for k in range(4))

    spreads = [spread(n) for n in (0, 1, 3, 10)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < spreads[0]


def test_copies_of_one_image_make_a_start_too() -> None:
    model = BernoulliMixture(3, 2)
    _, metrics = ExpectationMaximisation().step(model, Ascent(0, -math.inf), torch.ones(5, 3), KEY)
    assert math.isfinite(metrics["objective"])


def test_more_components_than_images_are_refused() -> None:
    with pytest.raises(InputError, match="6 components for 5 images"):
        ExpectationMaximisation().step(BernoulliMixture(3, 6), Ascent(0, -math.inf), torch.ones(5, 3), KEY)


def test_products_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="products: 'half' is unknown, give float64 or float32"):
        ExpectationMaximisation(products="half")  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["pseudo_count", "eigenvalue_floor"])
def test_a_setting_that_gives_log_0_is_refused(setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting}: 0.0 .* make it positive"):
        ExpectationMaximisation(**{setting: 0.0})
