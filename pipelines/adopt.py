"""The models in a repository in place of what training would give: `python -m pipelines.adopt PARAMS`.

`dvc repro` then trains none of them, and does all that comes after: log Z, likelihoods, samples, the report.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from genmodels.artifacts import load_model, new_folder, read_config
from genmodels.errors import InputError
from pipelines import dag, params
from pipelines.stage import one_line_errors, out_folder


def adopt(path: Path) -> list[str]:
    """Copy models/<model> beside a params.yaml to where training would write it, and tell DVC that it did.

    Returns:
        The stages that DVC now takes for done.

    Raises:
        InputError: a file of a model is missing or damaged, or DVC refuses.
    """
    dvc_yaml, values = path.parent / "dvc.yaml", params.read(path)
    _dvc("repro", f"{dvc_yaml}:prepare")
    stages = []
    for name in dag.entries(dvc_yaml):
        made_by, _, model = name.partition("@")
        if made_by not in ("fit_baselines", "train") or model not in dict(getattr(values, made_by)):
            continue
        source = path.parent / "models" / model
        load_model(source)  # or say what is wrong with it
        with new_folder(out_folder(path) / made_by / model) as folder:
            for file in ("config.json", *read_config(source)["sha256"]):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / file, folder / file)
        _dvc("commit", "--force", f"{dvc_yaml}:{name}")
        stages.append(name)
    return stages


def _dvc(*command: str) -> None:
    if subprocess.run(["dvc", *command], check=False).returncode != 0:
        raise InputError(f"dvc {' '.join(command)}: failed, as it says above")


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) != 2:
            raise InputError("give one file, as in 'python -m pipelines.adopt pipelines/mnist/params.yaml'")
        print(f"Adopted: {', '.join(adopt(Path(sys.argv[1])))}")
