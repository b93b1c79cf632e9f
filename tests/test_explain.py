"""A trained model attends to the words of a prompt: without one of them maps and pictures are others."""

import pytest
import torch
from conftest import ROOT
from torch import Tensor

from genmodels.artifacts import load_model
from genmodels.explain import Explained, explain
from genmodels.streams import Key

MODEL = ROOT / "pipelines/text_to_image/models/latent_diffusion"
SEEDS = 12


def seen(prompt: str, purpose: str) -> Explained:
    return explain(load_model(MODEL), prompt, SEEDS, Key(11, purpose), steps=8)


def apart(one: Tensor, other: Tensor) -> float:
    """Return the root mean square of (m − m′)/√(s² + s′²), m means over seeds, s errors: 1 by chance."""
    difference = one.mean(0) - other.mean(0)
    variance = one.var(0) / len(one) + other.var(0) / len(other)
    return float((difference**2 / variance.clamp(min=1e-12)).mean().sqrt())


@pytest.fixture(scope="module")
def coloured() -> Explained:
    return seen("a purple apple", "one")


def test_a_word_changes_its_neighbours_maps_and_the_picture(coloured: Explained) -> None:
    plain = seen("an apple", "other")
    word, bare = (it.words.index("apple") for it in (coloured, plain))
    shapes = [it.maps[:, k].flatten(1) for it, k in ((coloured, word), (plain, bare))]
    assert apart(*shapes) > 3.0
    assert apart(coloured.pictures, plain.pictures) > 3.0


def test_other_seeds_alone_change_neither(coloured: Explained) -> None:
    again = seen("a purple apple", "again")
    assert again.words == coloured.words
    assert apart(coloured.maps[:, 2].flatten(1), again.maps[:, 2].flatten(1)) < 2.0
    assert apart(coloured.pictures, again.pictures) < 2.0
    assert float((coloured.pictures - again.pictures).abs().max()) > 0.1, "but pictures are others"


def test_the_colour_is_looked_for_in_the_thing(coloured: Explained) -> None:
    height = width = 32
    thing = (coloured.pictures.view(SEEDS, height, width, 3).amin(-1) < 0.7).float()
    purple = coloured.maps[:, [coloured.words.index("purple")]]
    wide = torch.nn.functional.interpolate(purple, size=(height, width), mode="bilinear")[:, 0]
    inside = (wide * thing).sum((1, 2)) / thing.sum((1, 2))
    around = (wide * (1.0 - thing)).sum((1, 2)) / (1.0 - thing).sum((1, 2))
    assert bool((inside > 1.2 * around).all())
