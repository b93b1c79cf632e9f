"""How likely pictures are, by the bound of latent diffusion with and without their captions."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genmodels import runs
from genmodels.artifacts import load_model, write_json
from genmodels.data import captions
from genmodels.estimate import Estimate, over_images
from genmodels.estimators import importance_weighted, variational
from genmodels.estimators.route import Route
from genmodels.networks.noise import BoundTerms
from genmodels.prompts import encoder_of
from genmodels.streams import Key
from genmodels.text_states import text_states
from pipelines import progress
from pipelines.stage import Stage, main


class Told(nn.Module):
    """A LatentDiffusion of pictures with the number of their caption as one more site."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.T = model, model.T

    def bound_terms(self, x: Tensor, generator: torch.Generator, n_times: int = 1) -> BoundTerms:
        """Return the terms given the captions  # (image, site + 1)."""
        terms: BoundTerms = self.model.bound_terms(x[:, :-1], generator, n_times, x[:, -1].long())
        return terms


def work(stage: Stage) -> None:
    """Write out/<pipeline>/evaluate_captions.json: Estimates of each split, with captions and without.

    And with shuffled captions, each picture given that of another: what they cost, picture by picture. Beside
    them stand those of the autoencoder by itself, whose prior is N(0, I).
    """
    settings = stage.params.evaluate_captions
    prepared = captions.load(stage.out / "prepare_captions" / "images")
    model = load_model(stage.out / "train_latent_diffusion" / "latent_diffusion")
    first = load_model(stage.out / "train_autoencoder" / "autoencoder")
    model.prior.tell(text_states(encoder_of(model), prepared.captions, runs.root() / ".scratch" / "text"))
    n_times, n_repeats = settings.noise_levels, settings.noise_repeats
    rows: list[dict[str, Any]] = []
    for name in ("train", "test", "held_out"):
        split = prepared.splits[name]
        if not len(split.captions):
            continue
        x = torch.from_numpy(split.levels[: settings.images]).float()
        told = torch.cat([x, torch.from_numpy(split.captions[: settings.images]).float()[:, None]], 1)
        key = Key(stage.params.seed, f"evaluate_captions/{name}")
        with progress.bar(f"{stage.name} {name}") as report:
            with_captions = variational.bound(Told(model), told, key, n_times, n_repeats, report)
            without = variational.bound(model, x, key, n_times, n_repeats, report)
            shuffled = variational.bound(Told(model), _shuffled(told, key), key, n_times, n_repeats, report)
        alone = importance_weighted.bounds(first, x, key, n_repeats).elbo
        for kind, of, (values, variances) in (
            ("latent_diffusion", "with_captions", with_captions[:2]),
            ("latent_diffusion", "with_shuffled_captions", shuffled[:2]),
            ("latent_diffusion", "without_captions", without[:2]),
            ("autoencoder", "standard_normal", alone),
        ):
            route = _route(values, variances, prepared)
            rows.append({"model": kind, "name": f"{route.quantity}.{of}.{name}"} | route.mean().to_dict())
        lost = _lost(with_captions, shuffled).to_dict()
        rows.append({"model": "latent_diffusion", "name": f"nats.lost_by_shuffling.{name}"} | lost)
    path = stage.out / "evaluate_captions.json"
    write_json(path, {"rows": rows})
    stage.run.metrics({f"{row['model']}.{row['name']}": row["value"] for row in rows})
    stage.run.file(path)


def _shuffled(told: Tensor, key: Key) -> Tensor:
    """Return the pictures with each other's captions  # (image, site + 1)."""
    order = key.child("shuffle").numpy().permutation(len(told))
    return torch.cat([told[:, :-1], told[order, -1:]], 1)


def _lost(right: Any, wrong: Any) -> Estimate:
    """Return what the wrong captions cost, in the mean over differences of a picture's bounds."""
    values, variances = right[0] - wrong[0], right[1] + wrong[1]
    stderr = math.sqrt(float(variances.sum())) / len(values)
    return over_images(
        values,
        kind="estimate",
        method="difference of bounds",
        stderr_estimator=stderr,
        own_variance=stderr**2,
    )


def _route(values: np.ndarray, variances: np.ndarray, prepared: captions.CaptionedImages) -> Route:
    n_sites = int(np.prod(prepared.shape))
    return Route("", values, variances, 0.0, "lower", "variational bound", "", prepared.levels, n_sites)


if __name__ == "__main__":
    main("evaluate_captions", work)
