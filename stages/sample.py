"""Pictures from one model, and a grid of the first, a row a class where the model has classes."""

import numpy as np

from genmodels.artifacts import load_model, new_file, read_config
from genmodels.data import pictures
from genmodels.generate import generate
from genmodels.placement.choose import placement
from genmodels.streams import Key
from pipelines.stage import Stage, main

_COLUMNS = 10  # pictures of a class that the grid shows


def work(stage: Stage) -> None:
    """Write out/<pipeline>/sample: <model>.npz and <model>.png, pixels above their means.

    Where `sample.per_class` is given, models that know classes draw so many of each, with their labels.
    """
    out, folder = stage.out / "sample", stage.model_folder()
    model, shape = load_model(folder), read_config(folder)["data"]["shape"]
    key = Key(stage.params.seed, f"sample/{stage.model}")
    per_class = getattr(stage.params.sample, "per_class", 0)
    n_classes = getattr(model, "n_classes", 0) if per_class else 0
    with placement(0) as workers:
        if n_classes:
            keys = enumerate(key.at(round=label) for label in range(n_classes))
            drawn = [generate(model, per_class, its, workers, label=label) for label, its in keys]
        else:
            drawn = [generate(model, stage.params.sample.n, key, workers)]
    arrays = {name: np.concatenate([each.arrays()[name] for each in drawn]) for name in drawn[0].arrays()}
    if n_classes:
        arrays["labels"] = np.arange(n_classes).repeat(per_class)
    with new_file(out / f"{stage.model}.npz") as path:
        np.savez(path, **arrays)
    with new_file(out / f"{stage.model}.png") as path:
        if n_classes:
            rows = np.concatenate([each.shown()[0][:_COLUMNS] for each in drawn])
            pictures.grid(rows, shape, path, columns=min(_COLUMNS, per_class))
        else:
            shown = stage.params.sample.shown
            pictures.panels([part[:shown] for part in drawn[0].shown()], shape, path)
    stage.run.picture(out / f"{stage.model}.png")


if __name__ == "__main__":
    main("sample", work)
