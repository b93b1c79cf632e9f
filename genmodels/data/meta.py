"""meta.json, which says what the arrays beside it are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genmodels.errors import InputError


def read_meta(path: Path, kinds: Mapping[str, type], format: int, what: str) -> dict[str, Any]:
    """Return the entries of a meta.json.

    Args:
        path: The file.
        kinds: The types of its entries, "shape" and "format" among them.
        format: The number of the format that is read.
        what: What is in such a folder, in words.

    Raises:
        InputError: the file is missing, damaged, or of another format.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, so {path.parent} is not a folder of {what}")
    try:
        meta: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(meta, dict):
        raise InputError(f"{path}: expected a mapping; prepare the images again")
    for key, kind in kinds.items():
        if not isinstance(meta.get(key), kind):
            raise InputError(f"{path}: {key} is not of type {kind.__name__}; prepare the images again")
    if meta["format"] != format:
        raise InputError(f"{path}: format is {meta['format']}, this version reads {format}; prepare again")
    if len(meta["shape"]) != 3 or not all(type(side) is int and side > 0 for side in meta["shape"]):
        raise InputError(f"{path}: shape is {meta['shape']}, expected height, width, channels")
    return dict(meta)
