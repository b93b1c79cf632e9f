"""Whether pictures show what their prompts say, how they differ, and how near they are to known ones."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from genmodels import agreement
from genmodels.artifacts import read_json, write_json
from genmodels.data import captions
from genmodels.estimate import Estimate, of_share, over_images
from pipelines.stage import Stage, main

_OF_TRAINING = "nearest training picture"
_FOLDS = 5


def work(stage: Stage) -> None:
    """Write out/<pipeline>/recognise_captions.json: Estimates by group of prompts, and hits by prompt.

    Groups are prompts that are training captions ("seen"), held-out captions, and neither ("new").
    """
    out = stage.out / "recognise_captions.json"
    images = captions.load(stage.out / "prepare_captions" / "images")
    told = read_json(stage.out / "paint_captions" / "prompts.json")
    with np.load(stage.out / "paint_captions" / "pictures.npz") as file:
        painted = file["means"].astype(np.float64).reshape(len(told["prompts"]), told["n"], -1)
    wanted = [agreement.asked(prompt) for prompt in told["prompts"]]
    subjects = {it.subject for it in wanted} - {agreement.OTHER}
    pictures, shown = agreement.real(images, subjects)
    judge = agreement.Subjects(pictures, [it.subject for it in shown], images.shape)
    train = images.splits["train"]
    known = train.levels / (images.levels - 1.0)
    learnt = {images.captions[number] for number in np.unique(train.captions)}
    by_prompt = []
    for prompt, what, its in zip(told["prompts"], wanted, painted, strict=True):
        by_prompt.append(
            {
                "prompt": prompt,
                "group": _group(prompt, learnt, told["held_out"]),
                "subject": [found == what.subject for found in judge.of(its)] if what.subject else [],
                "colour": _coloured(its, what.colour, images.shape),
                "nearest": agreement.distances(its, known).tolist(),
                "diversity": agreement.diversity(its) if len(its) > 1 else 0.0,
            }
        )
    method = f"support vector machine, trained on {judge.n} real pictures"
    rows = [*_rows(by_prompt, method), *_checks(images, pictures, shown, known)]
    write_json(out, {"rows": rows, "prompts": by_prompt})
    stage.run.metrics({row["name"]: row["value"] for row in rows})
    stage.run.file(out)


def _group(prompt: str, learnt: set[str], held_out: list[str]) -> str:
    if prompt in held_out:
        return "held_out"
    return "seen" if prompt in learnt else "new"


def _coloured(pictures: np.ndarray, colour: str, shape: tuple[int, int, int]) -> list[bool]:
    """Return whether each picture is of the colour; nothing where none was asked for."""
    if not colour or shape[2] != 3:
        return []
    return [agreement.colour_of(it.reshape(shape)) == colour for it in pictures]


def _rows(by_prompt: list[dict[str, Any]], method: str) -> Iterable[dict[str, Any]]:
    for group in ("seen", "held_out", "new"):
        its = [it for it in by_prompt if it["group"] == group]
        if not its:
            continue
        yield from _agreeing(its, group, method)
        nearest = np.concatenate([it["nearest"] for it in its])
        yield _row(f"nearest.{group}", _mean(nearest, _OF_TRAINING))
        between_seeds = np.array([it["diversity"] for it in its])
        yield _row(f"diversity.{group}", _mean(between_seeds, "between seeds of a prompt"))


def _agreeing(its: list[dict[str, Any]], group: str, method: str) -> Iterable[dict[str, Any]]:
    of_subject = [hit for it in its for hit in it["subject"]]
    of_colour = [hit for it in its for hit in it["colour"]]
    both = [a and b for it in its for a, b in zip(it["subject"], it["colour"], strict=False)]
    for name, hits, how in (
        ("subject", of_subject, method),
        ("colour", of_colour, "mean hue"),
        ("both", both, f"{method}, and mean hue"),
    ):
        if hits:
            yield _row(f"{name}.{group}", _share(hits, how))


def _checks(
    images: captions.CaptionedImages,
    pictures: np.ndarray,
    shown: list[agreement.Asked],
    known: np.ndarray,
) -> Iterable[dict[str, Any]]:
    """Yield how often the judges are right on real pictures, and how near unknown real pictures are."""
    hits = [
        agreement.colour_of(picture.reshape(images.shape)) == it.colour
        for picture, it in zip(pictures, shown, strict=True)
        if it.colour and images.shape[2] == 3
    ]
    if hits:
        yield _row("colour.real", _share(hits, "mean hue"))
    if found := _cross_validated(images, pictures, shown):
        yield _row("subject.real", _share(found, f"support vector machine, {_FOLDS} folds"))
    test = images.splits["test"].levels / (images.levels - 1.0)
    yield _row("nearest.real", _mean(agreement.distances(test, known), _OF_TRAINING))


def _cross_validated(
    images: captions.CaptionedImages, pictures: np.ndarray, shown: list[agreement.Asked]
) -> list[bool]:
    """Return whether the classifier is right on pictures of a fold that it did not learn from.

    Of pictures that show what is asked for: none, where no prompt asks for anything that is known.
    """
    fold = np.arange(len(shown)) % _FOLDS
    hits: list[bool] = []
    for k in range(_FOLDS):
        rest, left = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        judge = agreement.Subjects(pictures[rest], [shown[i].subject for i in rest], images.shape)
        asked = [i for i in left if shown[i].subject]
        hits += [a == shown[i].subject for i, a in zip(asked, judge.of(pictures[asked]), strict=True)]
    return hits


def _share(hits: list[bool], method: str) -> Estimate:
    return of_share(sum(hits), len(hits), unit="share", method=method)


def _mean(values: np.ndarray, method: str) -> Estimate:
    return over_images(values, kind="estimate", method=method, unit="of full scale")


def _row(name: str, estimate: Estimate) -> dict[str, Any]:
    return {"model": "latent_diffusion", "name": name} | estimate.to_dict()


if __name__ == "__main__":
    main("recognise_captions", work)
