"""Random streams: named by their key alone, different for different keys, the same on every machine."""

import math

import numpy as np
import pytest
import torch

from genmodels.streams import Key, Streams

KEY = Key(2026, "train", shard=3, round=5)


def first_uniform(key: Key) -> float:
    return float(torch.rand(1, generator=key.torch(), dtype=torch.float64))


def test_the_first_numbers_are_pinned() -> None:
    # Of sha256 of "2026\0train\0003\0005" come all of them.
    assert KEY.digest().hex() == "cf15a11e4aac76b8c80a909973066e9ae3c2c6ff80971cddca9c8e46cd21bd35"
    assert KEY.counter() == 13292000784572028367
    drawn = torch.rand(3, generator=KEY.torch(), dtype=torch.float64)
    assert drawn.tolist() == [0.1204848658314811, 0.8792283297561229, 0.6406304272946219]
    assert KEY.numpy().random(2).tolist() == [0.4615234285204488, 0.8697378479933322]


def test_equal_keys_give_equal_numbers() -> None:
    again = Key(2026, "train", 3, 5)
    assert torch.equal(torch.randn(1000, generator=KEY.torch()), torch.randn(1000, generator=again.torch()))
    assert np.array_equal(KEY.numpy().random(1000), again.numpy().random(1000))
    assert KEY.counter() == again.counter()


@pytest.mark.parametrize(
    "other",
    [
        Key(2027, "train", 3, 5),
        Key(2026, "exchange", 3, 5),
        Key(2026, "train", 4, 5),
        Key(2026, "train", 3, 6),
        Key(2026, "train", 5, 3),
        Key(2026, "train", 35, 0),
        Key(2026, "train3", 5, 0),
        KEY.child("start"),
        KEY.child("start").child("W"),
    ],
)
def test_another_key_is_another_stream(other: Key) -> None:
    assert other.counter() != KEY.counter()
    ours, theirs = torch.rand(500, generator=KEY.torch()), torch.rand(500, generator=other.torch())
    assert not torch.isin(ours, theirs).any()
    # Correlation of two independent streams is 0 ± 1/√n.
    assert abs(float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1])) < 4.0 / math.sqrt(500)


def test_child_and_at_change_what_they_say() -> None:
    assert KEY.child("start") == Key(2026, "train/start", 3, 5)
    assert KEY.at(shard=0) == Key(2026, "train", 0, 5)
    assert KEY.at(round=0) == Key(2026, "train", 3, 0)
    assert KEY.at() == KEY


def test_first_numbers_of_neighbouring_keys_are_independent_and_uniform() -> None:
    n = 4000
    first = np.array([first_uniform(KEY.at(round=i)) for i in range(n)])
    assert len(set(first)) == n
    assert abs(first.mean() - 0.5) < 4.0 * math.sqrt(1.0 / 12.0 / n)
    assert abs((first - 0.5).var() - 1.0 / 12.0) < 4.0 * math.sqrt(1.0 / 180.0 / n)
    neighbours = np.corrcoef(first[:-1], first[1:])[0, 1]
    assert abs(neighbours) < 4.0 / math.sqrt(n)


def test_more_than_32_bits_of_the_key_reach_the_generator() -> None:
    seeded = [torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32)]
    assert torch.equal(*(torch.rand(8, generator=generator) for generator in seeded))  # what torch does
    plain = torch.Generator().manual_seed(KEY.counter())
    assert not torch.equal(torch.rand(8, generator=plain), torch.rand(8, generator=KEY.torch()))


def test_nothing_touches_the_global_generators() -> None:
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    torch.rand(3, generator=KEY.torch())
    KEY.numpy().random(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


def test_a_pictures_numbers_do_not_depend_on_the_others() -> None:
    many, second = Streams(KEY, 3), Streams(KEY, 1, first=1)
    for _ in range(2):
        assert torch.equal(many.normal(4, 2)[1:2], second.normal(4, 2))
        assert torch.equal(many.uniform(5)[1:2], second.uniform(5))
    assert not torch.equal(*(Streams(KEY, 2).normal(4)))
