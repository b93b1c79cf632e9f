"""Where wishes become pictures: one after the other, step by step."""

import math
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from genmodels import generate
from genmodels.networks.sketches import watched
from genmodels.networks.text_encoder import TextEncoder
from genmodels.placement.local import LocalPlacement
from genmodels.prompts import encoder_of, painting
from genmodels.streams import Key
from genmodels.web.particles import particles
from genmodels.web.picture import TEXT_METHOD, Picture, pictures_of
from genmodels.web.shelf import Entry
from genmodels.web.wish import Wish

_SKETCHES = 12  # of a picture from text, each of which costs a call of the decoder
_KEPT = 256  # files of prompts' states


class Frame(NamedTuple):
    """Pictures under way: pixels from 0 to 1, and steps done of all  # (picture, site)."""

    pixels: np.ndarray
    done: int
    total: int


class Drawn(NamedTuple):
    """Pictures, and what there is to say about them."""

    pictures: list[Picture]
    notes: list[str]


Way = Generator[Frame, None, np.ndarray]  # returns pixels from 0 to 1  # (picture, site)


class Studio:
    """The models of a shelf at work, the text encoders that they need, and a folder for prompts' states."""

    def __init__(self, entries: Mapping[str, Entry], cache: Path) -> None:
        """Take the models; whoever calls `draw` does so one at a time."""
        self.entries, self.cache = entries, cache
        self._encoders: dict[tuple[Any, ...], TextEncoder] = {}

    def names(self, *kinds: str) -> list[str]:
        """Return the names of the models of these kinds, of all if none is given."""
        return [name for name, entry in self.entries.items() if not kinds or entry.kind in kinds]

    def draw(self, name: str, wish: Wish) -> Generator[Frame, None, Drawn]:
        """Yield frames of the pictures while they come to be, and return the pictures.

        The same wish gives the same pictures, whatever was drawn before; where each picture has a stream of
        its own, picture i of a seed is the same among any number of them.

        Raises:
            InputError: a wish that the model cannot follow, such as more steps than it has levels.
        """
        entry, notes = self.entries[name], list[str]()
        ways = {"text": self._painted, "denoising": self._denoised, "particles": self._chained}
        pixels = yield from ways.get(entry.kind, self._drawn)(entry, wish, notes)
        return Drawn(pictures_of(pixels, entry, wish), notes)

    def _painted(self, entry: Entry, wish: Wish, notes: list[str]) -> Way:
        way = painting(
            entry.model, [wish.prompt] * wish.n, Key(wish.seed, "sample"), self._room(), wish.negative,
            wish.guidance, wish.steps, TEXT_METHOD, said=notes.append, encoder=self._encoder(entry),
        )  # fmt: skip
        sheet = _Sheet(entry, wish, entry.model.seen, -(-wish.steps // _SKETCHES))
        _, means = yield from watched(way, sheet)
        return np.asarray(means)

    def _denoised(self, entry: Entry, wish: Wish, notes: list[str]) -> Way:
        way = generate.watched(entry.model, wish.n, Key(wish.seed, "sample"), steps=wish.steps)
        drawn = yield from watched(way, _Sheet(entry, wish))
        return _chosen(drawn, wish)

    def _chained(self, entry: Entry, wish: Wish, notes: list[str]) -> Way:
        key = Key(wish.seed, "particles")
        for done, pixels, means in particles(entry.model, wish.n, key, wish.beta, wish.sweeps):
            seen = pixels if means is None or wish.shown == "samples" else means
            yield Frame(seen.numpy(), done, wish.sweeps)
        return seen.numpy()

    def _drawn(self, entry: Entry, wish: Wish, notes: list[str]) -> Way:
        yield from ()
        key = Key(wish.seed, "sample")
        return _chosen(generate.generate(entry.model, wish.n, key, LocalPlacement()), wish)

    def _encoder(self, entry: Entry) -> TextEncoder:
        known = tuple(sorted(entry.model.text_encoder.items()))
        if known not in self._encoders:
            self._encoders[known] = encoder_of(entry.model)
        return self._encoders[known]

    def _room(self) -> Path:
        """Return the folder of prompts' states, where the oldest make room for new ones."""
        kept = sorted(self.cache.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_KEPT]:
            path.unlink()
        return self.cache


class _Sheet:
    """All pictures of a wish, of which each sketch shows a batch; every so many of them make a frame."""

    def __init__(
        self, entry: Entry, wish: Wish, seen: Callable[[Tensor], Tensor] = lambda it: it, apart: int = 1
    ) -> None:
        self.pixels, self.steps = np.full((wish.n, math.prod(entry.shape)), 0.5), wish.steps
        self.seen, self.apart, self.done = seen, apart, 0

    def __call__(self, sketch: tuple[int, Tensor]) -> Frame | None:
        self.done += 1
        if self.done % self.apart:
            return None
        first, some = sketch
        self.pixels[first : first + len(some)] = self.seen(some).numpy()
        return Frame(self.pixels.copy(), (self.done - 1) % self.steps + 1, self.steps)


def _chosen(drawn: generate.Pictures, wish: Wish) -> np.ndarray:
    shown = drawn.shown()
    return shown[0] if wish.shown == "samples" else shown[-1]
