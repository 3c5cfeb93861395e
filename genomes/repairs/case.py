"""What a rule sees: the program, what is certain about it, and what happened."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from genomes.checks.arithmetic import Constants
from genomes.checks.classes import Classes
from genomes.checks.guards import constants_of
from genomes.checks.outline import Outline, Scope, outline
from genomes.literals import Value, read_value
from genomes.nodes import Function, walk
from genomes.source import Source, Splice, parse, splice

_Node = TypeVar("_Node", bound=ast.AST)


@dataclass(frozen=True)
class Failure:
    """What an evaluation said of a program."""

    genome: str  # identity of the program that failed
    reason: str  # "out_of_memory", "not_finite", "no_model", "crash" …: evaluator.outcome.Reason
    message: str
    lines: tuple[int, ...] = ()  # lines of the program on the way to where it failed, the innermost last


@dataclass(frozen=True)
class Repaired:
    """A repaired program, and one line on what was done."""

    text: str
    note: str


@dataclass(frozen=True, eq=False)
class Case:
    """One program with one failure."""

    source: Source
    failure: Failure
    program: Outline
    prepare: str

    @cached_property
    def classes(self) -> Classes:
        return Classes(self.program)

    @cached_property
    def constants(self) -> Constants:
        return constants_of(self.program, self.prepare)

    def innermost(self, kind: type[_Node]) -> list[_Node]:
        """Nodes of a kind on the innermost line of the failure that has any."""
        for line in reversed(self.failure.lines):
            found = [node for node in walk(self.source.tree) if isinstance(node, kind) and _on(node, line)]
            if found:
                return found
        return []

    def scope_at(self, line: int) -> Scope:
        """The innermost function around a line, or the module."""
        around = [s for s in self.program.scopes.values() if isinstance(s.node, Function) and _on(s.node, line)]
        return max(around, key=lambda scope: getattr(scope.node, "lineno", 0), default=self.program.module)

    def functions(self) -> Iterator[tuple[Function, Scope]]:
        """Functions on the way to the failure, the innermost first."""
        for line in reversed(self.failure.lines):
            scope = self.scope_at(line)
            if isinstance(scope.node, Function):
                yield scope.node, scope

    def settings(self) -> dict[str, Value]:
        """The module's constants that are one literal."""
        found = dict[str, Value]()
        for name in self.program.module.bound:
            node = self.constants.definition(name, self.program.module)
            value = read_value(node) if node is not None else None
            if value is not None:
                found[name] = value
        return found

    def with_setting(self, name: str, value: Value) -> Splice:
        """Gives a constant of `settings` another value; powers of two stay as they are spelt."""
        node = self.constants.definition(name, self.program.module)
        assert node is not None
        power = isinstance(node, ast.BinOp) and isinstance(value, int) and value > 0 and value & (value - 1) == 0
        start, end = self.source.span(node)
        return Splice(start, end, f"2**{value.bit_length() - 1}" if power and isinstance(value, int) else repr(value))

    def instead(self, node: ast.AST, code: str) -> Splice:
        """Puts other characters in the place of a node."""
        return Splice(*self.source.span(node), code)

    def repaired(self, cuts: Iterable[Splice], note: str) -> Repaired:
        return Repaired(splice(self.source.text, cuts), note)


def case(text: str, failure: Failure, prepare: str) -> Case:
    """Raises ParseError where the text is no program."""
    source = parse(text)
    return Case(source, failure, outline(source.tree), prepare)


def _on(node: ast.AST, line: int) -> bool:
    return getattr(node, "lineno", line + 1) <= line <= getattr(node, "end_lineno", 0)
