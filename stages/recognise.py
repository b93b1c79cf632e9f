"""How many of a model's class-conditional pictures a classifier of real ones takes for what was asked for."""

from typing import Any

import numpy as np

from genmodels.artifacts import read_config, write_json
from genmodels.data import images
from genmodels.errors import InputError
from genmodels.estimators.recognition import Classifier
from pipelines.stage import Stage, main


def work(stage: Stage) -> None:
    """Write out/<pipeline>/recognise/<model>.json: shares as Estimates, and which class was taken for which.

    Raises:
        InputError: the model's pictures have no classes.
    """
    path = stage.out / "sample" / f"{stage.model}.npz"
    with np.load(path) as drawn:
        if "labels" not in drawn:
            raise InputError(f"{path}: pictures without classes; the model knows of none")
        pixels, labels = drawn["pixels"], drawn["labels"]
    prepared = images.load(stage.out / "prepare" / "images")
    levels = read_config(stage.model_folder())["data"]["levels"]
    classifier = Classifier(*_real(prepared, levels, "train"))
    shares = {
        "recognised": classifier.share(pixels, labels),
        "classifier": classifier.share(*_real(prepared, levels, "validation", "test")),
    }
    rows: list[dict[str, Any]] = [{"name": name} | share.to_dict() for name, share in shares.items()]
    found = classifier.classes(pixels)
    n_classes = int(max(labels.max(), found.max())) + 1
    taken_for = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(taken_for, (labels, found), 1)
    out = stage.out / "recognise" / f"{stage.model}.json"
    write_json(out, {"model": stage.model, "rows": rows, "taken_for": taken_for.tolist()})
    stage.run.metrics({row["name"]: row["value"] for row in rows})
    stage.run.file(out)


def _real(prepared: images.Images, levels: int, *splits: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the real pictures of some splits and their classes."""
    pixels = np.concatenate([images.of_levels(prepared, split, levels) for split in splits])
    return pixels, np.concatenate([prepared.splits[split].labels for split in splits])


if __name__ == "__main__":
    main("recognise", work)
