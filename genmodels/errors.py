"""The one error a user is meant to read: what is wrong, where, and what to do about it."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What the user handed in cannot be used; the message is a single line: what, where, what to do."""


def suggestion(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return what to say about a word that is not known: the nearest one that is, else what there are."""
    words = list(known)
    near = difflib.get_close_matches(word, words, n=1)
    return f"did you mean '{near[0]}'?" if near else otherwise or f"known are {', '.join(words)}"
