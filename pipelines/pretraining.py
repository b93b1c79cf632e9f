"""The layers of a deep Boltzmann machine, trained one after the other."""

from typing import Any

from torch import Tensor

from genmodels import registry
from genmodels.learners import LEARNERS, greedy
from genmodels.learners.fit import Shuffled
from genmodels.streams import Key
from pipelines.stage import Stage
from pipelines.training import train


def pretrain(stage: Stage, model: Any, x: Tensor, settings: dict[str, Any], key: Key) -> None:
    """Train the layers of a deep machine greedily on images, each with a checkpoint of its own.

    Args:
        stage: The stage that trains.
        model: An untrained machine.
        x: Images in ±1  # (image, visible)
        settings: Of persistent contrastive divergence, with batch and steps.
        key: The stream of all layers.
    """
    settings = settings | {"n_steps": settings["steps"]}
    machines = greedy.machines(model)
    for k, machine in enumerate(machines, start=1):
        here = key.child(f"layer-{k}")
        learner = registry.build(LEARNERS, "persistent_contrastive_divergence", settings)
        batches = Shuffled(x, settings["batch"], here.child("order"))
        train(stage, f"layer-{k}", machine, learner, batches, here, settings["steps"])
        x = greedy.units(machine, x, here.child("units"))
    greedy.stack(model, machines)
