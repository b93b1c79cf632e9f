"""Objects of one colour, painted in another one."""

from typing import NamedTuple

import numpy as np

_SATURATED = 0.3
_MOSTLY = 0.6  # share of an object's pixels that must be saturated
_ONE_HUE = 0.97  # mean resultant length of its hues, 1 where all are equal


class Tint(NamedTuple):
    """The mean colour of an object."""

    hue: float  # degrees
    saturation: float  # 0 to 1
    value: float  # 0 to 1


# Those of Noto Color Emoji's own hearts, circles and squares.
TINTS = {
    "red": Tint(4.0, 0.76, 0.94),
    "orange": Tint(35.0, 0.98, 1.0),
    "yellow": Tint(45.0, 0.82, 0.99),
    "green": Tint(90.0, 0.62, 0.70),
    "blue": Tint(211.0, 0.87, 0.80),
    "purple": Tint(291.0, 0.63, 0.73),
    "brown": Tint(15.0, 0.53, 0.71),
}


def tint(picture: np.ndarray) -> Tint | None:
    """Return the colour of what a picture shows, None where it has several or none.

    Args:
        picture: Red, green, blue and opacity, 0 to 255  # (row, column, 4) uint8
    """
    hue, saturation, value = _hsv(picture[picture[..., 3] > 127, :3])
    if not hue.size or (saturation > _SATURATED).mean() < _MOSTLY:
        return None
    turn = np.exp(1j * np.deg2rad(hue))
    mean = (saturation * turn).sum() / saturation.sum()
    if abs(mean) < _ONE_HUE:
        return None
    return Tint(float(np.rad2deg(np.angle(mean)) % 360.0), float(saturation.mean()), float(value.mean()))


def named(colour: Tint) -> str | None:
    """Return the name of the colour that this one may be called, None if it is between them."""
    for name, other in TINTS.items():
        turn = abs((colour.hue - other.hue + 180.0) % 360.0 - 180.0)
        near = abs(colour.saturation - other.saturation) < 0.2 and abs(colour.value - other.value) < 0.2
        if turn < 5.0 and near:
            return name
    return None


def recoloured(picture: np.ndarray, own: Tint, wanted: Tint) -> np.ndarray:
    """Return the picture with hues turned, saturations and values scaled, from one tint to another."""
    hue, saturation, value = _hsv(picture[..., :3])
    rgb = _rgb(
        (hue + wanted.hue - own.hue) % 360.0,
        (saturation * (wanted.saturation / own.saturation)).clip(0.0, 1.0),
        (value * (wanted.value / own.value)).clip(0.0, 1.0),
    )
    return np.concatenate([rgb, picture[..., 3:]], axis=-1)


def _hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hue in degrees, saturation and value  # (…, 3) uint8 -> (…) three times."""
    red, green, blue = np.moveaxis(rgb / 255.0, -1, 0)
    value, low = rgb.max(-1) / 255.0, rgb.min(-1) / 255.0
    spread = value - low
    safe = np.where(spread > 0.0, spread, 1.0)
    hue = np.where(value == red, (green - blue) / safe, (blue - red) / safe + 2.0)
    hue = np.where((value == blue) & (value != red) & (value != green), (red - green) / safe + 4.0, hue)
    hue = np.where(spread > 0.0, 60.0 * hue % 360.0, 0.0)
    return hue, spread / np.where(value > 0.0, value, 1.0), value


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the inverse of `_hsv`  # (…, 3) uint8."""
    # Foley & van Dam: each channel is V − V S max(0, min(k, 4 − k, 1)), k = (n + H/60°) mod 6.
    k = (np.array([5.0, 3.0, 1.0]) + hue[..., None] / 60.0) % 6.0
    weight = np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    rgb = value[..., None] * (1.0 - saturation[..., None] * weight)
    rounded: np.ndarray = np.rint(255.0 * rgb).astype(np.uint8)
    return rounded
