"""The classifier that says what pictures show: right on real digits, at chance where labels mean nothing."""

import math

import numpy as np
import pytest

from genmodels.data.digits import digits
from genmodels.data.sources import Request
from genmodels.errors import InputError
from genmodels.estimators.recognition import Classifier
from genmodels.streams import Key

PART = digits(Request()).parts["train"]
ORDER = Key(1, "recognition").numpy().permutation(len(PART.labels))
SEEN, HELD_OUT = ORDER[:1400], ORDER[1400:]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(PART.grey[SEEN], PART.labels[SEEN])


def test_real_digits_are_recognised(classifier: Classifier) -> None:
    share = classifier.share(PART.grey[HELD_OUT], PART.labels[HELD_OUT])
    right = classifier.classes(PART.grey[HELD_OUT]) == PART.labels[HELD_OUT]
    assert share.value == pytest.approx(right.mean())
    assert (share.unit, share.kind, share.n) == ("share", "estimate", len(HELD_OUT))
    assert "1400 real images" in share.method


def test_of_all_real_digits_98_in_100_are_recognised_by_one_that_has_not_seen_them() -> None:
    shares = []
    for fold in np.array_split(ORDER, 5):
        others = np.setdiff1d(ORDER, fold)
        judge = Classifier(PART.grey[others], PART.labels[others])
        shares.append(judge.share(PART.grey[fold], PART.labels[fold]).value)
    assert np.mean(shares) >= 0.98


def test_of_labels_that_mean_nothing_a_tenth_is_right(classifier: Classifier) -> None:
    shuffled = Key(2, "shuffled").numpy().permutation(PART.labels[HELD_OUT])
    share = classifier.share(PART.grey[HELD_OUT], shuffled)
    assert abs(share.value - 0.1) < 4.0 * share.stderr


def test_noise_is_not_recognised(classifier: Classifier) -> None:
    generator = Key(3, "noise").numpy()
    pixels, labels = generator.integers(0, 17, (500, 64)), generator.integers(0, 10, 500)
    assert classifier.share(pixels, labels).value < 0.3


def test_the_error_is_binomial_and_never_zero(classifier: Classifier) -> None:
    chosen = HELD_OUT[:200]
    found = classifier.classes(PART.grey[chosen])
    wrong = np.where(np.arange(200) < 60, (found + 1) % 10, found)
    share = classifier.share(PART.grey[chosen], wrong)
    assert share.value == 0.7
    assert share.stderr == pytest.approx(math.sqrt(0.7 * 0.3 / 200), rel=0.01)
    all_right = classifier.share(PART.grey[chosen], found)
    assert all_right.value == 1.0
    assert 0.0 < all_right.stderr < 1.0 / 200


def test_what_cannot_be_learned_or_judged_is_refused(classifier: Classifier) -> None:
    with pytest.raises(InputError, match="two classes"):
        Classifier(PART.grey[:5], np.full(5, -1))
    with pytest.raises(InputError, match="two classes"):
        Classifier(PART.grey[:5], np.zeros(5, dtype=np.int64))
    with pytest.raises(InputError, match="no pictures"):
        classifier.share(PART.grey[:0], PART.labels[:0])
