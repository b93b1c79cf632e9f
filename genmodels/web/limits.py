"""What a request may ask for, checked where it is handled: what a browser checks anybody can leave out."""

import math
import re
import secrets
import unicodedata
from collections.abc import Sequence
from typing import Any

from genmodels.errors import InputError
from genmodels.prompts import LONGEST

MOST_CHARACTERS = LONGEST
MOST_PICTURES = 16
MOST_STEPS = 250
MOST_GUIDANCE = 20.0
MOST_SWEEPS = 2000
MOST_BETA = 4.0
MOST_MODELS = 8
MOST_SEED = 2**53 - 1  # above it JavaScript's numbers have gaps
_NO_TEXT = ("Cc", "Cs")  # control characters, halves of characters


def prompt(name: str, value: Any) -> str:
    """Return a prompt without the white space around it; "" is one.

    Raises:
        InputError: no text, too many characters, or control characters.
    """
    if not isinstance(value, str):
        raise InputError(f"{name}: {_shown(value)} is no text")
    if len(value) > MOST_CHARACTERS:
        raise InputError(f"{name}: {len(value)} characters, give at most {MOST_CHARACTERS}")
    text = " ".join(value.split())
    for place, character in enumerate(text):
        if unicodedata.category(character) in _NO_TEXT:
            raise InputError(f"{name}: a control character, U+{ord(character):04X}, at place {place + 1}")
    return text


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number; 3.0 is one, for a browser's numbers have no kinds.

    Raises:
        InputError: no whole number, or one out of range.
    """
    found = number(name, value, least, most)
    if found != math.floor(found):
        raise InputError(f"{name}: {_shown(value)} is no whole number")
    return int(value)


def number(name: str, value: Any, least: float, most: float) -> float:
    """Return a finite number.

    Raises:
        InputError: no number, one that is not finite, or one out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name}: {_shown(value)} is no number, give one from {least} to {most}")
    if not least <= value <= most:  # NaN is neither
        raise InputError(f"{name}: {_shown(value)}, give a number from {least} to {most}")
    return float(value)


def seed(value: Any) -> int:
    """Return a seed, a new one for None and for an empty text; a text of digits is a number.

    Raises:
        InputError: no whole number from 0 to 2⁵³ − 1.
    """
    if isinstance(value, str):
        if len(value) > 20 or not re.fullmatch(r"\s*(-?[0-9]+)?\s*", value):
            raise InputError(f"seed: {_shown(value)} is no whole number, give one from 0 to {MOST_SEED}")
        value = int(value) if value.strip() else None
    return secrets.randbits(32) if value is None else whole("seed", value, 0, MOST_SEED)


def names(name: str, value: Any, known: Sequence[str]) -> list[str]:
    """Return some of the known names, each once.

    Raises:
        InputError: none, too many, or one that is not known.
    """
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{name}: none given, choose from {', '.join(known)}")
    if len(value) > MOST_MODELS:
        raise InputError(f"{name}: {len(value)} at once, give at most {MOST_MODELS}")
    return list(dict.fromkeys(one_of(name, each, known) for each in value))


def one_of(name: str, value: Any, known: Sequence[str]) -> str:
    """Return one of the known names.

    Raises:
        InputError: it is none of them.
    """
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name}: {_shown(value)} is none of {', '.join(known)}")
    return value


def _shown(value: Any) -> str:
    """Return a value in so few printable characters that a line can hold it."""
    text = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:40]}…"
