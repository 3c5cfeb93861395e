"""How a script keeps its budget of time, read off its text: what its training loop ends by, and where in the loop the time is taken.

A script is its own clock. Steps that are not counted, or work behind the back of the clock, make any number better.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from genomes.mutations.anatomy import steps, training_loop
from genomes.mutations.draft import MisfitError
from genomes.mutations.mutation import Program
from genomes.nodes import is_call, names_in, stored_in, walk
from genomes.source import parse_expression


@dataclass(frozen=True, eq=False)
class _Line:
    """A statement without others inside, and the conditions that it is under."""

    statement: ast.stmt
    tests: tuple[str, ...]

    @property
    def names(self) -> set[str]:
        return names_in(self.statement).union(*(names_in(parse_expression(test)) for test in self.tests))


def clock(parent: Program) -> Iterator[str]:
    """What ends the training loop and what that follows from, a line each: whether it stands before the loop's work, after it or amidst
    it, and under which conditions. Nothing where no training loop is found."""
    try:
        loop = training_loop(parent).loop
    except MisfitError:
        return
    lines = list(_lines(loop.body, ()))
    ends = [line for line in lines if isinstance(line.statement, ast.Break)]
    header = loop.test if isinstance(loop, ast.While) else loop.iter
    behind = _behind(lines, names_in(header).union(*(line.names for line in ends)))
    work = [node.lineno for node in walk(loop) if isinstance(node, ast.stmt) and steps(node)]
    passes = [line for line in lines if is_call(getattr(line.statement, "value", None), "backward")]
    losses = set[str]().union(*(names_in(line.statement) for line in passes))
    work += [line.statement.lineno for line in lines if line in passes or (_assigns(line.statement) and stored_in(line.statement) & losses)]
    outside = sum(is_call(node, "backward") for node in walk(parent.tree)) - sum(is_call(node, "backward") for node in walk(loop))
    yield f"the loop over {ast.unparse(header)}, {outside} backward passes elsewhere"
    for line in sorted([*behind, *ends], key=lambda line: line.statement.lineno):
        place = "before" if line.statement.lineno < min(work) else "after" if line.statement.lineno > max(work) else "amidst"
        yield " ".join((ast.unparse(line.statement), *(f"if {test}" for test in line.tests), f"{place} the work"))


def _behind(lines: list[_Line], wanted: set[str]) -> list[_Line]:
    """The assignments that names follow from, over as many others as it takes."""
    found: list[_Line] = []
    while True:
        more = [line for line in lines if line not in found and _assigns(line.statement) and stored_in(line.statement) & wanted]
        if not more:
            return found
        found += more
        wanted = wanted.union(*(line.names for line in more))


def _assigns(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign)


def _lines(block: list[ast.stmt], tests: tuple[str, ...]) -> Iterator[_Line]:
    for statement in block:
        if not hasattr(statement, "body"):
            yield _Line(statement, tests)
        elif isinstance(statement, ast.If):
            test = ast.unparse(statement.test)
            yield from _lines(statement.body, (*tests, test))
            yield from _lines(statement.orelse, (*tests, f"not ({test})"))
        elif isinstance(statement, ast.For | ast.While | ast.With | ast.Try):
            for part in ("body", "orelse", "finalbody"):
                yield from _lines(getattr(statement, part, []), tests)
