"""Grey images: probabilities of levels, bits per dimension and which way they bound, a table of their own."""

import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import multivariate_normal
from torch import Tensor

from genmodels import cli, table
from genmodels.artifacts import save_model
from genmodels.data import images
from genmodels.data.prepare import prepare_dataset
from genmodels.errors import InputError
from genmodels.estimators import likelihood, sequential
from genmodels.estimators.route import Effort, Route
from genmodels.learners.closed_form import ClosedForm
from genmodels.models.diffusion import Diffusion
from genmodels.models.gaussian import Gaussian
from genmodels.models.gaussian_mixture import GaussianMixture
from genmodels.models.independent import Independent
from genmodels.models.independent_levels import IndependentLevels
from genmodels.models.vae import VAE
from genmodels.streams import Key
from stages.page import figures
from stages.page.names import TRACKS
from stages.report import tracks_of

KEY = Key(41, "grey")
LEVELS, SITES = 4, 3


def states() -> Tensor:
    """Return all of {0 … 3}³."""
    return torch.tensor(list(itertools.product(range(LEVELS), repeat=SITES))).float()


def mixture() -> GaussianMixture:
    """Return two components, strongly correlated, with means among the levels."""
    model = GaussianMixture(SITES, 2, LEVELS)
    model.weights.copy_(torch.tensor([0.3, 0.7]))
    model.means.copy_(torch.tensor([[0.4, 2.5, 1.0], [3.2, 1.1, 1.9]]))
    roots = torch.randn(2, SITES, SITES, generator=KEY.child("roots").torch(), dtype=torch.float64)
    model.covariances.copy_(0.2 * torch.eye(SITES) + 0.4 * roots @ roots.transpose(1, 2))
    return model


def by_hand(model: GaussianMixture, x: np.ndarray) -> float:
    """Return log q(x) from ratios of the Gaussian's densities at all levels of a pixel, by scipy."""
    total = 0.0
    for weight, mean, covariance in zip(*(part.numpy() for part in model.components()), strict=True):
        product = float(weight)
        for i, level in enumerate(x):
            density = multivariate_normal(mean[: i + 1], covariance[: i + 1, : i + 1])
            heights = [density.pdf(np.append(x[:i], u)) for u in range(LEVELS)]
            product *= heights[int(level)] / sum(heights)
        total += product
    return math.log(total)


def uniform(levels: int, n_sites: int) -> IndependentLevels:
    return IndependentLevels(n_sites, levels)


def digits() -> images.Images:
    return prepare_dataset("digits", None, None, None, 1, 0.0, validation=0.1, test=0.2, seed=3)[0]


def fitted(prepared: images.Images) -> IndependentLevels:
    model = IndependentLevels(64, 17)
    x = images.batch(prepared.splits["train"], "grey", "grey")
    ClosedForm(pseudo_count=0.5).step(model, None, x, KEY)
    return model


# Probabilities of levels


def test_conditionals_on_the_levels_are_ratios_of_densities() -> None:
    model, x = mixture(), states()
    expected = [by_hand(model, state) for state in x.numpy()[::7]]
    assert np.allclose(sequential.log_prob(model, x[::7]), expected, atol=1e-10)
    assert float(sequential.log_prob(model, x).exp().sum()) == pytest.approx(1.0, abs=1e-12)
    model.levels = LEVELS - 1  # another normalisation: one level too few
    assert not np.allclose(sequential.log_prob(model, x[::7]), expected, atol=0.05)


