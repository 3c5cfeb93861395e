"""Loose ends: what one side needs and the other took away. Each edit is sound alone, and together they are no program.

A name, an attribute or an argument that is missing in the united text and in neither side's is found by the static checks, and blamed on
the changes that mention it.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from genomes.checks.calls import attribute_problems, call_problems
from genomes.checks.classes import Classes
from genomes.checks.outline import outline
from genomes.checks.problem import Problem
from genomes.checks.scopes import name_problems
from genomes.errors import ParseError
from genomes.merging.ledger import Hunk
from genomes.source import parse, symbols

_QUOTED = re.compile(r"'([A-Za-z_]\w*)'|(\w+)\(")  # names in a message: 'name' and function()
_ADVICE = re.compile(r"[:;] ")  # what follows in a message is advice, and depends on all of the program
_WORD = re.compile(r"[A-Za-z_]\w*")


def loose_end(text: str, a: str, b: str) -> str | None:
    """The first mistake that the united text has and neither side has, as a message; None where there is none."""
    found = [*_mistakes(text), *_lost(text, a, b)]
    if not found:
        return None
    known = {*_mistakes(a), *_mistakes(b)}
    return next((message for message in found if message not in known), None)


def _lost(text: str, a: str, b: str) -> list[str]:
    """Messages on attributes, of whatever object, that are read and no longer set, though each side that reads them sets them."""
    (sets, reads), *sides = (_attributes(one) for one in (text, a, b))
    gone = {name for side in sides for name in side[0]} - sets
    return [
        f"attribute '{name}' is not set any more"
        for name in sorted(gone & reads)
        if all(name in had or name not in used for had, used in sides)
    ]


def blamed(message: str, hunks: list[Hunk], side: str) -> tuple[Hunk, ...]:
    """Changes of one side after which something that the message names stands more or less often than before."""
    names = {name for pair in _QUOTED.findall(message) for name in pair if name}
    return tuple(hunk for hunk in hunks if hunk.side == side and any(_count(hunk.old)[name] != _count(hunk.new)[name] for name in names))


def _count(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text))


@lru_cache(maxsize=64)
def _mistakes(text: str) -> tuple[str, ...]:
    try:
        found = list(_problems(text))
    except ParseError as error:
        return (str(error),)
    return tuple(dict.fromkeys(_ADVICE.split(problem.message, maxsplit=1)[0] for problem in sorted(found, key=lambda one: one.line)))


@lru_cache(maxsize=64)
def _attributes(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Names that are set as attributes, and that are read as such."""
    try:
        found = outline(parse(text).tree).attributes
    except ParseError:
        return frozenset(), frozenset()
    reads = frozenset(node.attr for node, _ in found if isinstance(node.ctx, ast.Load))
    return frozenset(node.attr for node, _ in found if not isinstance(node.ctx, ast.Load)), reads


def _problems(text: str) -> Iterator[Problem]:
    table, program = symbols(text), outline(parse(text).tree)
    classes = Classes(program)
    yield from name_problems(table, program)
    yield from call_problems(program, classes, "")
    yield from attribute_problems(program, classes, "")
