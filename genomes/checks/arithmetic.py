"""Values that a program's text fixes: constants that are assigned once, and arithmetic over them.

`Constants.value` gives a number, string, tuple or dictionary of these, or None for everything that the text does not fix. Nothing of the
program runs; exponents, repetitions and lengths are bounded.
"""

from __future__ import annotations

import ast
import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

from genomes.checks.outline import CONSTITUTION, Outline, Scope

_MOST = 1 << 64  # largest integer that is computed with
_LONGEST = 4096  # longest string or tuple
_MOST_DIGITS = 64  # that a number is rounded to
_DEEPEST = 40  # longest chain of definitions that refer to each other
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


class _List(tuple[Any, ...]):
    """The value of a list: it may grow, and is no tuple."""


def _rounded(value: Any, *digits: Any) -> Any:
    return round(value, *digits) if all(abs(some) <= _MOST_DIGITS for some in digits) else None


_CALLS: dict[str, Callable[..., Any]] = {
    "int": int,
    "float": float,
    "abs": abs,
    "min": min,
    "max": max,
    "round": _rounded,
    "len": len,
    "bool": bool,
    "set": frozenset,
    "tuple": lambda value: None if isinstance(value, frozenset) else tuple(value),  # in which order is not known
    "str": lambda value: None if isinstance(value, tuple | frozenset) else str(value),  # whether it was a list is not known
    "all": all,
    "any": any,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
_FAILS = (ArithmeticError, TypeError, ValueError, LookupError)


class Constants:
    """The constants of one program, evaluated when they are asked for."""

    def __init__(self, program: Outline, prepare: Constants | None = None, *, in_order: bool = False) -> None:
        """
        Args:
            prepare: the constants of the lab's prepare.py, which the program imports.
            in_order: leaves out names that code above their definition reads, which may come too early; and private ones, which mean
                another name in a class.
        """
        self.program = program
        self._prepare = prepare
        self._known: dict[tuple[int, str], Any] = {}
        self._given: dict[tuple[int, str], ast.expr] = {}
        for scope in program.scopes.values():
            if isinstance(scope.node, ast.Module | ast.FunctionDef):
                for name, value in _definitions(scope.node.body):
                    if scope.bound[name] == 1 and not isinstance(value, ast.List | ast.Set):  # which may grow
                        self._given[id(scope), name] = value
        if in_order:
            self._forget_early()

    def value(self, node: ast.expr, scope: Scope, depth: int = 0) -> Any:
        """The value of an expression in a scope; None where it is not fixed, or has none."""
        try:
            return self._value(node, scope, depth)
        except _FAILS:
            return None

    def truth(self, test: ast.expr, scope: Scope, depth: int = 0) -> bool | None:
        """Whether a test holds; None where that is not fixed. What follows a part that settles it need not be: it never runs."""
        if isinstance(test, ast.BoolOp):
            settles, holds = isinstance(test.op, ast.Or), None
            for part in test.values:
                holds = self.truth(part, scope, depth)
                if holds is None or holds is settles:
                    break
            return holds
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            holds = self.truth(test.operand, scope, depth)
            return None if holds is None else not holds
        value = self.value(test, scope, depth)
        return None if value is None else bool(value)

    def named(self, name: str, scope: Scope, depth: int = 0) -> Any:
        """The value of a name in a scope, or None."""
        holder = scope.holder(name)
        if holder is None or depth > _DEEPEST:
            return None
        key = (id(holder), name)
        if key not in self._known:
            given = self._given.get(key)
            if given is not None:
                value = self.value(given, holder, depth + 1)
                self._known[key] = None if _may_grow(value) else value
            else:
                dotted = self.program.imports.get(name, "") if holder is self.program.module else ""
                self._known[key] = self._offered(dotted)
        return self._known[key]

    def assume(self, name: str, value: Any) -> None:
        """Gives a constant of the module this value from now on."""
        self._known[id(self.program.module), name] = value

    def definition(self, name: str, scope: Scope) -> ast.expr | None:
        """The expression that a name is assigned, where it is assigned once."""
        holder = scope.holder(name)
        return self._given.get((id(holder), name)) if holder is not None else None

    def offered(self, name: str) -> Any:
        """The value of a constant of prepare.py, or None."""
        return self._prepare.named(name, self._prepare.program.module) if self._prepare is not None else None

    def _forget_early(self) -> None:
        for node, scope in self.program.reads:
            holder = scope.holder(node.id)
            given = self._given.get((id(holder), node.id))
            if given is not None and (
                node.id.startswith("__") or (node.lineno, node.col_offset) < (given.end_lineno or 0, given.end_col_offset or 0)
            ):
                del self._given[id(holder), node.id]

    def _offered(self, dotted: str) -> Any:
        module, _, name = dotted.rpartition(".")
        return self.offered(name) if module == CONSTITUTION else None

    def _value(self, node: ast.expr, scope: Scope, depth: int) -> Any:
        match node:
            case ast.Constant():
                return node.value if isinstance(node.value, bool | int | float | str) else None
            case ast.Name():
                return self.named(node.id, scope, depth)
            case ast.Attribute():
                return self._offered(self.program.dotted(node, scope))
            case ast.UnaryOp() if type(node.op) in _UNARY:
                operand = self._value(node.operand, scope, depth)
                return None if operand is None else _UNARY[type(node.op)](operand)
            case ast.BinOp() if type(node.op) in _BINARY:
                return self._binary(node, scope, depth)
            case ast.Tuple() | ast.List() | ast.Set():
                elements = [self._value(element, scope, depth) for element in node.elts]
                kind = tuple if isinstance(node, ast.Tuple) else _List if isinstance(node, ast.List) else frozenset
                return None if None in elements else kind(elements)
            case ast.Subscript():
                return self._part(node, scope, depth)
            case ast.Compare():
                return self._comparison(node, scope, depth)
            case ast.BoolOp():
                return self._first_that_settles(node, scope, depth)
            case ast.IfExp():
                holds = self.truth(node.test, scope, depth)
                return None if holds is None else self._value(node.body if holds else node.orelse, scope, depth)
            case ast.Call():
                return self._call(node, scope, depth)
        return None

    def _part(self, node: ast.Subscript, scope: Scope, depth: int) -> Any:
        """`ROWS[:3]`, `ROWS[0]`."""
        whole = self._value(node.value, scope, depth)
        if not isinstance(whole, tuple | str):
            return None
        if not isinstance(node.slice, ast.Slice):
            index = self._value(node.slice, scope, depth)
            return whole[index] if type(index) is int else None
        given = (node.slice.lower, node.slice.upper, node.slice.step)
        ends = [self._value(end, scope, depth) if end is not None else None for end in given]
        known = all(end is None or value is not None for end, value in zip(given, ends, strict=True))
        return type(whole)(whole[slice(*ends)]) if known else None

    def _binary(self, node: ast.BinOp, scope: Scope, depth: int) -> Any:
        left, right = self._value(node.left, scope, depth), self._value(node.right, scope, depth)
        if isinstance(left, tuple) and type(left) is type(right) and isinstance(node.op, ast.Add):
            return type(left)([*left, *right]) if len(left) + len(right) < _LONGEST else None
        if not isinstance(left, bool | int | float) or not isinstance(right, bool | int | float):
            return None  # nor are strings and tuples repeated: how often is not bounded
        if isinstance(node.op, ast.Pow | ast.LShift) and (abs(right) > 64 or abs(left) > 1 << 32):
            return None
        found = _BINARY[type(node.op)](left, right)
        bounded = isinstance(found, bool | int) and abs(found) < _MOST
        return found if bounded or isinstance(found, float) else None

    def _first_that_settles(self, node: ast.BoolOp, scope: Scope, depth: int) -> Any:
        """`A or B`: the first part that is true, else the last."""
        value = None
        for part in node.values:
            value = self._value(part, scope, depth)
            if value is None or bool(value) is isinstance(node.op, ast.Or):
                break
        return value

    def _comparison(self, node: ast.Compare, scope: Scope, depth: int) -> Any:
        values = [self._value(part, scope, depth) for part in (node.left, *node.comparators)]
        if None in values or any(type(op) not in _COMPARE for op in node.ops):
            return None
        elements = values if not isinstance(node.ops[-1], ast.In | ast.NotIn) else values[:-1]
        if any(isinstance(value, tuple) for value in elements):
            return None  # whether one is a list matters, at any depth
        return all(_COMPARE[type(op)](a, b) for op, a, b in zip(node.ops, values, values[1:], strict=False))

    def _call(self, node: ast.Call, scope: Scope, depth: int) -> Any:
        if not isinstance(node.func, ast.Name) or node.func.id not in _CALLS or scope.holder(node.func.id) is not None or node.keywords:
            return None
        if len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp | ast.ListComp):
            arguments: list[Any] = [self._each(node.args[0], scope, depth)]
        else:
            arguments = [self._value(argument, scope, depth) for argument in node.args]
        return None if None in arguments or not arguments else _CALLS[node.func.id](*arguments)

    def _each(self, node: ast.GeneratorExp | ast.ListComp, scope: Scope, depth: int) -> Any:
        """`c in "SL" for c in PATTERN`: the values of one loop without conditions."""
        (loop, *more) = node.generators
        values = self._value(loop.iter, scope, depth)
        if more or loop.ifs or not isinstance(loop.target, ast.Name) or not isinstance(values, str | tuple) or len(values) > _LONGEST:
            return None
        found = []
        for value in values:
            element = self._value(_Replace(loop.target.id, value).visit(copy.deepcopy(node.elt)), scope, depth)
            if element is None:
                return None
            found.append(element)
        return _List(found)


def _may_grow(value: Any) -> bool:
    """Whether it is a list or a set, or holds one."""
    return isinstance(value, _List | frozenset) or (isinstance(value, tuple) and any(map(_may_grow, value)))


class _Replace(ast.NodeTransformer):
    """Replaces a name by a value; on a copy, since trees are shared."""

    def __init__(self, name: str, value: Any) -> None:
        self._name, self._with = name, value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(ast.Constant(self._with), node) if node.id == self._name else node


def _definitions(block: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """Names that the block itself, not a block inside it, assigns to, and what; tuples on both sides are taken pairwise."""
    for statement in block:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value is not None:
            yield statement.target.id, statement.value
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            continue
        target, value = statement.targets[0], statement.value
        if isinstance(target, ast.Name):
            yield target.id, value
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            yield from ((t.id, v) for t, v in zip(target.elts, value.elts, strict=True) if isinstance(t, ast.Name))
