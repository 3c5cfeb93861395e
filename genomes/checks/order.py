"""Names that a function, or the module, reads before any statement can have assigned them.

What may be assigned so far only grows as the statements are read in order: both branches of an `if`, the whole of a loop before its first
line, `try` and its handlers. So a name that is reported is unassigned on every path. Inner functions run later and are not looked into.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterable, Iterator

from genomes.checks.outline import Outline
from genomes.checks.problem import Problem
from genomes.nodes import Definition, Function, children, imported_by, walk

_LATER = Definition | ast.Lambda
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_HEADS = ("test", "iter", "subject", "items", "target")  # fields of a compound statement that run before its blocks
_BUILTIN = frozenset(dir(builtins))


def early_reads(tables: Iterable[symtable.SymbolTable], program: Outline) -> Iterator[Problem]:
    """One problem per name and scope, at its first such read."""
    locals_of = dict[tuple[str, int], set[str]]()
    twice, foreign = set[tuple[str, int]](), set[str]()
    for table in tables:
        place = (table.get_name(), table.get_lineno())
        if place in locals_of:
            twice.add(place)
        names = [symbol for symbol in table.get_symbols() if symbol.is_assigned() and not symbol.is_parameter()]
        foreign.update(s.get_name() for s in names if s.is_nonlocal() or (table.get_type() != "module" and s.is_declared_global()))
        locals_of[place] = {symbol.get_name() for symbol in names if symbol.is_local() or table.get_type() == "module"}
    for scope in program.scopes.values():
        node = scope.node
        if isinstance(node, ast.Module):
            own = locals_of.get(("top", 0), set()) - _BUILTIN
        elif isinstance(node, Function) and (node.name, node.lineno) not in twice:
            own = locals_of.get((node.name, node.lineno), set())
        else:
            continue
        if own - foreign:
            yield from _Order(own - foreign).problems(node.body)


class _Order:
    def __init__(self, own: set[str]) -> None:
        self.open = own  # not assigned so far on any path
        self.found: list[Problem] = []

    def problems(self, block: list[ast.stmt]) -> list[Problem]:
        self.block(block)
        return self.found

    def block(self, block: list[ast.stmt]) -> None:
        for statement in block:
            if not self.open:
                return
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, Definition):
            self.definition(node)
        elif isinstance(node, ast.Try | ast.TryStar):
            self.bind(node)  # a failure in it may be expected
        elif any(hasattr(node, name) for name in ("body", "cases")):
            self.compound(node)
        else:
            for part in filter(None, [node.target, node.value]) if isinstance(node, ast.AnnAssign) else [node]:
                self.read(part)
            if not isinstance(node, ast.AnnAssign) or node.value is not None:
                self.bind(node)

    def definition(self, node: Definition) -> None:
        if isinstance(node, ast.ClassDef):
            heads: list[ast.AST] = [*node.decorator_list, *node.bases]
        else:
            heads = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
        for head in heads:
            self.read(head)
        self.open.discard(node.name)

    def compound(self, node: ast.stmt) -> None:
        again = isinstance(node, (*_LOOPS, ast.Match))
        heads = [part for name in _HEADS for part in _listed(getattr(node, name, None))]
        for head in heads:
            self.read(head)
            if not again:
                self.bind(head)  # at once: the second item of a `with` may use the first
        if again:
            self.bind(node)
        for block in (getattr(node, "body", []), getattr(node, "orelse", []), *(case.body for case in getattr(node, "cases", []))):
            self.block(block)

    def read(self, node: ast.AST) -> None:
        for inner in _now(node):
            if isinstance(inner, ast.AugAssign) and isinstance(inner.target, ast.Name):
                self.check(inner.target, node)
            elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load):
                self.check(inner, node)

    def check(self, name: ast.Name, around: ast.AST) -> None:
        """A name that is read in a part of a program, which may bind it by `:=` itself."""
        if name.id in self.open and all(inner.target.id != name.id for inner in walk(around) if isinstance(inner, ast.NamedExpr)):
            self.open.discard(name.id)
            self.found.append(Problem(name.lineno, f"'{name.id}' is read before anything is assigned to it: move its assignment up"))

    def bind(self, node: ast.AST) -> None:
        for inner in walk(node):
            if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
                self.open.discard(inner.id)
            elif isinstance(inner, Definition | ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
                self.open.discard(inner.name or "")
            elif isinstance(inner, ast.MatchMapping):
                self.open.discard(inner.rest or "")
            elif isinstance(inner, ast.Import | ast.ImportFrom):
                self.open -= {*imported_by(inner)}


def _now(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the node does: nothing that is deferred, and of a comprehension, whose names are its own, only the first iterable."""
    open_ = [node]
    while open_:
        current = open_.pop()
        if isinstance(current, _LATER):
            continue
        yield current
        if isinstance(current, _COMPREHENSIONS):
            open_.append(current.generators[0].iter)
        else:
            open_ += children(current)


def _listed(child: object) -> list[ast.AST]:
    return [part for part in (child if isinstance(child, list) else [child]) if isinstance(part, ast.AST)]
