"""Find a model, kernel, sampler or learner by its name, importing its module only then."""

import difflib
import importlib
from collections.abc import Mapping

from genmodels.errors import InputError


def load(entries: Mapping[str, str], name: str) -> type:
    """Return the class that `entries` lists under `name`, as "module:Class".

    Raises:
        InputError: no such name; the message gives the nearest one.
    """
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(sorted(entries))}"
        raise InputError(f"unknown name '{name}': {hint}")
    module, attribute = entries[name].split(":")
    return getattr(importlib.import_module(module), attribute)
