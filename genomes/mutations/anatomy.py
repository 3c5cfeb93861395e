"""Where a training program does what: what it writes into parameter groups, its progress, its count of steps.

Read off the tree in whatever style it is written; a part that is not found raises MisfitError, and the mutation that asked does not apply.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from genomes.literals import last_name
from genomes.mutations.draft import MisfitError
from genomes.mutations.mutation import Program
from genomes.mutations.patterns import is_one
from genomes.source import Source

_PROGRESS = ("progress", "t", "frac_done", "time_frac")


@dataclass(frozen=True, eq=False)
class Write:
    """`group["lr"] = value`: one entry of every parameter group, set at each step."""

    function: ast.FunctionDef
    statement: ast.Assign
    group: str  # the group's name
    value: ast.expr


def functions(parent: Program) -> list[ast.FunctionDef]:
    """All of them, methods and inner ones too, outermost first."""
    return [node for node in ast.walk(parent.tree) if isinstance(node, ast.FunctionDef)]


def own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """What is in a function but not in functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def blocks(function: ast.FunctionDef) -> Iterator[list[ast.stmt]]:
    """Its own blocks, outermost first."""
    yield function.body
    for node in own_nodes(function):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block and isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef):
                yield block


def statements(function: ast.FunctionDef) -> Iterator[tuple[list[ast.stmt], ast.stmt]]:
    """Each statement with its block."""
    for block in blocks(function):
        for statement in block:
            yield block, statement


def is_call(node: ast.AST, name: str) -> bool:
    """`anything.name(…)` or `name(…)`."""
    return isinstance(node, ast.Call) and last_name(node.func) == name


def writes(parent: Program, key: str) -> list[Write]:
    """Where an entry of parameter groups is written step by step: not where it is remembered, as in `group["full_lr"] = group["lr"]`."""
    found = []
    for function in functions(parent):
        for _, statement in statements(function):
            if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                continue
            target = statement.targets[0]
            if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name) and _text(target.slice) == key:
                found.append(Write(function, statement, target.value.id, statement.value))
    return found


def written(parent: Program, key: str) -> Write:
    """The first of them."""
    found = writes(parent, key)
    if not found:
        raise MisfitError(f"no group's {key} is set step by step")
    return found[0]


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def names_of(function: ast.FunctionDef) -> set[str]:
    """Parameters and what is assigned."""
    stored = {node.id for node in own_nodes(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | parameters(function)


def parameters(function: ast.FunctionDef) -> set[str]:
    arguments = function.args
    return {argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}


def progress(parent: Program, function: ast.FunctionDef) -> str:
    """Code of the share of the budget that is spent, inside a function."""
    for name in _PROGRESS:
        if name in parameters(function) or (name == "progress" and name in names_of(function)):
            return name
    if any(isinstance(n, ast.Import) and any(a.name == "prepare" and not a.asname for a in n.names) for n in parent.tree.body):
        return "prepare.progress()"
    raise MisfitError("nothing says how much of the budget is spent")


def counter(function: ast.FunctionDef) -> str:
    """Name of the number of steps so far: a parameter `step`, what grows by one, or what `enumerate` counts from 0."""
    if "step" in parameters(function):
        return "step"
    for node in own_nodes(function):
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add) and is_one(node.value) and isinstance(node.target, ast.Name):
            return node.target.id
    for node in own_nodes(function):
        if isinstance(node, ast.For) and isinstance(node.target, ast.Tuple) and _counts_from_0(node.iter):
            return last_name(node.target.elts[0])
    raise MisfitError("nothing counts the steps")


def _counts_from_0(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and last_name(node.func) == "enumerate" and len(node.args) == 1 and not node.keywords


def one_line(source: Source, node: ast.AST) -> str:
    """Code that can be written elsewhere; MisfitError for code over several lines, which may hold comments."""
    code = source.code(node)
    if "\n" in code:
        raise MisfitError("the expression spans lines")
    return code
