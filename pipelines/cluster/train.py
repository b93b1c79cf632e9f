"""A training in several processes, which Ray Train places on the nodes of a cluster.

The nodes share the checkout's folder: the processes read the stage's inputs there, and the first one writes.
"""

import importlib
import os
from pathlib import Path
from typing import Any

from genmodels import runs
from genmodels.errors import InputError
from genmodels.placement.ray import RayPlacement
from pipelines import execution, stage

_TOLD = ("DVC_", "GENMODELS_", "MLFLOW_", "OMP_")  # variables of the stage that its processes have too


def launch(n_processes: int, name: str, model: str, path: Path, owner: execution.Execution) -> None:
    """Run a stage on the cluster at RAY_ADDRESS, in so many processes; return when it is done.

    Raises:
        InputError: no such cluster, or what a process got wrong, as one would say that is alone.
    """
    place = RayPlacement.connect(os.environ["RAY_ADDRESS"])
    try:
        _train(n_processes, {
            "stage": (name, model, str(path), tuple(owner)),
            "folder": str(Path.cwd()),
            "environment": {key: os.environ[key] for key in os.environ if key.startswith(_TOLD)},
        })  # fmt: skip
    finally:
        place.close()


def _train(n_processes: int, config: dict[str, Any]) -> None:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import WorkerGroupError

    has_gpus = bool(ray.cluster_resources().get("GPU"))  # type: ignore[no-untyped-call]
    trainer = TorchTrainer(
        _work,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=n_processes, use_gpu=has_gpus),
        run_config=RunConfig(storage_path=str(runs.root() / ".scratch" / "ray")),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise _cause(error) from error


def _cause(error: Any) -> Exception:
    print(repr(error.worker_failures))
    return InputError(str(error))


def _work(config: dict[str, Any]) -> None:
    """Do the stage's work, as one process of several."""
    name, model, path, owner = config["stage"]
    os.environ.update(config["environment"])
    os.chdir(config["folder"])
    work = importlib.import_module(f"stages.{name}").work
    stage.perform(name, model, Path(path), work, execution.Execution(*owner))
