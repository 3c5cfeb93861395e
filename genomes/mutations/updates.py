"""Muon's update, found in a program: the mean gradient, what is orthogonalised, what becomes of it, the weights that it changes.

Muon is recognised by its orthogonaliser, which multiplies a matrix by its transpose in a loop. That is a function of its own, which the
update calls, or it stands in the update itself, whose loops then change a matrix that is taken from the mean and goes back into the update.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from genomes.mutations.anatomy import functions, meant, own_nodes, statements
from genomes.mutations.draft import MisfitError
from genomes.mutations.mutation import Program
from genomes.mutations.patterns import is_one
from genomes.nodes import is_call, is_operation, names_in, walk

_CASTS = ("bfloat16", "half", "float", "to", "type_as", "clone")


@dataclass(frozen=True, eq=False)
class Update:
    """One step of Muon: `mean.lerp_(grads, 1 - momentum)`, `update = orthogonalise(…)…`, `weights.sub_(…)`."""

    function: ast.FunctionDef
    direction: ast.expr  # what is orthogonalised: the mean gradient, or `grads.lerp(mean, momentum)`
    made: ast.Assign  # what gives the orthogonalised update its name
    update: str  # that name
    averaged: ast.stmt
    mean: str
    grads: str
    momentum: str
    applied: ast.stmt
    weights: str


def orthogonaliser(parent: Program) -> tuple[ast.FunctionDef, ast.For]:
    """The function and its loop: the product of a matrix with its transpose, several times."""
    for function in functions(parent):
        if loops := _orthogonal_loops(function):
            return function, loops[0]
    raise MisfitError("nothing is orthogonalised")


def _orthogonal_loops(function: ast.FunctionDef) -> list[ast.For]:
    loops = [node for node in own_nodes(function) if isinstance(node, ast.For)]
    return [loop for loop in loops if any(_is_gram(node) for node in walk(loop))]


def _is_gram(node: ast.AST) -> bool:
    """`x @ x.mT`, `x.mT @ x`."""
    if not is_operation(node, ast.MatMult):
        return False
    return any(re.search(r"\.m?T\b|transpose", ast.unparse(side)) for side in (node.left, node.right))


def muon_step(parent: Program) -> Update:
    """Muon's update, if every part of it is found."""
    orthogonal = orthogonaliser(parent)[0]
    found = (_completed(*part) for part in (*_calling(parent, orthogonal.name), *_inline(orthogonal)))
    update = next((update for update in found if update is not None), None)
    if update is None:
        raise MisfitError("no update of Muon's shape")
    return update


def inner_direction(parent: Program) -> ast.expr | None:
    """What is orthogonalised by the function that it is made in, just before its form changes; None where a function is called for it."""
    return next((taken for _, taken, _ in _inline(orthogonaliser(parent)[0])), None)


_Part = tuple[ast.FunctionDef, ast.expr, ast.Assign]


def _calling(parent: Program, name: str) -> Iterator[_Part]:
    """Functions that call the orthogonaliser, with its argument and the assignment of its result."""
    for function in functions(parent):
        call = next((n for n in own_nodes(function) if is_call(n, name)), None)
        if call is None or function.name == name or not call.args:
            continue
        assigned = next((s for _, s in statements(function) if isinstance(s, ast.Assign) and call in walk(s)), None)
        if assigned is not None:
            yield function, call.args[0], assigned


def _inline(function: ast.FunctionDef) -> Iterator[_Part]:
    """An orthogonaliser that is part of the update: `X = g.bfloat16()`, loops that change X, `g = X`."""
    assigned = [s for _, s in statements(function) if isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name)]
    loops = _orthogonal_loops(function)
    first, last = loops[0].lineno, max(loop.end_lineno or loop.lineno for loop in loops)
    changed = {ast.unparse(s.targets[0]) for s in assigned if s in walk(loops[0]) and ast.unparse(s.targets[0]) in names_in(s.value)}
    for matrix in sorted(changed):
        taken = next((s for s in assigned if s.lineno < first and ast.unparse(s.targets[0]) == matrix), None)
        made = next((s for s in sorted(assigned, key=_line) if s.lineno > last and matrix in names_in(s.value)), None)
        if taken is not None and made is not None and ast.unparse(made.targets[0]) != matrix:
            yield function, _uncast(taken.value), made


def _line(node: ast.stmt) -> int:
    return node.lineno


def _uncast(node: ast.expr) -> ast.expr:
    """`g.bfloat16()` → g."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CASTS:
        node = node.func.value
    return node


def _completed(function: ast.FunctionDef, direction: ast.expr, made: ast.Assign) -> Update | None:
    """The rest of an update: the mean ahead of it and the weights that it is taken from."""
    found = [statement for _, statement in statements(function)]
    averages = [(s, c) for s in found if (c := in_place(s, "lerp_")) is not None and len(c.args) == 2]
    applied = [(s, c) for s in found if (c := in_place(s, "sub_")) is not None and s.lineno > made.lineno]
    if not isinstance(target := made.targets[0], ast.Name) or not averages or not applied:
        return None
    (averaged, average), (last, change) = averages[0], applied[-1]
    weight = average.args[1]
    if not isinstance(weight, ast.BinOp) or not is_one(weight.left) or target.id not in names_in(last):
        return None
    return Update(
        function, _seen_through(function, direction, made), made, target.id, averaged, owner(average), ast.unparse(average.args[0]),
        ast.unparse(weight.right), last, owner(change),
    )  # fmt: skip


def _seen_through(function: ast.FunctionDef, direction: ast.expr, made: ast.Assign) -> ast.expr:
    """What a name was last given ahead of the orthogonalisation; later it may be the update's."""
    if not isinstance(direction, ast.Name):
        return direction
    named = [s for _, s in statements(function) if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == direction.id]
    ahead = [s for s in named if s.lineno < direction.lineno]
    return ahead[-1].value if ahead and made in named else meant(function, direction)


def in_place(statement: ast.stmt, method: str) -> ast.Call | None:
    """The call of `x.method(…)` as a statement."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    return call if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == method and call.args else None


def owner(call: ast.Call) -> str:
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
