"""The states of captions and prompts, computed once and kept."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from genmodels.artifacts import load_tensors, save_tensors
from genmodels.errors import InputError
from genmodels.networks.text_encoder import TextEncoder, Texts

_FORMAT = 2


def text_states(
    encoder: TextEncoder, prompts: Sequence[str], folder: Path, emphasised: bool = False
) -> Texts:
    """Return encoder.encode(prompts), from a file in `folder` if they were asked for before.

    The file's name is a digest of the encoder and of all the prompts; it appears whole or not at all, and one
    that is damaged is written anew.

    Raises:
        InputError: see `TextEncoder.encode`.
    """
    question = json.dumps(
        [_FORMAT, encoder.digest, encoder.max_tokens, encoder.padded, emphasised, list(prompts)]
    )
    path = Path(folder) / f"{hashlib.sha256(question.encode()).hexdigest()}.safetensors"
    kept = _kept(path, len(prompts))
    if kept is not None:
        return kept
    texts = encoder.encode(prompts, emphasised)
    save_tensors(path, texts._asdict())
    return texts


def _kept(path: Path, n: int) -> Texts | None:
    if not path.is_file():
        return None
    try:
        tensors = load_tensors(path)
    except InputError:
        return None
    if set(tensors) != set(Texts._fields) or len(tensors["states"]) != n:
        return None
    return Texts(**tensors)
