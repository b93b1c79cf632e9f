"""A grid of pictures from one model."""

import numpy as np

from genmodels.artifacts import load_model, new_file, read_config
from genmodels.data import pictures
from genmodels.generate import generate
from genmodels.placement.choose import placement
from genmodels.streams import Key
from pipelines.stage import Stage, main


def work(stage: Stage) -> None:
    """Write out/<pipeline>/sample: <model>.npz and <model>.png, pixels above their means."""
    out, folder = stage.out / "sample", stage.model_folder()
    model = load_model(folder)
    with placement(0) as workers:
        key = Key(stage.params.seed, f"sample/{stage.model}")
        drawn = generate(model, stage.params.sample.n, key, workers)
    with new_file(out / f"{stage.model}.npz") as path:
        np.savez(path, **drawn.arrays())
    with new_file(out / f"{stage.model}.png") as path:
        pictures.panels(drawn.shown(), read_config(folder)["data"]["shape"], path)
    stage.run.picture(out / f"{stage.model}.png")


if __name__ == "__main__":
    main("sample", work)
