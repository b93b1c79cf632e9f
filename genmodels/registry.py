"""Find a model, kernel, sampler or learner by its name, importing its module only then."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from genmodels.errors import InputError, suggestion


def load(entries: Mapping[str, str], name: str) -> type:
    """Return the class that `entries` lists under `name`, as "module:Class".

    Raises:
        InputError: no such name; the message gives the nearest one.
    """
    if name not in entries:
        raise InputError(f"unknown name '{name}': {suggestion(name, sorted(entries))}")
    module, attribute = entries[name].split(":")
    found: type = getattr(importlib.import_module(module), attribute)
    return found


def build(entries: Mapping[str, str], name: str, arguments: Mapping[str, Any]) -> Any:
    """Return an instance of the class `name`, given those of `arguments` that its constructor names.

    Raises:
        InputError: no such name.
    """
    wanted = load(entries, name)
    known = inspect.signature(wanted).parameters
    return wanted(**{key: value for key, value in arguments.items() if key in known})
