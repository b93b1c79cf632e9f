"""A number with its error: arithmetic, refusals, and error bars that cover."""

import json
import math

import numpy as np
import pytest

from genmodels.estimate import Estimate, joint_z_score, of_scalar, over_images, undetermined
from genmodels.streams import Key

N_RUNS = 2000


def inside(values: np.ndarray, errors: np.ndarray, truth: float) -> float:
    """Return by how many standard errors the share of |value − truth| ≤ error is off that of a Gaussian."""
    share = float((np.abs(values - truth) <= errors).mean())
    expected = math.erf(1.0 / math.sqrt(2.0))
    return (share - expected) / math.sqrt(expected * (1.0 - expected) / len(values))


def test_the_mean_over_images_by_hand() -> None:
    estimate = over_images([-3.0, -1.0, -8.0], kind="exact", method="sum")
    assert estimate.value == pytest.approx(-4.0)
    assert estimate.stderr_images == pytest.approx(math.sqrt((1.0 + 9.0 + 16.0) / 2.0 / 3.0))
    assert estimate.stderr == estimate.stderr_images
    assert estimate.stderr_estimator is None
    assert (estimate.n, estimate.kind, estimate.method) == (3, "exact", "sum")
    assert estimate.unit == "nats per image"


def test_both_errors_add_in_quadrature() -> None:
    estimate = over_images([0.0, 6.0], kind="estimate", method="m", stderr_estimator=4.0)
    assert (estimate.stderr_images, estimate.stderr_estimator) == pytest.approx((3.0, 4.0))
    assert estimate.stderr == pytest.approx(5.0)


def test_one_image_says_nothing_about_the_spread_of_images() -> None:
    assert over_images([-2.0], kind="exact", method="m").stderr is None
    estimate = over_images([-2.0], kind="estimate", method="m", stderr_estimator=0.5)
    assert (estimate.stderr_images, estimate.stderr) == (None, 0.5)


def test_error_bars_cover_as_often_as_they_say() -> None:
    # Skewed images, and an estimator's error that all images of a run share, as that of log Z is.
    rng = Key(3, "coverage").numpy()
    images = rng.gamma(4.0, 1.0, size=(N_RUNS, 400)) - 4.0
    shared = 0.15 * rng.standard_normal((N_RUNS, 1))
    runs = [over_images(row, kind="estimate", method="m", stderr_estimator=0.15) for row in images + shared]
    values = np.array([run.value for run in runs])
    assert abs(inside(values, np.array([run.stderr for run in runs]), 0.0)) < 4.0
    # Either part alone is too small, and the sum of both too large.
    part_images = np.array([run.stderr_images for run in runs])
    part_estimator = np.array([run.stderr_estimator for run in runs])
    assert inside(values, part_images, 0.0) < -10.0
    assert inside(values, part_estimator, 0.0) < -4.0
    assert inside(values, part_images + part_estimator, 0.0) > 10.0


def test_the_standard_error_divides_by_n_minus_one() -> None:
    rng = Key(4, "coverage").numpy()
    pairs = rng.standard_normal((N_RUNS, 2))
    squared = np.array([over_images(pair, kind="exact", method="m").stderr for pair in pairs]) ** 2
    error = squared.std() / math.sqrt(N_RUNS)
    assert abs(squared.mean() - 0.5) < 4.0 * error
    assert abs(squared.mean() / 2.0 - 0.5) > 10.0 * error  # dividing by n would halve it


def test_an_estimate_survives_json() -> None:
    for estimate in (
        over_images([1.0, 2.5], kind="lower", method="bound", stderr_estimator=0.1),
        of_scalar(3.25, stderr=None, kind="upper", unit="nats", n=7, method="sum"),
        undetermined("too few walkers", unit="nats", n=4, method="work"),
    ):
        entries = json.loads(json.dumps(estimate.to_dict(), allow_nan=False))
        assert Estimate.from_dict(entries | {"added_later": 1}) == estimate


def test_an_estimate_reads_as_a_sentence() -> None:
    assert str(of_scalar(-1.25, stderr=0.034, kind="lower", unit="nats", n=1, method="bound")) == (
        "-1.25 ± 0.034 nats (lower, bound)"
    )
    exact = of_scalar(2.0, stderr=None, kind="exact", unit="nats", n=1, method="sum")
    assert str(exact) == "2 nats (exact, sum)"
    assert str(undetermined("too few", unit="nats", n=1, method="m")) == "not determined (too few)"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_has_to_be_finite(value: float) -> None:
    with pytest.raises(FloatingPointError, match="not a finite number"):
        of_scalar(value, stderr=0.1, kind="estimate", unit="nats", n=1, method="m")


@pytest.mark.parametrize("stderr", [math.nan, math.inf, -0.1])
def test_a_standard_error_has_to_be_finite_and_not_negative(stderr: float) -> None:
    with pytest.raises(FloatingPointError, match="an error is"):
        of_scalar(1.0, stderr=stderr, kind="estimate", unit="nats", n=1, method="m")


def test_a_value_is_absent_exactly_where_it_is_undetermined() -> None:
    with pytest.raises(ValueError, match="undetermined"):
        Estimate(None, None, None, None, "exact", "", "nats", 1, "m")
    with pytest.raises(ValueError, match="undetermined"):
        Estimate(1.0, None, None, None, "undetermined", "", "nats", 1, "m")
    with pytest.raises(ValueError, match="kind is 'guess'"):
        Estimate(1.0, None, None, None, "guess", "", "nats", 1, "m")  # type: ignore[arg-type]


def test_joint_z_score() -> None:
    one = of_scalar(1.0, stderr=0.3, kind="estimate", unit="nats", n=1, method="m")
    other = of_scalar(2.0, stderr=0.4, kind="estimate", unit="nats", n=1, method="m")
    exact = of_scalar(1.6, stderr=None, kind="exact", unit="nats", n=1, method="m")
    assert joint_z_score(one, other) == joint_z_score(other, one) == pytest.approx(2.0)
    assert joint_z_score(one, exact) == pytest.approx(2.0)
    assert joint_z_score(exact, exact) == 0.0
    another = of_scalar(1.7, stderr=0.0, kind="exact", unit="nats", n=1, method="m")
    assert joint_z_score(exact, another) == math.inf
    with pytest.raises(ValueError, match="undetermined"):
        joint_z_score(one, undetermined("why", unit="nats", n=1, method="m"))


def test_noise_of_each_image_counts_once() -> None:
    generator = np.random.default_rng(3)
    n, spread, noise, shared = 400, 2.0, 1.5, 0.05
    means, errors = [], []
    for _ in range(2000):
        values = (
            generator.normal(0.0, spread, n) + generator.normal(0.0, noise, n) + generator.normal(0.0, shared)
        )
        estimator = math.hypot(noise / math.sqrt(n), shared)
        once = over_images(
            values, kind="lower", method="test", stderr_estimator=estimator, own_variance=noise**2 / n
        )
        means.append(once.value)
        errors.append(once.stderr)
    # The standard deviation of 2000 means has a relative error of 1/√4000.
    assert np.mean(errors) == pytest.approx(np.std(means), rel=3.5 / math.sqrt(4000))
    twice = over_images(values, kind="lower", method="test", stderr_estimator=estimator)
    assert twice.stderr > 1.1 * np.std(means)
