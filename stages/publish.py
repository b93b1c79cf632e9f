"""A trained model, what is known of it and pictures of it in one small folder, for git."""

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from genmodels.artifacts import load_model, new_folder, read_config, read_json, write_json
from genmodels.data import pictures
from genmodels.errors import InputError
from genmodels.protocols import HasFilters
from pipelines.stage import Stage, main

_MOST = 4 * 2**20  # bytes of weights that a repository bears
_FILTERS = 100


def work(stage: Stage) -> None:
    """Write pipelines/<pipeline>/models/<model>: the model's folder with log_z.json, evaluation.json, PNGs.

    Raises:
        InputError: the weights are more than 4 MB.
    """
    made, log_z = stage.model_folder(), stage.out / "estimate_log_z" / f"{stage.model}.json"
    n_bytes = sum(path.stat().st_size for path in made.rglob("*.safetensors"))
    if n_bytes > _MOST:
        raise InputError(f"{made}: {n_bytes / 2**20:.1f} MB of weights, more than 4: give a lower precision")
    with new_folder(Path("pipelines") / stage.out.name / "models" / stage.model) as folder:
        shutil.copytree(made, folder, dirs_exist_ok=True)
        shutil.copy(stage.out / "evaluate" / f"{stage.model}.json", folder / "evaluation.json")
        shutil.copy(stage.out / "sample" / f"{stage.model}.png", folder / "samples.png")
        if log_z.exists():
            answers = read_json(log_z)
            write_json(folder / "log_z.json", {name: _short(answer) for name, answer in answers.items()})
        model = load_model(made)
        if isinstance(model, HasFilters):
            _draw(model.filters(), read_config(made)["data"]["shape"], folder / "filters.png")


def _short(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in ("curve", "diagnostics")}


def _draw(filters: Tensor, shape: list[int], path: Path) -> None:
    """Draw the weights of the hidden units that have the largest, each grey at 0  # (unit, site)."""
    largest = filters[filters.norm(dim=1).argsort(descending=True, stable=True)[:_FILTERS]]
    pictures.grid((0.5 + 0.5 * largest / largest.abs().amax(1, keepdim=True)).numpy(), shape, path)


if __name__ == "__main__":
    main("publish", work)
