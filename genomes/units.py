"""A program as a lossless tree of statements, for diff and merge.

Each unit owns whole lines: a statement with the blank lines and comments above it. Units of a block, one after the other, are the block's
exact text, so that what an edit does not touch cannot change. Built from `ast` positions, which takes a tenth of a libcst parse;
inside a statement, where tokens matter, `merging` uses libcst.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from genomes.nodes import Function, last_name
from genomes.source import Source, parse

_CACHED_PROGRAMS = 16


@dataclass(frozen=True)
class Clause:
    """A head (`def f(x):`, `else:`, or a whole simple statement) and the units below it."""

    head: str
    body: tuple[Unit, ...] = ()

    @property
    def text(self) -> str:
        return self.head + "".join(unit.text for unit in self.body)


@dataclass(frozen=True)
class Unit:
    """One statement: `text == lead + clauses`. The end of the file, if only comments, is a unit of kind "Tail"."""

    kind: str  # name of the ast class
    label: str  # "def forward", "class GPT", "MATRIX_LR", "if": what it goes by
    lead: str  # blank lines and comments above
    clauses: tuple[Clause, ...]
    text: str

    @property
    def is_definition(self) -> bool:
        return self.label.startswith(("def ", "class "))

    def inside(self, where: str) -> str:
        """Qualified name of the definition around what is in it, where `where` is the one around it."""
        return f"{where}.{self.label.split()[-1]}".lstrip(".") if self.is_definition else where


@dataclass(frozen=True)
class Placed:
    """A unit and its first character in the program."""

    unit: Unit
    start: int

    @property
    def span(self) -> tuple[int, int]:
        return self.start, self.start + len(self.unit.text)

    def clauses(self) -> Iterator[tuple[str, int, list[Placed]]]:
        """The heads of its clauses, where they begin, and the units below them."""
        at = self.start + len(self.unit.lead)
        for clause in self.unit.clauses:
            yield clause.head, at, placed(clause.body, at + len(clause.head))
            at += len(clause.text)


def placed(block: Iterable[Unit], start: int = 0) -> list[Placed]:
    """Units of a block that begins at that character."""
    found = []
    for unit in block:
        found.append(Placed(unit, start))
        start += len(unit.text)
    return found


def definitions(text: str) -> tuple[str, ...]:
    """The functions and methods of a program, as whole lines, in their order. Raises ParseError."""
    source = parse(text)
    tops = source.tree.body
    found = [*tops, *(inner for node in tops if isinstance(node, ast.ClassDef) for inner in node.body)]
    functions = sorted((node for node in found if isinstance(node, Function)), key=lambda node: node.lineno)
    return tuple("".join(source.lines[first_line(node) - 1 : node.end_lineno]) for node in functions)


def blocks(source: Source) -> tuple[str, ...]:
    """The lines of each top-level statement and what follows it, so that every block parses alone. What precedes the first is left out.

    Blocks of equal text have equal trees, and most blocks of a child are its parent's: what was found out about them holds again.
    """
    if not source.tree.body:
        return ()
    cuts, end = list[int](), 0
    for group in _groups(source.tree.body):
        start = first_line(group[0])
        while start - 1 > end and source.lines[start - 2].rstrip().endswith("\\"):  # `@`, a backslash, and the decorator below
            start -= 1
        cuts.append(start)
        end = _end(group[-1])
    return tuple(_lines(source, first, last - 1) for first, last in zip(cuts, [*cuts[1:], len(source.lines) + 1], strict=True))


@lru_cache(maxsize=_CACHED_PROGRAMS)
def units(text: str) -> tuple[Unit, ...]:
    """The top-level units; their texts concatenate to `text`."""
    source = parse(text)
    return _block(source, source.tree.body, 1, len(source.lines))


def _block(source: Source, statements: Sequence[ast.stmt], first: int, last: int) -> tuple[Unit, ...]:
    """Units that cover the lines first..last."""
    found, line = [], first
    for group in _groups(statements):
        start, end = first_line(group[0]), _end(group[-1])
        found.append(_unit(source, group, line, start, end))
        line = end + 1
    if line <= last:
        rest = _lines(source, line, last)
        found.append(Unit("Tail", "end", rest, (), rest))
    return tuple(found)


def _unit(source: Source, group: list[ast.stmt], line: int, start: int, end: int) -> Unit:
    lead = _lines(source, line, start - 1)
    clauses = _clauses(source, group[0], start, end) if len(group) == 1 else None
    core = _lines(source, start, end)
    return Unit(type(group[0]).__name__, _label(group[0]), lead, clauses or (Clause(core),), lead + core)


def _clauses(source: Source, statement: ast.stmt, start: int, end: int) -> tuple[Clause, ...] | None:
    """Heads and bodies of a compound statement; None where a body shares a line with its head."""
    clauses, line = [], start
    for body in _bodies(source, statement):
        first, last = first_line(body[0]), _end(body[-1])
        before = source.lines[first - 1][: body[0].col_offset]
        if first <= line or before.strip():
            return None
        top = first
        while top - 1 > line and source.lines[top - 2].strip()[:1] in ("", "#"):
            top -= 1
        clauses.append(Clause(_lines(source, line, top - 1), _block(source, body, top, last)))
        line = last + 1
    return tuple(clauses) if clauses and line == end + 1 else None


def _bodies(source: Source, statement: ast.stmt) -> list[list[ast.stmt]]:
    """The blocks of a statement in source order; a chain of `elif` is one statement."""
    if isinstance(statement, ast.If):
        bodies = [statement.body]
        while len(statement.orelse) == 1 and isinstance(inner := statement.orelse[0], ast.If) and _is_elif(source, inner):
            bodies.append(inner.body)
            statement = inner
        return [*bodies, statement.orelse] if statement.orelse else bodies
    if isinstance(statement, ast.Match):
        return [case.body for case in statement.cases]
    handlers = [handler.body for handler in getattr(statement, "handlers", [])]
    blocks = [getattr(statement, "body", []), *handlers, getattr(statement, "orelse", []), getattr(statement, "finalbody", [])]
    return [block for block in blocks if block]


def _is_elif(source: Source, statement: ast.If) -> bool:
    return source.text.startswith("elif", source.offset(statement.lineno, statement.col_offset))


def _groups(statements: Sequence[ast.stmt]) -> list[list[ast.stmt]]:
    """Statements that share a line, by semicolon, belong together."""
    groups: list[list[ast.stmt]] = []
    for statement in statements:
        if groups and first_line(statement) <= _end(groups[-1][-1]):
            groups[-1].append(statement)
        else:
            groups.append([statement])
    return groups


def first_line(statement: ast.stmt) -> int:
    """From 1, decorators included."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _end(statement: ast.stmt) -> int:
    return statement.end_lineno or statement.lineno


def _lines(source: Source, first: int, last: int) -> str:
    return "".join(source.lines[first - 1 : last])


def _label(statement: ast.stmt) -> str:
    if isinstance(statement, Function):
        return f"def {statement.name}"
    if isinstance(statement, ast.ClassDef):
        return f"class {statement.name}"
    if isinstance(statement, ast.Assign):
        return ", ".join(ast.unparse(target) for target in statement.targets)
    if isinstance(statement, ast.AugAssign | ast.AnnAssign):
        return ast.unparse(statement.target)
    if isinstance(statement, ast.Expr):
        return f"{last_name(statement.value) or 'text'}()"
    return type(statement).__name__.lower().removeprefix("async")
