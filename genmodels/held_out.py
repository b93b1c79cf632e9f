"""The images that a model is judged on: those its pipeline held out, a data set's, or the user's own."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from genmodels.data import images
from genmodels.data.images import Images
from genmodels.data.prepare import prepare_dataset
from genmodels.data.sources import SOURCES, WITH_TEST
from genmodels.errors import InputError


def held_out(data: str, model_dir: Path, trained_on: dict[str, Any], levels: int, seed: int) -> np.ndarray:
    """Return the test images of a data set, or all images of the user's own folder, binary or grey.

    A name means the split beside the model, if its pipeline made one of that name  # (image, site).

    Args:
        data: A data set's name, a folder of pictures, or a folder of prepared images.
        model_dir: The model's folder.
        trained_on: What its config.json says of its data.
        levels: K of the model's images.
        seed: Of a split that is made anew, and of its binarisation.

    Raises:
        InputError: no such data, or images of another shape or other levels than the model's.
    """
    prepared = _prepared(data, model_dir)
    found = prepared or _made(data, trained_on, seed)
    if list(found.shape) != trained_on["shape"]:
        here, there = ("×".join(map(str, sides)) for sides in (found.shape, trained_on["shape"]))
        raise InputError(
            f"--data {data}: images of {here} where the model was trained on {there} pixels and channels"
        )
    if prepared is None and found.name == "folder":
        return np.concatenate([images.of_levels(found, split, levels) for split in found.splits])
    return images.of_levels(found, "test", levels)


def _prepared(data: str, model_dir: Path) -> Images | None:
    """Return the images of that name beside the model, else those of that prepared folder, else None."""
    beside = model_dir.resolve().parent.parent / "prepare" / "images"
    if (beside / "meta.json").exists() and (found := images.load(beside)).name == data:
        return found
    return images.load(Path(data)) if (Path(data) / "meta.json").exists() else None


def _made(data: str, trained_on: dict[str, Any], seed: int) -> Images:
    """Return the images of a data set, split anew, or of a folder of pictures."""
    if data not in SOURCES and not Path(data).exists():
        raise InputError(f"--data {data}: neither a data set ({', '.join(SOURCES)}) nor a folder of images")
    name = data if data in SOURCES else "folder"
    path, size = (data, None) if name == "folder" else (None, tuple(trained_on["shape"][:2]))
    made, _ = prepare_dataset(name, path, None, size, 10000, 0.3, validation=0.1, test=0.2, seed=seed)
    if name == trained_on.get("name") and name not in WITH_TEST:
        print(
            f"genmodels: the pipeline's split of '{name}' is not beside the model: "
            "some of these images may be among those it was trained on",
            file=sys.stderr,
        )
    return made
