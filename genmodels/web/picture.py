"""A picture as a PNG file that knows how it was made."""

import base64
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL.PngImagePlugin import PngInfo

from genmodels.data import pictures
from genmodels.illustrate import METHOD
from genmodels.ways import METHODS
from genmodels.web.shelf import Entry
from genmodels.web.wish import Wish

TEXT_METHOD = METHODS[METHOD].name


class Picture(NamedTuple):
    """A PNG, in which its settings are written too, and these settings."""

    png: bytes
    settings: dict[str, Any]

    def url(self) -> str:
        """Return it as a data URL."""
        return data_url(self.png)


def pictures_of(pixels: np.ndarray, entry: Entry, wish: Wish) -> list[Picture]:
    """Return the pictures of a wish  # (picture, site), from 0 to 1."""
    told = [_settings(entry, wish, number) for number in range(len(pixels))]
    return [Picture(png(it, entry.shape, its), its) for it, its in zip(pixels, told, strict=True)]


def png(pixels: np.ndarray, shape: Sequence[int], settings: Mapping[str, Any] | None = None) -> bytes:
    """Return a picture as PNG, a pixel a site, its settings in it as JSON  # (site,), from 0 to 1."""
    image, facts, file = pictures.grid(pixels[None], shape, scale=1), PngInfo(), BytesIO()
    if settings is not None:
        facts.add_itxt("genmodels", json.dumps(settings, ensure_ascii=False))
    image.save(file, format="PNG", pnginfo=facts)
    return file.getvalue()


def data_url(png: bytes) -> str:
    """Return a PNG as a URL that holds it whole."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _settings(entry: Entry, wish: Wish, number: int) -> dict[str, Any]:
    """Return all that it takes to draw the picture of this number again."""
    found: dict[str, Any] = {"model": entry.name, "weights": entry.digest}
    found |= {"seed": wish.seed, "picture": number}
    if entry.kind == "text":
        found |= {"prompt": wish.prompt, "negative prompt": wish.negative}
        return found | {"guidance": wish.guidance, "steps": wish.steps, "method": TEXT_METHOD}
    if entry.kind == "denoising":
        found |= {"steps": wish.steps, "method": "ancestral"}
    if entry.kind == "particles":
        found |= {"sweeps": wish.sweeps, "beta": wish.beta}
    return found | {"of": wish.n, "shown": wish.shown}
