"""What several tests hand in: digits, and the settings of a data set."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from genmodels.streams import Key

# Of prepare_dataset, but for the name.
DEFAULTS: dict[str, Any] = {
    "path": None,
    "limit": None,
    "size": None,
    "n_samples": 500,
    "beta": 0.6,
    "validation": 0.1,
    "test": 0.2,
    "seed": 7,
}


def digits() -> tuple[Tensor, Tensor]:
    """Return binarised 8×8 digits, for training and held out."""
    levels = torch.from_numpy(load_digits().data / 16.0).float()
    v = torch.bernoulli(levels, generator=Key(20, "binarise").torch())
    order = torch.randperm(len(v), generator=Key(20, "split").torch())
    return v[order[:1500]], v[order[1500:]]
