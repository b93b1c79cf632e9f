"""Named tuples of tensors to bytes and back, without pickle: what a checkpoint is made of."""

import importlib
import json
import sys
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

_OWN = "genmodels."  # a checkpoint may name classes of this package only
Tensors = dict[str, torch.Tensor]
_DAMAGE = (AttributeError, ImportError, LookupError, RecursionError, SafetensorError, TypeError)


def dumps(tree: Any) -> bytes:
    """Return named tuples, lists, tuples, dicts, tensors, arrays, numbers, texts and classes as bytes.

    The tensors as a safetensors file, and before it its shape as JSON, that one's length first in 8 bytes.

    Raises:
        TypeError: there is something else in it.
    """
    tensors: Tensors = {}
    head = json.dumps(_encoded(tree, tensors)).encode()
    return len(head).to_bytes(8, "little") + head + save(tensors)


def loads(data: bytes) -> Any:
    """Return the tree that `dumps` wrote.

    Raises:
        ValueError: the bytes are not from there.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        return _decoded(json.loads(data[8:end]), load(data[end:]))
    except _DAMAGE as error:
        raise ValueError(f"not a checkpoint ({error})") from error


def _encoded(tree: Any, tensors: Tensors) -> Any:
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, torch.Tensor | np.ndarray):
        name = str(len(tensors))
        # A copy: views of one tensor, or an array that must not be written to, cannot be saved.
        if isinstance(tree, torch.Tensor):
            tensors[name] = tree.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": name}
        tensors[name] = torch.from_numpy(np.array(tree, order="C"))
        return {"array": name}
    if isinstance(tree, type):
        return {"class": _name(tree)}
    if isinstance(tree, dict):
        return {"dict": [[key, _encoded(value, tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = _name(type(tree)) if hasattr(tree, "_fields") else type(tree).__name__
        return {"kind": kind, "of": [_encoded(value, tensors) for value in tree]}
    raise TypeError(f"a {type(tree).__name__} cannot be kept in a checkpoint")


def _decoded(tree: Any, tensors: Tensors) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "array" in tree:
        return tensors[tree["array"]].numpy()
    if "class" in tree:
        return _class(tree["class"])
    if "dict" in tree:
        return {key: _decoded(value, tensors) for key, value in tree["dict"]}
    values = [_decoded(value, tensors) for value in tree["of"]]
    if tree["kind"] == "list":
        return values
    return tuple(values) if tree["kind"] == "tuple" else _named(tree["kind"])(*values)


def _name(cls: type) -> str:
    name = f"{cls.__module__}:{cls.__qualname__}"
    if not name.startswith(_OWN):
        raise TypeError(f"a {name} cannot be kept in a checkpoint")
    return name


def _class(name: str) -> type:
    """Return a class of this package by its name, and nothing else that a name could lead to."""
    module, _, path = name.partition(":")
    if not module.startswith(_OWN) or not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(f"a checkpoint names '{name}', which is no class of genmodels")
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for part in path.split("."):
        found = vars(found).get(part)
    if not isinstance(found, type) or found.__module__ != module:
        raise ValueError(f"a checkpoint names '{name}', which is no class of genmodels")
    return found


def _named(name: str) -> type:
    found = _class(name)
    if not (issubclass(found, tuple) and hasattr(found, "_fields")):
        raise ValueError(f"a checkpoint names '{name}', which is no named tuple")
    return found
