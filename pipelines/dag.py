"""The stages of a dvc.yaml with their templates filled in, as DVC itself reads them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from pipelines import execution


class Entry(NamedTuple):
    """One stage: its name ("train@vae"), command, dependencies, outputs and the values of its parameters."""

    name: str
    cmd: str
    deps: tuple[Path, ...]
    outs: tuple[Path, ...]
    params: dict[str, Any]

    def inputs(self) -> str:
        """Return a digest of all that the stage's outputs depend on: command, parameters, dependencies."""
        settings = json.dumps([self.cmd, self.params], sort_keys=True)
        return execution.digest(list(self.deps), settings)


def entries(dvc_yaml: Path) -> dict[str, Entry]:
    """Return the stages of a dvc.yaml by name, in the order of the file.

    Read in this process while `dvc repro` holds its lock, so nothing here may write or lock.
    """
    from dvc.repo import Repo

    with Repo(".", uninitialized=True) as repo:
        stages = repo.stage.load_all(str(dvc_yaml))
        return {stage.addressing.split(":")[-1]: _entry(stage) for stage in stages}


def _entry(stage: Any) -> Entry:
    from dvc.dependency import ParamsDependency

    here = Path.cwd()
    params: dict[str, Any] = {}
    deps: list[Path] = []
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            params |= dep.read_params()
        else:
            deps.append(Path(dep.fs_path).relative_to(here))
    outs = tuple(Path(out.fs_path).relative_to(here) for out in stage.outs)
    return Entry(stage.addressing.split(":")[-1], stage.cmd, tuple(deps), outs, params)
