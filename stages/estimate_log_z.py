"""log Z of an energy model by two independent methods, on Ray or in this process: the same bytes."""

from genmodels import registry
from genmodels.artifacts import load_model, new_folder, save_tensors, sha256, write_json
from genmodels.estimators import free_energy
from genmodels.kernels.choose import kernel_for
from genmodels.kernels.on_device import OnDevice
from genmodels.placement.choose import resumable
from genmodels.samplers import SAMPLERS
from genmodels.streams import Key
from pipelines import progress
from pipelines.stage import Stage, main


def work(stage: Stage) -> None:
    """Write out/<pipeline>/estimate_log_z: <model>.json with an Estimate a method, and what they rest on."""
    out = stage.out / "estimate_log_z"
    settings = getattr(stage.params.estimate_log_z, stage.model)
    model = load_model(stage.out / "train" / stage.model)
    digest = sha256(stage.out / "train" / stage.model / "model.safetensors")
    answers = {}
    # The scratch is this stage's alone, and other parameters or dependencies have another one.
    kept = str(stage.scratch / "samplers")
    with resumable(kept, stage.name) as workers, new_folder(out / stage.model) as folder:
        kernel = kernel_for(model)
        kernel = OnDevice(kernel) if workers.gpus else kernel
        for name in ("replica_exchange", "population_annealing"):
            sampler = registry.build(SAMPLERS, name, getattr(settings, name).model_dump())
            key = Key(stage.params.seed, f"estimate_log_z/{stage.model}/{name}")
            with progress.bar(f"{stage.name} {name}") as report:
                result = sampler.run(model, kernel, key, workers, report)
            curve, diagnostics = free_energy.evaluate(result)
            estimate = curve[-1]
            path = [
                {"beta": beta, "value": point.value, "stderr": point.stderr}
                for beta, point in zip(result.betas.tolist(), curve, strict=True)
            ]
            answers[name] = estimate.to_dict() | {
                "curve": path,
                "diagnostics": diagnostics,
                "model_sha256": digest,
            }
            save_tensors(folder / f"{name}.safetensors", result.tensors())
            if estimate.value is not None:
                stage.run.metrics(
                    {f"log_z/{name}": estimate.value, f"log_z/{name}/stderr": estimate.stderr or 0.0}
                )
        workers.forget()
    write_json(out / f"{stage.model}.json", answers)
    stage.run.file(out / f"{stage.model}.json")


if __name__ == "__main__":
    main("estimate_log_z", work)
