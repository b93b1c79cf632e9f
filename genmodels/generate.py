"""Pictures from any model: independent draws where the model has them, chains where it has only an energy."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmodels import registry
from genmodels.errors import InputError
from genmodels.estimators import sequential
from genmodels.kernels.choose import kernel_for
from genmodels.protocols import (
    CanSample,
    HasBlocks,
    HasComponents,
    HasCouplings,
    HasEnergy,
    HasMarginals,
    HasPictures,
    Placement,
    levels_of,
)
from genmodels.samplers import SAMPLERS
from genmodels.streams import Key, Streams

_SHORT = {"n_ladders": 8, "n_rungs": 8, "burn_in": 64, "sweeps_per_round": 1}


class Pictures(NamedTuple):
    """Samples of a model.

    Attributes:
        pixels: Samples in levels, 0 and 1 where the model has two  # (n, site)
        means: Their pixels' means at an earlier step, if the model has one  # (n, site) in [0, 1]
        levels: K.
    """

    pixels: Tensor
    means: Tensor | None
    levels: int = 2

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what there is by name, pixels as uint8 and means as float32  # (n, site) each."""
        arrays = {"pixels": self.pixels.numpy().astype(np.uint8)}
        return arrays if self.means is None else arrays | {"means": self.means.float().numpy()}

    def shown(self) -> list[np.ndarray]:
        """Return the pixels and then the means, if there are any, from 0 (black) to 1  # (n, site) each."""
        shown = [self.pixels.float().numpy() / (self.levels - 1)]
        return shown if self.means is None else [*shown, self.means.float().numpy()]


@torch.no_grad()
def generate(model: Any, n: int, key: Key, placement: Placement) -> Pictures:
    """Return n pictures, the same for the same key wherever the work runs.

    Gaussians draw pixel after pixel from their conditionals on the levels; energy models exchange replicas.

    Raises:
        InputError: n < 1.
    """
    if n < 1:
        raise InputError(f"n: {n} pictures asked for, give at least 1")
    return _drawn(model, n, key, placement)._replace(levels=levels_of(model))


def _drawn(model: Any, n: int, key: Key, placement: Placement) -> Pictures:
    if isinstance(model, HasPictures):
        return Pictures(*model.pictures(Streams(key, n)))
    if isinstance(model, HasComponents):
        return Pictures(sequential.sample(model, n, key.torch()), None)
    if isinstance(model, CanSample):
        return Pictures(model.sample(n, key.torch()), None)
    if isinstance(model, HasEnergy) and getattr(model, "domain", "spin") == "spin":
        return _chains(model, n, key, placement)
    raise TypeError(f"{type(model).__name__} offers nothing to draw pictures with")


def _chains(model: Any, n: int, key: Key, placement: Placement) -> Pictures:
    # Where a sweep takes a gradient a site, ladders are short: the reference they start from is near.
    cheap = isinstance(model, HasBlocks | HasCouplings)
    sampler = registry.build(SAMPLERS, "replica_exchange", {} if cheap else _SHORT)
    x = sampler.draw(model, kernel_for(model), n, key, placement)
    has_hidden = isinstance(model, HasMarginals)
    if not has_hidden:
        return Pictures((x + 1.0) / 2.0, None)
    means = model.conditional(0, x, torch.ones(n))
    n_visible = model.n_visible
    return Pictures((x[:, :n_visible] + 1.0) / 2.0, means[:, :n_visible])
