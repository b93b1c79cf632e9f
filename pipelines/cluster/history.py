"""MLflow's runs from the database of a job into that of the submitter, as JSON and files."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genmodels import runs
from genmodels.artifacts import write_json
from pipelines import tracking


def export(folder: Path) -> list[str]:
    """Write what the database of this folder knows to `folder`, and return the names of the files."""
    client, experiment = tracking.connect()
    models = {
        version.run_id: version.name
        for model in client.search_registered_models()
        for version in client.search_model_versions(f"name = '{model.name}'")
    }
    entries = []
    for run in _all(client, experiment):
        name = run.info.run_id
        entry = {"id": name, "name": run.info.run_name, "status": run.info.status}
        entry |= {"start": run.info.start_time, "end": run.info.end_time}
        entry |= {"tags": dict(run.data.tags), "params": dict(run.data.params)}
        entry["metrics"] = [
            [metric.key, metric.value, metric.timestamp, metric.step]
            for key in run.data.metrics
            for metric in client.get_metric_history(name, key)
        ]
        stage = run.data.tags.get("dvc.stage", "").split("@")[0]
        folders = sorted(Path("out").glob(f"*/{stage}/{models[name]}")) if name in models else []
        entry["model"] = [models[name], str(folders[0])] if folders else None
        entries.append(entry)
        kept = runs.root() / "mlartifacts" / name / "artifacts"
        if kept.exists():
            shutil.copytree(kept, folder / "artifacts" / name)
    write_json(folder / "runs.json", entries)
    return [str(path) for path in folder.rglob("*") if path.is_file()]


def _all(client: Any, experiment: str) -> Iterator[Any]:
    page = None
    while True:
        found = client.search_runs([experiment], page_token=page)
        yield from found
        page = found.token
        if not page:
            return


def adopt(folder: Path, job: str, commit: str) -> int:
    """Create the runs that `export` wrote anew in this checkout's MLflow, parents first; return how many."""
    entries = json.loads((folder / "runs.json").read_text())
    client, experiment = tracking.connect()
    new: dict[str, str] = {}
    for entry in sorted(entries, key=lambda one: ("mlflow.parentRunId" in one["tags"], one["start"])):
        tags = {key: new.get(value, value) for key, value in entry["tags"].items()} | {"ray.job": job}
        if commit and entry["tags"].get("genmodels.kind") == "pipeline":
            tags["mlflow.source.git.commit"] = commit  # which the job, without git, could not know
        run = client.create_run(experiment, entry["start"], tags, run_name=entry["name"])
        new[entry["id"]] = run.info.run_id
        _log(client, run.info.run_id, entry)
        kept = folder / "artifacts" / Path(entry["id"]).name
        if kept.exists():
            client.log_artifacts(run.info.run_id, str(kept))
        if entry["model"] and _is_result(Path(entry["model"][1])):
            name, place = entry["model"]
            tracking.register(client, run.info.run_id, Path(place), name)
        # A job that was stopped has left its runs open.
        status = "KILLED" if entry["status"] == "RUNNING" else entry["status"]
        client.set_terminated(run.info.run_id, status, entry["end"])
    return len(new)


def _is_result(place: Path) -> bool:
    """Return whether a model's folder is where results are, whatever the job says."""
    return place.resolve().is_relative_to(Path("out").resolve()) and (place / "config.json").exists()


def _log(client: Any, run_id: str, entry: dict[str, Any]) -> None:
    from mlflow.entities import Metric, Param

    metrics, params = entry["metrics"], entry["params"].items()
    client.log_batch(run_id, [Metric(*metric) for metric in metrics], [Param(*param) for param in params])
