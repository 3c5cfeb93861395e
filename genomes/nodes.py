"""Small questions about syntax trees that every part of the package asks."""

from __future__ import annotations

import ast
from typing import TypeGuard

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


def last_name(node: ast.AST) -> str:
    """`self.wte.weight` → weight, `f(x)[0]` → f, anything without a name → ''."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript | ast.Starred):
        return last_name(node.value)
    if isinstance(node, ast.Call):
        return last_name(node.func)
    return ""


def is_call(node: object, *names: str) -> TypeGuard[ast.Call]:
    """`anything.name(…)` or `name(…)`."""
    return isinstance(node, ast.Call) and last_name(node.func) in names


def is_operation(node: object, *operators: type[ast.operator]) -> TypeGuard[ast.BinOp]:
    return isinstance(node, ast.BinOp) and isinstance(node.op, operators)


def names_in(node: ast.AST) -> set[str]:
    """Bare names that are read or bound in it."""
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def stored_in(node: ast.AST) -> set[str]:
    """Bare names that are given a value in it."""
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)}


def imported_by(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The names that an import binds: `import torch.nn` binds torch."""
    return [alias.asname or alias.name.partition(".")[0] for alias in node.names]


def targets_of(node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def parameters_of(arguments: ast.arguments) -> list[ast.arg]:
    """All of them in their order, with `*args` and `**kwargs`."""
    every = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [argument for argument in every if argument is not None]


def entries(node: ast.AST) -> list[tuple[str, ast.expr]]:
    """The named values of `{"a": x}` or `dict(a=x)`; none for anything else."""
    if isinstance(node, ast.Call) and last_name(node.func) == "dict":
        return [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg is not None]
    pairs = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ()
    return [(key.value, value) for key, value in pairs if isinstance(key, ast.Constant) and isinstance(key.value, str)]


def words(text: str) -> frozenset[str]:
    """A set of names written as one string."""
    return frozenset(text.split())