def test_samples_of_levels_follow_their_probabilities() -> None:
    n, model = 40_000, mixture()
    drawn = sequential.sample(model, n, KEY.child("sample").torch())
    assert set(drawn.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    counts = torch.bincount((drawn @ torch.tensor([16.0, 4.0, 1.0])).long(), minlength=LEVELS**SITES)
    expected = n * sequential.log_prob(model, states()).exp()
    often = expected > 5
    chi, degrees = float(((counts - expected) ** 2 / expected)[often].sum()), int(often.sum())
    assert abs(chi - degrees) < 4.0 * math.sqrt(2.0 * degrees)
    rounded = model.sample(n, KEY.child("rounded").torch()).round().clamp(0, LEVELS - 1)
    counts = torch.bincount((rounded @ torch.tensor([16.0, 4.0, 1.0])).long(), minlength=LEVELS**SITES)
    assert float(((counts - expected) ** 2 / expected)[often].sum()) > 5.0 * degrees


def test_independent_levels_are_the_shares_with_the_pseudo_count() -> None:
    x = torch.tensor([[0.0, 2.0], [0.0, 1.0], [3.0, 1.0]])
    model = IndependentLevels(2, 4)
    metrics = ClosedForm(pseudo_count=0.5).step(model, None, x, KEY)[1]
    expected = torch.tensor([[2.5, 0.5, 0.5, 1.5], [0.5, 2.5, 1.5, 0.5]]).double() / 5.0
    assert torch.allclose(model.probabilities, expected, atol=1e-12)
    assert metrics["log_likelihood"] == pytest.approx(math.log(0.5 * 0.3 * 0.5 * 0.5 * 0.3 * 0.5) / 3)
    with pytest.raises(InputError, match="levels: 1"):
        IndependentLevels(2, 1)
    n = 40_000
    drawn = model.sample(n, KEY.child("levels").torch())
    shares = torch.stack([(drawn == level).double().mean(0) for level in range(4)], 1)
    z = (shares - expected) / (expected * (1 - expected) / n).sqrt()
    assert float(z.abs().max()) < 4.0
    assert float((shares.flip(1) - expected).abs().max()) > 0.1


# Bits per dimension


@pytest.mark.parametrize("model", [Gaussian(4), Diffusion((2, 2), [8], T=4)], ids=["gaussian", "diffusion"])
def test_values_that_are_drawn_image_by_image_share_no_error(model: Any) -> None:
    v = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    effort = Effort(noise_levels=2, noise_repeats=2, dequantisation_samples=4)
    found = likelihood.routes(model, v, KEY, effort=effort)
    assert found[-1].kind == "lower"
    assert [route.shared for route in found] == [0.0] * len(found)


@pytest.mark.parametrize(("levels", "bits"), [(4, 2.0), (16, 4.0), (256, 8.0)])
def test_a_model_that_knows_nothing_needs_all_the_bits(levels: int, bits: float) -> None:
    x = torch.randint(0, levels, (7, 5), generator=KEY.torch()).float()
    (route,) = likelihood.routes(uniform(levels, 5), x, KEY)
    found = route.mean()
    assert found.value == pytest.approx(bits, rel=1e-12)
    assert (found.kind, found.unit, route.quantity) == ("exact", "bits per dimension", "bits_per_dimension")
    assert found.method == f"closed form, {levels} levels"
    nats = route._replace(levels=2).mean()  # what a table of nats would say, of the other sign
    assert nats.value == pytest.approx(-bits * math.log(2.0) * 5)


def test_bits_are_minus_the_log_likelihood_to_base_2_per_pixel() -> None:
    prepared = digits()
    model, x = fitted(prepared), images.of_levels(prepared, "test", 17)
    p = model.probabilities.numpy()
    each = [-sum(math.log2(p[i, u]) for i, u in enumerate(image)) / 64 for image in x[:50]]
    (route,) = likelihood.routes(model, torch.from_numpy(x[:50]).float(), KEY)
    found = route.mean()
    assert found.value == pytest.approx(np.mean(each), rel=1e-12)
    assert found.stderr == found.stderr_images == pytest.approx(np.std(each, ddof=1) / math.sqrt(50))
    assert 1.0 < found.value < math.log2(17)  # better than no knowledge
    assert found.value != pytest.approx(-route.values.mean() / 64, rel=0.2)  # nats per dimension


def test_a_lower_bound_on_the_likelihood_is_an_upper_bound_in_bits() -> None:
    values, variances = np.array([-90.0, -110.0, -100.0]), np.array([4.0, 1.0, 1.0])
    below = Route("", values, variances, 0.5, "lower", "a bound", levels=17, n_sites=64)
    bits, nats = below.mean(), below._replace(levels=2).mean()
    scale = 64 * math.log(2.0)
    assert (bits.kind, nats.kind) == ("upper", "lower")
    assert bits.value == pytest.approx(100.0 / scale)
    for one, other in zip(
        (bits.stderr, bits.stderr_images, bits.stderr_estimator),
        (nats.stderr, nats.stderr_images, nats.stderr_estimator),
        strict=True,
    ):
        assert one == pytest.approx(other / scale)
    # Whatever is truly likelier than the bound says needs fewer bits than the bound in bits.
    truth = below._replace(values=values + 3.0, variances=None, kind="exact").mean()
    assert truth.kind == "exact"
    assert truth.value < bits.value
    assert below._replace(kind="estimate").mean().kind == "estimate"
    refused = below._replace(values=None, kind="undetermined", reason="no reason").mean()
    assert (refused.kind, refused.unit) == ("undetermined", "bits per dimension")


def test_a_bound_of_a_real_model_lies_above_its_exact_bits() -> None:
    # z says nothing here: the decoder is a product of logistics, whose likelihood is known.
    model, x = autoencoder("discretised_logistic"), states()
    model.decoder[-1].weight.data.zero_()
    with torch.no_grad():
        exact = -float(model.log_likelihood(x, torch.zeros(len(x), 2)).mean()) / (SITES * math.log(2.0))
    effort = Effort(importance_samples=200, posterior_images=0)
    weighted, elbo = (route.mean() for route in likelihood.routes(model, x, KEY, effort=effort))
    assert (weighted.kind, elbo.kind) == ("upper", "upper")
    assert exact - 4.0 * weighted.stderr_estimator < weighted.value < elbo.value
    assert elbo.value - exact > 10.0 * elbo.stderr_estimator  # the encoder is not the posterior, the prior


def test_a_density_is_no_probability_of_levels() -> None:
    (route,) = likelihood.routes(autoencoder("gaussian"), states(), KEY)
    assert route.values is None
    assert "discretised_logistic" in route.mean().reason


def autoencoder(decoder: str) -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(KEY.counter())
        return VAE((1, SITES, 1), 2, [4], levels=LEVELS, decoder=decoder).eval()


# One column, one kind of image


def row(model: str, route: Route) -> dict[str, Any]:
    return {"model": model, "name": route.quantity} | route.mean().to_dict()


def rows_of_both() -> list[dict[str, Any]]:
    prepared = digits()
    grey = torch.from_numpy(images.of_levels(prepared, "test", 17)).float()
    binary = torch.from_numpy(images.of_levels(prepared, "test", 2)).float()
    coins = Independent(64)
    return [
        row("independent_levels", likelihood.routes(fitted(prepared), grey, KEY)[0]),
        row("independent", likelihood.routes(coins, binary, KEY)[0]),
    ]


DATA = {"name": "digits", "binarisation": "fixed-stochastic", "levels": 17}


def printed(tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    console = Console(width=120, file=io.StringIO())
    monkeypatch.setattr(table, "Console", lambda width=None: console)
    table.show(tables)
    return " ".join(console.file.getvalue().split())


def test_a_run_with_both_prints_two_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed({"main": {"data": DATA, "rows": rows_of_both()}}, monkeypatch)
    binary, grey = text.split("held-out grey images (17 levels), bits per dimension, smaller is better")
    assert "held-out binary images (fixed-stochastic binarisation), nats per image" in binary
    assert "independent levels" not in binary
    assert "−44.36" in binary
    assert "independent levels" in grey
    assert "−" not in grey


def test_runs_side_by_side_share_no_column(monkeypatch: pytest.MonkeyPatch) -> None:
    grey, binary = rows_of_both()
    tables = {"one": {"data": DATA, "rows": [grey]}, "two": {"data": DATA, "rows": [binary]}}
    text = printed(tables, monkeypatch)
    first, second = text.split("held-out grey images, bits per dimension, smaller is better")
    assert ("two" in first, "one" in first, "one" in second, "two" in second) == (True, False, True, False)


def test_the_report_keeps_them_apart(tmp_path: Path) -> None:
    both = rows_of_both()
    found = tracks_of(both)
    assert list(found) == list(TRACKS) == ["log_likelihood", "bits_per_dimension"]
    assert [[each["unit"] for each in mine] for mine in found.values()] == [
        ["nats per image"], ["bits per dimension"],
    ]  # fmt: skip
    assert list(tracks_of(both[:1])) == ["bits_per_dimension"]
    with pytest.raises(KeyError):  # a unit of which nothing is known has no column to go to
        figures.likelihood({"nats": both}, tmp_path / "mixed.png")


# The command


def test_the_command_gives_bits_of_a_grey_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = digits()
    model = fitted(prepared)
    save_model(tmp_path / "fit/levels", "independent_levels", model, images.describe(prepared, "grey"))
    folder = tmp_path / "prepare/images"
    folder.mkdir(parents=True)
    images.save(folder, prepared)
    cli.evaluate(tmp_path / "fit/levels", "digits", as_json=True)
    said = json.loads(capsys.readouterr().out)
    x = torch.from_numpy(prepared.splits["test"].grey).float()
    assert said["value"] == pytest.approx(-float(model.log_prob(x).mean()) / (64 * math.log(2.0)))
    assert (said["unit"], said["kind"], said["n"]) == ("bits per dimension", "exact", len(x))
    cli.evaluate(tmp_path / "fit/levels", str(folder))
    assert "bits per dimension (exact, closed form, 17 levels)" in capsys.readouterr().out


def test_images_of_other_levels_are_refused(tmp_path: Path) -> None:
    prepared = digits()
    save_model(tmp_path / "levels", "independent_levels", fitted(prepared), images.describe(prepared, "grey"))
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).random((20, 8, 8)))
    with pytest.raises(InputError, match="256 levels where the model was trained on 17"):
        cli.evaluate(tmp_path / "levels", str(tmp_path))
