"""Which knobs of two programs are the same knob: by place in the tree, not by name.

Statements correspond as the diff pairs them; beyond it, definitions that were moved or renamed are found by label, then by likeness. Inside
a pair of statements the words around a literal decide, so that renamed variables, a new layout, and an expression that was wrapped in
another one leave the rest matched. A literal whose place was rewritten is left out rather than guessed. What has the same tree in another
layout has the same knobs, one by one.
"""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from genomes.align import align
from genomes.canonical import identity
from genomes.edits import keyed
from genomes.errors import ParseError
from genomes.knobs import Spot, in_order, spots, within
from genomes.units import Placed, Unit, placed, units

_LIKE = 0.6  # share of common words above which one definition may be another, renamed
_TOKEN = re.compile(r"\w+|[^\w\s]")  # splits fragments, which Python's tokenizer would refuse
_COMMENT = re.compile(r"#[^\n]*")
_LITERAL, _NAME = "a literal", "a name"


@dataclass(frozen=True)
class _Word:
    """A token; a knob is one, whatever its value. `loose` is the same for all names, which may be renamed."""

    text: str
    loose: str
    spot: Spot | None = None


def match(a: str, b: str) -> dict[str, str]:
    """Name of a knob of `a` → its name in `b`, one to one; `match(b, a)` is the inverse. Raises ParseError."""
    if a > b:  # alignment has a direction: one of the two is taken, so that the other is its inverse
        return {name: other for other, name in match(b, a).items()}
    if identity(a) == identity(b):
        return {old.knob.name: new.knob.name for old, new in zip(spots(a), spots(b), strict=True)}
    matcher = _Matcher((in_order(a), in_order(b)))
    matcher.block(placed(units(a)), placed(units(b)))
    matcher.rest()
    return matcher.found


class _Matcher:
    """Walks both trees at once. What finds no partner in its block waits until all blocks are done."""

    def __init__(self, found: tuple[tuple[Spot, ...], tuple[Spot, ...]]) -> None:
        self._spots = found
        self._left: tuple[list[Placed], list[Placed]] = ([], [])
        self.found: dict[str, str] = {}

    def block(self, a: Sequence[Placed], b: Sequence[Placed]) -> None:
        """Pairs the units of two blocks that correspond."""
        pairs = align(keyed(one.unit for one in a), keyed(one.unit for one in b))
        taken = set(pairs.values())
        for index, other in pairs.items():
            self._pair(a[index], b[other])
        self._left[0].extend(one for index, one in enumerate(a) if index not in pairs)
        self._left[1].extend(one for index, one in enumerate(b) if index not in taken)

    def rest(self) -> None:
        """Pairs what waits: moved statements by text or, if they define something, by name; renamed definitions by most of their words."""
        for key in (lambda unit: unit.text.strip(), lambda unit: unit.label if unit.is_definition else ""):
            for a, b in self._unique(key):
                self._pair(a, b)
        for a in [one for one in self._left[0] if one.unit.is_definition]:
            likeness = [(_likeness(a.unit, b.unit), -index, b) for index, b in enumerate(self._left[1]) if b.unit.kind == a.unit.kind]
            best = max(likeness, default=None)
            if best is not None and best[0] >= _LIKE:
                self._left[0].remove(a)
                self._left[1].remove(best[2])
                self._pair(a, best[2])

    def _unique(self, key: Callable[[Unit], str]) -> list[tuple[Placed, Placed]]:
        """Pairs of waiting units whose key occurs once on each side; they wait no longer."""
        sides = []
        for waiting in self._left:
            by_key: dict[str, list[Placed]] = {}
            for one in waiting:
                by_key.setdefault(key(one.unit), []).append(one)
            sides.append({name: same[0] for name, same in by_key.items() if name and len(same) == 1})
        pairs = [(sides[0][name], sides[1][name]) for name in sides[0] if name in sides[1]]
        for a, b in pairs:
            self._left[0].remove(a)
            self._left[1].remove(b)
        return pairs

    def _pair(self, a: Placed, b: Placed) -> None:
        """Matches two versions of one statement: its heads, then the blocks below them."""
        if a.unit.text != b.unit.text and _same_tree(a.unit, b.unit):
            self._found(zip(within(self._spots[0], a.span), within(self._spots[1], b.span), strict=True))
            return
        if a.unit.kind != b.unit.kind or len(a.unit.clauses) != len(b.unit.clauses):
            self._heads((a.unit.text, b.unit.text), (a.start, b.start))
            return
        for (old, at, inside), (new, at_new, inside_new) in zip(a.clauses(), b.clauses(), strict=True):
            self._heads((old, new), (at, at_new))
            self.block(inside, inside_new)

    def _heads(self, texts: tuple[str, str], starts: tuple[int, int]) -> None:
        """Matches the literals of two pieces of text that correspond."""
        left, right = (within(s, (at, at + len(text))) for s, text, at in zip(self._spots, texts, starts, strict=True))
        if texts[0] == texts[1]:
            pairs: Iterable[tuple[Spot, Spot]] = zip(left, right, strict=True)
        else:
            pairs = _aligned(_words(texts[0], starts[0], left), _words(texts[1], starts[1], right)) if left and right else []
        self._found(pairs)

    def _found(self, pairs: Iterable[tuple[Spot, Spot]]) -> None:
        self.found.update((old.knob.name, new.knob.name) for old, new in pairs)


def _same_tree(a: Unit, b: Unit) -> bool:
    """Are they one statement in two layouts?"""
    try:
        return identity(_alone(a)) == identity(_alone(b))
    except ParseError:
        return False


def _alone(unit: Unit) -> str:
    """A program of one statement; an indented one is a body."""
    return f"if 1:\n{unit.text}" if any(clause.head[:1] in (" ", "\t") for clause in unit.clauses) else unit.text


def _aligned(a: Sequence[_Word], b: Sequence[_Word]) -> Iterable[tuple[Spot, Spot]]:
    """Literals among equal words, if there is a name among those; where only names differ, all of them."""
    if [word.loose for word in a] == [word.loose for word in b]:
        yield from ((x.spot, y.spot) for x, y in zip(a, b, strict=True) if x.spot and y.spot)
        return
    texts = [word.text for word in a], [word.text for word in b]
    for i, j, size in difflib.SequenceMatcher(None, *texts, autojunk=False).get_matching_blocks():
        if any(word.spot is None and word.text.isidentifier() for word in a[i : i + size]):  # brackets and commas tell nothing apart
            pairs = zip(a[i : i + size], b[j : j + size], strict=True)
            yield from ((x.spot, y.spot) for x, y in pairs if x.spot and y.spot)


def _words(text: str, start: int, found: Sequence[Spot]) -> list[_Word]:
    """The tokens of a piece of a program; each knob is one word, whatever its value."""
    words, position = list[_Word](), start
    for spot in found:
        words += _tokens(text[position - start : spot.start - start])
        words.append(_Word(_LITERAL, _LITERAL, spot))
        position = spot.end
    return words + _tokens(text[position - start :])


def _tokens(text: str) -> list[_Word]:
    """The tokens of a fragment, which need not be whole: brackets may stay open. Both kinds of quotes are the same."""
    found = _TOKEN.findall(_COMMENT.sub("", text).replace("'", '"'))
    return [_Word(word, _NAME if word.isidentifier() and not keyword.iskeyword(word) else word) for word in found]


def _likeness(a: Unit, b: Unit) -> float:
    """Share of words, in order, that two definitions have in common."""
    return difflib.SequenceMatcher(None, _TOKEN.findall(a.text), _TOKEN.findall(b.text), autojunk=False).ratio()
