"""Models that learn by gradients: RBM by PCD, VAE and diffusion with Accelerate."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from genmodels import registry
from genmodels.artifacts import save_model
from genmodels.data import images
from genmodels.learners import LEARNERS
from genmodels.learners.fit import Shuffled
from genmodels.models import MODELS
from genmodels.protocols import HasElbo
from genmodels.streams import Key
from pipelines.pretraining import pretrain
from pipelines.stage import Stage, main, rank
from pipelines.training import Row, train, write_curve

LEARNER = {
    "rbm": "persistent_contrastive_divergence",
    "dbm": "persistent_contrastive_divergence",
    "vae": "gradient",
    "diffusion": "gradient",
}
_MONITORED = 1000  # images of a split, at most


def work(stage: Stage) -> None:
    """Write out/<pipeline>/train: a model's folder and <model>.csv."""
    out = stage.out / "train"
    settings = stage.settings("train")
    prepared = images.load(stage.out / "prepare" / "images")
    key = Key(stage.params.seed, f"train/{stage.model}")
    sizes = {"shape": prepared.shape, "n_visible": prod(prepared.shape)}
    with torch.random.fork_rng():
        torch.manual_seed(key.child("weights").counter())
        model = registry.build(MODELS, settings["model"], settings | sizes)
    splits = {
        name: images.batch(prepared.splits[name], settings["track"], model.domain)
        for name in ("train", "validation")
    }
    if "pretraining" in settings:
        pretrain(stage, model, splits["train"], settings["pretraining"], key.child("pretraining"))
    monitor = _monitor(splits, key.child("monitor")) if isinstance(model, HasElbo) else None
    curve: list[Row] = []
    phases = [settings, *(settings | more for more in settings.get("again", []))]
    for number, phase in enumerate(phases):
        name, here = (f"again-{number}", key.child(f"again-{number}")) if number else ("fit", key)
        learner = registry.build(LEARNERS, LEARNER[settings["model"]], phase | {"n_steps": phase["steps"]})
        batches = Shuffled(splits["train"], phase["batch"], here.child("order"))
        rows = train(stage, name, model, learner, batches, here, phase["steps"], monitor)
        curve += [{"start": float(number)} | row for row in rows] if len(phases) > 1 else rows
    if rank() > 0:
        return
    data = images.describe(prepared, settings["track"])
    save_model(out / stage.model, settings["model"], model, data, settings.get("precision"))
    write_curve(out / f"{stage.model}.csv", curve)
    stage.run.file(out / f"{stage.model}.csv")
    stage.run.model(out / stage.model, stage.registered_name())


def _monitor(splits: dict[str, Tensor], key: Key) -> Callable[[Any], Row]:
    """Return a function that gives the bound on both splits, at the same noise each time, without dropout."""

    @torch.no_grad()
    def bound(model: Any) -> Row:
        model.eval()
        return {
            f"elbo_{name}": float(model.elbo(x[:_MONITORED], key.child(name).torch()).mean())
            for name, x in splits.items()
        }

    return bound


if __name__ == "__main__":
    main("train", work)
