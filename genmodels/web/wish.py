"""What somebody asks for, within the limits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from genmodels.errors import InputError
from genmodels.web import limits

SHOWN = ("probabilities", "samples")
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "seed": limits.seed,
    "n": lambda it: limits.whole("number", it, 1, limits.MOST_PICTURES),
    "prompt": lambda it: limits.prompt("prompt", it),
    "negative": lambda it: limits.prompt("negative prompt", it),
    "steps": lambda it: limits.whole("steps", it, 1, limits.MOST_STEPS),
    "guidance": lambda it: limits.number("guidance", it, 0.0, limits.MOST_GUIDANCE),
    "sweeps": lambda it: limits.whole("sweeps", it, 2, limits.MOST_SWEEPS),
    "beta": lambda it: limits.number("beta", it, 0.0, limits.MOST_BETA),
    "shown": lambda it: limits.one_of("show", it, SHOWN),
}


@dataclass(frozen=True)
class Wish:
    """A request: each model takes of it what is for it."""

    seed: int
    n: int
    prompt: str = ""
    negative: str = ""
    steps: int = 30
    guidance: float = 3.0
    sweeps: int = 400
    beta: float = 1.0
    shown: str = SHOWN[0]


def wish(**asked: Any) -> Wish:
    """Return what is asked for; what is not named is as above, and a seed of None is a new one.

    Raises:
        InputError: a value beyond its limits.
    """
    return Wish(**{name: _CHECKS[name](value) for name, value in asked.items()})


def spoken(wanted: Wish) -> Wish:
    """Return a wish for pictures of what its prompt says.

    Raises:
        InputError: it says nothing.
    """
    if not wanted.prompt:
        raise InputError("prompt: it is empty, say what the pictures are to show")
    return wanted
