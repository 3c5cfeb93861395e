"""How different two programs are, in [0, 1]: the share of small tree shapes that they do not have in common.

    distance = |P △ Q| / (|P| + |Q|)      P, Q: multisets of pq-grams (Augsten, Böhlen and Gamper, VLDB 2005), p = 3, q = 2

A gram is a node with its parent and grandparent and two neighbouring children. A literal or name is a leaf of its own, so that a changed
number touches a handful of grams and a new statement some dozens. Grams are counted by piece, a statement of the module or of a class's
body: pieces of one label (`def forward` of `class GPT`) are compared with each other, all that are left over on one side with all on the
other. Most pieces of a child are its parent's and cost nothing. Comments, layout and spelling count as little as for identity.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from genomes.canonical import SKIPPED, identity
from genomes.literals import is_bare, read_value
from genomes.nodes import Definition, last_name, targets_of
from genomes.source import parse, parse_tree
from genomes.units import blocks

_CACHED_BLOCKS = 4096
_CACHED_PROFILES = 2048
_NONE = 0  # beyond the first and the last child
_Grams = frozenset[tuple[int, int]]  # gram, and which of its occurrences in the piece


@dataclass(frozen=True, eq=False)
class Profile:
    """What is compared of a program: its identity, and the grams of its pieces by label."""

    genome: str
    pieces: Mapping[str, tuple[_Grams, ...]]
    size: int  # grams

    def distance(self, other: Profile) -> float:
        """The `distance` of the two programs. Use this to compare one with a thousand."""
        if self.genome == other.genome:
            return 0.0
        apart, mine, theirs = 0, list[_Grams](), list[_Grams]()
        for label in self.pieces.keys() | other.pieces.keys():
            a, b = self.pieces.get(label, ()), other.pieces.get(label, ())
            if a == b:
                continue
            apart += sum(len(x ^ y) for x, y in zip(a, b, strict=False))
            mine += a[len(b) :]
            theirs += b[len(a) :]
        apart += _apart(mine, theirs)
        # Different programs can have equal grams, if only order differs: these are the least apart that there is.
        return max(apart, 1) / max(self.size + other.size, 1)


def distance(a: str, b: str) -> float:
    """0 for equal genomes and for no others, 1 for nothing in common; symmetric. Raises ParseError."""
    return profile(a).distance(profile(b))


@lru_cache(maxsize=_CACHED_PROFILES)
def profile(text: str) -> Profile:
    """A program, ready to be compared. Raises ParseError."""
    found: dict[str, tuple[_Grams, ...]] = {}
    for code in blocks(parse(text)):
        for label, grams in _pieces(code):
            found[label] = (*found.get(label, ()), grams)
    return Profile(identity(text), found, sum(len(grams) for same in found.values() for grams in same))


def _apart(mine: Iterable[_Grams], theirs: Iterable[_Grams]) -> int:
    """Grams not in common to pieces without a namesake, such as a renamed function's, whichever piece they are in."""
    counts = Counter(gram for grams in mine for gram, _ in grams)
    counts.subtract(gram for grams in theirs for gram, _ in grams)
    return sum(map(abs, counts.values()))


@lru_cache(maxsize=_CACHED_BLOCKS)
def _pieces(code: str) -> tuple[tuple[str, _Grams], ...]:
    """Label and grams of the statements of one top-level block; those of a class's body apart."""
    found = []
    for node in parse_tree(code).body:
        if not is_bare(node):
            label = _label(node)
            found.append((label, _grams(node, "Module", "Module")))
            body = node.body if isinstance(node, ast.ClassDef) else []
            found += [(f"{label}.{_label(inner)}", _grams(inner, "Module", label)) for inner in body if not is_bare(inner)]
    return tuple(found)


def _label(node: ast.stmt) -> str:
    if isinstance(node, Definition):
        return node.name
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return last_name(targets_of(node)[0])
    return type(node).__name__


def _grams(top: ast.stmt, grandparent: str, parent: str) -> _Grams:
    """Hashes of the grams, each with its number among its equals. Python salts string hashes per process; these stay in theirs."""
    seen: Counter[int] = Counter()
    stack: list[tuple[ast.AST, int, int]] = [(top, hash(grandparent), hash(parent))]
    found = []
    while stack:
        node, above, around = stack.pop()
        label, before = hash(type(node).__name__), _NONE
        for child in (*_children(node), _NONE):
            if isinstance(child, ast.AST):
                if not (node is top and isinstance(top, ast.ClassDef) and isinstance(child, ast.stmt)):
                    stack.append((child, around, label))
                child = hash(type(child).__name__)
            gram = hash((above, around, label, before, child))
            found.append((gram, seen[gram]))
            seen[gram] += 1
            before = child
    return frozenset(found)


def _children(node: ast.AST) -> Iterator[ast.AST | int]:
    """Nodes below, and hashes of what is not a node: names, literals."""
    for field in node._fields:
        value = getattr(node, field, None)
        if field in SKIPPED or value is None or value == []:
            continue
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, ast.AST):
                yield hash((field, repr(item)))
            elif (literal := read_value(item)) is not None:
                yield hash((type(literal).__name__, literal))
            elif not is_bare(item):
                yield item
