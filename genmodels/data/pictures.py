"""Images shown and counted: grids of pictures as PNG, and statistics as JSON."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genmodels.data.images import Images, Split
from genmodels.data.target import Target

_MIN_WIDTH = 500  # pixels of a grid, by enlarging its pictures
_GAP_GREY = 96
_PREVIEW = 40  # pictures


def grid(
    pixels: np.ndarray,
    shape: Sequence[int],
    path: Path | None = None,
    *,
    columns: int | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Return pictures side by side, enlarged without smoothing, thin gaps between them.

    Args:
        pixels: From 0 (black) to 1 (white); what lies beyond is clipped  # (n, site)
        shape: Height, width, channels (1 or 3).
        path: Where to write a PNG, of bytes that depend on the pixels only.
        columns: Pictures a row; as many as make the grid about square if None.
        scale: Screen pixels a site; as many as make the grid 500 wide if None.

    Raises:
        ValueError: no pictures, values that are not finite, or a shape that does not fit.
    """
    return panels([pixels], shape, path, columns=columns, scale=scale)


def panels(
    arrays: Sequence[np.ndarray],
    shape: Sequence[int],
    path: Path | None = None,
    *,
    columns: int | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Return several grids, one below the other; the arguments are those of `grid`."""
    n = max((len(pixels) for pixels in arrays), default=0)
    columns = max(1, min(n, columns or math.ceil(math.sqrt(n))))
    scale = scale or math.ceil(_MIN_WIDTH / (columns * shape[1]))
    sheets = [_sheet(_levels(pixels, shape), columns, scale) for pixels in arrays]
    margin = np.full((3 * _gap(scale), *sheets[0].shape[1:]), 255, dtype=np.uint8)
    stacked = [part for sheet in sheets for part in (margin, sheet)][1:]
    sheet = np.concatenate(stacked)
    image = Image.fromarray(sheet[:, :, 0] if shape[2] == 1 else sheet)
    if path is not None:
        image.save(path, format="PNG")
    return image


def _levels(pixels: np.ndarray, shape: Sequence[int]) -> np.ndarray:  # -> (n, row, column, channel)
    height, width, channels = shape
    pixels = np.asarray(pixels, dtype=np.float64)
    if channels not in (1, 3) or pixels.shape != (max(1, len(pixels)), height * width * channels):
        raise ValueError(f"cannot show pixels of shape {pixels.shape} as pictures of shape {tuple(shape)}")
    if not np.isfinite(pixels).all():
        raise ValueError("cannot show pixels that are not finite")
    levels: np.ndarray = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
    return levels.reshape(-1, height, width, channels)


def _gap(scale: int) -> int:
    return max(1, scale // 3)


def _sheet(levels: np.ndarray, columns: int, scale: int) -> np.ndarray:
    n, height, width, channels = levels.shape
    rows, gap = -(-n // columns), _gap(scale)
    tall, wide = height * scale + gap, width * scale + gap
    sheet = np.full((rows * tall - gap, columns * wide - gap, channels), _GAP_GREY, dtype=np.uint8)
    for k, picture in enumerate(levels.repeat(scale, axis=1).repeat(scale, axis=2)):
        top, left = k // columns * tall, k % columns * wide
        sheet[top : top + height * scale, left : left + width * scale] = picture
    return sheet


def preview(images: Images, path: Path) -> None:
    """Write a PNG of training pictures; a row of grey ones stands above the row of their binarised twins."""
    train = images.splits["train"]
    n = min(_PREVIEW, len(train.labels))
    columns = min(n, 10)
    binary = train.binary[:n].astype(np.float64)
    if images.binarisation != "fixed-stochastic":
        grid(binary, images.shape, path, columns=columns)
        return
    n -= n % columns  # whole rows only
    grey = train.grey[:n] / (images.levels - 1)
    rows = [pixels[:n].reshape(n // columns, columns, -1) for pixels in (grey, binary)]
    grid(np.stack(rows, axis=1).reshape(2 * n, -1), images.shape, path, columns=columns)


def statistics(images: Images, target: Target | None = None) -> dict[str, Any]:
    """Return what there is to know about the images, JSON-ready; the entropy H(P) of a known P is in nats."""
    train = images.splits["train"]
    facts: dict[str, Any] = {
        "name": images.name,
        "origin": images.origin,
        "shape": list(images.shape),
        "levels": images.levels,
        "binarisation": images.binarisation,
        "n": {name: len(split.labels) for name, split in images.splits.items()},
        "classes": {name: _classes(split.labels) for name, split in images.splits.items()},
        "on_fraction": {name: float(split.binary.mean()) for name, split in images.splits.items()},
        "constant_pixels": {"grey": _n_constant(train.grey), "binary": _n_constant(train.binary)},
        "sha256": {name: _digests(split) for name, split in images.splits.items()},
    }
    if target is not None:
        facts["target"] = {"states": len(target.log_p), "entropy": target.entropy()}
        facts["target"]["full_support"] = target.full_support
    return facts


def _classes(labels: np.ndarray) -> dict[str, int]:
    values, counts = np.unique(labels[labels >= 0], return_counts=True)
    return {str(value): int(count) for value, count in zip(values, counts, strict=True)}


def _n_constant(pixels: np.ndarray) -> int:
    return int((pixels == pixels[0]).all(axis=0).sum())


def _digests(split: Split) -> dict[str, str]:
    return {
        field: hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        for field, array in split._asdict().items()
    }
