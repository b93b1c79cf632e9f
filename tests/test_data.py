"""From raw pictures to three splits, to a folder and back, to tensors and to pictures."""

import json
import math
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inputs import DEFAULTS
from PIL import Image

from genmodels.data import images, pictures
from genmodels.data.images import Images, Split
from genmodels.data.prepare import binarised, choose, cut, limited, prepare_dataset, shares
from genmodels.data.sources import Part
from genmodels.data.target import Target
from genmodels.errors import InputError
from genmodels.streams import Key


def small() -> tuple[Images, Target]:
    """Return 2×3 pictures in 5 levels, and a known distribution of three states."""
    generator = np.random.default_rng(4)
    splits = {}
    for name, n in (("train", 11), ("validation", 3), ("test", 4)):
        grey = generator.integers(0, 5, (n, 6), dtype=np.uint8)
        splits[name] = Split(grey, (grey > 2).astype(np.uint8), generator.integers(-1, 3, n))
    states = np.array([[0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0]], dtype=np.uint8)
    target = Target(states, np.log([0.5, 0.3, 0.2]), full_support=False)
    return Images("digits", (2, 3, 1), 5, "fixed-stochastic", splits, "made up"), target


def same(one: Images, other: Images) -> bool:
    arrays = zip(one.splits.values(), other.splits.values(), strict=True)
    return one._replace(splits={}) == other._replace(splits={}) and all(
        np.array_equal(a, b) for split, twin in arrays for a, b in zip(split, twin, strict=True)
    )


def test_a_folder_and_back(tmp_path: Path) -> None:
    prepared, target = small()
    images.save(tmp_path, prepared, target)
    assert same(images.load(tmp_path), prepared)
    loaded = images.load_target(tmp_path)
    assert loaded is not None
    np.testing.assert_array_equal(loaded.states, target.states)
    np.testing.assert_array_equal(loaded.log_p, target.log_p)
    assert loaded.full_support is False


def test_the_comparison_sees_one_other_pixel() -> None:
    one, other = small()[0], small()[0]
    assert same(one, other)
    other.splits["validation"].binary[2, 5] ^= 1
    assert not same(one, other)


def test_no_target_is_none(tmp_path: Path) -> None:
    images.save(tmp_path, small()[0])
    assert images.load_target(tmp_path) is None


