"""What captions ask for, and whether pictures show it: rules against pictures that are known."""

import math

import numpy as np
import pytest

from genmodels import agreement
from genmodels.agreement import Asked, asked, colour_of
from genmodels.data.captions import Captioned, CaptionedImages
from genmodels.data.recolour import TINTS, Tint, recoloured
from genmodels.estimate import of_share
from stages import recognise_captions

SHAPE = (16, 16, 3)


def blot(colour: str, radius: float = 5.0, at: tuple[float, float] = (7.5, 7.5)) -> np.ndarray:
    """Return a disc of a colour on white, its lower half darker  # (row, column, 3) from 0 to 1."""
    row, column = np.indices(SHAPE[:2])
    inside = (row - at[0]) ** 2 + (column - at[1]) ** 2 < radius**2
    opaque = np.full((*SHAPE[:2], 4), 255, dtype=np.uint8)
    opaque[..., :3] = (200, 40, 40)
    painted = recoloured(opaque, Tint(0.0, 0.8, 200 / 255), TINTS[colour])[..., :3] / 255.0
    painted[8:] *= 0.97
    return np.where(inside[..., None], painted, 1.0)


@pytest.mark.parametrize("colour", TINTS)
def test_a_colour_is_known_by_its_hue(colour: str) -> None:
    assert colour_of(blot(colour)) == colour


def test_a_colour_is_not_that_of_swapped_channels() -> None:
    turned = {colour: colour_of(blot(colour)[..., [1, 2, 0]]) for colour in ("red", "green", "blue")}
    assert all(found != colour for colour, found in turned.items())


def test_what_has_no_colour_has_none() -> None:
    assert colour_of(np.full(SHAPE, 0.4)) == ""
    assert colour_of(np.ones(SHAPE)) == ""
    assert colour_of(np.zeros(SHAPE)) == ""
    speck = np.ones(SHAPE)
    speck[0, 0] = (1.0, 0.0, 0.0)
    assert colour_of(speck) == ""


def test_hues_around_red_do_not_cancel() -> None:
    picture = np.ones(SHAPE)
    picture[4:12, 4:8], picture[4:12, 8:12] = (0.9, 0.1, 0.15), (0.9, 0.15, 0.1)
    assert colour_of(picture) == "red"


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a purple heart", Asked("heart", "purple")),
        ("an orange crescent moon", Asked("moon", "orange")),
        ("a grinning face with smiling eyes", Asked("face", "")),
        ("the number three", Asked("three", "")),
        ("the digit 3", Asked("three", "")),
        ("a 3 in handwriting", Asked("three", "")),
        ("", Asked("", "")),
    ],
)
def test_what_a_caption_asks_for(caption: str, wanted: Asked) -> None:
    assert asked(caption) == wanted


def test_subjects_are_told_apart_in_colours_never_seen() -> None:
    rng = np.random.default_rng(3)

    def some(colours: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
        pictures, names = [], []
        for colour in colours:
            for name, radius in (("dot", 2.5), ("disc", 6.5), ("", 4.2)):
                for _ in range(4):
                    pictures.append(blot(colour, radius, tuple(7.5 + rng.normal(0, 0.3, 2))).ravel())
                    names.append(name)
        return np.stack(pictures), names

    judge = agreement.Subjects(*some(("red", "green", "blue")), SHAPE)
    pictures, names = some(("purple", "orange"))
    hits = [found == name for found, name in zip(judge.of(pictures), names, strict=True)]
    assert np.mean(hits) > 0.9
    wrong = [found == name for found, name in zip(judge.of(1.0 - pictures), names, strict=True)]
    assert np.mean(wrong) < 0.7, "negatives are something else"


def images_of(captions: tuple[str, ...], numbers: list[int]) -> CaptionedImages:
    levels = np.random.default_rng(5).integers(0, 256, (len(numbers), math.prod(SHAPE))).astype(np.uint8)
    split = Captioned(levels, np.array(numbers, dtype=np.int64))
    return CaptionedImages("mine", SHAPE, 256, captions, {"train": split, "test": split}, "")


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        ([1] * 8, ["colour.real", "nearest.real"]),  # nobody asked for a house
        ([1] * 7 + [2], ["colour.real", "subject.real", "nearest.real"]),  # folds without the one dog
    ],
)
def test_subjects_that_hardly_a_real_picture_shows_are_judged(numbers: list[int], names: list[str]) -> None:
    images = images_of(("", "a red house", "a blue dog"), numbers)
    pictures, shown = agreement.real(images, {"dog"})
    judge = agreement.Subjects(pictures, [it.subject for it in shown], SHAPE)
    assert set(judge.of(pictures)) <= {"dog", agreement.OTHER}
    rows = list(recognise_captions._checks(images, pictures, shown, pictures))
    assert [row["name"] for row in rows] == names


def test_shares_have_errors_even_if_all_hit() -> None:
    every = of_share(20, 20, unit="share", method="")
    assert every.value == 1.0
    assert every.stderr is not None
    assert 0.0 < every.stderr < 0.05
    half = of_share(200, 400, unit="share", method="")
    assert half.stderr == pytest.approx(math.sqrt(0.25 / 400), rel=0.01)


def test_distances_are_root_mean_squares() -> None:
    pictures = np.array([[0.0, 0.0], [1.0, 1.0]])
    others = np.array([[0.0, 1.0], [1.0, 1.0], [0.6, 0.8]])
    np.testing.assert_allclose(agreement.distances(pictures, others), [math.sqrt(0.5), 0.0], atol=1e-7)
    assert agreement.diversity(np.array([[0.0], [0.3], [0.6]])) == pytest.approx((0.3 + 0.6 + 0.3) / 3)
