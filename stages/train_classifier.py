"""A small classifier of the training images, in whose features samples are judged."""

import numpy as np

from genmodels.artifacts import new_file, write_json
from genmodels.data import images
from genmodels.estimators import classifier
from genmodels.streams import Key
from pipelines.stage import Stage, main


def work(stage: Stage) -> None:
    """Write out/<pipeline>/train_classifier: classifier.npz, and classifier.json with its share of hits.

    Of images without labels it tells clusters apart, and there is no share of hits.
    """
    settings = stage.params.train_classifier
    out = stage.out / "train_classifier"
    prepared = images.load(stage.out / "prepare" / "images")
    levels = 2 if settings.track == "binary" else prepared.levels
    train, test = (images.of_levels(prepared, split, levels) / (levels - 1) for split in ("train", "test"))
    key = Key(stage.params.seed, "train_classifier")
    sizes = settings.hidden, settings.clusters, settings.epochs
    features = classifier.learn(train, prepared.splits["train"].labels, key, *sizes)
    labels = prepared.splits["test"].labels
    rows = [] if features.clusters else [{"name": "classifier"} | features.share(test, labels).to_dict()]
    with new_file(out / "classifier.npz") as path:
        np.savez(path, **features.arrays())
    described = images.describe(prepared, settings.track)
    write_json(out / "classifier.json", {"space": features.words(), "data": described, "rows": rows})
    stage.run.metrics({row["name"]: row["value"] for row in rows})
    stage.run.file(out / "classifier.json")


if __name__ == "__main__":
    main("train_classifier", work)
