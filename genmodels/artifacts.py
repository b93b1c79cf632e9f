"""A model to a folder and back (safetensors + JSON, never pickle), and files that appear whole or not at all."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genmodels import registry
from genmodels.errors import InputError
from genmodels.models import MODELS

FORMAT = 1


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that takes its place if, and only if, all goes well."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, of the same suffix, renamed to it if all goes well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o644)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON with sorted keys, atomically; NaN and infinities raise."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write named tensors as safetensors without metadata, atomically; equal tensors give equal bytes."""
    with new_file(path) as temporary:
        ordered = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
        save_file(ordered, temporary)
        temporary.chmod(0o644)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a safetensors file.

    Raises:
        InputError: the file is missing, truncated or not safetensors.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from error


def save_model(folder: Path, name: str, model: Any, data: dict[str, Any]) -> None:
    """Write `model` to `folder`: config.json and model.safetensors.

    Args:
        folder: Where to; replaced as a whole.
        name: The model's name in MODELS.
        model: A Model.
        data: What it was trained on: name, shape (height, width, channels), levels, binarisation.
    """
    with new_folder(folder) as temporary:
        save_tensors(temporary / "model.safetensors", model.state_dict())
        config = {
            "format": FORMAT,
            "model": name,
            "args": model.args(),
            "data": data,
            "sha256": {"model.safetensors": sha256(temporary / "model.safetensors")},
        }
        write_json(temporary / "config.json", config)


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's config.json.

    Raises:
        InputError: no such folder, or not a model folder of this format.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json here, so this is not a model folder")
    config = read_json(folder / "config.json")
    keys = {"format", "model", "args", "data", "sha256"}
    if not isinstance(config, dict) or not keys <= set(config):
        raise InputError(f"{folder}/config.json: needs the keys {', '.join(sorted(keys))}")
    if config["format"] != FORMAT:
        raise InputError(f"{folder}/config.json: format is {config['format']}, this version reads {FORMAT}")
    return config


def load_model(folder: Path) -> Any:
    """Return the model in `folder`, in evaluation mode, its files checked against their digests.

    Raises:
        InputError: a file is missing, damaged, or does not fit the model it names.
    """
    folder = Path(folder)
    config = read_config(folder)
    path = folder / "model.safetensors"
    tensors = load_tensors(path)
    if sha256(path) != config["sha256"].get("model.safetensors"):
        raise InputError(f"{path}: its SHA-256 differs from the one in config.json; the file was damaged or exchanged")
    model_class = registry.load(MODELS, config["model"])
    try:
        model = model_class(**config["args"])
        model.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        message = str(error).replace("\n", " ")
        raise InputError(f"{folder}: the tensors do not fit the model '{config['model']}' ({message})") from error
    return model.eval()
