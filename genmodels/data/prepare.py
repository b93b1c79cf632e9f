"""From a source to three splits: limit, cut, binarise, shuffle."""

from pathlib import Path

import numpy as np

from genmodels import registry
from genmodels.data.images import SPLITS, Images, Split
from genmodels.data.sources import SOURCES, Material, Part, Request
from genmodels.data.target import Target
from genmodels.errors import InputError
from genmodels.streams import Key


def prepare_dataset(
    name: str,
    path: str | Path | None,
    limit: int | None,
    size: tuple[int, int] | None,
    n_samples: int,
    beta: float,
    validation: float,
    test: float,
    seed: int,
) -> tuple[Images, Target | None]:
    """Return a data set's images in three splits and, where it is known, their distribution.

    Splits that the data set comes with are kept, others are cut from its training images; each is shuffled.

    Args:
        name: Its name in SOURCES.
        path: Folder or file, for the sources that read one; None for their default place.
        limit: Keep that many images at most, in all splits together.
        size: Height and width, for sources that make or resize pictures.
        n_samples: Images to draw, for the Ising lattice.
        beta: Its inverse temperature.
        validation: Share of the training images before any cut that becomes "validation".
        test: Share of the same that becomes "test".
        seed: Of all that is random: drawing, limiting, cutting, shuffling and binarisation.

    Raises:
        InputError: the source cannot be read, has an empty split, or too few images for three.
    """
    request = Request(None if path is None else Path(path), limit, size, n_samples, beta, seed)
    material: Material = registry.load(SOURCES, name)(request)
    for split, part in material.parts.items():
        if not part.labels.size:
            raise InputError(f"{path or name}: the {split} split is empty; expected at least one image")
    key = Key(seed, f"data/{name}")
    kept = limited(material.parts, limit, key.child("limit"))
    parts = cut(kept, {"test": test, "validation": validation}, key)
    splits = {split: _finish(parts[split], material, key.child(split)) for split in SPLITS}
    images = Images(name, material.shape, material.levels, material.binarisation, splits, material.origin)
    return images, material.target


def limited(parts: dict[str, Part], limit: int | None, key: Key) -> dict[str, Part]:
    """Return at most `limit` images, of each part and in it of each class the share that it had.

    Raises:
        InputError: a part would keep no image.
    """
    n_images = np.array([len(part.labels) for part in parts.values()])
    if limit is None or limit >= n_images.sum():
        return parts
    generator = key.numpy()
    kept = {}
    quota = shares(n_images, limit, n_images, generator)
    for (split, part), n_kept in zip(parts.items(), quota, strict=True):
        if n_kept == 0:
            raise InputError(f"data.limit = {limit}: leaves the {split} split without an image; raise it")
        chosen = choose(part.labels, n_kept, 0, generator)
        kept[split] = Part(part.grey[chosen], part.labels[chosen])
    return kept


def cut(parts: dict[str, Part], wanted: dict[str, float], key: Key) -> dict[str, Part]:
    """Return the parts with the splits that were missing taken out of "train", a share of it each.

    Raises:
        InputError: too few images for one in every split.
    """
    train, others = parts["train"], {split: part for split, part in parts.items() if split != "train"}
    missing = [split for split in wanted if split not in others]
    sizes = {split: max(1, round(wanted[split] * len(train.labels))) for split in missing}
    if len(train.labels) <= sum(sizes.values()):
        raise InputError(
            f"data: {len(train.labels)} images are too few for training"
            + "".join(f" and {n} for {split}" for split, n in sizes.items())
            + "; raise data.limit or give more images"
        )
    for split, n_cut in sizes.items():
        out = choose(train.labels, n_cut, 1, key.child(f"cut {split}").numpy())
        others[split] = Part(train.grey[out], train.labels[out])
        train = Part(train.grey[~out], train.labels[~out])
    return {"train": train} | others


def choose(labels: np.ndarray, n_chosen: int, n_left: int, generator: np.random.Generator) -> np.ndarray:
    """Return a mask of `n_chosen` images: of each class its share, of each at least `n_left` not chosen.

    Where classes are too small for that, the images are chosen without regard to class.
    """
    if (classes := np.unique(labels)).size * n_left + n_chosen > labels.size:
        classes, labels, n_left = np.zeros(1, dtype=np.int64), np.zeros_like(labels), 0
    members = [np.flatnonzero(labels == label) for label in classes]
    counts = np.array([len(member) for member in members])
    mask = np.zeros(labels.size, dtype=bool)
    for member, n in zip(members, shares(counts, n_chosen, counts - n_left, generator), strict=True):
        mask[generator.permutation(member)[:n]] = True
    return mask


def shares(counts: np.ndarray, total: int, most: np.ndarray, generator: np.random.Generator) -> list[int]:
    """Return `total` divided in proportion to `counts`, entry k at most most[k], by largest remainders.

    Ties are broken at random; needs total ≤ Σ most.
    """
    n = int(counts.sum())
    quota = [min(int(count) * total // n, int(top)) for count, top in zip(counts, most, strict=True)]
    behind = [int(count) * total - share * n for count, share in zip(counts, quota, strict=True)]
    order = np.lexsort((generator.random(len(quota)), -np.array(behind)))
    open_places = total - sum(quota)
    while open_places:
        takers = [k for k in order if quota[k] < most[k]][:open_places]
        for k in takers:
            quota[k] += 1
        open_places -= len(takers)
    return quota


def _finish(part: Part, material: Material, key: Key) -> Split:
    order = key.child("shuffle").numpy().permutation(len(part.labels))
    grey, labels = part.grey[order], part.labels[order]
    if material.binarisation != "fixed-stochastic":
        return Split(grey, grey, labels)
    return Split(grey, binarised(grey, material.levels, key.child("binarise")), labels)


def binarised(grey: np.ndarray, levels: int, key: Key) -> np.ndarray:
    """Return one draw of v ~ Bernoulli(grey/(K − 1)), exactly: r < grey, r uniform on 0 … K − 2."""
    threshold = key.numpy().integers(0, levels - 1, size=grey.shape, dtype=np.uint8)
    return (threshold < grey).astype(np.uint8)
