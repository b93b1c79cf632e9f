"""Models with a closed form or EM: independent pixels, Gaussian, Gaussian and Bernoulli mixtures."""

from math import prod
from typing import Any

import torch

from genmodels import registry
from genmodels.artifacts import save_model
from genmodels.data import images
from genmodels.estimators import selection
from genmodels.learners import LEARNERS
from genmodels.learners.fit import Whole
from genmodels.models import MODELS
from genmodels.streams import Key
from pipelines.curve import Row, write_curve
from pipelines.stage import Stage, main
from pipelines.training import train

LEARNER = {
    "independent": "closed_form",
    "independent_levels": "closed_form",
    "gaussian": "closed_form",
    "gaussian_mixture": "expectation_maximisation",
    "bernoulli_mixture": "expectation_maximisation",
}


def work(stage: Stage) -> None:
    """Write out/<pipeline>/fit_baselines: a model's folder, the best of its starts, and <model>.csv.

    Of several numbers of components, that of the likeliest validation images.
    """
    out = stage.out / "fit_baselines"
    settings = stage.settings("fit_baselines")
    prepared = images.load(stage.out / "prepare" / "images")
    models, rows = {}, []
    sizes = settings.get("components")
    for size in sizes if isinstance(sizes, list) else [sizes]:
        models[size], curves = _best_start(stage, settings | {"components": size}, prepared)
        rows += [{"components": float(size)} | row for row in curves] if isinstance(sizes, list) else curves
    chosen = next(iter(models))
    if len(models) > 1:
        levels = images.describe(prepared, settings["track"])["levels"]
        v = torch.from_numpy(images.of_levels(prepared, "validation", levels)).float()
        key = Key(stage.params.seed, f"fit_baselines/{stage.model}/selection")
        chosen, scores = selection.likeliest(models, v, key)
        rows = [row | {"validation": scores[int(row["components"])].mean} for row in rows]
    data = images.describe(prepared, settings["track"])
    save_model(out / stage.model, settings["model"], models[chosen], data, settings.get("precision"))
    write_curve(out / f"{stage.model}.csv", rows)
    stage.run.file(out / f"{stage.model}.csv")
    stage.run.model(out / stage.model, stage.registered_name())


def _best_start(stage: Stage, settings: dict[str, Any], prepared: images.Images) -> tuple[Any, list[Row]]:
    best: Any = None
    rows: list[Row] = []
    for start in range(settings.get("restarts", 1)):
        model, curve = _fit(stage, settings, prepared, start)
        rows += [{"start": float(start)} | row for row in curve]
        score = curve[-1].get("objective", curve[-1]["log_likelihood"])
        if best is None or score > best[0]:
            best = score, model
    return best[1], rows


def _fit(
    stage: Stage, settings: dict[str, Any], prepared: images.Images, start: int
) -> tuple[Any, list[Row]]:
    learner = registry.build(LEARNERS, LEARNER[settings["model"]], settings)
    levels = images.describe(prepared, settings["track"])["levels"]
    sizes = {"n_sites": prod(prepared.shape), "levels": levels}
    model = registry.build(MODELS, settings["model"], settings | sizes)
    batch = images.batch(prepared.splits["train"], settings["track"], model.domain)
    key = Key(stage.params.seed, f"fit_baselines/{stage.model}", shard=start)
    name = f"{settings['components']}-start-{start}" if "restarts" in settings else "fit"
    return model, train(stage, name, model, learner, Whole(batch), key, settings.get("iterations", 1))


if __name__ == "__main__":
    main("fit_baselines", work)
