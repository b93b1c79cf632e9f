"""Emoji drawn from the font Noto Color Emoji, each captioned with its name in Unicode."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from genmodels.data.captioned_sources import CaptionedMaterial, CaptionedPart, CaptionRequest
from genmodels.data.emoji_names import Name, is_thing, name_of, name_of_sequence
from genmodels.data.recolour import TINTS, Tint, named, recoloured, tint
from genmodels.errors import InputError

_PLACES = (  # of Debian and its kin, of Fedora, of Arch
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
)
_INSTALL = "install Debian's fonts-noto-color-emoji, or give NotoColorEmoji.ttf as prepare_captions.path"
_PIXELS = 109  # the one size in which the font has pictures
_CANVAS = (136, 128)  # width, height of one of them
_SIZE = (32, 32)
_LIGATURES = 4  # the type of OpenType's lookups that put one glyph in place of several


class _Drawn(NamedTuple):
    text: str
    name: Name
    picture: np.ndarray  # (row, column, 4) uint8
    colour: Tint | None  # that of all it shows


def emoji(request: CaptionRequest) -> CaptionedMaterial:
    """Return some 1,300 emoji on white, "a bicycle"; what is of one colour comes in seven, "a purple heart".

    With `variants` people and hands come in all skin tones and genders, "a female runner with dark skin".
    Flags, keycaps and families are left out: their names are not in Unicode's list of characters. A thing and
    its copies are one group.

    Raises:
        InputError: no such font, or one without colour pictures of emoji.
    """
    path = _font_path(request.path)
    height, width = request.size or _SIZE
    singles, variants = _characters(path)
    drawn = list(_draw(path, singles, (width, height), ImageFont.Layout.BASIC))
    if not drawn:
        raise InputError(f"{path}: has no colour pictures of size {_PIXELS}; {_INSTALL}")
    # Whoever comes in skin tones is no thing that could be of any colour.
    of_people = {text[0] for text, name in variants.items() if name.tone}
    if request.variants:
        if not features.check("raqm"):
            raise InputError("prepare_captions.variants = true: needs a Pillow with Raqm, as its wheels are")
        drawn += _draw(path, variants, (width, height), ImageFont.Layout.RAQM)

    def copied(text: str) -> bool:
        return request.recoloured and text[0] not in of_people and is_thing(text)

    levels: list[np.ndarray] = []
    captions: list[str] = []
    nouns: list[str] = []
    for picture, caption, noun in _captioned(drawn, copied):
        levels.append(picture)
        captions.append(caption)
        nouns.append(noun)
    number = {noun: k for k, noun in enumerate(dict.fromkeys(nouns))}
    groups = np.array([number[noun] for noun in nouns], dtype=np.int64)
    part = CaptionedPart(np.stack(levels), captions, groups)
    return CaptionedMaterial({"train": part}, (height, width, 3), 256, "Noto Color Emoji")


def _font_path(path: Path | None) -> Path:
    if path is None:
        found = next((Path(place) for place in _PLACES if Path(place).is_file()), None)
        if found is None:
            raise InputError(f"prepare_captions.path = null: no NotoColorEmoji.ttf here; {_INSTALL}")
        return found
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {what}; {_INSTALL}")
    return path


def _characters(path: Path) -> tuple[dict[str, Name], dict[str, Name]]:
    """Return the characters that the font draws, and their variants, with their names."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(path, lazy=True) as font:
            if "CBDT" not in font:
                raise InputError(f"{path}: a font without colour bitmaps; {_INSTALL}")
            code_points: dict[int, str] = font.getBestCmap()
            sequences = sorted(_sequences(font, {glyph: it for it, glyph in code_points.items()}))
    except (TTLibError, AssertionError, OSError, ValueError, LookupError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not a readable font ({' '.join(str(error).split())}); {_INSTALL}"
        ) from error
    singles = {chr(it): name for it in sorted(code_points) if (name := name_of(it)) is not None}
    variants = {"".join(map(chr, it)): name for it in sequences if (name := name_of_sequence(it)) is not None}
    return singles, variants


def _sequences(font: Any, code_points: dict[str, int]) -> Iterator[tuple[int, ...]]:
    for lookup in font["GSUB"].table.LookupList.Lookup if "GSUB" in font else ():
        if lookup.LookupType == _LIGATURES:
            for table in lookup.SubTable:
                for first, ligatures in table.ligatures.items():
                    for ligature in ligatures:
                        glyphs = [first, *ligature.Component]
                        if all(glyph in code_points for glyph in glyphs):
                            yield tuple(code_points[glyph] for glyph in glyphs)


def _draw(
    path: Path, texts: dict[str, Name], size: tuple[int, int], layout: ImageFont.Layout
) -> Iterator[_Drawn]:
    try:
        font = ImageFont.truetype(path, _PIXELS, layout_engine=layout)
    except OSError as error:
        raise InputError(f"{path}: Pillow cannot draw it ({error}); {_INSTALL}") from error
    side = max(_CANVAS)
    corner = ((side - _CANVAS[0]) // 2, (side - _CANVAS[1]) // 2)
    for text, name in texts.items():
        canvas = Image.new("RGBA", (side, side), (255, 255, 255, 0))
        ImageDraw.Draw(canvas).text(corner, text, font=font, embedded_color=True)
        # What is wider than one picture was not joined, and what is empty is not there.
        if np.asarray(canvas)[..., 3].any() and font.getlength(text) <= _CANVAS[0]:
            picture = np.asarray(canvas.resize(size, Image.Resampling.LANCZOS))
            # Of a size of its own, for the same things to be of one colour in pictures of any size.
            colour = tint(np.asarray(canvas.resize(_SIZE, Image.Resampling.LANCZOS)))
            yield _Drawn(text, name, picture, colour)


def _captioned(
    drawn: list[_Drawn], may_be_copied: Callable[[str], bool]
) -> Iterator[tuple[np.ndarray, str, str]]:
    """Yield pictures, captions and nouns; the first of those with one noun is copied in other colours."""
    own = {(it.name.noun, it.name.colour) for it in drawn}
    copied = set()
    for text, name, picture, found in drawn:
        yield _on_white(picture), name.caption(), name.noun
        colour = found if may_be_copied(text) and name.noun not in copied else None
        if colour is None:
            continue
        copied.add(name.noun)
        called = name.colour or named(colour)
        for wanted, other in TINTS.items():
            if (name.noun, wanted) in own:
                continue
            copy = picture if wanted == called else recoloured(picture, colour, other)
            yield _on_white(copy), name.caption(wanted), name.noun


def _on_white(picture: np.ndarray) -> np.ndarray:
    opacity = picture[..., 3:] / 255.0
    mixed: np.ndarray = np.rint(picture[..., :3] * opacity + 255.0 * (1.0 - opacity)).astype(np.uint8)
    return mixed.ravel()
