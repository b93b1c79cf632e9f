"""The first stage of latent diffusion: an autoencoder, and the scale of its latent."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from genmodels import registry
from genmodels.artifacts import new_file, save_model
from genmodels.data import captions, pictures
from genmodels.learners import LEARNERS
from genmodels.learners.fit import Shuffled
from genmodels.models import MODELS
from genmodels.streams import Key
from pipelines.curve import Row, write_curve
from pipelines.early_stopping import EarlyStopping
from pipelines.stage import Stage, main
from pipelines.training import train

_MONITORED = 200  # pictures
_SHOWN = 16


def work(stage: Stage) -> None:
    """Write out/<pipeline>/train_autoencoder: the model's folder, its curve and pictures given back.

    It is the one of the best bound on validation pictures.
    """
    out, settings = stage.out / "train_autoencoder", stage.params.train_autoencoder.model_dump()
    prepared = captions.load(stage.out / "prepare_captions" / "images")
    key = Key(stage.params.seed, "train_autoencoder")
    sizes = {"shape": prepared.shape, "levels": prepared.levels, "n_steps": settings["steps"]}
    with torch.random.fork_rng():
        torch.manual_seed(key.child("weights").counter())
        model = registry.build(MODELS, "autoencoder", settings | sizes)
    x, seen = (torch.from_numpy(prepared.splits[name].levels).float() for name in ("train", "validation"))
    learner = registry.build(LEARNERS, "gradient", settings | sizes)
    batches = Shuffled(x, settings["batch"], key.child("order"))
    stopping = EarlyStopping(None, "elbo_validation")

    @torch.no_grad()
    def bound(model: Any, state: Any) -> Row:
        model.eval()
        return {"elbo_validation": float(model.elbo(seen[:_MONITORED], key.child("bound").torch()).mean())}

    rows = train(stage, "fit", model, learner, batches, key, settings["steps"], bound, stopping)
    model.eval().space.measure(x)
    save_model(out / "autoencoder", "autoencoder", model, captions.describe(prepared))
    write_curve(out / "autoencoder.csv", rows)
    _show(stage, model, seen[:_SHOWN], prepared)
    stage.run.metrics({"scale": float(model.space.scale)})
    stage.run.file(out / "autoencoder.csv")
    stage.run.model(out / "autoencoder", stage.registered_name("autoencoder"))


def _show(stage: Stage, model: Any, x: Tensor, prepared: captions.CaptionedImages) -> None:
    """Write pictures above what is given back of them."""
    path = stage.out / "train_autoencoder" / "reconstructions.png"
    rows = [(x / (prepared.levels - 1)).numpy(), model.reconstruct(x).numpy()]
    with new_file(path) as temporary:
        pictures.grid(np.concatenate(rows), prepared.shape, temporary, columns=len(x))
    stage.run.picture(path)


if __name__ == "__main__":
    main("train_autoencoder", work)
