"""The second stage of latent diffusion: captions read, pictures encoded, and a prior that learns both."""

from typing import Any

import torch
from torch import Tensor

from genmodels import registry, runs
from genmodels.artifacts import load_model, save_model
from genmodels.data import captions
from genmodels.learners import LEARNERS
from genmodels.learners.fit import Shuffled
from genmodels.models import MODELS
from genmodels.networks.text_encoder import TextEncoder
from genmodels.streams import Key
from genmodels.text_states import text_states
from pipelines.curve import Row, write_curve
from pipelines.stage import Stage, main
from pipelines.training import train

_MONITORED = 1000  # pictures


def work(stage: Stage) -> None:
    """Write out/<pipeline>/train_latent_diffusion: a model with both stages in it, and its curve."""
    out, settings = stage.out / "train_latent_diffusion", stage.params.train_latent_diffusion.model_dump()
    prepared = captions.load(stage.out / "prepare_captions" / "images")
    key = Key(stage.params.seed, "train_latent_diffusion")
    text = settings["text"]
    encoder = TextEncoder(text["encoder"], text["max_tokens"], text["padded"])
    texts = text_states(encoder, prepared.captions, runs.root() / ".scratch" / "text")
    model = _untrained(stage, settings, encoder, key.child("weights"))
    model.prior.empty.copy_(texts.states[0][texts.mask[0]])
    model.prior.tell(texts)
    moments, labels = {}, {}
    for name in ("train", "validation"):
        split = prepared.splits[name]
        moments[name] = model.space.moments(torch.from_numpy(split.levels).float())
        labels[name] = torch.from_numpy(split.captions)
    learner = registry.build(LEARNERS, "gradient", settings | {"n_steps": settings["steps"]})
    batches = Shuffled(moments["train"], settings["batch"], key.child("order"), labels["train"])
    monitor = _monitor(moments["validation"][:_MONITORED], labels["validation"][:_MONITORED], key)
    rows = train(stage, "fit", model.prior, learner, batches, key, settings["steps"], monitor)
    model.eval().prior.measure(moments["train"], key.child("measure").torch(), labels["train"])
    described = captions.describe(prepared)
    save_model(out / "latent_diffusion", "latent_diffusion", model, described, settings["precision"])
    write_curve(out / "latent_diffusion.csv", rows)
    stage.run.file(out / "latent_diffusion.csv")
    stage.run.model(out / "latent_diffusion", stage.registered_name("latent_diffusion"))


def _untrained(stage: Stage, settings: dict[str, Any], encoder: TextEncoder, key: Key) -> Any:
    """Return a latent diffusion model with the trained autoencoder in it."""
    first = load_model(stage.out / "train_autoencoder" / "autoencoder")
    of_first = first.args()
    given = {
        "shape": of_first["shape"],
        "first_channels": of_first["channels"],
        "latent": of_first["latent"],
        "levels": of_first["levels"],
        "text_width": encoder.width,
        "empty_tokens": encoder.encode([captions.NO_CAPTION]).states.shape[1],
        "text_encoder": encoder.description(),
    }
    with torch.random.fork_rng():
        torch.manual_seed(key.counter())
        model = registry.build(MODELS, "latent_diffusion", settings | given)
    model.space.load_state_dict(first.space.state_dict())
    model.space.eval()
    return model


def _monitor(moments: Tensor, labels: Tensor, key: Key) -> Any:
    """Return a function that gives the loss on validation pictures, at the same noise each time."""

    @torch.no_grad()
    def loss(prior: Any, state: Any) -> Row:
        prior.eval()
        generator = key.child("validation").torch()
        return {"loss_validation": float(prior.loss(moments, generator, labels)[0])}

    return loss


if __name__ == "__main__":
    main("train_latent_diffusion", work)
