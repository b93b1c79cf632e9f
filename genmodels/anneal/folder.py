"""The folder that `--out` asks for: states, energies, log Z(β), diagnostics and pictures.

There are no times in it, so that the same seed writes the same bytes.
"""

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genmodels.anneal import curves, plots
from genmodels.anneal.answer import Answer, shortest
from genmodels.artifacts import new_folder, save_tensors, write_json
from genmodels.errors import InputError
from genmodels.estimate import Estimate

_FILES = {"answer.json", "diagnostics.json", "states.safetensors", "energies.csv", "log_z.csv"}


@contextmanager
def reserved(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `folder` if all goes well.

    Raises:
        InputError: `folder` holds something else than an earlier answer: it would be deleted.
    """
    if folder.is_dir():
        others = {path.name for path in folder.iterdir()} - _FILES - plots.FILES
        if others or Path.cwd().is_relative_to(folder.resolve()):
            what = f"'{min(others)}' is in it" if others else "it is the working folder"
            raise InputError(f"--out {folder}: {what}; give a new folder or one that this command wrote")
    with new_folder(folder.resolve()) as temporary:
        yield temporary


def write(answer: Answer, folder: Path) -> None:
    """Write everything about an answer to a folder."""
    entries = answer.entries()
    del entries["seconds"]
    if answer.file.labels is not None:
        entries["labels"] = answer.file.labels
    write_json(folder / "answer.json", entries)
    write_json(folder / "diagnostics.json", answer.diagnostics)
    save_tensors(folder / "states.safetensors", answer.result.tensors())
    measured = curves.curves(answer)
    betas = [shortest(beta) for beta in answer.result.betas.tolist()]
    columns = [column for name, curve in measured.items() for column in _columns(name, curve)]
    _table(folder / "energies.csv", ["beta", *(name for name, _ in columns)], betas, [v for _, v in columns])
    if answer.curve is not None:
        log_z = _columns("log_z", answer.curve)
        log_z += [(key, [getattr(e, key) for e in answer.curve]) for key in ("kind", "method", "reason")]
        _table(folder / "log_z.csv", ["beta", *(name for name, _ in log_z)], betas, [v for _, v in log_z])
    plots.draw(answer, measured, folder)


def _columns(name: str, curve: list[Estimate]) -> list[tuple[str, list[Any]]]:
    return [(name, [e.value for e in curve]), (f"{name}_stderr", [e.stderr for e in curve])]


def _table(path: Path, header: list[str], betas: list[float], columns: Iterable[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(zip(betas, *columns, strict=True))
