"""One model on held-out images of its own levels; and its divergence from the truth where that is known."""

from typing import Any

import numpy as np
import torch

from genmodels.artifacts import load_model, new_file, read_log_z, write_json
from genmodels.data import images
from genmodels.estimate import Estimate
from genmodels.estimators import known_truth, likelihood
from genmodels.estimators.route import Effort
from genmodels.protocols import levels_of
from genmodels.streams import Key
from pipelines import progress
from pipelines.stage import Stage, main


def work(stage: Stage) -> None:
    """Write out/<pipeline>/evaluate: <model>.json, rows of Estimates, and <model>.npz, nats of each image.

    The likelihood is in nats per binary image, or in bits per dimension of a grey one.
    """
    out = stage.out / "evaluate"
    settings = stage.params.evaluate
    prepared = images.load(stage.out / "prepare" / "images")
    target = images.load_target(stage.out / "prepare" / "images")
    model = load_model(stage.model_folder())
    log_z = likelihood.with_enumeration(model, read_log_z(stage.model_folder()))
    effort = Effort(**settings.model_dump(exclude={"images"}))
    key = Key(stage.params.seed, f"evaluate/{stage.model}")
    levels = levels_of(model)
    v = torch.from_numpy(images.of_levels(prepared, "test", levels)[: settings.images]).float()
    with progress.bar(stage.name) as report:
        routes = likelihood.routes(model, v, key.child("test"), log_z, effort, report)
    rows = [_row(route.quantity, route.name, route.mean()) for route in routes]
    rows += [_row("bound_terms", name, each) for route in routes for name, each in route.terms.items()]
    rows += [_row("log_z", name, estimate) for name, estimate in log_z.items()]
    if target is not None and levels == 2:
        with progress.bar(f"{stage.name}, known distribution") as report:
            apart = known_truth.distances(model, target, key.child("target"), log_z, effort, report)
        rows += [_row(name, "", estimate) for name, estimate in apart.items()]
    with new_file(out / f"{stage.model}.npz") as path:
        np.savez(
            path,
            **{route.name or "log_likelihood": route.values for route in routes if route.values is not None},
        )
    data = images.describe(prepared, "binary" if levels == 2 else "grey") | {"split": "test"}
    write_json(out / f"{stage.model}.json", {"model": stage.model, "data": data, "rows": rows})
    for row in rows:
        if row["value"] is not None:
            errors = {f"{row['name']}/stderr": row["stderr"]} if row["stderr"] is not None else {}
            stage.run.metrics({row["name"]: row["value"]} | errors)
    stage.run.file(out / f"{stage.model}.json")


def _row(quantity: str, route: str, estimate: Estimate) -> dict[str, Any]:
    return {"name": f"{quantity}.{route}" if route else quantity} | estimate.to_dict()


if __name__ == "__main__":
    main("evaluate", work)
