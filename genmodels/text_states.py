"""The states of captions and prompts, computed once and kept."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from genmodels.artifacts import load_tensors, save_tensors
from genmodels.errors import InputError
from genmodels.networks.text_encoder import TextEncoder, Texts

_FORMAT = 3


def text_states(
    encoder: TextEncoder, prompts: Sequence[str], folder: Path, emphasised: bool = False
) -> Texts:
    """Return encoder.encode(prompts), from a file in `folder` if they were asked for before.

    The file's name is a digest of the encoder and of all the prompts; it appears whole or not at all, holds a
    digest of what is in it, and is written anew when it is damaged.

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
    save_tensors(path, texts._asdict() | {"sha256": _digest(texts)})
    return texts


def _kept(path: Path, n: int) -> Texts | None:
    if not path.is_file():
        return None
    try:
        tensors = load_tensors(path)
    except InputError:
        return None
    digest = tensors.pop("sha256", torch.empty(0))
    if set(tensors) != set(Texts._fields) or len(tensors["states"]) != n:
        return None
    texts = Texts(**tensors)
    return texts if torch.equal(digest, _digest(texts)) else None


def _digest(texts: Texts) -> Tensor:
    """Return the SHA-256 of all tensors, their shapes and types  # (32,), uint8."""
    digest = hashlib.sha256()
    for name, tensor in texts._asdict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
