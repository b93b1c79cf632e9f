"""What every stage does around its own work: parameters, threads, scratch, tracking, one-line errors."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from genmodels import runs
from genmodels.artifacts import read_json, write_json
from genmodels.errors import InputError
from pipelines import dag, execution, params, several, tracking
from pipelines.disk import room_for, sweep

_COSTS = Path("out/costs.json")


class Stage(NamedTuple):
    """What a stage's work is given."""

    name: str  # "train@vae", or "prepare"
    model: str  # what stands after the @: "vae", a method's name, or ""
    params: Any  # the params.yaml, validated
    out: Path  # out/<pipeline>
    scratch: Path  # for checkpoints; another one for other parameters or dependencies
    run: tracking.Run | tracking.Silent

    def settings(self, block: str) -> dict[str, Any]:
        """Return what a block of params.yaml says of this stage's model, by key.

        `model` is the kind of model, its name in MODELS: where nothing says so, what the block calls it.
        """
        return {"model": self.model} | self.params.model_dump()[block][self.model]

    def models(self) -> list[str]:
        """Return the names of all models of the pipeline, in the order of params.yaml's blocks."""
        return [*dict(self.params.fit_baselines), *dict(self.params.train)]

    def model_folder(self, model: str = "") -> Path:
        """Return where the stage that made this stage's model, or another one, wrote it."""
        model = model or self.model
        made_by = "fit_baselines" if model in dict(self.params.fit_baselines) else "train"
        return self.out / made_by / model

    def registered_name(self, model: str = "") -> str:
        """Return what MLflow's registry calls a model: its name, after that of a pipeline of its own."""
        name = model or self.model
        return name if self.out.name == "main" else f"{self.out.name}-{name}"

    def cost(self, seconds: float, part: str = "") -> None:
        """Note in MLflow and in out/costs.json how long the stage, or a part of it, took; in no output."""
        self.run.metrics({f"seconds/{part}" if part else "seconds": seconds})
        _COSTS.parent.mkdir(exist_ok=True)
        write_json(_COSTS, costs_so_far() | {f"{self.name}/{part}" if part else self.name: round(seconds, 2)})


def costs_so_far() -> dict[str, Any]:
    """Return the seconds of each stage, and of its parts, when it last ran here."""
    known: dict[str, Any] = read_json(_COSTS) if _COSTS.exists() else {}
    return known


def arguments(name: str) -> argparse.Namespace:
    """Return the parsed command line of a stage: params, model (or method), debug."""
    parser = argparse.ArgumentParser(prog=f"python -m stages.{name}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--model", "--method", default="")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def main(name: str, work: Callable[[Stage], None]) -> None:
    """Run a stage from the command line: `python -m stages.<name> --params params.yaml [--model vae]`."""
    given = arguments(name)
    with one_line_errors(given.debug):
        _run(name, given.model, given.params, work)


@contextmanager
def one_line_errors(debug: bool = False) -> Iterator[None]:
    """Turn what the user got wrong into one line on stderr and exit status 2, and Ctrl-C into status 130."""
    try:
        yield
    except KeyboardInterrupt:
        if debug or os.environ.get("GENMODELS_DEBUG"):
            raise
        if not several.left("stopped"):
            print("genmodels: stopped", file=sys.stderr)
        sys.exit(130)
    except (InputError, FloatingPointError, MemoryError, OSError) as error:
        if debug or os.environ.get("GENMODELS_DEBUG"):
            raise
        message = str(error) or "not enough memory"  # of which alone nothing may be said
        if not several.left(message):
            print(f"genmodels: error: {message}", file=sys.stderr)
        sys.exit(2)


def rank() -> int:
    """Return which of the processes of a distributed training this is; 0 where there is one process."""
    return int(os.environ.get("RANK", "0"))


def _run(name: str, model: str, path: Path, work: Callable[[Stage], None]) -> None:
    owner = execution.current(out_folder(path).name)
    execution.die_with_parent(owner)
    n_processes = params.flat(params.read(path)).get(f"{name}.{model}.processes", 1)
    if n_processes == 1 or "RANK" in os.environ:
        perform(name, model, path, work, owner)
    elif "RAY_ADDRESS" in os.environ and not os.environ.get("GENMODELS_WORKERS"):
        from pipelines.cluster.train import launch

        launch(n_processes, name, model, path, owner)
    else:
        several.launch(n_processes, sys.orig_argv[1:])


def perform(
    name: str, model: str, path: Path, work: Callable[[Stage], None], owner: execution.Execution
) -> None:
    """Do a stage's work in this process, which may be one of several; the first of them keeps the books."""
    values = params.read(path)
    torch.set_num_threads(values.threads)
    entry = dag.entry(path.parent / "dvc.yaml", f"{name}@{model}" if model else name)
    inputs = entry.inputs()
    if rank() > 0:
        folder = _scratch_folder(inputs)
        work(Stage(entry.name, model, values, out_folder(path), folder, tracking.Silent()))
        return
    with (
        room_for(entry.name),
        _scratch(inputs) as scratch,
        tracking.Run(entry.name, inputs, params.flat(entry.params), owner) as run,
    ):
        for out in entry.outs:
            sweep(out)
        start, worked = time.monotonic(), time.process_time()
        stage = Stage(entry.name, model, values, out_folder(path), scratch, run)
        work(stage)
        stage.cost(time.monotonic() - start)
        stage.cost(time.process_time() - worked, "cpu")


def out_folder(path: Path) -> Path:
    """Return where a pipeline's outputs go: out/main for ./params.yaml, out/x for pipelines/x/params.yaml."""
    return Path("out") / (path.parent.name or "main")


def _scratch_folder(inputs: str) -> Path:
    return runs.root() / ".scratch" / "stages" / inputs[:32]


@contextmanager
def _scratch(inputs: str) -> Iterator[Path]:
    folder = _scratch_folder(inputs)
    with execution.locked(folder.with_suffix(".lock")):
        folder.mkdir(exist_ok=True)
        yield folder
        # The outputs are there: checkpoints have done their duty.
        shutil.rmtree(folder)
