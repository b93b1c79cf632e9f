"""A page for each pipeline's params.yaml: blocks, their keys, types and bounds, as the schema checks them."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from pipelines.reference.words import WORDS

Json = dict[str, Any]
_NAMES = {"string": "text", "boolean": "true or false"}
_HEAD = """# {file}

Made by `make reference` from the schema, `{schema}`. Every key has to be given, and no other
may be: no key has a default, so that `{file}` is the whole truth about a run.
"""


def page(file: str, schema: type[BaseModel]) -> str:
    """Return the page of one schema.

    Raises:
        KeyError: a field has no words.
    """
    whole = schema.model_json_schema()
    head = _HEAD.format(file=file, schema=f"{schema.__module__}.{schema.__name__}")
    return head + "".join(f"\n{part}" for part in _sections("", whole, whole, _ancestry(schema)))


def _ancestry(schema: type[BaseModel]) -> dict[str, list[str]]:
    """Return the names of the classes that each block's name stands for, its own first."""
    found: dict[str, list[str]] = {}
    waiting: list[Any] = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            if one.__name__ in found:
                continue
            names = [
                cls.__name__ for cls in one.__mro__ if issubclass(cls, BaseModel) and cls is not BaseModel
            ]
            found[one.__name__] = list(dict.fromkeys(names))
            waiting += [field.annotation for field in one.model_fields.values()]
        else:
            waiting += getattr(one, "__args__", ())
    return found


def _sections(path: str, block: Json, whole: Json, ancestry: dict[str, list[str]]) -> Iterator[str]:
    """Yield the section of a block, then those of the blocks in it."""
    inner: list[tuple[str, Json]] = []
    rows = []
    for key, entry in block["properties"].items():
        blocks = list(_blocks(key, entry, whole))
        inner += blocks
        if not blocks:
            kinds = ancestry[block["title"]]
            rows.append(f"| `{key}` | {_kind(entry, whole)} | {_words(kinds, key)} |\n")
    title = f"## `{path}`\n\n{_sentence(block)}\n" if path else "## Top level\n"
    if rows or not path:
        yield title + "\n| key | value | meaning |\n| --- | --- | --- |\n" + "".join(rows)
    for key, one in inner:
        yield from _sections(f"{path}.{key}" if path else key, one, whole, ancestry)


def _words(kinds: list[str], key: str) -> str:
    return next((WORDS[f"{kind}.{key}"] for kind in kinds if f"{kind}.{key}" in WORDS), None) or WORDS[key]


def _blocks(key: str, entry: Json, whole: Json) -> Iterator[tuple[str, Json]]:
    """Yield the blocks that a field holds with their paths: one, or those of any name, by their kind."""
    if "$ref" in entry:
        yield key, _resolved(entry, whole)
    for named in entry.get("patternProperties", {}).values():
        for one in named.get("oneOf", [named]):
            block = _resolved(one, whole)
            kind = block["properties"].get("model", {}).get("const")
            yield f"{key}.<name>" + (f" (model: {kind})" if kind else ""), block
    if entry.get("type") == "array" and "$ref" in entry.get("items", {}):
        yield f"{key}[…]", _resolved(entry["items"], whole)


def _resolved(entry: Json, whole: Json) -> Json:
    found: Json = whole["$defs"][entry["$ref"].rsplit("/", 1)[1]]
    return found


def _sentence(block: Json) -> str:
    return " ".join(block.get("description", "").split())


def _kind(entry: Json, whole: Json) -> str:
    """Return in words what a value may be."""
    if "const" in entry or "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry.get("enum", [entry.get("const")]))
    if "anyOf" in entry:
        return ", or ".join(_kind(one, whole) for one in entry["anyOf"])
    if "prefixItems" in entry:
        return f"[{', '.join(_kind(one, whole) for one in entry['prefixItems'])}]"
    if entry["type"] == "array":
        least = f"at least {entry['minItems']} of: " if "minItems" in entry else ""
        return f"list of {least}{_kind(entry['items'], whole)}"
    return _NAMES.get(entry["type"], entry["type"]) + _bounds(entry)


def _bounds(entry: Json) -> str:
    signs = (
        ("≥", ("minimum", "ge")), (">", ("exclusiveMinimum", "gt")),
        ("≤", ("maximum", "le")), ("<", ("exclusiveMaximum", "lt")),
    )  # fmt: skip
    found = [f"{sign} {entry[key]:g}" for sign, keys in signs for key in keys if key in entry]
    return " " + " and ".join(found) if found else ""
