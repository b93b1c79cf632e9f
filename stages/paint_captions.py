"""Pictures from prompts: those of params.yaml, and the captions that were never learnt."""

import numpy as np

from genmodels import runs
from genmodels.artifacts import load_model, new_file, write_json
from genmodels.data import captions, pictures
from genmodels.prompts import paint
from genmodels.streams import Key
from pipelines.stage import Stage, main

_ACROSS = 2  # prompts in a row of the picture


def work(stage: Stage) -> None:
    """Write out/<pipeline>/paint_captions: prompts.json, pictures.npz and pictures.png, two prompts a row."""
    out, settings = stage.out / "paint_captions", stage.params.paint_captions
    prepared = captions.load(stage.out / "prepare_captions" / "images")
    model = load_model(stage.out / "train_latent_diffusion" / "latent_diffusion")
    held_out = sorted({prepared.captions[k] for k in prepared.splits["held_out"].captions})
    prompts = list(dict.fromkeys([*settings.prompts, *held_out])) or [captions.NO_CAPTION]
    pixels, means = paint(
        model,
        [prompt for prompt in prompts for _ in range(settings.n)],
        Key(stage.params.seed, "paint_captions"),
        runs.root() / ".scratch" / "text",
        settings.negative,
        settings.guidance,
        settings.steps,
        settings.method,
    )
    write_json(out / "prompts.json", {"prompts": prompts, "held_out": held_out, "n": settings.n})
    with new_file(out / "pictures.npz") as path:
        np.savez(path, pixels=pixels.numpy().astype(np.uint8), means=means.float().numpy())
    with new_file(out / "pictures.png") as path:
        pictures.grid(means.numpy(), prepared.shape, path, columns=_ACROSS * settings.n)
    stage.run.picture(out / "pictures.png")


if __name__ == "__main__":
    main("paint_captions", work)
