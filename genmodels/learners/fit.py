"""The one training loop, and the order in which it sees the data."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.protocols import Labelled, Learner, Progress
from genmodels.streams import Key

_STEP = "fit.step"


class Whole:
    """Every step sees all the data."""

    def __init__(self, x: Tensor) -> None:
        """Keep the images  # (image, site)."""
        self.x = x

    def __call__(self, step: int) -> Tensor:
        """Return all images  # (image, site)."""
        return self.x


class Shuffled:
    """Epochs of ⌊n / batch⌋ batches, each epoch in an order of its own; the rest of an epoch is left out.

    The batch of a step depends on (key, step) only, so that a resumed run sees the same data. A batch as
    large as the data, or larger, is all of them.

    Raises:
        InputError: the batch is smaller than one image, there is no image, or not a label for each.
    """

    def __init__(self, x: Tensor, batch: int, key: Key, labels: Tensor | None = None) -> None:
        """Keep the images  # (image, site), the stream of the orders, and the classes if there are any."""
        if batch < 1:
            raise InputError(f"the batch is {batch} images: give at least 1")
        if len(x) == 0:
            raise InputError("there are no images to train on: give at least 1")
        if labels is not None and len(labels) != len(x):
            raise InputError(f"{len(labels)} labels for {len(x)} images: give one an image")
        self.x, self.key, self.labels = x, key, labels
        self.batch = min(batch, len(x))
        self.per_epoch = len(x) // self.batch
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __call__(self, step: int) -> Tensor | Labelled:
        """Return the batch of step `step`  # (batch, site), Labelled if there are classes."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(len(self.x), generator=self.key.at(round=epoch).torch())
        chosen = self._order[place * self.batch : (place + 1) * self.batch].to(self.x.device)
        if self.labels is None:
            return self.x[chosen]
        return Labelled(self.x[chosen], self.labels[chosen])


def fit(
    model: Any,
    learner: Learner[Any],
    batches: Callable[[int], Any],
    key: Key,
    n_steps: int,
    start: dict[str, Tensor] | None = None,
) -> Iterator[Progress]:
    """Train `model` in place and yield after each step; the caller logs, checkpoints and stops.

    Step i gets batches(i) and key.at(round=i), nothing else, so that a run resumed from `start` ends
    with the same bytes as one that was never interrupted.

    Args:
        model: What is trained; when resuming, with the parameters it had at the checkpoint.
        learner: The learning rule.
        batches: The data of each step, e.g. Shuffled or Whole.
        key: The stream of the training.
        n_steps: Number of steps, those before `start` included.
        start: What `checkpoint` returned, to resume from.

    Raises:
        FloatingPointError: a metric is not finite.
        InputError: `start` is not a checkpoint of `fit`.
    """
    first = 0
    if start is None:
        state = learner.init(model)
    elif _STEP not in start:
        raise InputError(f"the checkpoint has no '{_STEP}': start from one that fit.checkpoint wrote")
    else:
        first = int(start[_STEP])
        state = learner.restore(model, {name: tensor for name, tensor in start.items() if name != _STEP})
    for step in range(first, n_steps):
        asked = time.perf_counter()
        batch = batches(step)
        waited = time.perf_counter() - asked
        state, metrics = learner.step(model, state, batch, key.at(round=step))
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"training: {name} is {value} at step {step + 1} of {n_steps}: "
                    "try a smaller learning rate, or look for non-finite data"
                )
        n_images = len(batch.x if isinstance(batch, Labelled) else batch)
        yield Progress(step + 1, n_steps, metrics, state, n_images, waited)


def checkpoint(learner: Learner[Any], progress: Progress) -> dict[str, Tensor]:
    """Return what `fit` resumes from after `progress`: the learner's tensors and the step.

    The model's state_dict is saved and loaded beside it, by the caller.
    """
    return {**learner.tensors(progress.state), _STEP: torch.tensor(progress.step)}
