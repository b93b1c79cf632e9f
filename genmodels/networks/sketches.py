"""Ways to pictures that can be watched: generators that yield sketches, and return the pictures."""

from collections.abc import Callable, Generator
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")
Look = TypeVar("Look")
# Yields what is known of the pictures so far, and returns their pixels and these' means  # (picture, site)
Sketches = Generator[Tensor, None, tuple[Tensor, Tensor]]


def finished(sketches: Generator[T, None, R]) -> R:
    """Return what the generator returns, after all that it yields."""
    while True:
        try:
            next(sketches)
        except StopIteration as stop:
            result: R = stop.value
            return result


def watched(sketches: Generator[T, None, R], look: Callable[[T], Look | None]) -> Generator[Look, None, R]:
    """Yield what `look` makes of each sketch, if that is something, and return what the generator returns."""
    while True:
        try:
            sketch = next(sketches)
        except StopIteration as stop:
            result: R = stop.value
            return result
        if (seen := look(sketch)) is not None:
            yield seen


def numbered(sketches: Generator[T, None, R], first: int) -> Generator[tuple[int, T], None, R]:
    """Yield each sketch with the number of its first picture, and return what the generator returns."""
    return (yield from watched(sketches, lambda sketch: (first, sketch)))
