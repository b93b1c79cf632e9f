"""How a model draws pictures from their streams: method, steps, class, and how far out in its prior."""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.networks.sketches import Sketches
from genmodels.protocols import HasPictures, levels_of
from genmodels.streams import Streams

Draw = Callable[[Streams], Sketches]


class Method(NamedTuple):
    """A way from noise to data.

    Attributes:
        name: What it is called where it is done.
        scheduler: Whether by a scheduler of diffusers, else by the model itself.
        steps: How many, if nobody says.
        calls: Of the network in a step.
    """

    name: str
    scheduler: bool
    steps: int
    calls: int = 1


METHODS = {
    "ancestral": Method("ancestral", False, 250),
    "ddpm": Method("ddpm", True, 250),
    "ddim": Method("ddim", True, 50),
    "dpm": Method("dpm", True, 20),
    "unipc": Method("unipc", True, 20),
    "ode": Method("flow", False, 15, calls=4),
}
_OPTIONS = {  # and the parameter of `pictures` that makes a model have them
    "method": "method",
    "steps": "n_steps",
    "label": "labels",
    "guidance": "guidance",
    "radius": "radius",
}
_OF_CLASSES = ("label", "guidance")


class Way(NamedTuple):
    """What draws pictures from streams, and how often that calls a network that is called many times.

    Sketches are the pixels' means in [0, 1] so far, of models that denoise.
    """

    draw: Draw
    n_calls: int


def options_of(model: Any) -> tuple[str, ...]:
    """Return the names of the options that drawing from this model has."""
    if not isinstance(model, HasPictures):
        return ()
    taken = inspect.signature(model.pictures).parameters
    classes = getattr(model, "n_classes", 0) > 0
    offered = [name for name, parameter in _OPTIONS.items() if parameter in taken]
    return tuple(name for name in offered if classes or name not in _OF_CLASSES)


def way(model: Any, **options: Any) -> Way:
    """Return how `model` draws with these options.

    Raises:
        InputError: an option that the model does not have, or a value that it cannot follow.
    """
    has = options_of(model)
    unknown = [name for name in options if name not in has]
    if unknown:
        offered = f"its options are {', '.join(has)}" if has else "it has no options"
        raise InputError(f"{unknown[0]}: the model is a {type(model).__name__}, {offered}")
    if "method" not in has:
        radius = options.get("radius", 1.0)
        if not 0.0 <= radius < math.inf:
            raise InputError(f"radius: {radius} is no standard deviation, give 0 or more")
        # A model without a radius takes none.
        return Way((lambda streams: _at_once(model, streams, **options)), 1)
    return _denoising(model, **options)


def _at_once(model: Any, streams: Streams, **options: Any) -> Sketches:
    yield from ()
    drawn: tuple[Tensor, Tensor] = model.pictures(streams, **options)
    return drawn


def _denoising(
    model: Any,
    method: str = "ancestral",
    steps: int | None = None,
    label: int | None = None,
    guidance: float | None = None,
) -> Way:
    n_steps = n_steps_of(model, method, steps)
    chosen = METHODS[method]
    if label is None and guidance is not None:
        raise InputError(f"guidance: {guidance} towards which class? Give a label, too")
    if label is not None and not 0 <= label < model.n_classes:
        raise InputError(f"label: {label} is none of the model's classes, 0 to {model.n_classes - 1}")
    if not math.isfinite(weight := 1.0 if guidance is None else guidance):
        raise InputError(f"guidance: {weight} is not finite, give a number such as 2")

    def draw(streams: Streams) -> Sketches:
        labels = None if label is None else torch.full((len(streams),), label, device=streams.device)
        if chosen.scheduler:
            from genmodels.networks import schedulers

            for z, x0 in schedulers.path(model, streams, chosen.name, n_steps, labels, weight):  # noqa: B007
                yield model.seen(x0)
            return _pixels(z.clamp(-model.reach, model.reach), model, streams)
        drawn: tuple[Tensor, Tensor] = yield from model.denoising(
            streams, n_steps, chosen.name, labels, weight
        )
        return drawn

    return Way(draw, n_steps * chosen.calls)


def n_steps_of(model: Any, method: str, steps: int | None) -> int:
    """Return the number of steps, by default as many as the method usually needs and the model has levels.

    Raises:
        InputError: an unknown method, or a number that it cannot take.
    """
    if method not in METHODS:
        raise InputError(f"method: '{method}' is none of {', '.join(METHODS)}")
    chosen, n_levels = METHODS[method], model.T
    least = 2 if method == "ancestral" else 1
    most = None if method == "ode" else n_levels
    if steps is None:
        return chosen.steps if most is None else min(chosen.steps, most)
    if steps < least or (most is not None and steps > most):
        upwards = f"at least {least}" if most is None else f"{least} to {most}, the model's levels of noise"
        raise InputError(f"steps: {steps}, but {method} takes {upwards}")
    return steps


def _pixels(x0: Tensor, model: Any, streams: Streams) -> tuple[Tensor, Tensor]:
    """Return pixels and their means in [0, 1] of x̂ where a scheduler ends  # (picture, site) thrice.

    x̂ of binary pixels is a probability still, of which they are drawn; of more levels the nearest is taken.
    """
    means = 0.5 * (1.0 + x0 / model.reach)
    n_levels = levels_of(model)
    if n_levels == 2:
        return (streams.uniform(x0.shape[1]) < means).to(x0.dtype), means
    return (means * (n_levels - 1)).round(), means
