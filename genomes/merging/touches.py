"""Whether two new groups of statements may stand in either order: nothing that one sets is set or read by the other."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from genomes.errors import ParseError
from genomes.nodes import Definition, children, imported_by, walk
from genomes.source import parse_tree

_LEAVES = (ast.Return, ast.Raise, ast.Break, ast.Continue)  # what follows such a statement does not run
_OBJECT = "self"  # every statement of a method has to do with it: only its attributes tell them apart


@dataclass(frozen=True)
class _Touched:
    """The dotted names that statements touch."""

    sets: frozenset[str]
    reads: frozenset[str]


def independent(one: str, other: str, modules: frozenset[str]) -> bool:
    """Whether two texts of whole statements are. What does not parse alone, or leaves the block, is not independent of anything.

    Args:
        modules: names that stand for imported modules, which calls leave as they are.
    """
    left, right = _touched(one, modules), _touched(other, modules)
    if left is None or right is None:
        return False
    return not (_meet(left.sets, right.sets | right.reads) or _meet(right.sets, left.reads))


def _meet(names: frozenset[str], others: frozenset[str]) -> bool:
    return any(x == y or x.startswith(f"{y}.") or y.startswith(f"{x}.") for x in names for y in others)


def _touched(text: str, modules: frozenset[str]) -> _Touched | None:
    try:
        tree = parse_tree(textwrap.dedent(text))
    except ParseError:
        return None
    if any(isinstance(node, _LEAVES) for node in _running(tree)):
        return None
    sets = {name for node in walk(tree) for name in _set_by(node) if name.split(".")[0] not in modules} - {_OBJECT}
    return _Touched(frozenset(sets), frozenset(_read_by(tree)) - {_OBJECT})


def _read_by(node: ast.AST) -> Iterator[str]:
    """The longest dotted names."""
    name = _dotted(node) if isinstance(node, ast.expr) else ""
    if name:
        yield name
    else:
        for child in children(node):
            yield from _read_by(child)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those inside functions."""
    for node in children(tree):
        if not isinstance(node, Definition):
            yield node
            yield from _running(node)


def _set_by(node: ast.AST) -> Iterator[str]:
    """Names that a node binds or whose object it may change: assigned, defined, imported, called for its effect."""
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
        yield _dotted(node.value if isinstance(node, ast.Subscript) else node)
    elif isinstance(node, Definition):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from imported_by(node)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_"):  # in place, as torch says it
        yield from _objects(node)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield from _objects(node.value)


def _objects(call: ast.Call) -> Iterator[str]:
    """What a call may change: the object of a method, and what it is handed."""
    owner = [call.func.value] if isinstance(call.func, ast.Attribute) else []
    yield from filter(None, (_dotted(part) for part in [*owner, *call.args]))


def _dotted(node: ast.expr) -> str:
    """`self.gate.weight`; "" for what is no chain of names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""
