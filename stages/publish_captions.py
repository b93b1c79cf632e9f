"""A trained latent diffusion model with what is known of it in one small folder, for git."""

import shutil
from pathlib import Path

from genmodels.artifacts import new_folder, read_config, read_json, write_json
from genmodels.errors import InputError
from pipelines.stage import Stage, main

_MOST = 4 * 2**20  # bytes of weights that a repository bears


def work(stage: Stage) -> None:
    """Write pipelines/<pipeline>/models/latent_diffusion: the model's folder, evaluation.json, samples.png.

    What is for diffusers alone is left out, as a copy of the text encoder is in it.

    Raises:
        InputError: the weights are more than 4 MB.
    """
    made = stage.out / "train_latent_diffusion" / "latent_diffusion"
    n_bytes = (made / "model.safetensors").stat().st_size
    if n_bytes > _MOST:
        raise InputError(f"{made}: {n_bytes / 2**20:.1f} MB of weights, more than 4: give fewer channels")
    config = read_config(made)
    config["sha256"] = {name: it for name, it in config["sha256"].items() if not name.startswith("pipeline/")}
    rows = [read_json(stage.out / f"{name}_captions.json")["rows"] for name in ("evaluate", "recognise")]
    with new_folder(Path("pipelines") / stage.out.name / "models" / "latent_diffusion") as folder:
        shutil.copy(made / "model.safetensors", folder / "model.safetensors")
        write_json(folder / "config.json", config)
        write_json(folder / "evaluation.json", {"rows": [row for its in rows for row in its]})
        shutil.copy(stage.out / "paint_captions" / "pictures.png", folder / "samples.png")


if __name__ == "__main__":
    main("publish_captions", work)
