"""Reads a params.yaml through its schema: every key required, none unknown, each error one line.

No key has a default, so that params.yaml is the whole truth about a run and DVC sees every change of it. The
schema is that of images, unless the key `pipeline` names another one.
"""

import reprlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from genmodels import registry
from genmodels.errors import InputError, suggestion
from pipelines.schema.block import Block

IMAGES = "pipelines.schema.images:Params"
SCHEMAS = {  # imported on use, each what it checks against
    "digits": "pipelines.schema.named:GreyDigits",
    "learning_rules": "pipelines.schema.learning_rules:Params",
    "mnist": "pipelines.schema.named:BinarisedMNIST",
    "spin_glass": "pipelines.schema.spin_glass:Params",
    "text_to_image": "pipelines.schema.text_to_image:Params",
}

_UNIONS = (Union, UnionType)
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 60, 60, 60
_MOST = 10_000  # keys of a mapping: merges of merges multiply them
# What PyYAML's constructors raise where a tag does not fit its text, or numbers and nests have no end.
_UNFIT = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)


class _UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice, where PyYAML keeps the last one silently."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST:
            raise yaml.constructor.ConstructorError(None, None, "too many keys", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(
                    None, None, "expected a word or a number as a key", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read(path: Path) -> Any:
    """Return the validated parameters of a file, an object of its schema.

    Raises:
        InputError: one line naming file, key, value and what was expected.
    """
    path = Path(path)
    values = _mapping(path)
    name = values.get("pipeline", "")
    if "pipeline" in values and (not isinstance(name, str) or name not in SCHEMAS):
        raise InputError(f"{path}: pipeline = {_short(name)}: known are {', '.join(SCHEMAS)}")
    schema = registry.load({"": IMAGES} | SCHEMAS, name)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: {_line(error, schema)}") from error


def _mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506 - a SafeLoader
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give one with --params") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise InputError(f"{path}:{where} {getattr(error, 'problem', None) or 'not YAML'}") from error
    except _UNFIT as error:
        raise InputError(f"{path}: not YAML that can be read ({_short(str(error))})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of blocks such as 'data:' and 'train:'")
    return values


def _line(error: ValidationError, schema: type[Block]) -> str:
    # An unknown key explains a missing one, and an entry of a list why the list is not taken.
    problems = sorted(
        error.errors(), key=lambda it: (it["type"] != "extra_forbidden", isinstance(it["input"], list))
    )
    problem = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    place, block = _place(problem["loc"], schema)
    key, kind = ".".join(place), problem["type"]
    if kind == "extra_forbidden":
        known = list(block.model_fields)
        hint = suggestion(place[-1], known, f"known here are {', '.join(known)}")
        return f"{key} = {_short(problem['input'])}: unknown key; {hint}{more}"
    if kind == "missing":
        return f"{key}: missing; every key must be given{more}"
    message = problem["msg"].removeprefix("Value error, ")
    value = "" if isinstance(problem["input"], dict) else f" = {_short(problem['input'])}"
    return f"{key}{value}: {message[0].lower()}{message[1:]}{more}"


def _place(loc: Sequence[int | str], schema: type[Block]) -> tuple[list[str], Any]:
    """Return the keys that lead to a problem, and the block that holds the last of them."""
    inner: Any = schema
    block: Any = schema
    place: list[str] = []
    for part in loc:
        inner = _bare(inner)
        if get_origin(inner) in _UNIONS:  # which kind a value was taken for, which nobody has written
            inner = _member(inner, str(part))
        elif part != "[key]":  # pydantic's mark of a key that is wrong itself
            place.append(str(part))
            block, inner = inner, _inside(inner, part)
    return place, block


def _bare(kind: Any) -> Any:
    """Return a type without its bounds, and without the None that may stand in its place."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    others = [it for it in get_args(kind) if it is not NoneType]
    return _bare(others[0]) if get_origin(kind) in _UNIONS and len(others) == 1 else kind


def _member(union: Any, tag: str) -> Any:
    """Return the type of a union that a tag of pydantic's names: a key `model`, or the words for a list."""
    for kind in map(_bare, get_args(union)):
        if _is_block(kind) and tag in _kinds(kind) or get_origin(kind) is list and tag.startswith("list["):
            return kind
    return None


def _inside(kind: Any, part: int | str) -> Any:
    """Return the type of what a block, a mapping of the user's own names, or a list has there."""
    if _is_block(kind):
        field = kind.model_fields.get(part)
        return None if field is None else field.annotation
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    return get_args(kind)[0] if get_origin(kind) is list else None


def _is_block(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Block)


def _kinds(block: type[Block]) -> tuple[str, ...]:
    return get_args(block.model_fields["model"].annotation)


def _short(value: Any) -> str:
    text = _SHORT.repr(value)  # of what an alias repeats without end, too
    return text if len(text) <= 60 else text[:57] + "..."


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, its keys joined by dots: {"train.vae.latent": 16, ...}."""
    if isinstance(values, BaseModel):
        values = values.model_dump()
    entries: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            entries |= flat(value, f"{prefix}{key}.")
        else:
            entries[f"{prefix}{key}"] = value
    return entries


if __name__ == "__main__":
    for name in sys.argv[1:] or ["params.yaml"]:
        try:
            read(Path(name))
        except InputError as error:
            print(f"genmodels: error: {error}", file=sys.stderr)
            sys.exit(2)
