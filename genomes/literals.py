"""Finds every literal of a program together with its place in the tree. One walk; names, kinds and ranges are read off the result.

Left out: f-strings (they print), docstrings and other bare strings, dictionary keys, bytes, complex numbers. A minus sign belongs to
its number, and `2**19` is one literal of value 524288, because that is how people write batch sizes; so is `10**-3`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from genomes.nodes import Definition, entries, is_operation, last_name
from genomes.source import Source

Value = bool | int | float | str
_MOST_BITS = 333  # most bits of a whole number that is read: longer ones have no place in a program, nor in a float
_NO_LITERAL_BELOW = (ast.Name, ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.alias)
_MAY_BE_LITERAL = (ast.Constant, ast.UnaryOp, ast.BinOp)


@dataclass(frozen=True)
class Step:
    """One step of the way from the module to a literal: the node, the field taken, the index in it (-1 where it is no list)."""

    node: ast.AST
    field: str
    index: int


@dataclass(frozen=True, eq=False)
class Literal:
    """A literal and the way to it, outermost first."""

    node: ast.expr
    value: Value
    path: tuple[Step, ...]


@dataclass
class Literals:
    """All literals in source order, and the number of each call among the calls of its name in its scope."""

    found: list[Literal] = field(default_factory=list)
    call_numbers: dict[int, int] = field(default_factory=dict)  # id(call or dict node) → 0, 1, 2 …


def read_value(node: ast.AST) -> Value | None:
    """The value of a literal node, sign and power of two folded in; None for anything else."""
    if not isinstance(node, _MAY_BE_LITERAL):
        return None
    if isinstance(node, ast.Constant):
        value = node.value
        if type(value) is int and value.bit_length() > _MOST_BITS:
            return None
        return value if isinstance(value, bool | int | float | str) else None
    if isinstance(node, ast.UnaryOp):
        number = read_value(node.operand) if isinstance(node.op, ast.USub) else None
        return -number if isinstance(number, int | float) and not isinstance(number, bool) else None
    powers = _powers(node)
    return _power(*powers) if powers else None


def _powers(node: ast.AST) -> tuple[int, int] | None:
    """A whole number to the power of another is one number, since either could be set to what makes it one."""
    if not is_operation(node, ast.Pow):
        return None
    base, exponent = read_value(node.left), read_value(node.right)
    if isinstance(base, int) and isinstance(exponent, int) and bool not in (type(base), type(exponent)):
        return base, exponent
    return None


def _power(base: int, exponent: int) -> int | float | None:
    """What Python makes of it; None for 0 ** -1 and for numbers of a hundred digits."""
    if abs(exponent) * abs(base).bit_length() > _MOST_BITS or (base == 0 and exponent < 0):
        return None
    power: int | float = base**exponent
    return power


def call_label(node: ast.AST) -> str:
    """What a call or a dictionary goes by: the function's last name; a parameter group goes by its kind."""
    if isinstance(node, ast.Call) and (label := last_name(node.func)) != "dict":
        return label
    named = [value for key, value in entries(node) if key in ("kind", "name")]
    kinds = [value.value for value in named if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return kinds[0] if kinds else ""


def is_bare(node: ast.AST) -> bool:
    """Whether it is a docstring, or another literal that stands alone."""
    return isinstance(node, ast.Expr) and (isinstance(node.value, ast.Constant) or read_value(node.value) is not None)


def find(source: Source) -> Literals:
    """Walk the program once."""
    result = Literals()
    _Walk(result).visit(source.tree, "")
    return result


class _Walk:
    def __init__(self, result: Literals) -> None:
        self.result = result
        self.path: list[tuple[ast.AST, str, int]] = []  # made Steps only where a literal is found: most ways lead to none
        self.counts: dict[tuple[str, str], int] = {}

    def visit(self, node: ast.AST, scope: str) -> None:
        value = read_value(node)
        if value is not None:
            assert isinstance(node, ast.expr)
            self.result.found.append(Literal(node, value, tuple(Step(*step) for step in self.path)))
            return
        if isinstance(node, ast.JoinedStr) or is_bare(node) or _powers(node):
            return
        if isinstance(node, ast.Call | ast.Dict) and (label := call_label(node)):
            number = self.counts.get((scope, label), 0)
            self.counts[scope, label] = number + 1
            self.result.call_numbers[id(node)] = number
        if isinstance(node, Definition):
            scope = f"{scope}.{node.name}"
        for name, index, child in _children(node):
            self.path.append((node, name, index))
            self.visit(child, scope)
            self.path.pop()


def _children(node: ast.AST) -> Iterator[tuple[str, int, ast.AST]]:
    """Child nodes that may hold literals, in field order. Dictionary keys are names, not values."""
    for name in node._fields:
        child = getattr(node, name, None)
        if isinstance(child, list):
            if name == "keys":  # the keys of a display or a pattern
                continue
            for index, item in enumerate(child):
                if isinstance(item, ast.AST) and not isinstance(item, _NO_LITERAL_BELOW):
                    yield name, index, item
        elif isinstance(child, ast.AST) and not isinstance(child, _NO_LITERAL_BELOW):
            yield name, -1, child
