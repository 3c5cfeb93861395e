"""What a program and a snippet define and use, read off their trees by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from genomes.nodes import Definition, Function, children, imported_by, names_in, targets_of


@dataclass(frozen=True, eq=False)
class Place:
    """A definition of the program."""

    name: str  # qualified
    owner: str  # "", "class" or "def"
    node: Definition


def definitions_in(body: Sequence[ast.stmt], prefix: str = "", owner: str = "") -> Iterator[Place]:
    for statement in flat(body):
        if isinstance(statement, Definition):
            name = f"{prefix}{statement.name}"
            yield Place(name, owner, statement)
            yield from definitions_in(statement.body, f"{name}.", "class" if isinstance(statement, ast.ClassDef) else "def")


def flat(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a block and of the blocks of its `if`, `for`, `with` and `try`, but not of its definitions."""
    for statement in body:
        yield statement
        if not isinstance(statement, Definition):
            handlers = [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]
            for block in (getattr(part, name, []) for part in (statement, *handlers) for name in ("body", "orelse", "finalbody")):
                yield from flat(block)


def takes_self(node: ast.stmt) -> bool:
    if not isinstance(node, Function):
        return False
    arguments = [*node.args.posonlyargs, *node.args.args]
    return bool(arguments) and arguments[0].arg in ("self", "cls")


def assigned(node: ast.stmt) -> str:
    """The one name that a statement gives a value; "" for others."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) and node.value else []
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""


def member(node: ast.stmt) -> str:
    return node.name if isinstance(node, Definition) else assigned(node) or _annotated(node)


def _annotated(node: ast.stmt) -> str:
    return node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else ""


def members(node: ast.ClassDef) -> dict[str, list[ast.stmt]]:
    found: dict[str, list[ast.stmt]] = {}
    for statement in node.body:
        if name := member(statement):
            found.setdefault(name, []).append(statement)
    return found


def head(node: ast.ClassDef) -> list[str]:
    return [ast.dump(part) for part in (*node.bases, *node.keywords, *node.decorator_list)]


def says_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[object, ...]]:
    module = (node.module, node.level) if isinstance(node, ast.ImportFrom) else ()
    return ((*module, alias.name, alias.asname) for alias in node.names)


def names_at_import(node: ast.AST) -> set[str]:
    """Names that are looked up when a top-level statement is run: not those in the bodies of functions."""
    found, waiting = set[str](), [node]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, ast.Name):
            found.add(inner.id)
        skipped = set(map(id, inner.body)) if isinstance(inner, Function) else set()
        waiting += [child for child in children(inner) if id(child) not in skipped]
    return found


def bound_in(node: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement gives a meaning."""
    for inner in flat([node]):
        if isinstance(inner, Definition):
            yield inner.name
        elif isinstance(inner, ast.Import | ast.ImportFrom):
            yield from imported_by(inner)
        elif isinstance(inner, ast.Assign | ast.AnnAssign | ast.AugAssign):
            yield from (name for target in targets_of(inner) for name in names_in(target))
