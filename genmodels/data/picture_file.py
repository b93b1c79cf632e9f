"""A file of one picture, opened with everything that can be wrong with it said in one line."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from genmodels.errors import InputError

# What Pillow raises on files that are cut off, damaged, or no pictures at all.
_UNREADABLE = (
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def open_picture(file: Path) -> Image.Image:
    """Return the picture of a PNG or JPEG file, upright.

    Raises:
        InputError: the file is no such picture, damaged, or would unpack to very many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities beside the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                upright = ImageOps.exif_transpose(image)
                upright.load()
    except _UNREADABLE as error:
        raise InputError(f"{file}: not a readable picture ({' '.join(str(error).split())})") from error
    return upright


def require_size(key: str, size: tuple[int, int]) -> None:
    """Raise InputError where (height, width), given as `key`, are more pixels than a picture may have."""
    height, width = size
    if height * width > (Image.MAX_IMAGE_PIXELS or 0):
        raise InputError(f"{key} = [{height}, {width}]: at most {Image.MAX_IMAGE_PIXELS} pixels a picture")


def on_white(image: Image.Image) -> Image.Image:
    """Return the picture with its transparent pixels laid on white."""
    if not image.has_transparency_data:
        return image
    opaque = image.convert("RGBA")
    white = Image.new("RGBA", opaque.size, "white")
    return Image.alpha_composite(white, opaque)


def rgb(image: Image.Image) -> Image.Image:
    """Return the picture in 8 bits a colour, on white."""
    if image.mode.startswith("I"):  # 16 bits, which convert would clip
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    return on_white(image).convert("RGB")
