"""What emoji are called, in Unicode's words: without its notes on typography, with skin and gender."""

import re
import unicodedata
from typing import NamedTuple

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown")
# Skin tones are modifiers of the character before them; the scale is Fitzpatrick's (Unicode TR 51).
TONES = {
    0x1F3FB: "light",
    0x1F3FC: "medium-light",
    0x1F3FD: "medium",
    0x1F3FE: "medium-dark",
    0x1F3FF: "dark",
}
GENDERS = {0x2640: "female", 0x2642: "male"}
JOINER = 0x200D
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)
_CATEGORIES = ("So", "Sm", "Po", "Pd", "Ll")
_NO_OBJECTS = "#*0123456789"
# Older symbols are "black" where filled and "white" where outlined; of these it is the colour.
_BLACK_AND_WHITE = (0x25AA, 0x25AB, *range(0x25FB, 0x25FF), 0x26AA, 0x26AB, 0x2B1B, 0x2B1C)
_NEWER = 0x1F400
_FILLED = re.compile(r"\b(black|white|heavy) ")
_WHITE_NEWER = re.compile(r"\bwhite (?=(up|down|left|right) pointing|flower)")
_SIZE = re.compile(r"\b(large|medium) (?=(small )?(\w+ )?(circle|square|diamond|star))")
_COLOUR = re.compile(rf"^(.*?)\b({'|'.join(COLOURS)}) (?=\w)(.*)$")
_NEWER_SIGNS = 0x1F300
_SIGN = re.compile(r"\b(faces?|sign|symbol|squared|squares|input|arrows?|button|mark|clock|keycap)\b")
_NAMES = {0x2764: "red heart", 0x1F3F3: "waving white flag", 0x1F3F4: "waving black flag"}
_AN = re.compile(r"[aeio]|u(?!ni)|hour|x-")
HEAD = re.compile(r"^.*?(?= (?:and|of|with|in|on|for) |$)")  # what a name is about
_SEVERAL = re.compile(r"[^isu]s$")


class Name(NamedTuple):
    """An emoji's name, taken apart."""

    noun: str  # what it shows, without its colour: "heart"
    colour: str  # of COLOURS, "" where the name has none
    tone: str = ""  # of the skin
    gender: str = ""

    def caption(self, colour: str | None = None) -> str:
        """Return the name with an article, in another colour if given: "a purple heart"."""
        parts = (self.gender, self.colour if colour is None else colour, self.noun)
        text = " ".join(part for part in parts if part)
        head = HEAD.match(self.noun)
        assert head is not None  # an empty one at least
        if not _SEVERAL.search(head[0]):
            text = f"{'an' if _AN.match(text) else 'a'} {text}"
        return f"{text} with {self.tone} skin" if self.tone else text


def name_of(code_point: int) -> Name | None:
    """Return the name of a character, None where it shows nothing by itself, as letters of flags."""
    character = chr(code_point)
    name = unicodedata.name(character, "").lower()
    is_part = code_point in _FLAG_LETTERS or name.startswith("emoji component")
    if not name or is_part or character in _NO_OBJECTS or unicodedata.category(character) not in _CATEGORIES:
        return None
    if code_point in _NAMES:
        name = _NAMES[code_point]
    elif code_point not in _BLACK_AND_WHITE:
        name = (_FILLED if code_point < _NEWER else _WHITE_NEWER).sub("", name)
    name = _SIZE.sub("", name)
    coloured = _COLOUR.match(name)
    if coloured is None:
        return Name(name, "")
    return Name(coloured[1] + coloured[3], coloured[2])


def is_thing(text: str) -> bool:
    """Return whether an emoji shows a thing, rather than a sign or a face."""
    if len(text) > 1 or ord(text) < _NEWER_SIGNS and ord(text) not in _NAMES:
        return False
    return not _SIGN.search(unicodedata.name(text).lower())


def name_of_sequence(sequence: tuple[int, ...]) -> Name | None:
    """Return the name of a character in a skin tone, a gender or both; None for any other sequence."""
    name, rest = name_of(sequence[0]), sequence[1:]
    if name is None or not rest:
        return None
    if rest[0] in TONES:
        name, rest = name._replace(tone=TONES[rest[0]]), rest[1:]
    if len(rest) == 2 and rest[0] == JOINER and rest[1] in GENDERS:
        name, rest = name._replace(gender=GENDERS[rest[1]]), ()
    return None if rest else name
