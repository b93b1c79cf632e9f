"""From a source of pictures with captions to splits: hold out captions, cut by what is shown, shuffle."""

from pathlib import Path

import numpy as np

from genmodels import registry
from genmodels.data.captioned_sources import CAPTIONED, CaptionedMaterial, CaptionedPart, CaptionRequest
from genmodels.data.captions import NO_CAPTION, SPLITS, Captioned, CaptionedImages, clean
from genmodels.errors import InputError, suggestion
from genmodels.streams import Key


def prepare_captions(
    name: str,
    path: str | Path | None,
    limit: int | None,
    size: tuple[int, int] | None,
    variants: bool,
    recoloured: bool,
    held_out: list[str],
    validation: float,
    test: float,
    seed: int,
) -> CaptionedImages:
    """Return a data set's pictures in splits, numbered by their captions.

    Pictures of the captions `held_out` come from all parts and are in no other split. What is left keeps the
    splits it came with; others are cut from its training pictures, group by group, so that no split shows
    what another one shows. The groups of held-out captions stay in training: a purple heart is held out, and
    other hearts are learnt.

    Args:
        name: Its name in CAPTIONED.
        path: Folder or font, for the sources that read one; None for their default place.
        limit: Keep that many pictures at most, besides the held-out ones.
        size: Height and width, for sources that make or resize pictures.
        variants: Whether emoji come in all skin tones and genders.
        recoloured: Whether emoji of one colour come in other colours, too.
        held_out: Captions that are never learnt.
        validation: Share of the training groups before any cut that becomes "validation".
        test: Share of the same that becomes "test".
        seed: Of all that is random: limiting, cutting and shuffling.

    Raises:
        InputError: the source cannot be read, has no such caption, or too few pictures for three splits.
    """
    request = CaptionRequest(None if path is None else Path(path), size, variants, recoloured)
    material: CaptionedMaterial = registry.load(CAPTIONED, name)(request)
    key = Key(seed, f"captions/{name}")
    parts, aside = _hold_out(material.parts, [clean(it) for it in held_out])
    for split, part in parts.items():
        if not part.captions:
            raise InputError(
                f"prepare_captions.held_out: leaves the {split} split without a picture; hold out less"
            )
    kept_back = set(aside.groups.tolist())
    parts = _limited(parts, limit, kept_back, key.child("limit"))
    parts = _cut(parts, {"test": test, "validation": validation}, kept_back, key) | {"held_out": aside}
    texts = sorted({caption for part in parts.values() for caption in part.captions} - {NO_CAPTION})
    captions = (NO_CAPTION, *texts)
    number = {caption: k for k, caption in enumerate(captions)}
    splits = {split: _finish(parts[split], number, key.child(split)) for split in SPLITS}
    return CaptionedImages(name, material.shape, material.levels, captions, splits, material.origin)


def _select(part: CaptionedPart, mask: np.ndarray) -> CaptionedPart:
    captions = [caption for caption, kept in zip(part.captions, mask, strict=True) if kept]
    return CaptionedPart(part.levels[mask], captions, part.groups[mask])


def _joined(parts: list[CaptionedPart]) -> CaptionedPart:
    captions = [caption for part in parts for caption in part.captions]
    levels, groups = (np.concatenate([part[field] for part in parts]) for field in (0, 2))
    return CaptionedPart(levels, captions, groups)


def _hold_out(
    parts: dict[str, CaptionedPart], captions: list[str]
) -> tuple[dict[str, CaptionedPart], CaptionedPart]:
    """Return the parts without the pictures of these captions, and those pictures."""
    known = {caption for part in parts.values() for caption in part.captions}
    for caption in captions:
        if caption not in known:
            hint = suggestion(caption, sorted(known), "give captions of the data")
            raise InputError(f"prepare_captions.held_out: no picture has the caption '{caption}'; {hint}")
    masks = {
        name: np.array([caption in captions for caption in part.captions], dtype=bool)
        for name, part in parts.items()
    }
    aside = _joined([_select(part, masks[name]) for name, part in parts.items()])
    return {name: _select(part, ~masks[name]) for name, part in parts.items()}, aside


def _limited(
    parts: dict[str, CaptionedPart], limit: int | None, needed: set[int], key: Key
) -> dict[str, CaptionedPart]:
    """Return at most `limit` pictures, of each part the share that it had, the groups in `needed` first."""
    total = sum(len(part.captions) for part in parts.values())
    if limit is None or limit >= total:
        return parts
    kept = {}
    for name, part in parts.items():
        order = key.child(name).numpy().permutation(len(part.captions))
        rank = np.argsort([group not in needed for group in part.groups[order].tolist()], kind="stable")
        mask = np.zeros(len(order), dtype=bool)
        mask[order[rank][: limit * len(order) // total]] = True
        kept[name] = _select(part, mask)
        if not mask.any():
            raise InputError(
                f"prepare_captions.limit = {limit}: leaves the {name} split without a picture; raise it"
            )
    return kept


def _cut(
    parts: dict[str, CaptionedPart], wanted: dict[str, float], needed: set[int], key: Key
) -> dict[str, CaptionedPart]:
    """Return the parts with the splits that were missing taken out of "train", a share of its groups each."""
    train, others = parts["train"], {split: part for split, part in parts.items() if split != "train"}
    groups = np.unique(train.groups)
    free = key.child("cut").numpy().permutation(groups[~np.isin(groups, list(needed))])
    sizes = {split: max(1, round(share * len(groups))) for split, share in wanted.items()}
    sizes = {split: n for split, n in sizes.items() if split not in others}
    if sum(sizes.values()) > len(free) or sum(sizes.values()) >= len(groups):
        raise InputError(
            f"prepare_captions: pictures of {len(free)} things, besides those held out, are too few for "
            "training"
            + "".join(f" and {n} for {split}" for split, n in sizes.items())
            + "; raise prepare_captions.limit or give more pictures"
        )
    taken = np.zeros(len(train.groups), dtype=bool)
    for split, n in sizes.items():
        mask = np.isin(train.groups, free[:n])
        free = free[n:]
        others[split] = _select(train, mask)
        taken |= mask
    return {"train": _select(train, ~taken)} | others


def _finish(part: CaptionedPart, number: dict[str, int], key: Key) -> Captioned:
    order = key.child("shuffle").numpy().permutation(len(part.captions))
    numbers = np.array([number[caption] for caption in part.captions], dtype=np.int64)
    return Captioned(part.levels[order], numbers[order])
