"""The last stage: one MLflow parent run shows the whole execution, also the stages DVC did not repeat."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from genmodels import runs
from pipelines import dag, execution, params, summary, tracking
from pipelines.spool import spools_in
from pipelines.stage import arguments, one_line_errors, out_folder


def finish(path: Path) -> None:
    """Back-fill the cached stages, put the summary on the parent run, close it.

    Where no stage ran, that is done for the execution before, if it was ended here and is still what it was.
    Trouble with MLflow is said in a line and fails nothing: the events stay for a later execution.
    """
    folder = tracking.spools() / execution.current(out_folder(path).name).key
    try:
        last = None if (folder / "owner.json").exists() else _left_open(path)
        if set(tracking.left_behind()) - {last}:
            tracking.replay(tracking.connect(), spared=last)
        if (folder / "owner.json").exists():
            _close(folder, path)
        elif last is not None:
            with tracking.alone():
                if _left_open(path) == last:  # still
                    _close(last, path)
    except Exception as error:  # the outer edge of tracking
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(
            f"genmodels: tracking: {reason}; kept in {tracking.spools()} and shipped later", file=sys.stderr
        )


def _left_open(path: Path) -> Path | None:
    """Return the folder of the last execution that was ended, if its stages would do today what they did."""
    folder = tracking.unclosed(out_folder(path).name)
    spools = [] if folder is None else spools_in(folder)
    entries = dag.entries(path.parent / "dvc.yaml") if spools else {}
    same = [spool.stage in entries and spool.inputs() == entries[spool.stage].inputs() for spool in spools]
    return folder if same and all(same) else None


def _close(folder: Path, path: Path) -> None:
    """Do it, or what of it is not done: this may have been interrupted before, anywhere."""
    connection = tracking.connect()
    parent = tracking.ship(folder, connection)
    client, experiment = connection
    executed = {spool.stage for spool in spools_in(folder)}
    now = max(spool.path.stat().st_mtime_ns for spool in spools_in(folder)) // 10**6  # the same each time
    entries = dag.entries(path.parent / "dvc.yaml")
    for entry in entries.values():
        if entry.name not in executed and entry.name != "track":
            _back_fill(client, experiment, parent, entry, now)
    tables = [dep for dep in entries["track"].deps if dep.name == "table.json"]
    _summarise(client, experiment, parent, path, tables, now)
    client.set_terminated(parent, "FINISHED")
    shutil.rmtree(folder)


def _back_fill(client: Any, experiment: str, parent: str, entry: dag.Entry, now: int) -> None:
    """Show a stage whose outputs DVC took from its cache as a child that points to the run that made them."""
    from mlflow.entities import Metric, Param

    query = (
        f"tags.`genmodels.inputs` = '{entry.inputs()}' and tags.`dvc.cached` = 'false'"
        " and attributes.status = 'FINISHED'"
    )
    sources = client.search_runs([experiment], query, max_results=1)
    tags = {"mlflow.parentRunId": parent, "dvc.stage": entry.name, "dvc.cached": "true"}
    tags["genmodels.run"] = f"{parent}/{entry.name}"
    if sources:
        tags["dvc.source_run"] = sources[0].info.run_id
    run_id = tracking.run_of(client, experiment, now, tags, entry.name)
    metrics = sources[0].data.metrics if sources else {}
    client.log_batch(
        run_id,
        [Metric(key, value, now, 0) for key, value in metrics.items()],
        [Param(key, str(value)) for key, value in params.flat(entry.params).items()],
    )
    client.set_terminated(run_id, "FINISHED")


def _summarise(client: Any, experiment: str, parent: str, path: Path, tables: list[Path], now: int) -> None:
    """Put tables, their pictures, all parameters and the data on the parent; and a run a model below it."""
    from mlflow.entities import Metric, Param, RunTag

    contents = [json.loads(table.read_text()) for table in tables]
    numbers = summary.metrics_of(rows_of(contents))
    metrics = [Metric(f"{model}.{name}", value, now, 0) for model, name, value in numbers]
    flat = params.flat(params.read(path))
    tags = [RunTag("mlflow.source.git.commit", _commit())] if _commit() else []
    client.log_batch(parent, metrics, [Param(key, str(value)) for key, value in flat.items()], tags)
    summary.log_table(client, parent, rows_of(contents))
    of_models = [content for content in contents if "data" in content]  # and not of samplers
    children = summary.log_models(client, experiment, parent, rows_of(of_models), flat, now)
    summary.log_data(client, [parent, *children], out_folder(path) / "prepare")
    for table in tables:
        for picture in sorted(table.parent.glob("*.png")):
            client.log_artifact(parent, str(picture))  # at the top, where MLflow's comparison page looks
        for file in (table.parent / "report.html", table):
            client.log_artifact(parent, str(file), table.parent.name if len(tables) > 1 else "report")


def rows_of(contents: list[dict[str, Any]]) -> list[summary.Row]:
    """Return the rows of several tables, one table after the other."""
    return [row for content in contents for row in content["rows"]]


def _commit() -> str:
    if not (runs.root() / ".git").exists():
        return ""
    import subprocess

    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""


if __name__ == "__main__":
    given = arguments("track")
    with one_line_errors(given.debug):
        execution.die_with_parent(execution.current(out_folder(given.params).name))
        finish(given.params)
