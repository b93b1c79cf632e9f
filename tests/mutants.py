"""Small mistakes in a module's code, one at a time: a sign, a comparison, a number, a factor, a lost term.

Only what functions do is changed, not their signatures, messages or a module's settings.
"""

import ast
import hashlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult, ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.Lt, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
PAIRS = [("min", "max"), ("minimum", "maximum"), ("argmin", "argmax"), ("any", "all")]
FUNCTIONS = dict(PAIRS) | {there: here for here, there in PAIRS}
METHODS = FUNCTIONS | {"sum": "mean", "mean": "sum"}
UNTOUCHED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.arguments)


class Mutant(NamedTuple):
    """A module with one mistake; its name says which."""

    module: str
    name: str
    code: Callable[[], CodeType]


def path_of(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what could be there by mistake."""
    match node:
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
            yield left
            if isinstance(op, ast.Mult):
                yield ast.BinOp(ast.Constant(2), ast.Mult(), node)
        case ast.AugAssign(target, op, value) if type(op) in OPERATORS:
            yield ast.AugAssign(target, OPERATORS[type(op)](), value)
        case ast.Compare(left, [op], rest) if type(op) in OPERATORS:
            yield ast.Compare(left, [OPERATORS[type(op)]()], rest)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(OPERATORS[type(op)](), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.If(test, body, rest):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, rest)
        case ast.IfExp(test, body, rest):
            yield ast.IfExp(test, rest, body)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(float(value)):
            yield ast.Constant(2.0 * value or 1.0)
        case ast.Call(function, arguments, keywords):
            match function:
                case ast.Name(name) if name in FUNCTIONS:
                    yield ast.Call(ast.Name(FUNCTIONS[name], ast.Load()), arguments, keywords)
                case ast.Attribute(value, name) if name in METHODS:
                    yield ast.Call(ast.Attribute(value, METHODS[name], ast.Load()), arguments, keywords)
                case ast.Name("isinstance"):
                    return
                case _ if len(arguments) > 1 and type(arguments[0]) is type(arguments[1]):
                    yield ast.Call(function, [arguments[1], arguments[0], *arguments[2:]], keywords)


def places(node: ast.AST, name: str, within: bool = False) -> Iterator[tuple[str, ast.AST, str, int | None]]:
    """Yield what functions are made of: the function's name, the parent, its field, and where in that."""
    for field, value in ast.iter_fields(node):
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or isinstance(child, UNTOUCHED):
                continue
            if field in ("decorator_list", "returns", "annotation") or getattr(child, "arg", "") == "strict":
                continue
            if within:
                yield name, node, field, index if isinstance(value, list) else None
            inner = isinstance(child, ast.FunctionDef)
            called = isinstance(child, ast.FunctionDef | ast.ClassDef)
            yield from places(child, f"{name}.{child.name}".strip(".") if called else name, within or inner)


def said(node: ast.AST) -> str:
    """Return a node as text; of a statement its first line."""
    return ast.unparse(ast.fix_missing_locations(node)).partition("\n")[0]


def put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> ast.AST:
    """Put a node into another one's field, or at an index of that, and return what has been there."""
    held = getattr(parent, field)
    setattr(parent, field, node if index is None else [*held[:index], node, *held[index + 1 :]])
    return held if index is None else held[index]


def mutants(module: str) -> list[Mutant]:
    """Return all mutants of a module, each name once; a number alone is named with what it stands in."""
    tree = ast.parse(path_of(module).read_text())
    found: dict[str, Mutant] = {}
    for function, parent, field, index in list(places(tree, "")):
        held = getattr(parent, field)
        old = held if index is None else held[index]
        for new in variants(old):
            before, after = said(old), said(new)
            if isinstance(old, ast.Constant | ast.UnaryOp):
                before = said(parent)
                put(parent, field, index, new)
                after = said(parent)
                put(parent, field, index, old)

            def code(at: tuple[Any, ...] = (parent, field, index, new)) -> CodeType:
                put(*at)
                return compile(ast.fix_missing_locations(deepcopy(tree)), path_of(module), "exec")

            if before != after:
                name = f"{module.partition('.')[2]} {function}: {before} → {after}"
                found.setdefault(name, Mutant(module, name, code))
    return list(found.values())


def sample(module: str) -> list[Mutant]:
    """Return one mutant, and one more for each 100 lines; edits elsewhere in the file leave them the same."""
    count = 1 + len(path_of(module).read_text().splitlines()) // 100
    return sorted(mutants(module), key=lambda one: hashlib.sha256(one.name.encode()).digest())[:count]
