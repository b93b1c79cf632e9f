"""Models that learn by gradients: energy models by any of their rules, VAE and diffusion with Accelerate."""

import sys
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from genmodels import registry
from genmodels.artifacts import save_model
from genmodels.data import images
from genmodels.errors import InputError
from genmodels.estimators import selection
from genmodels.estimators.trajectory import Trajectory
from genmodels.learners import LEARNERS
from genmodels.learners.fit import Shuffled
from genmodels.learners.monitor import Monitor
from genmodels.models import MODELS
from genmodels.protocols import HasClasses, HasElbo, HasStatistics
from genmodels.streams import Key
from pipelines.curve import Row, write_curve
from pipelines.early_stopping import EarlyStopping
from pipelines.pretraining import pretrain
from pipelines.stage import Stage, main, rank
from pipelines.training import Every, train

_MONITORED = 1000  # images of a split, at most


def work(stage: Stage) -> None:
    """Write out/<pipeline>/train: a model's folder and <model>.csv.

    Of several γ_min of a diffusion, that of the likeliest validation images by its bound.
    """
    out = stage.out / "train"
    settings = stage.settings("train")
    prepared = images.load(stage.out / "prepare" / "images")
    key = Key(stage.params.seed, f"train/{stage.model}")
    model = _untrained(settings, prepared, key.child("weights"))
    splits = {
        name: images.batch(prepared.splits[name], settings["track"], model.domain)
        for name in ("train", "validation")
    }
    _look_at(stage, splits["train"], settings)
    conditional = isinstance(model, HasClasses) and model.n_classes > 0
    labels = torch.from_numpy(prepared.splits["train"].labels) if conditional else None
    if "pretraining" in settings:
        pretrain(stage, model, splits["train"], settings["pretraining"], key.child("pretraining"))
    curve: list[Row] = []
    phases = [settings, *(settings | more for more in settings.get("again", []))]
    for number, phase in enumerate(phases):
        name, here = (f"again-{number}", key.child(f"again-{number}")) if number else ("fit", key)
        rule = phase | {"n_visible": prod(prepared.shape), "n_steps": phase["steps"]}
        learner = registry.build(LEARNERS, phase.get("rule", "gradient"), rule)
        batches = Shuffled(splits["train"], phase["batch"], here.child("order"), labels)
        monitor = _monitor(model, splits, phase, here.child("monitor"))
        every = Every(**phase.get("checkpoint_every", {}))
        steps, stopping = phase["steps"], _stopping(phase)
        rows = train(stage, name, model, learner, batches, here, steps, monitor, stopping, every)
        curve += [{"start": float(number)} | row for row in rows] if len(phases) > 1 else rows
    if rank() > 0:
        return
    if isinstance(ends := settings.get("gamma_min"), list):
        model, scores = _of_least_noise(model, ends, splits["validation"], key.child("gamma_min"))
        curve[-1] |= scores
    data = images.describe(prepared, settings["track"])
    save_model(out / stage.model, settings["model"], model, data, settings.get("precision"))
    write_curve(out / f"{stage.model}.csv", curve)
    stage.run.file(out / f"{stage.model}.csv")
    stage.run.model(out / stage.model, stage.registered_name())


def _untrained(settings: dict[str, Any], prepared: images.Images, key: Key) -> Any:
    sizes = {
        "shape": prepared.shape,
        "n_visible": prod(prepared.shape),
        "levels": 2 if settings["track"] == "binary" else prepared.levels,
        "n_classes": _n_classes(prepared) if settings.get("class_conditional") else 0,
    }
    if isinstance(ends := settings.get("gamma_min"), list):
        sizes["gamma_min"] = min(ends)
    with torch.random.fork_rng():
        torch.manual_seed(key.counter())
        return registry.build(MODELS, settings["model"], settings | sizes)


def _look_at(stage: Stage, x: Tensor, settings: dict[str, Any]) -> None:
    """Say where a batch is all images.

    Raises:
        InputError: a network would learn one image only.
    """
    if "rule" not in settings and bool((x == x[:1]).all()):
        raise InputError(f"{stage.name}: all {len(x)} training images are the same: nothing is to be learnt")
    if rank() == 0 and settings["batch"] > len(x):
        told = f"batch = {settings['batch']} is more than the {len(x)} training images: every step sees all"
        print(f"{stage.name}: {told}", file=sys.stderr)


def _stopping(settings: dict[str, Any]) -> EarlyStopping | None:
    """Return what keeps the best: of a network always, of an energy model where it may end the training."""
    if "rule" not in settings:
        return EarlyStopping(settings["patience"], "elbo_validation")
    return EarlyStopping(settings["patience"]) if settings.get("patience") else None


def _of_least_noise(model: Any, gamma_min: list[float], x: Tensor, key: Key) -> tuple[Any, Row]:
    """Return the model with the γ_min of the best bound on images it was not trained on, and all bounds."""
    several = selection.by_least_noise(model, gamma_min)
    chosen, scores = selection.likeliest(several, x[:_MONITORED], key)
    return several[chosen], {f"validation_from_gamma_{gamma:g}": it.mean for gamma, it in scores.items()}


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
        device = next(model.parameters()).device
        noise = {name: key.child(name).torch(device) for name in splits}
        return {
            f"elbo_{name}": float(model.elbo(x[:_MONITORED].to(device), noise[name]).mean())
            for name, x in splits.items()
        }

    return bound


if __name__ == "__main__":
    main("train", work)
