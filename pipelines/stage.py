"""What every stage does around its own work: parameters, threads, scratch, tracking, one-line errors."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from genmodels.artifacts import write_json
from genmodels.errors import InputError
from pipelines import dag, execution, params, tracking
from pipelines.params import Params


class Stage(NamedTuple):
    """What a stage's work is given."""

    name: str  # "train@vae", or "prepare"
    model: str  # "vae", or ""
    params: Params
    out: Path  # out/<pipeline>
    scratch: Path  # for checkpoints; another one for other parameters or dependencies
    run: tracking.Run


def main(name: str, work: Callable[[Stage], None]) -> None:
    """Run a stage from the command line: `python -m stages.<name> --params params.yaml [--model vae]`."""
    parser = argparse.ArgumentParser(prog=f"python -m stages.{name}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--model", default="")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args()
    try:
        _run(name, arguments.model, arguments.params, work)
    except (InputError, FloatingPointError, OSError) as error:
        if arguments.debug or os.environ.get("GENMODELS_DEBUG"):
            raise
        print(f"genmodels: error: {error}", file=sys.stderr)
        sys.exit(2)


def _run(name: str, model: str, path: Path, work: Callable[[Stage], None]) -> None:
    owner = execution.current()
    execution.die_with_parent(owner)
    values = params.read(path)
    entry = _entry(path.parent / "dvc.yaml", f"{name}@{model}" if model else name)
    inputs = entry.inputs()
    with _scratch(inputs) as scratch, tracking.Run(entry.name, inputs, params.flat(entry.params), owner) as run:
        start = time.monotonic()
        work(Stage(entry.name, model, values, out_folder(path), scratch, run))
        seconds = time.monotonic() - start
        run.metrics({"seconds": seconds})
        _note_cost(entry.name, seconds)


def _entry(dvc_yaml: Path, name: str) -> dag.Entry:
    entries = dag.entries(dvc_yaml)
    if name not in entries:
        raise InputError(f"{dvc_yaml}: no stage '{name}'; it has {', '.join(entries)}")
    return entries[name]


def out_folder(path: Path) -> Path:
    """Return where a pipeline's outputs go: out/main for ./params.yaml, out/x for pipelines/x/params.yaml."""
    return Path("out") / (path.parent.name or "main")


@contextmanager
def _scratch(inputs: str) -> Iterator[Path]:
    folder = execution.root() / ".scratch" / "stages" / inputs[:32]
    with execution.locked(folder / "lock"):
        yield folder


def _note_cost(name: str, seconds: float) -> None:
    path = Path("out/costs.json")
    path.parent.mkdir(exist_ok=True)
    costs: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, costs | {name: round(seconds, 2)})
