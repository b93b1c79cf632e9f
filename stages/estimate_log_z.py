"""log Z of an energy model by independent methods, on Ray or in this process: the same bytes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from genmodels import registry
from genmodels.artifacts import load_model, new_folder, save_tensors, sha256, write_json
from genmodels.data import images
from genmodels.estimate import Estimate
from genmodels.estimators import free_energy
from genmodels.kernels.choose import kernel_for
from genmodels.kernels.on_device import OnDevice
from genmodels.paths import BaseRate, base_rate_fields
from genmodels.placement.choose import resumable
from genmodels.samplers import SAMPLERS
from genmodels.streams import Key
from pipelines import progress
from pipelines.stage import Stage, main

_POINTS = 250  # of a curve, at most


def work(stage: Stage) -> None:
    """Write out/<pipeline>/estimate_log_z: <model>.json with an Estimate a method, and what they rest on.

    Jarzynski's equality both ways counts as two methods, since neither way knows of the other.
    """
    out = stage.out / "estimate_log_z"
    settings = stage.settings("estimate_log_z")
    digest = sha256(stage.model_folder() / "model.safetensors")
    model = _path(stage, settings.get("reference", "uniform"))
    answers = {}
    # The scratch is this stage's alone, and other parameters or dependencies have another one.
    kept = str(stage.scratch / "samplers")
    with resumable(kept, stage.name) as workers, new_folder(out / stage.model) as folder:
        kernel = OnDevice(kernel_for(model)) if workers.gpus else kernel_for(model)
        for name in (name for name in SAMPLERS if name in settings):
            sampler = _sampler(name, settings[name])
            key = Key(stage.params.seed, f"estimate_log_z/{stage.model}/{name}")
            with progress.bar(f"{stage.name} {name}") as report:
                result = sampler.run(model, kernel, key, workers, report)
            _, diagnostics = free_energy.evaluate(result)
            for way, curve in free_energy.independent(result).items():
                last = free_energy.for_the_table(curve[-1], diagnostics)
                answers[f"{name}_{way}".strip("_")] = last.to_dict() | {
                    "curve": _points(result.betas.tolist(), curve),
                    "diagnostics": diagnostics,
                    "model_sha256": digest,
                }
            save_tensors(folder / f"{name}.safetensors", result.tensors())
        workers.forget()
    write_json(out / f"{stage.model}.json", answers)
    for name, answer in answers.items():
        if answer["value"] is not None:
            errors = {f"log_z/{name}/stderr": answer["stderr"] or 0.0}
            stage.run.metrics({f"log_z/{name}": answer["value"]} | errors)
    stage.run.file(out / f"{stage.model}.json")


def _path(stage: Stage, reference: str) -> Any:
    """Return the model, or the path to it from independent pixels with the training images' base rates."""
    model = load_model(stage.model_folder())
    if reference == "uniform":
        return model
    train = images.load(stage.out / "prepare" / "images").splits["train"]
    fields = torch.zeros(model.n_sites)
    fields[: model.n_visible] = base_rate_fields(images.batch(train, "binary", "spin"))
    return BaseRate(model, fields)


def _sampler(name: str, settings: Mapping[str, Any]) -> Any:
    if "exchange" in settings:
        exchange = registry.build(SAMPLERS, "replica_exchange", settings["exchange"])
        return registry.build(SAMPLERS, name, {**settings, "exchange": exchange})
    return registry.build(SAMPLERS, name, settings)


def _points(betas: list[float], curve: list[Estimate]) -> list[dict[str, Any]]:
    chosen = np.unique(np.linspace(0, len(betas) - 1, min(_POINTS, len(betas))).round().astype(int))
    return [{"beta": betas[k], "value": curve[k].value, "stderr": curve[k].stderr} for k in chosen]


if __name__ == "__main__":
    main("estimate_log_z", work)
