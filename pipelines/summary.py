"""What an execution's MLflow runs say at its end: a table, its data, and a run a model, all named alike."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from genmodels.artifacts import read_json
from genmodels.estimate import Estimate
from pipelines.stage import costs_so_far
from pipelines.tracking import run_of

Row = Mapping[str, Any]
_TABLE = "table_of_models.json"
_STAGES = ("fit_baselines", "train", "estimate_log_z", "evaluate", "sample", "judge_samples")
_ERRORS = ("stderr", "stderr_images", "stderr_estimator")
_COLUMNS = ("model", "name", "value", *_ERRORS, "kind", "unit", "n", "method")


def metrics_of(rows: Sequence[Row]) -> Iterator[tuple[str, str, float]]:
    """Yield model, name and number of every value and every error of a table: "log_likelihood.stderr"."""
    for row in rows:
        estimate = Estimate.from_dict(dict(row))
        if estimate.value is not None:
            yield row["model"], row["name"], estimate.value
        if estimate.stderr is not None:
            yield row["model"], f"{row['name']}.stderr", estimate.stderr


def log_table(client: Any, parent: str, rows: Sequence[Row]) -> None:
    """Put the rows on the parent as a table that MLflow shows, unless they are there: it would append."""
    columns = {name: [row.get(name) for row in rows] for name in _COLUMNS}
    if all(artifact.path != _TABLE for artifact in client.list_artifacts(parent)):
        client.log_table(parent, columns, _TABLE)


def log_data(client: Any, run_ids: Sequence[str], prepared: Path) -> None:
    """Say which data set the runs are of: its name, origin, sizes, and a digest of the pixels."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if not (prepared / "statistics.json").exists():
        return
    facts = read_json(prepared / "statistics.json")
    digests = sorted(digest for split in facts["sha256"].values() for digest in split.values())
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]  # of 36 at most
    profile = json.dumps({name: facts[name] for name in ("n", "shape", "levels", "binarisation")})
    dataset = Dataset(
        facts["name"], digest, "local", facts["origin"] or facts["name"], profile=profile[:1000]
    )
    for run_id in run_ids:
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])])


def log_models(
    client: Any, experiment: str, parent: str, rows: Sequence[Row], params: Mapping[str, Any], now: int
) -> list[str]:
    """Make a run a model, child of the parent, whose metrics and parameters have the same names for all.

    "log_likelihood", "frechet_distance.classifier", "seconds.train": MLflow's comparison page, parallel
    coordinates and charts take them as they are. Parameters lose what their names say of the model:
    `train.vae.steps` is "steps" here. Returns the runs' ids.
    """
    from mlflow.entities import Metric, Param

    numbers: dict[str, dict[str, float]] = defaultdict(dict)
    for model, name, value in metrics_of(rows):
        numbers[model][name] = value
    run_ids, seconds = [], seconds_of(list(numbers))
    for model, mine in numbers.items():
        own = {
            key.split(".", 2)[2]: value
            for key, value in params.items()
            if key.split(".")[:2] in (["train", model], ["fit_baselines", model])
        }
        tags = {"mlflow.parentRunId": parent, "genmodels.kind": "model", "genmodels.model": model}
        run_id = run_of(client, experiment, now, tags | {"genmodels.run": f"{parent}/model/{model}"}, model)
        given = {"model": model} | own
        client.log_batch(
            run_id,
            [Metric(key, value, now, 0) for key, value in (mine | seconds[model]).items()],
            [Param(key, str(value)) for key, value in given.items()],
        )
        client.set_terminated(run_id, "FINISHED")
        run_ids.append(run_id)
    return run_ids


def seconds_of(models: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return how long each model's stages took when they last ran on this machine: "seconds.train"."""
    costs = costs_so_far()
    return {
        model: {
            f"seconds.{name}": float(costs[stage])
            for name in _STAGES
            for stage in (f"{name}@{model}", f"{name}_{model}")  # train@vae, train_latent_diffusion
            if stage in costs
        }
        for model in models
    }
