"""The page of the `genmodels` command, from its parser."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from genmodels.cli import app

_KINDS = {int: "integer", float: "number", str: "text", Path: "path", bool: "true or false"}
_HEAD = """# The command

Made by `make reference` from the parser of `genmodels`. What is wrong with the input ends in one line,
`genmodels: error: …`, and exit status 2; Ctrl-C in 130. `genmodels --debug …` shows the traceback instead.
"""


def page() -> str:
    """Return a section for each of the command's verbs: its sentence, arguments and options.

    Raises:
        KeyError: a parameter has a type that has no word here.
    """
    group: Any = typer.main.get_command(app)
    return _HEAD + "".join(f"\n{_section(name, verb)}" for name, verb in sorted(group.commands.items()))


def _section(name: str, verb: Any) -> str:
    arguments = [one for one in verb.params if one.param_type_name == "argument"]
    options = [one for one in verb.params if one.param_type_name == "option" and one.name != "help"]
    words = " ".join(
        [_called(one) for one in arguments] + [f"{_flag(one)} …" for one in options if one.required]
    )
    parts = [f"## genmodels {name}\n\n", f"    genmodels {name} {words} [OPTIONS]\n\n", f"{verb.help}\n"]
    rows = [(_called(one), one) for one in arguments] + [(_flag(one), one) for one in options]
    parts += ["\n| | value | meaning |\n| --- | --- | --- |\n"]
    parts += [f"| `{shown}` | {_value(one)} | {one.help or ''} |\n" for shown, one in rows]
    return "".join(parts)


def _called(argument: Any) -> str:
    shown = str(argument.name).upper() + ("…" if argument.nargs == -1 else "")
    return shown if argument.required else f"[{shown}]"


def _flag(option: Any) -> str:
    return " ".join([*option.opts, *option.secondary_opts])


def _value(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "none"
    words = _kind(parameter.type_descriptor.annotation)
    words += "" if parameter.min is None else f" ≥ {parameter.min:g}"
    words += "" if parameter.max is None else f" ≤ {parameter.max:g}"
    default = parameter.default
    return words + (f"; {default} if not given" if isinstance(default, int | float | str) else "")


def _kind(annotation: Any) -> str:
    """Return in words what a value may be."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    inner = [one for one in get_args(annotation) if one is not type(None)]
    return ", ".join(map(_kind, inner)) if inner else _KINDS[annotation]
