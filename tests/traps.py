"""Pickles that tell when somebody opens them, in every form in which files carry them."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Trap:
    """Whoever unpickles this makes a folder."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.sprung), 0o777, True)


def forms(sprung: Path) -> dict[str, bytes]:
    """Return files that hold a trap: pickles old and new, and what numpy and torch make of them."""
    trap = Trap(sprung)
    array, archive, saved = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.array([trap], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("x_train", "x_valid", "x_test", "states", "log_p", "full_support", "train_grey"):
            file.writestr(f"{name}.npy", array.getvalue())
    torch.save({"weights": trap}, saved)
    return {
        "protocol 0": pickle.dumps(trap, protocol=0),
        "protocol 5": pickle.dumps(trap, protocol=5),
        "npy": array.getvalue(),
        "npz": archive.getvalue(),
        "torch": saved.getvalue(),
    }


def spring(form: str, data: bytes) -> None:
    """Open a trap as a careless reader would."""
    if form == "npz":
        with np.load(io.BytesIO(data), allow_pickle=True) as archive:
            archive["x_train"]
    elif form == "npy":
        np.load(io.BytesIO(data), allow_pickle=True)
    elif form == "torch":
        torch.load(io.BytesIO(data), weights_only=False)
    else:
        pickle.loads(data)
