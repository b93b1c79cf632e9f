"""Measures of samples against closed forms, and against copies and collapses that they have to expose."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from genmodels.errors import InputError
from genmodels.estimators import classifier, sample_quality
from genmodels.estimators.classifier import Features
from genmodels.streams import Key

KEY = Key(95, "quality")


def normal(n: int, name: str, mean: float = 0.0, n_sites: int = 4) -> np.ndarray:
    return mean + KEY.child(name).numpy().standard_normal((n, n_sites))


def levels(n: int, name: str, k: int = 5, n_sites: int = 12) -> np.ndarray:
    return KEY.child(name).numpy().integers(0, k, (n, n_sites)).astype(np.uint8)


# Distances


def test_the_nearest_is_found_exactly_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    points, among = levels(30, "points"), levels(50, "among")
    among[7] = points[3]
    by_hand = np.sqrt(((points[:, None].astype(float) - among[None]) ** 2).sum(2))
    whole = sample_quality.nearest(points, among)
    assert np.array_equal(whole.place, by_hand.argmin(1))
    assert whole.distance == pytest.approx(by_hand.min(1), abs=1e-12)
    assert whole.distance[3] == 0.0  # and not what rounding leaves
    monkeypatch.setattr(sample_quality, "_AT_ONCE", 120)
    sizes, distances = [], sample_quality.squared_distances

    def noted(points: np.ndarray, among: np.ndarray) -> np.ndarray:
        sizes.append(len(points) * len(among))
        return distances(points, among)

    monkeypatch.setattr(sample_quality, "squared_distances", noted)
    parts = sample_quality.nearest(points, among)
    assert max(sizes) <= 120
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


# The Fréchet distance of Gaussians


def test_frechet_of_gaussians_in_closed_form() -> None:
    one, other = np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 4.0, 1.0])
    # |μ|² + Σ (σ − σ')² where covariances commute.
    expected = 14.0 + (1.0 - 2.0) ** 2 + 0.0 + (3.0 - 1.0) ** 2
    turn = np.linalg.qr(KEY.numpy().standard_normal((3, 3)))[0]
    mean = np.array([1.0, 2.0, 3.0])
    for q in (np.eye(3), turn):
        found = sample_quality.frechet(q @ mean, q @ one @ q.T, np.zeros(3), q @ other @ q.T)
        assert found == pytest.approx(expected)
    # Of covariances that do not: by the eigenvalues of their product.
    a, b = (x @ x.T for x in KEY.child("pair").numpy().standard_normal((2, 3, 3)))
    overlap = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    expected = np.trace(a) + np.trace(b) - 2.0 * overlap
    assert sample_quality.frechet(mean, a, mean, b) == pytest.approx(expected)
    assert sample_quality.frechet(mean, a, mean, a) == pytest.approx(0.0, abs=1e-8)


def test_the_error_of_the_frechet_distance_is_its_spread() -> None:
    values, errors = [], []
    for seed in range(60):
        real, drawn = normal(200, f"real {seed}"), normal(200, f"drawn {seed}", 1.0)
        found = sample_quality.frechet_distance(real, drawn, "pixels")
        values.append(found.value)
        errors.append(found.stderr)
    assert np.mean(values) == pytest.approx(4.0, abs=0.3)  # 4 sites, a mean 1 apart
    assert 0.7 < np.mean(errors) / np.std(values) < 1.5
    assert found.unit == "squared distance of features"


# Neighbourhoods


def test_neighbourhoods_by_hand() -> None:
    # On a line: balls of the second neighbour, as there are three points of a kind.
    real, drawn = np.array([[0.0], [1.0], [2.0]]), np.array([[0.5], [4.5], [30.0]])
    found = sample_quality.neighbourhoods(real, drawn, "a line")
    value = {name: estimate.value for name, estimate in found.items()}
    # Real balls: [−2, 2], [0, 2], [0, 4]; drawn ones: [−29, 30], [−21, 30], [0.5, 59.5].
    assert value["precision"] == pytest.approx(1 / 3)
    assert value["recall"] == 1.0
    assert value["coverage"] == 1.0
    assert value["density"] == pytest.approx(3 / 2 / 3)
    with pytest.raises(ValueError, match="no neighbourhoods"):
        sample_quality.neighbourhoods(real[:2], drawn, "a line")


SAMPLES: dict[str, Callable[[], np.ndarray]] = {
    "real": lambda: normal(400, "more"),
    "collapsed": lambda: 0.1 * normal(400, "more"),
    "wide": lambda: 4.0 * normal(400, "more"),
    "away": lambda: normal(400, "more", 8.0),
}


def test_what_is_wrong_with_samples_shows_where_it_should() -> None:
    real = normal(400, "real")
    found = {name: sample_quality.neighbourhoods(real, make(), "pixels") for name, make in SAMPLES.items()}
    value = {name: {key: each.value for key, each in of.items()} for name, of in found.items()}
    assert value["real"]["precision"] > 0.85
    assert value["real"]["recall"] > 0.85
    assert value["real"]["coverage"] > 0.9
    assert value["real"]["density"] == pytest.approx(1.0, abs=0.15)
    assert value["collapsed"]["precision"] > 0.99  # plausible, all of them the same
    assert value["collapsed"]["recall"] < 0.1
    assert value["wide"]["precision"] < 0.4
    assert value["away"] == {"precision": 0.0, "recall": 0.0, "coverage": 0.0, "density": 0.0}
    assert all(each.stderr > 0.0 for key, each in found["away"].items() if key != "density")


# Memorisation


def test_a_copy_of_the_training_set_is_exposed() -> None:
    train, held_out, fair = (normal(300, name) for name in ("train", "held out", "fair"))
    for drawn, least, most in ((fair, 0.42, 0.58), (train.copy(), 0.0, 0.01)):
        found = sample_quality.adversarial_accuracy(train, drawn, "training images")
        assert set(found) == {"", "real", "drawn"}
        assert all(least <= each.value <= most for each in found.values())
        assert found[""].value == pytest.approx((found["real"].value + found["drawn"].value) / 2.0)
        assert found[""].stderr > 0.0
    beside = sample_quality.adversarial_accuracy(held_out, train.copy(), "held out")[""]
    assert 0.42 < beside.value < 0.58  # held-out images know nothing of it
    away = sample_quality.adversarial_accuracy(train, normal(300, "away", 9.0), "training images")
    assert away[""].value == 1.0
    few = sample_quality.adversarial_accuracy(train[:2], fair, "training images")[""]
    assert few.kind == "undetermined"


def test_a_few_copies_among_many_training_images_are_exposed() -> None:
    train, held_out = normal(3000, "train"), normal(200, "held out")
    of_held_out = sample_quality.nearest(held_out, train).distance

    def copied(drawn: np.ndarray) -> float:
        estimate = sample_quality.copying(sample_quality.nearest(drawn, train).distance, of_held_out)
        assert estimate.stderr > 0.0
        return (estimate.value - 0.5) / estimate.stderr

    fair = normal(200, "fair")
    assert abs(copied(fair)) < 3.0
    assert copied(np.concatenate([fair[:100], train[:100]])) > 5.0
    assert copied(train[-200:]) > 100.0
    assert copied(normal(200, "away", 3.0)) < -10.0


def test_copying_is_the_probability_of_being_nearer_with_its_error() -> None:
    a, b = np.array([1.0, 2.0, 2.0]), np.array([2.0, 3.0])
    pairs = [(x < y) + 0.5 * (x == y) for x in a for y in b]
    assert sample_quality.copying(a, b).value == pytest.approx(np.mean(pairs))
    z = []
    for seed in range(200):
        draws = KEY.child(f"u {seed}").numpy().standard_normal((2, 80))
        found = sample_quality.copying(draws[0], draws[1])
        z.append((found.value - 0.5) / found.stderr)
    assert 0.85 < np.std(z) < 1.2
    assert abs(np.mean(z)) < 4.0 / math.sqrt(200)


def test_equal_pictures_are_ties() -> None:
    same = np.ones((20, 6), dtype=np.uint8)
    found = sample_quality.adversarial_accuracy(same, same.copy(), "training images")
    assert {each.value for each in found.values()} == {0.5}


def test_moments_that_differ_are_measured() -> None:
    real, drawn = normal(4000, "real"), normal(4000, "drawn", 0.5)
    gaps = sample_quality.moment_gaps(real, drawn)
    assert gaps["mean_gap"].value == pytest.approx(0.5, abs=4.0 * gaps["mean_gap"].stderr)
    assert gaps["covariance_gap"].value < 0.05
    wide = sample_quality.moment_gaps(real, 2.0 * normal(4000, "drawn"))
    assert wide["covariance_gap"].value == pytest.approx(1.5, abs=0.15)  # √(4 · 9/16)


# The classifier whose features are the space


def clusters(n: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    labels = KEY.child(f"{name} labels").numpy().integers(0, 3, n)
    centres = KEY.child("centres").numpy().random((3, 10))
    return centres[labels] + 0.05 * normal(n, name, n_sites=10), labels.astype(np.int64)


def test_a_classifier_learns_says_what_it_is_and_survives_a_file() -> None:
    pixels, labels = clusters(300, "train")
    learnt = classifier.learn(pixels, labels, KEY, [16, 5], 4, 400)
    unseen, truth = clusters(100, "test")
    assert learnt.share(unseen, truth).value > 0.95
    assert learnt.of(unseen).shape == (100, 5)
    assert learnt.words() == "5 features of a classifier of 3 classes"
    again = classifier.learn(pixels, labels, KEY, [16, 5], 4, 400)
    kept = Features.from_arrays(learnt.arrays())
    for other in (again, kept):
        assert np.array_equal(other.of(unseen), learnt.of(unseen))
        assert np.array_equal(other.classes(unseen), learnt.classes(unseen))


def test_without_labels_it_tells_clusters_apart_and_says_so() -> None:
    pixels, labels = clusters(300, "train")
    learnt = classifier.learn(pixels, np.full(300, -1), KEY, [16, 5], 3, 400)
    assert learnt.words() == "5 features of a classifier of 3 clusters"
    found = learnt.classes(pixels)
    assert len({(int(a), int(b)) for a, b in zip(found, labels, strict=True)}) == 3
    with pytest.raises(InputError, match="two classes"):
        classifier.learn(pixels, np.zeros(300, dtype=np.int64), KEY, [4], 3, 5)
