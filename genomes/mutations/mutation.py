"""What a mutation is, and what it sees of a program."""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

from genomes.knobs import Spot, spots
from genomes.source import Source, Splice, parse, splice

T = TypeVar("T")
LITERAL, STRUCTURAL = "literal", "structural"
_CACHED_PROGRAMS = 8
_NO_PLACES = (ast.Constant, ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)


@dataclass(frozen=True, eq=False)
class Place:
    """A node inside a function, with what surrounds it."""

    node: ast.AST
    parent: ast.AST
    statement: ast.stmt  # the innermost around the node, or the node itself
    block: list[ast.stmt]  # the statement's block
    function: ast.FunctionDef
    name: str  # the function's qualified name


@dataclass(frozen=True, eq=False)
class Program:
    """A parent, parsed once. The tree is shared by all its mutations: read it only. What a mutation does not ask for is not looked for."""

    source: Source

    @cached_property
    def spots(self) -> tuple[Spot, ...]:
        return spots(self.text)

    @cached_property
    def tunable(self) -> tuple[Spot, ...]:
        return tuple(spot for spot in self.spots if spot.knob.tunable)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every expression and statement inside a function that may be changed. At module level a script times, prints and scores itself:
        what may be changed there, anatomy.py finds by its part."""
        return tuple(_module_places(self.source.tree, ""))

    @property
    def text(self) -> str:
        return self.source.text

    @property
    def tree(self) -> ast.Module:
        return self.source.tree


@dataclass(frozen=True)
class Rewrite:
    """A changed text and one line for people about what changed."""

    text: str
    note: str


@dataclass(frozen=True)
class Mutation:
    """One entry of the catalogue.

    `apply` finds where the pattern occurs, picks one place by `rng`, and returns the changed text; None where it does not occur.
    """

    name: str
    summary: str
    source: str  # paper, repository or pull request
    kind: str  # "literal" | "structural"
    weight: float  # how often it is drawn among its kind
    apply: Callable[[Program, random.Random], Rewrite | None]


@lru_cache(maxsize=_CACHED_PROGRAMS)
def program(text: str) -> Program:
    """The parent as mutations see it; raises ParseError."""
    return Program(parse(text))


def _module_places(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[Place]:
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _module_places(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef):
            yield from _block_places(child.body, child, f"{prefix}{child.name}")


def _block_places(block: list[ast.stmt], function: ast.FunctionDef, name: str) -> Iterator[Place]:
    for statement in block:
        if isinstance(statement, ast.FunctionDef):
            yield from _block_places(statement.body, statement, f"{name}.{statement.name}")
        else:
            yield Place(statement, function, statement, block, function, name)
            yield from _inner_places(statement, Place(statement, function, statement, block, function, name))


def _inner_places(node: ast.AST, around: Place) -> Iterator[Place]:
    """Expressions of a statement, outermost first, then the blocks below it."""
    for field, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        if field in ("body", "orelse", "finalbody") and isinstance(value, list):
            yield from _block_places(value, around.function, around.name)
            continue
        for child in children:
            if isinstance(child, ast.AST) and not isinstance(child, _NO_PLACES):
                if isinstance(child, ast.expr) and not isinstance(child, ast.JoinedStr):
                    yield Place(child, node, around.statement, around.block, around.function, around.name)
                if not isinstance(child, ast.Name):
                    yield from _inner_places(child, around)


def pick(items: Iterable[T], rng: random.Random) -> T | None:
    """One of the items, or None if there are none."""
    pool = list(items)
    return pool[rng.randrange(len(pool))] if pool else None


def weighted(items: Sequence[T], weights: Sequence[float], rng: random.Random) -> T | None:
    """One of the items, in proportion to its weight, or None if there are none."""
    return rng.choices(items, weights)[0] if items and sum(weights) > 0 else None


def rewrite(parent: Program, cuts: Iterable[Splice], note: str) -> Rewrite:
    """Apply the cuts to the parent's text."""
    return Rewrite(splice(parent.text, cuts), note)


def significant(value: float, digits: int) -> float:
    """Rounded to significant digits, so that programs stay readable: 0.0431 rather than 0.04312887."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else value
