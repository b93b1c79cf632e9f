"""Models that learn by gradients: energy models by any of their rules, VAE and diffusion with Accelerate."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from genmodels import registry
from genmodels.artifacts import save_model
from genmodels.data import images
from genmodels.errors import InputError
from genmodels.estimators.trajectory import Trajectory
from genmodels.learners import LEARNERS
from genmodels.learners.fit import Shuffled
from genmodels.learners.monitor import Monitor
from genmodels.models import MODELS
from genmodels.protocols import HasClasses, HasElbo, HasStatistics
from genmodels.streams import Key
from pipelines.early_stopping import EarlyStopping
from pipelines.pretraining import pretrain
from pipelines.stage import Stage, main, rank
from pipelines.training import Row, train, write_curve

_MONITORED = 1000  # images of a split, at most


def work(stage: Stage) -> None:
    """Write out/<pipeline>/train: a model's folder and <model>.csv."""
    out = stage.out / "train"
    settings = stage.settings("train")
    prepared = images.load(stage.out / "prepare" / "images")
    key = Key(stage.params.seed, f"train/{stage.model}")
    sizes = {
        "shape": prepared.shape,
        "n_visible": prod(prepared.shape),
        "levels": 2 if settings["track"] == "binary" else prepared.levels,
        "n_classes": _n_classes(prepared) if settings.get("class_conditional") else 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(key.child("weights").counter())
        model = registry.build(MODELS, settings["model"], settings | sizes)
    splits = {
        name: images.batch(prepared.splits[name], settings["track"], model.domain)
        for name in ("train", "validation")
    }
    conditional = isinstance(model, HasClasses) and model.n_classes > 0
    labels = torch.from_numpy(prepared.splits["train"].labels) if conditional else None
    if "pretraining" in settings:
        pretrain(stage, model, splits["train"], settings["pretraining"], key.child("pretraining"))
    curve: list[Row] = []
    phases = [settings, *(settings | more for more in settings.get("again", []))]
    for number, phase in enumerate(phases):
        name, here = (f"again-{number}", key.child(f"again-{number}")) if number else ("fit", key)
        rule = phase | sizes | {"n_steps": phase["steps"]}
        learner = registry.build(LEARNERS, phase.get("rule", "gradient"), rule)
        batches = Shuffled(splits["train"], phase["batch"], here.child("order"), labels)
        monitor = _monitor(model, splits, phase, here.child("monitor"))
        stopping = EarlyStopping(phase["patience"]) if phase.get("patience") else None
        rows = train(stage, name, model, learner, batches, here, phase["steps"], monitor, stopping)
        curve += [{"start": float(number)} | row for row in rows] if len(phases) > 1 else rows
    if rank() > 0:
        return
    data = images.describe(prepared, settings["track"])
    save_model(out / stage.model, settings["model"], model, data, settings.get("precision"))
    write_curve(out / f"{stage.model}.csv", curve)
    stage.run.file(out / f"{stage.model}.csv")
    stage.run.model(out / stage.model, stage.registered_name())


def _n_classes(prepared: images.Images) -> int:
    """Return the number of classes of the training images, 0 … n − 1.

    Raises:
        InputError: some have none.
    """
    labels = prepared.splits["train"].labels
    if labels.min(initial=0) < 0:
        raise InputError(f"class_conditional: the images of '{prepared.name}' have no labels; say false")
    return int(labels.max()) + 1


def _monitor(
    model: Any, splits: dict[str, Tensor], settings: dict[str, Any], key: Key
) -> Callable[[Any, Any], Row] | None:
    if isinstance(model, HasStatistics) and "n_walkers" in settings:
        follow = Trajectory(n_walkers=settings["n_walkers"], n_between=settings["n_between"])
        return Monitor(splits, key, follow)
    return _bounds(splits, key) if isinstance(model, HasElbo) else None


def _bounds(splits: dict[str, Tensor], key: Key) -> Callable[[Any, Any], Row]:
    """Return a function that gives the bound on both splits, at the same noise each time, without dropout."""

    @torch.no_grad()
    def bound(model: Any, state: Any) -> Row:
        model.eval()
        return {
            f"elbo_{name}": float(model.elbo(x[:_MONITORED], key.child(name).torch()).mean())
            for name, x in splits.items()
        }

    return bound


if __name__ == "__main__":
    main("train", work)
