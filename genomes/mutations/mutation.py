"""What a mutation is, and what it sees of a program."""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from genomes.knobs import Spot, spots
from genomes.source import Source, Splice, parse, splice

T = TypeVar("T")
LITERAL, STRUCTURAL = "literal", "structural"


@dataclass(frozen=True, eq=False)
class Program:
    """A parent, parsed once. The tree is shared by all its mutations: read it only."""

    source: Source
    spots: tuple[Spot, ...]

    @property
    def text(self) -> str:
        return self.source.text

    @property
    def tree(self) -> ast.Module:
        return self.source.tree

    def tunable(self) -> tuple[Spot, ...]:
        return tuple(spot for spot in self.spots if spot.knob.tunable)


@dataclass(frozen=True)
class Rewrite:
    """A changed text and one line for people about what changed."""

    text: str
    note: str


Apply = Callable[[Program, random.Random], Rewrite | None]


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
    apply: Apply


def program(text: str) -> Program:
    """The parent as mutations see it; raises ParseError."""
    return Program(parse(text), spots(text))


def pick(items: Iterable[T], rng: random.Random) -> T | None:
    """One of them, or None of none."""
    pool = list(items)
    return pool[rng.randrange(len(pool))] if pool else None


def weighted(items: Sequence[T], weights: Sequence[float], rng: random.Random) -> T | None:
    """One of them in proportion to its weight, or None of none."""
    return rng.choices(items, weights)[0] if items and sum(weights) > 0 else None


def rewrite(parent: Program, cuts: Iterable[Splice], note: str) -> Rewrite:
    """Apply the cuts to the parent's text."""
    return Rewrite(splice(parent.text, cuts), note)


def significant(value: float, digits: int) -> float:
    """Rounded to significant digits, so that programs stay readable: 0.0431 rather than 0.04312887."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else value


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function with its qualified name, outermost first."""
    stack: list[tuple[str, ast.AST]] = [("", tree)]
    while stack:
        prefix, node = stack.pop(0)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                stack.append((f"{prefix}{child.name}.", child))
            elif isinstance(child, ast.FunctionDef):
                yield f"{prefix}{child.name}", child
                stack.append((f"{prefix}{child.name}.", child))
