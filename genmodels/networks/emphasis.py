"""Prompts in which brackets say what matters: "((purple)) heart"."""

import re
from typing import NamedTuple

from genmodels.errors import InputError

_STEP = 1.1  # of one pair of brackets
_MOST = 10.0
_PIECE = re.compile(r"\\[\\()\[\]]|[()\[\]]|\\|[^\\()\[\]]+")
_PAIRS = {")": "(", "]": "["}
_NUMBER = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")


class Emphasised(NamedTuple):
    """A prompt without its brackets, and the weight of each character."""

    text: str
    weights: list[float]


def parse(prompt: str) -> Emphasised:
    r"""Return what a prompt says and how much each part of it weighs.

    Round brackets multiply a weight by 1.1, square ones divide it by that, (x:1.5) multiplies it by 1.5; they
    nest. A backslash before a bracket, or before another backslash, makes it a character like any other. A
    bracket that is never closed reaches to the end, one that was never opened is a character. These are the
    rules of stable-diffusion-webui.

    Raises:
        InputError: a weight beyond ±10.
    """
    pieces: list[str] = _PIECE.findall(prompt)
    factors = _factors(pieces)
    text: list[str] = []
    weights: list[float] = []
    stack = [1.0]
    for place, piece in enumerate(pieces):
        if place in factors:
            if factors[place] is None:
                stack.pop()
            else:
                stack.append(stack[-1] * (factors[place] or 0.0))
            continue
        plain = piece[1] if len(piece) == 2 and piece[0] == "\\" and piece[1] in "\\()[]" else piece
        if not -_MOST <= stack[-1] <= _MOST:
            raise InputError(f"prompt: '{plain[:40]}' has the weight {stack[-1]:.3g}; keep to ±{_MOST:g}")
        text.append(plain)
        weights += [stack[-1]] * len(plain)
    return Emphasised("".join(text), weights)


def _factors(pieces: list[str]) -> dict[int, float | None]:
    """Return the factor of each bracket that opens, None for each that closes; number marks are taken out."""
    factors: dict[int, float | None] = {}
    opened: list[int] = []
    for place, piece in enumerate(pieces):
        if piece in ("(", "["):
            factors[place] = _STEP if piece == "(" else 1.0 / _STEP
            opened.append(place)
        elif piece in _PAIRS and opened and pieces[opened[-1]] == _PAIRS[piece]:
            first = opened.pop()
            factors[place] = None
            number = _NUMBER.search(pieces[place - 1]) if piece == ")" else None
            if number is not None:
                factors[first] = float(number[1])
                pieces[place - 1] = pieces[place - 1][: number.start()]
    return factors
