"""Pictures of one prompt, by the options of the command line."""

import tempfile
from pathlib import Path
from typing import Any

from genmodels.generate import Pictures
from genmodels.prompts import paint, reading
from genmodels.protocols import levels_of
from genmodels.streams import Key
from genmodels.ways import METHODS, n_steps_of

METHOD = "dpm"  # few steps, and what the pipeline of diffusers beside the model does, too
GUIDANCE = 3.0


def illustrate(
    model: Any,
    prompt: str,
    n: int,
    key: Key,
    negative: str = "",
    guidance: float = GUIDANCE,
    steps: int | None = None,
    method: str = METHOD,
) -> Pictures:
    """Return n pictures of a prompt; of an empty one, of anything.

    Args:
        model: A LatentDiffusion.
        prompt: What they are to show; brackets are emphasis.
        n: Number of pictures.
        key: Picture i draws from key.at(shard=i), whatever the others are.
        negative: What they are not to show.
        guidance: 0 without the prompt, 1 with it as learnt, above it more of it.
        steps: Of the method; its usual number if None.
        method: A name in `ways.METHODS`.

    Raises:
        InputError: the model reads no prompts, the method does not take so many steps, or see `paint`.
    """
    reading(model)
    n_steps = n_steps_of(model, method, steps)
    with tempfile.TemporaryDirectory() as cache:
        pixels, shown = paint(
            model, [prompt] * n, key, Path(cache), negative, guidance, n_steps, METHODS[method].name
        )
    return Pictures(pixels, shown, levels_of(model))