def test_equal_images_give_equal_bytes_whenever_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, now in (("one", 1.0e9), ("other", 1.7e9)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        (tmp_path / name).mkdir()
        images.save(tmp_path / name, *small())
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["images.npz", "meta.json", "target.npz"]
    with zipfile.ZipFile(tmp_path / "one" / "images.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize(
    ("track", "domain", "expected"),
    [
        ("binary", "spin", [-1.0, 1.0, -1.0]),
        ("binary", "binary", [0.0, 1.0, 0.0]),
        ("binary", "grey", [0.0, 1.0, 0.0]),
        ("grey", "grey", [2.0, 15.0, 0.0]),
    ],
)
def test_batch_gives_the_values_of_the_domain(track: Any, domain: Any, expected: list[float]) -> None:
    split = Split(
        np.array([[2, 15, 0]], dtype=np.uint8), np.array([[0, 1, 0]], dtype=np.uint8), np.array([-1])
    )
    batch = images.batch(split, track, domain)
    assert batch.dtype == torch.float32
    assert batch.tolist() == [expected]
    batch.zero_()
    assert split.binary.tolist() == [[0, 1, 0]]  # the images are not touched


@pytest.mark.parametrize("domain", ["spin", "binary"])
def test_levels_are_not_for_models_of_black_and_white(domain: Any) -> None:
    with pytest.raises(InputError, match="track = 'grey'"):
        images.batch(small()[0].splits["train"], "grey", domain)


def test_describe_is_the_data_entry_of_a_model() -> None:
    prepared = small()[0]
    expected = {"name": "digits", "shape": [2, 3, 1], "levels": 2, "binarisation": "fixed-stochastic"}
    assert images.describe(prepared, "binary") == expected
    assert images.describe(prepared, "grey") == expected | {"levels": 5, "binarisation": "none"}


def test_shares_are_proportional_and_complete() -> None:
    generator = Key(1, "test").numpy()
    for _ in range(300):
        counts = generator.integers(1, 40, generator.integers(1, 12))
        most = np.array([generator.integers(0, count + 1) for count in counts])
        total = int(generator.integers(0, most.sum() + 1))
        quota = np.array(shares(counts, total, most, generator))
        assert quota.sum() == total
        assert (quota <= most).all()
        ideal = counts * total / counts.sum()
        if (most == counts).all():
            assert (abs(quota - ideal) < 1).all()


def test_ties_are_broken_at_random() -> None:
    counts = np.full(10, 3)
    chosen = np.sum([shares(counts, 5, counts, Key(s, "t").numpy()) for s in range(400)], axis=0)
    # Each of 10 equal classes is taken in half of 400 draws, deviation 10.
    assert (abs(chosen - 200) < 45).all()
    assert chosen.sum() == 2000


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_is_a_partition_by_class(seed: int) -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    part = Part(np.arange(100, dtype=np.uint8)[:, None], labels)  # each image its own number
    parts = cut({"train": part}, {"test": 0.2, "validation": 0.1}, Key(seed, "cut"))
    assert {name: np.bincount(p.labels).tolist() for name, p in parts.items()} == {
        "train": [42, 21, 7],
        "test": [12, 6, 2],
        "validation": [6, 3, 1],
    }
    numbers = np.concatenate([p.grey[:, 0] for p in parts.values()])
    assert sorted(numbers) == list(range(100))
    for p in parts.values():
        np.testing.assert_array_equal(labels[p.grey[:, 0]], p.labels)


def test_small_classes_stay_in_training() -> None:
    labels = np.array([0] * 12 + [1] * 2 + [2])
    part = Part(np.zeros((15, 1), dtype=np.uint8), labels)
    for seed in range(20):
        parts = cut({"train": part}, {"test": 0.3, "validation": 0.3}, Key(seed, "cut"))
        assert set(parts["train"].labels) == {0, 1, 2}
        assert [len(p.labels) for p in parts.values()] == [7, 4, 4]


def test_classes_of_one_picture_each_are_split_all_the_same() -> None:
    part = Part(np.arange(6, dtype=np.uint8)[:, None], np.arange(6))
    parts = cut({"train": part}, {"test": 0.3, "validation": 0.2}, Key(3, "cut"))
    assert {name: len(p.labels) for name, p in parts.items()} == {"train": 3, "test": 2, "validation": 1}


def test_given_splits_are_kept_and_limited_in_proportion() -> None:
    parts = {
        "train": Part(np.zeros((60, 1), dtype=np.uint8), np.repeat([0, 1], [40, 20])),
        "test": Part(np.ones((20, 1), dtype=np.uint8), np.repeat([0, 1], [10, 10])),
    }
    few = limited(parts, 16, Key(2, "limit"))
    assert {name: np.bincount(p.labels).tolist() for name, p in few.items()} == {
        "train": [8, 4],
        "test": [2, 2],
    }
    assert limited(parts, 80, Key(2, "limit")) is parts
    split = cut(few, {"test": 0.5, "validation": 0.25}, Key(2, "cut"))
    assert {name: len(p.labels) for name, p in split.items()} == {"train": 9, "test": 4, "validation": 3}
    assert set(split["validation"].grey[:, 0]) == {0}  # cut from training


def test_a_limit_takes_from_everywhere_where_rows_are_sorted_and_without_labels() -> None:
    mask = choose(np.full(10000, -1), 1000, 0, Key(5, "limit").numpy())
    assert mask.sum() == 1000
    # Hypergeometric: 500 ± 15 of them in the first half; the first 1000 rows would be 1000.
    deviation = math.sqrt(1000 * 0.25 * 9000 / 9999)
    assert abs(mask[:5000].sum() - 500) < 4 * deviation


def test_binarisation_is_bernoulli_of_the_level() -> None:
    levels, n = 17, 40000
    grey = np.tile(np.arange(levels, dtype=np.uint8), (n, 1))

    def worst(v: np.ndarray) -> float:
        p = np.arange(levels) / (levels - 1)
        deviation = np.sqrt(p * (1 - p) / n)
        assert (v[:, 0] == 0).all()
        assert (v[:, -1] == 1).all()
        return float((abs(v.mean(axis=0) - p)[1:-1] / deviation[1:-1]).max())

    assert worst(binarised(grey, levels, Key(1, "binarise"))) < 4
    # Of K instead of K − 1 equal steps: wrong by at most 1/17 where p is 1.
    wrong = Key(1, "binarise").numpy().integers(0, levels, grey.shape) < grey
    wrong[:, -1] = True
    assert worst(wrong) > 4


def test_binarised_pixels_are_independent() -> None:
    v = binarised(np.full((20000, 4), 5, dtype=np.uint8), 17, Key(9, "binarise")).astype(float)
    correlation = np.corrcoef(v, rowvar=False)[np.triu_indices(4, 1)] * math.sqrt(20000)
    assert abs(correlation).max() < 4


def test_digits_are_split_by_class_and_twins_belong_together() -> None:
    prepared, target = prepare_dataset("digits", **DEFAULTS)
    assert target is None
    assert {name: len(split.labels) for name, split in prepared.splits.items()} == {
        "train": 1258,
        "validation": 180,
        "test": 359,
    }
    whole = np.bincount(np.concatenate([split.labels for split in prepared.splits.values()])) / 1797
    for split in prepared.splits.values():
        assert abs(np.bincount(split.labels) - whole * len(split.labels)).max() < 2
        assert (split.binary[split.grey == 0] == 0).all()
        assert (split.binary[split.grey == 16] == 1).all()
    train = prepared.splits["train"]
    distance = train.binary - train.grey / 16
    other = train.binary[np.roll(np.arange(1258), 1)] - train.grey / 16
    assert (distance**2).mean() < 0.6 * (other**2).mean()


def test_every_picture_keeps_its_label_and_is_in_one_split() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    known = {
        row.astype(np.uint8).tobytes(): label for row, label in zip(bunch.data, bunch.target, strict=True)
    }
    splits = prepare_dataset("digits", **DEFAULTS)[0].splits.values()
    pairs = [(grey.tobytes(), label) for split in splits for grey, label in zip(*split[::2], strict=True)]
    assert all(known[picture] == label for picture, label in pairs)
    assert sorted(picture for picture, _ in pairs) == sorted(
        row.astype(np.uint8).tobytes() for row in bunch.data
    )


def test_the_same_seed_gives_the_same_images_and_another_others() -> None:
    one, again = (prepare_dataset("digits", **DEFAULTS)[0] for _ in range(2))
    other = prepare_dataset("digits", **DEFAULTS | {"seed": 8})[0]
    assert same(one, again)
    assert not same(one, other)
    # Another limit or share leaves the same data set's name, shape and levels.
    few = prepare_dataset("digits", **DEFAULTS | {"limit": 100})[0]
    assert sum(len(split.labels) for split in few.splits.values()) == 100


def test_every_prefix_of_a_split_is_mixed() -> None:
    # 50 of 1258 images, in the order they are kept, hold nearly all ten classes.
    train = prepare_dataset("digits", **DEFAULTS)[0].splits["train"]
    assert len(set(train.labels[:50])) >= 9
    assert len(set(np.sort(train.labels)[:50])) == 1


@pytest.mark.parametrize(("name", "n"), [("bars_and_stripes", [14, 14, 14]), ("ising", [350, 50, 100])])
def test_known_distributions_come_with_their_images(name: str, n: list[int]) -> None:
    size = (3, 3) if name == "bars_and_stripes" else (2, 4)
    prepared, target = prepare_dataset(name, **DEFAULTS | {"size": size})
    assert target is not None
    assert [len(split.labels) for split in prepared.splits.values()] == n
    assert prepared.shape == (*size, 1)
    assert (prepared.levels, prepared.binarisation) == (2, "native")
    support = {state.tobytes() for state in target.states}
    for split in prepared.splits.values():
        assert {image.tobytes() for image in split.binary} <= support
        np.testing.assert_array_equal(split.grey, split.binary)


def test_a_grid_shows_every_pixel_where_it_belongs(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).random((5, 6))
    image = pictures.grid(pixels, (2, 3, 1), tmp_path / "grid.png", columns=3, scale=6)
    shown = np.asarray(Image.open(tmp_path / "grid.png"))
    np.testing.assert_array_equal(shown, np.asarray(image))
    tall, wide = 2 * 6 + 2, 3 * 6 + 2  # a gap of 2
    assert shown.shape == (2 * tall - 2, 3 * wide - 2)
    for k, picture in enumerate(pixels):
        for site, value in enumerate(picture):
            top, left = k // 3 * tall + site // 3 * 6, k % 3 * wide + site % 3 * 6
            assert (shown[top : top + 6, left : left + 6] == round(value * 255)).all()
    assert len(np.unique(shown[tall - 2 : tall])) == 1  # the gap


def test_a_grid_is_wide_enough_and_colours_are_kept() -> None:
    red = np.tile([1.0, 0.0, 0.0], (3, 4))
    image = pictures.grid(red, (2, 2, 3))
    assert image.width >= 500
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_panels_stand_below_each_other() -> None:
    white, black = np.ones((4, 4)), np.zeros((4, 4))
    both = np.asarray(pictures.panels([white, black], [2, 2, 1], columns=2, scale=6))
    one = np.asarray(pictures.grid(white, (2, 2, 1), columns=2, scale=6))
    other = np.asarray(pictures.grid(black, (2, 2, 1), columns=2, scale=6))
    np.testing.assert_array_equal(both[: len(one)], one)
    np.testing.assert_array_equal(both[-len(other) :], other)
    assert len(both) == len(one) + len(other) + 6  # a margin of three gaps


@pytest.mark.parametrize(
    ("pixels", "shape"),
    [
        (np.zeros((0, 4)), (2, 2, 1)),
        (np.zeros((2, 5)), (2, 2, 1)),
        (np.zeros((2, 8)), (2, 2, 2)),
        (np.full((2, 4), np.nan), (2, 2, 1)),
    ],
)
def test_what_is_no_picture_is_not_shown(pixels: np.ndarray, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot show"):
        pictures.grid(pixels, shape)


def test_a_png_has_the_pixels_and_nothing_else(tmp_path: Path) -> None:
    pictures.grid(np.eye(4), (2, 2, 1), tmp_path / "a.png")
    pictures.grid(np.eye(4), (2, 2, 1), tmp_path / "b.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    chunks, position = [], 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunks.append(data[position + 4 : position + 8])
        position += length + 12
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}


def test_the_preview_shows_twins_below_their_pictures(tmp_path: Path) -> None:
    prepared = prepare_dataset("digits", **DEFAULTS | {"limit": 60})[0]
    pictures.preview(prepared, tmp_path / "preview.png")
    shown = np.asarray(Image.open(tmp_path / "preview.png"))
    train = prepared.splits["train"]
    rows = [train.grey[:10] / 16, train.binary[:10]]
    expected = np.asarray(pictures.grid(np.concatenate(rows), (8, 8, 1), columns=10))
    np.testing.assert_array_equal(shown[: len(expected)], expected)


@pytest.mark.parametrize("n", [1, 3, 13])
def test_few_pictures_have_a_preview_too(tmp_path: Path, n: int) -> None:
    prepared = small()[0]
    train = prepared.splits["train"]
    rows = np.arange(n) % len(train.labels)
    splits = prepared.splits | {"train": Split(*(array[rows] for array in train))}
    pictures.preview(prepared._replace(splits=splits), tmp_path / "preview.png")
    assert Image.open(tmp_path / "preview.png").width >= 500


def test_statistics_are_json_and_count_right() -> None:
    prepared, target = small()
    prepared.splits["train"].grey[:, 2] = 4
    prepared.splits["train"].binary[:, 2] = 1
    facts = json.loads(json.dumps(pictures.statistics(prepared, target), allow_nan=False))
    train = prepared.splits["train"]
    assert facts["n"] == {"train": 11, "validation": 3, "test": 4}
    assert facts["on_fraction"]["train"] == pytest.approx(train.binary.sum() / 66)
    assert facts["constant_pixels"] == {"grey": 1, "binary": 1}
    assert sum(facts["classes"]["train"].values()) == (train.labels >= 0).sum()
    entropy = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2))
    assert facts["target"] == {"states": 3, "entropy": pytest.approx(entropy), "full_support": False}
    assert "target" not in pictures.statistics(prepared)


def test_digests_tell_images_apart() -> None:
    prepared = small()[0]
    before = pictures.statistics(prepared)["sha256"]
    assert before == pictures.statistics(small()[0])["sha256"]
    prepared.splits["test"].grey[0, 0] ^= 1
    after = pictures.statistics(prepared)["sha256"]
    assert {split for split in before if before[split] != after[split]} == {"test"}


def test_the_bytes_of_the_digits_are_pinned() -> None:
    # Numbers published for this split and binarisation hold for these arrays only.
    digests = pictures.statistics(prepare_dataset("digits", **DEFAULTS)[0])["sha256"]
    assert digests["test"]["binary"] == "4de04b356b9d2b29fa8b1a9d3c7212dac9f396f2e03d534030961d1b1ff5b348"
