"""The stages of a dvc.yaml with their templates filled in, as DVC itself reads them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from genmodels.errors import InputError
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
    """Return the stages of a dvc.yaml by name, in the order of the file."""
    with _stages(dvc_yaml) as stages:
        return {name: _entry(stage) for name, stage in stages.items()}


def entry(dvc_yaml: Path, name: str) -> Entry:
    """Return one stage of a dvc.yaml.

    Raises:
        InputError: there is none of that name.
    """
    with _stages(dvc_yaml) as stages:
        if name not in stages:
            raise InputError(f"{dvc_yaml}: no stage '{name}'; it has {', '.join(stages)}")
        return _entry(stages[name])


@contextmanager
def _stages(dvc_yaml: Path) -> Iterator[Mapping[str, Any]]:
    """Yield DVC's stages by name, each made when it is asked for, without what dvc.lock says of them.

    Read in this process while `dvc repro` holds its lock, so nothing here may write or lock.
    """
    from dvc.dvcfile import load_file
    from dvc.repo import Repo
    from dvc.stage.loader import StageLoader

    with Repo(".", uninitialized=True) as repo:
        file = load_file(repo, str(dvc_yaml))
        yield StageLoader(file, file.contents)


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
