"""Pictures from any model: independent draws where the model has them, chains where it has only an energy."""

import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmodels import registry
from genmodels.errors import InputError
from genmodels.estimators import sequential
from genmodels.kernels.choose import kernel_for
from genmodels.networks.sketches import finished, numbered
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
from genmodels.ways import way

Report = Callable[[int, int], None]

_BATCH, _BATCH_SITES = 256, 2**16  # pictures drawn together, and their sites, at most
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
def generate(
    model: Any,
    n: int,
    key: Key,
    placement: Placement,
    progress: Report | None = None,
    **options: Any,
) -> Pictures:
    """Return n pictures, the same for the same key wherever the work runs.

    Gaussians draw pixel after pixel from their conditionals on the levels; energy models exchange replicas.
    Where each picture has a stream of its own they come in batches, for the memory not to grow with n.

    Args:
        model: Any that has one of these ways.
        n: Number of pictures.
        key: Their stream.
        placement: Where chains run.
        progress: Called as progress(done, total) while a denoising network is called many times.
        options: Of `ways.options_of(model)`. Of diffusion models: method, a name in `ways.METHODS`; steps,
            its number; label, a class; guidance, how much more than 1 the class is to count. Of models with a
            prior of z: radius, its standard deviation in place of 1.

    Raises:
        InputError: n < 1, or an option that the model does not have or cannot follow.
    """
    if n < 1:
        raise InputError(f"n: {n} pictures asked for, give at least 1")
    if isinstance(model, HasPictures):
        size = _batch(model)
        with _counted(model, way(model, **options).n_calls * -(-n // size), progress):
            return finished(watched(model, n, key, **options))
    way(model, **options)
    return _drawn(model, n, key, placement)._replace(levels=levels_of(model))


@torch.no_grad()
def watched(
    model: HasPictures, n: int, key: Key, **options: Any
) -> Generator[tuple[int, Tensor], None, Pictures]:
    """Return what `generate` returns, and before yield pixels' means in [0, 1] so far, if the model denoises.

    Each comes with the number of its first picture: pictures come in batches  # (picture, site)
    """
    chosen, size = way(model, **options), _batch(model)
    parts = []
    for first in range(0, n, size):
        streams = Streams(key, min(size, n - first), first)
        parts.append((yield from numbered(chosen.draw(streams), first)))
    pixels, means = (torch.cat(part) for part in zip(*parts, strict=True))
    return Pictures(pixels, means, levels_of(model))


def _batch(model: Any) -> int:
    return max(1, min(_BATCH, _BATCH_SITES // int(model.n_sites)))


@contextmanager
def _counted(model: Any, total: int, progress: Report | None) -> Iterator[None]:
    """Report every call of the model's U-Net, if there is one within it."""
    network = next((module.unet for module in model.modules() if hasattr(module, "unet")), None)
    if progress is None or network is None:
        yield
        return
    done = itertools.count(1)
    handle = network.register_forward_hook(lambda *_: progress(min(next(done), total), total))
    try:
        yield
    finally:
        handle.remove()


def _drawn(model: Any, n: int, key: Key, placement: Placement) -> Pictures:
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
    return Pictures(*visible(model, sampler.draw(model, kernel_for(model), n, key, placement)))


def visible(model: Any, x: Tensor, beta: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """Return pixels 0 and 1 of configurations, and their means given hidden units  # (chain, site) in [0, 1].

    There are no means where there are no hidden units.
    """
    has_hidden = isinstance(model, HasMarginals)
    if not has_hidden:
        return (x + 1.0) / 2.0, None
    means = model.conditional(0, x, torch.full((len(x),), beta))
    return (x[:, : model.n_visible] + 1.0) / 2.0, means[:, : model.n_visible]
