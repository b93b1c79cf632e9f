"""A model's pictures beside real ones: neighbours, moments, and the training image nearest to each."""

from typing import Any

import numpy as np

from genmodels.artifacts import new_file, read_json, write_json
from genmodels.data import images, pictures
from genmodels.estimate import Estimate, over_images
from genmodels.estimators import sample_quality
from genmodels.estimators.classifier import Features
from genmodels.streams import Key
from pipelines.stage import Stage, main

# Real images in place of a model's: numbers of what could not be better, and of copies.
YARDSTICKS = {"validation_images": "validation", "training_images": "train"}
_SHOWN = 12


def work(stage: Stage) -> None:
    """Write out/<pipeline>/judge_samples: <model>.json, rows of Estimates, and <model>.png.

    The picture has drawn ones above, and below each the training image that is nearest to it.
    """
    out, made = stage.out / "judge_samples", stage.out / "train_classifier"
    described = read_json(made / "classifier.json")
    levels, space = described["data"]["levels"], described["space"]
    prepared = images.load(stage.out / "prepare" / "images")
    train, held_out = (images.of_levels(prepared, split, levels) for split in ("train", "test"))
    drawn = _drawn(stage, prepared, levels)
    features = _features(made / "classifier.npz")
    # As many for all, real images too: what is biased by finite numbers is then biased alike.
    n = min(len(drawn), len(held_out), len(prepared.splits["validation"].labels))
    held_out = held_out[:n]
    real, fake = (features.of(each[:n] / (levels - 1)) for each in (held_out, drawn))
    rows = _named("classifier", sample_quality.neighbourhoods(real, fake, space))
    rows += _named("classifier", {"frechet_distance": sample_quality.frechet_distance(real, fake, space)})
    near = sample_quality.nearest(drawn, train)
    rows += _in_pixels(drawn, train, held_out, near, levels)
    write_json(out / f"{stage.model}.json", {"model": stage.model, "rows": rows})
    shown = np.concatenate([drawn[:_SHOWN], train[near.place[:_SHOWN]]]) / (levels - 1)
    with new_file(out / f"{stage.model}.png") as path:
        pictures.grid(shown, prepared.shape, path, columns=min(_SHOWN, len(drawn)))
    stage.run.metrics({row["name"]: row["value"] for row in rows if row["value"] is not None})
    stage.run.picture(out / f"{stage.model}.png")
    stage.run.file(out / f"{stage.model}.json")


def _in_pixels(
    drawn: np.ndarray, train: np.ndarray, held_out: np.ndarray, near: sample_quality.Nearest, levels: int
) -> list[dict[str, Any]]:
    """Return the rows of what is measured in pixels  # (picture, site) in levels."""
    rows = _named(
        "pixels", sample_quality.moment_gaps(held_out / (levels - 1), drawn[: len(held_out)] / (levels - 1))
    )
    for what, real in (("held_out", held_out), ("training", train)):
        accuracy = sample_quality.adversarial_accuracy(real, drawn[: len(held_out)], what.replace("_", " "))
        names = {"": what} | {side: f"{what}_{side}" for side in accuracy if side}
        rows += _named(
            "pixels", {f"adversarial_accuracy_{names[side]}": each for side, each in accuracy.items()}
        )
    distance = near.distance / (levels - 1)
    of_held_out = sample_quality.nearest(held_out, train).distance / (levels - 1)
    method = (
        f"distance to the nearest of {len(train)} training images; {of_held_out.mean():.3g} for held-out ones"
    )
    mean = over_images(distance, kind="estimate", method=method, unit="levels from 0 to 1")
    copied = sample_quality.copying(distance, of_held_out)
    return rows + _named("pixels", {"copying": copied, "nearest_training": mean})


def _named(space: str, found: dict[str, Estimate]) -> list[dict[str, Any]]:
    return [{"name": f"{name}.{space}"} | estimate.to_dict() for name, estimate in found.items()]


def _drawn(stage: Stage, prepared: images.Images, levels: int) -> np.ndarray:
    """Return a model's pictures, or real ones in their place  # (picture, site) in levels."""
    if stage.model in YARDSTICKS:
        real = images.of_levels(prepared, YARDSTICKS[stage.model], levels)
        return real[: stage.params.sample.n]
    with np.load(stage.out / "sample" / f"{stage.model}.npz") as drawn:
        pixels = np.asarray(drawn["pixels"])
        if "labels" not in drawn:
            return pixels
    # They come class by class, and the first of them have to be a fair sample.
    order = Key(stage.params.seed, f"judge_samples/{stage.model}").numpy().permutation(len(pixels))
    return pixels[order]


def _features(path: Any) -> Features:
    with np.load(path) as arrays:
        return Features.from_arrays({name: arrays[name] for name in arrays.files})


if __name__ == "__main__":
    main("judge_samples", work)
