"""A model to a folder and back (safetensors + JSON, never pickle); files that appear whole or not at all."""

import hashlib
import json
import os
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genmodels import registry
from genmodels.errors import InputError
from genmodels.estimate import Estimate
from genmodels.models import MODELS

FORMAT = 1
_PRECISIONS = {"half": torch.float16, "single": torch.float32, "double": torch.float64}
_CONFIG = {"format": int, "model": str, "args": dict, "data": dict, "sha256": dict}


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that takes its place if, and only if, all goes well.

    The old folder is renamed before it is deleted: a kill between leaves the one or the other whole, and an
    interrupt leaves it in its place.

    Raises:
        InputError: `folder` is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file has this name, give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    temporary.chmod(0o755)
    aside = temporary.with_name(f"{temporary.name}.old")
    try:
        yield temporary
        if folder.exists():
            os.replace(folder, aside)
        os.replace(temporary, folder)
    finally:
        if aside.exists() and not folder.exists():
            os.replace(aside, folder)
        for left in (temporary, aside):
            shutil.rmtree(left, ignore_errors=True)


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
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, numbers or nests without end
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
        temporary.chmod(0o644)  # save_file makes its own, for the owner alone


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a safetensors file.

    Raises:
        InputError: the file is missing, truncated or not safetensors.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from error


def save_model(
    folder: Path, name: str, model: Any, data: dict[str, Any], precision: str | None = None
) -> None:
    """Write `model` to `folder`: config.json, model.safetensors and, if there is one, its diffusers pipeline.

    The pipeline, in `pipeline`, is for others: the model is read back without it. Its numbers are rounded as
    the model's are, and written as float32.

    Args:
        folder: Where to; replaced as a whole.
        name: The model's name in MODELS.
        model: A Model.
        data: What it was trained on: name, shape (height, width, channels), levels, binarisation.
        precision: Of the written numbers, "half", "single" or "double"; as the model has them if None. The
            model is read back in its own.

    Raises:
        InputError: a number is too large for the precision.
    """
    with new_folder(folder) as temporary:
        save_tensors(temporary / "model.safetensors", _rounded(model.state_dict(), precision))
        _save_pipeline(temporary / "pipeline", model, precision)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        config = {
            "format": FORMAT,
            "model": name,
            "args": model.args(),
            "data": data,
            "sha256": {path.relative_to(temporary).as_posix(): sha256(path) for path in files},
        }
        write_json(temporary / "config.json", config)


def _save_pipeline(folder: Path, model: Any, precision: str | None) -> None:
    # Denoisers have one. A protocol would make all that writes a file depend on all protocols.
    make = getattr(model, "diffusers_pipeline", None)
    if make is None or (pipeline := make()) is None:
        return
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.load_state_dict(_rounded(part.state_dict(), precision))
    pipeline.save_pretrained(folder, safe_serialization=True)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # as in save_tensors


def _rounded(tensors: dict[str, Tensor], precision: str | None) -> dict[str, Tensor]:
    if precision is None:
        return tensors
    dtype, rounded = _PRECISIONS[precision], dict(tensors)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            rounded[name] = tensor.to(dtype)
            if not torch.equal(rounded[name].isfinite(), tensor.isfinite()):
                largest = float(tensor.abs().max())
                raise InputError(
                    f"precision = {precision}: cannot hold {largest:.3g} of {name}, give another"
                )
    return rounded


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's config.json.

    Raises:
        InputError: no such folder, or not a model folder of this format.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: no config.json here, so this is not a model folder")
    config = read_json(path)
    if not isinstance(config, dict) or not _CONFIG.keys() <= config.keys():
        raise InputError(f"{path}: needs the keys {', '.join(sorted(_CONFIG))}")
    for key, kind in _CONFIG.items():
        if not isinstance(config[key], kind):
            raise InputError(f"{path}: {key} is a {type(config[key]).__name__}, expected {kind.__name__}")
    shape = config["data"].get("shape")
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)):
        raise InputError(f"{path}: data.shape is {shape}, expected [height, width, channels]")
    if config["format"] != FORMAT:
        raise InputError(f"{path}: format is {config['format']}, this version reads {FORMAT}")
    return config


def read_log_z(folder: Path) -> dict[str, Estimate]:
    """Return the estimates of log Z in a model's folder, or beside it in its pipeline, by name of method.

    Those that were made of other weights than the folder's are left out.

    Raises:
        InputError: what should hold them is damaged.
    """
    folder = Path(folder).resolve()
    path = folder / "log_z.json"
    if not path.exists():
        path = folder.parent.parent / "estimate_log_z" / f"{folder.name}.json"
    if not path.exists():
        return {}
    digest, answers = sha256(folder / "model.safetensors"), read_json(path)
    try:
        own = {name: it for name, it in answers.items() if it.get("model_sha256") == digest}
        return {name: Estimate.from_dict(it) for name, it in own.items()}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no estimates of log Z in it ({error!r}); estimate them again") from error


def load_model(folder: Path) -> Any:
    """Return the model in `folder`, in evaluation mode, its files checked against their digests.

    Raises:
        InputError: a file is missing, damaged, holds what is no finite number, or does not fit the model it
            names.
    """
    folder = Path(folder)
    config = read_config(folder)
    path = folder / "model.safetensors"
    tensors = load_tensors(path)
    if sha256(path) != config["sha256"].get("model.safetensors"):
        raise InputError(f"{path}: its SHA-256 is not the one in config.json, copy the folder again")
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{path}: {name} has entries that are no finite numbers: train the model again")
    try:
        model = registry.load(MODELS, config["model"])(**config["args"])
        model.load_state_dict(tensors)
    except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        # What the arguments of a config.json written by hand can raise is up to the constructor.
        reason = textwrap.shorten(str(error), 300)
        raise InputError(f"{folder}: no model '{config['model']}' by its config.json: {reason}") from error
    return model.eval()
