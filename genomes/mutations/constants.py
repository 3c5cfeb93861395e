"""What a program's own constants decide: how many blocks and heads it has. A mutation that would change nothing there does not apply.

Only what the text shows is known: module constants, defaults of fields that nobody overrides, and arithmetic of these. All else is None,
and a mutation then goes on as if it could take effect.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from genomes.literals import read_value
from genomes.mutations.draft import MisfitError
from genomes.mutations.meeting import Attention, head_shape
from genomes.mutations.mutation import Program
from genomes.mutations.network import depth, embedding, stack
from genomes.nodes import last_name, stored_in, walk
from genomes.source import parse_expression

_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Div: operator.truediv, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.In: lambda a, b: a in b,
}  # fmt: skip
_FOLLOWED = 20  # names that refer to names, before a program is taken to go in a circle


class _UnknownError(Exception):
    """The text does not say."""


def value(parent: Program, node: ast.expr, known: Mapping[str, Any] | None = None) -> Any:
    """The value of an expression of constants and of the names in `known`; None where the text does not say."""
    try:
        return _value(parent, node, dict(known or {}), 0)
    except (_UnknownError, ArithmeticError, TypeError, IndexError):
        return None


def _value(parent: Program, node: ast.expr, known: dict[str, Any], followed: int) -> Any:
    def of(inner: ast.expr) -> Any:
        return _value(parent, inner, known, followed + 1)

    if followed > _FOLLOWED:
        raise _UnknownError
    if (number := read_value(node)) is not None:
        return number
    match node:
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.Name(id=name):
            return of(_constant(parent, name))
        case ast.Attribute(attr=name):
            return of(_field(parent, name))
        case ast.Tuple(elts=items):
            return tuple(of(item) for item in items)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -of(inner)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](of(left), of(right))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _BINARY:
            return _BINARY[type(op)](of(left), of(right))
        case ast.BoolOp(op=op, values=parts):
            return (all if isinstance(op, ast.And) else any)([of(part) for part in parts])
        case ast.Subscript(value=whole, slice=index):
            return of(whole)[of(index)]
        case ast.Call(func=ast.Name(id="len"), args=[whole]):
            return len(of(whole))
    raise _UnknownError


def _constant(parent: Program, name: str) -> ast.expr:
    """What a module-level name is assigned, if it is assigned once."""
    found = [
        statement for statement in parent.tree.body if isinstance(statement, ast.Assign | ast.AnnAssign) and name in stored_in(statement)
    ]
    if len(found) != 1 or found[0].value is None or (isinstance(found[0], ast.Assign) and not isinstance(found[0].targets[0], ast.Name)):
        raise _UnknownError
    return found[0].value


def _field(parent: Program, name: str) -> ast.expr:
    """The default of a field of that name, if there is one and no call sets it."""
    defaults = [
        statement.value
        for node in parent.tree.body
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and last_name(statement.target) == name and statement.value is not None
    ]
    called = any(isinstance(node, ast.keyword) and node.arg == name for node in walk(parent.tree))
    attributes = (node for node in walk(parent.tree) if isinstance(node, ast.Attribute) and node.attr == name)
    stored = any(isinstance(node.ctx, ast.Store) for node in attributes)
    if len(defaults) != 1 or called or stored:
        raise _UnknownError
    return defaults[0]


def block_count(parent: Program) -> int | None:
    """How many blocks the stack has."""
    found = value(parent, parse_expression(depth(parent)))
    return found if isinstance(found, int) else None


def require_blocks(parent: Program, least: int) -> None:
    """MisfitError where there are certainly fewer blocks than a mutation needs to take effect."""
    count = block_count(parent)
    if count is not None and count < least:
        raise MisfitError(f"{count} blocks, fewer than {least}")


def head_count(parent: Program, spot: Attention) -> int | None:
    """How many heads the queries have, where the width of the stack and the size of a head are constants."""
    heads = parse_expression(head_shape(parent, spot)[0])
    width = _local(parent, stack(parent).module.init, embedding(parent)[1])
    if isinstance(heads, ast.Attribute) and last_name(heads.value) == "self":
        made = [s for s in spot.module.init.body if isinstance(s, ast.Assign) and last_name(s.targets[0]) == heads.attr]
        heads = made[0].value if len(made) == 1 else heads
    found = value(parent, heads, {embedding(parent)[1]: width} if width is not None else {})
    return found if isinstance(found, int) else None


def _local(parent: Program, function: ast.FunctionDef, name: str) -> Any:
    """The value of a name that a function assigns once, from constants."""
    made = [
        s for s in function.body if isinstance(s, ast.Assign) and last_name(s.targets[0]) == name and isinstance(s.targets[0], ast.Name)
    ]
    return value(parent, made[0].value) if len(made) == 1 else None


def layers_where(parent: Program, rule: str, layer: str, known: Mapping[str, Any] | None = None) -> tuple[Any, ...] | None:
    """What a rule about layers says of each block, if the text decides it: two rules that say the same are one."""
    try:
        count = block_count(parent)
    except MisfitError:
        return None
    if count is None:
        return None
    said = tuple(value(parent, parse_expression(rule), {**(known or {}), layer: number}) for number in range(count))
    return None if None in said else said
