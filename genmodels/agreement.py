"""Whether pictures show what their captions say: the subject by a classifier, the colour by its hue."""

import math
from typing import NamedTuple

import numpy as np
from sklearn.svm import SVC

from genmodels.data.captioned_digits import NAMES
from genmodels.data.captions import CaptionedImages
from genmodels.data.emoji_names import COLOURS, HEAD
from genmodels.estimators import sample_quality

OTHER = ""  # the subject of whatever nobody asked for
_NUMERALS = {str(k): name for k, name in enumerate(NAMES)}
_C = 10.0  # softness of the classifier's margin
_POOL, _LARGE = 2, 16  # sites a side whose mean it sees, in pictures that are at least so large
_LEAST_SATURATION, _LEAST_SHARE = 0.3, 0.02  # of a coloured pixel; of them in a picture of a colour
_BROWN = (0.72, 0.85)  # saturation and value below which orange and red are brown
_BOUNDS = ((20.0, "red"), (40.0, "orange"), (68.0, "yellow"), (165.0, "green"), (255.0, "blue"))
_PURPLE_ENDS = 335.0  # degrees, where red begins


class Asked(NamedTuple):
    """What a caption asks for."""

    subject: str
    colour: str  # "" where it names none


def asked(caption: str) -> Asked:
    """Return a caption's colour and its subject: the last word before "with" and the like, numbers spelt."""
    words = caption.split()
    colours = [word for word in words if word in COLOURS]
    head = HEAD.match(" ".join(word for word in words if word not in COLOURS))
    assert head is not None  # an empty one at least
    last = head[0].split()[-1] if head[0].split() else OTHER
    return Asked(_NUMERALS.get(last, last), colours[0] if colours else "")


def colour_of(picture: np.ndarray) -> str:
    """Return the colour of what a picture shows: the name for the mean hue of its coloured pixels.

    Hues are averaged on the circle, weighted with saturation. Red, orange and yellow that are both pale and
    dark are brown. "" where hardly any pixel has a colour.

    Args:
        picture: Red, green, blue from 0 to 1  # (row, column, 3)
    """
    value, low = picture.max(-1), picture.min(-1)
    saturation = np.where(value > 0.0, (value - low) / np.where(value > 0.0, value, 1.0), 0.0)
    coloured = saturation > _LEAST_SATURATION
    if coloured.mean() < _LEAST_SHARE:
        return ""
    red, green, blue = np.moveaxis(picture[coloured], -1, 0)
    weight = saturation[coloured]
    # The hue is the angle of the colour's projection along the grey axis.
    angle = np.arctan2(math.sqrt(3.0) * (green - blue), 2.0 * red - green - blue)
    turn = (weight * np.exp(1j * angle)).sum()
    hue = float(np.rad2deg(np.angle(turn)) % 360.0)
    if hue >= _PURPLE_ENDS:
        hue = 0.0
    name = next((name for bound, name in _BOUNDS if hue < bound), "purple")
    pale_and_dark = weight.mean() < _BROWN[0] and value[coloured].mean() < _BROWN[1]
    return "brown" if pale_and_dark and name in ("red", "orange", "yellow") else name


def real(images: CaptionedImages, subjects: set[str]) -> tuple[np.ndarray, list[Asked]]:
    """Return all pictures of all splits, from 0 to 1, and what they show of these subjects, OTHER else."""
    levels = np.concatenate([split.levels for split in images.splits.values()])
    numbers = np.concatenate([split.captions for split in images.splits.values()])
    shown = [asked(images.captions[number]) for number in numbers]
    known = [it if it.subject in subjects else it._replace(subject=OTHER) for it in shown]
    return levels / (images.levels - 1.0), known


class Subjects:
    """A support vector machine that tells asked-for subjects from each other and from all else.

    It sees how dark and how coloured parts of a picture are, but no hue. One that learnt from pictures of one
    subject alone takes everything for that: nothing is known of what others look like.
    """

    def __init__(self, pictures: np.ndarray, subjects: list[str], shape: tuple[int, int, int]) -> None:
        """Learn from real pictures, from 0 to 1, and what they show  # (picture, site)."""
        self.shape, self.n = shape, len(subjects)
        self._only = subjects[0] if len(set(subjects)) == 1 else None
        if self._only is None:
            self._machine = SVC(C=_C, gamma="scale").fit(self._features(pictures), subjects)

    def of(self, pictures: np.ndarray) -> list[str]:
        """Return what each picture shows  # (picture, site) from 0 to 1."""
        if self._only is not None or len(pictures) == 0:
            return [self._only or OTHER] * len(pictures)
        return [str(it) for it in self._machine.predict(self._features(pictures))]

    def _features(self, pictures: np.ndarray) -> np.ndarray:
        planes = pictures.reshape(-1, *self.shape)
        seen = np.stack([planes.mean(-1), planes.min(-1), planes.max(-1)], 1)
        n, kinds, height, width = seen.shape
        pool = _POOL if min(height, width) >= _LARGE else 1
        tall, wide = height // pool, width // pool
        cut = seen[:, :, : tall * pool, : wide * pool].reshape(n, kinds, tall, pool, wide, pool)
        features: np.ndarray = cut.mean((3, 5)).reshape(n, -1)
        return features


def distances(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the root mean squared difference of each picture from the nearest of others  # (picture,)."""
    nearest: np.ndarray = sample_quality.nearest(pictures, others).distance / math.sqrt(pictures.shape[1])
    return nearest


def diversity(pictures: np.ndarray) -> float:
    """Return the root mean squared difference of two pictures, in the mean over pairs  # (picture, site)."""
    n = len(pictures)
    pairs = [distances(pictures[[i]], pictures[[j]])[0] for i in range(n) for j in range(i)]
    return float(np.mean(pairs))
