"""Three-way merge of programs: what both parents changed since their common ancestor, united without a model.

Statements are matched by text, then by what they define; inside a statement the merge goes down to arguments and operands. So edits on
neighbouring lines, of different arguments of one call, and inside a function that the other side moved all unite. What truly clashes is
settled by a seeded side and listed with both versions; a result that does not parse is never returned.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from genomes.align import Stage, walk
from genomes.edits import keyed
from genomes.errors import ParseError
from genomes.source import parse
from genomes.trees import merge_statement
from genomes.units import Clause, Unit, units


@dataclass(frozen=True)
class Conflict:
    """A place that both sides changed differently; empty text means deleted."""

    where: str  # qualified name of the enclosing definition, "" at module level
    base: str
    a: str
    b: str
    taken: str  # "a" | "b"


@dataclass(frozen=True)
class Merge:
    """The merged program, and what had to be settled."""

    text: str
    conflicts: tuple[Conflict, ...]


def merge(base: str, a: str, b: str, rng: random.Random) -> Merge:
    """Unite the edits base → a and base → b. Raises ParseError where one of the three is no program."""
    for text in (base, a, b):
        parse(text)
    if a == b or b == base:
        return Merge(a, ())
    if a == base:
        return Merge(b, ())
    merger = _Merger(rng)
    text = merger.block(units(base), units(a), units(b), "")
    try:
        parse(text)
    except ParseError:  # both edits are legal alone and not together
        side = merger.settle("", base, a, b)
        return Merge(a if side == "a" else b, tuple(merger.conflicts[-1:]))
    return Merge(text, tuple(merger.conflicts))


@dataclass
class _Merger:
    """Carries the seeded choices and the conflicts found."""

    rng: random.Random
    conflicts: list[Conflict] = field(default_factory=list)

    def settle(self, where: str, base: str, a: str, b: str) -> str:
        taken = self.rng.choice("ab")
        self.conflicts.append(Conflict(where, base, a, b, taken))
        return taken

    def choose(self, where: str, base: str, a: str, b: str) -> str:
        """One of three versions of a text: the changed one, or a seeded side where both changed."""
        if a == b or b == base:
            return a
        if a == base:
            return b
        return a if self.settle(where, base, a, b) == "a" else b

    def block(self, base: tuple[Unit, ...], a: tuple[Unit, ...], b: tuple[Unit, ...], where: str) -> str:
        stages = walk(keyed(base), keyed(a), keyed(b))
        moved = self._moved(stages, where)
        pieces: list[str] = []
        for stage in stages:
            pieces += self._inserted(stage, moved, where)
            if stage.base is not None and id(stage.base) not in moved:
                pieces.append(self.unit(stage.base, stage.a, stage.b, where))
        return _join(pieces)

    def unit(self, base: Unit, a: Unit | None, b: Unit | None, where: str) -> str:
        """One statement of the base as both sides have it; None where a side deleted it."""
        texts = base.text, a.text if a else "", b.text if b else ""
        same_shape = a is not None and b is not None and base.kind == a.kind == b.kind
        if texts[1] in (texts[0], texts[2]) or texts[2] == texts[0] or not same_shape:
            return self.choose(where, *texts)
        assert a is not None
        assert b is not None
        if not len(base.clauses) == len(a.clauses) == len(b.clauses):
            return self.choose(where, *texts)
        inner = f"{where}.{base.label.split()[-1]}".lstrip(".") if base.is_definition else where
        pieces = [self.choose(where, base.lead, a.lead, b.lead)]
        for clauses in zip(base.clauses, a.clauses, b.clauses, strict=True):
            pieces += [self._head(clauses, inner), self.block(clauses[0].body, clauses[1].body, clauses[2].body, inner)]
        return _join(pieces)

    def _head(self, clauses: tuple[Clause, Clause, Clause], where: str) -> str:
        base, a, b = (clause.head for clause in clauses)
        if a == b or base in (a, b):
            return self.choose(where, base, a, b)
        merged = merge_statement(base, a, b, lambda *texts: self.settle(where, *texts))
        return self.choose(where, base, a, b) if merged is None else merged

    def _inserted(self, stage: Stage[Unit], moved: dict[int, str], where: str) -> list[str]:
        """What both sides put at one place: all of it, common statements once, a's first; one side where they define the same name."""
        left, right = list(stage.inserted_a), list(stage.inserted_b)
        texts = {unit.text for unit in left}
        right = [unit for unit in right if unit.text not in texts]
        for mine in list(left):
            clash = next((unit for unit in right if unit.label == mine.label and _binds(unit) and id(unit) not in moved), None)
            if clash is None or id(mine) in moved:
                continue
            if self.settle(where, "", mine.text, clash.text) == "a":
                right.remove(clash)
            else:
                left.remove(mine)
        return [moved.get(id(unit), unit.text) for unit in [*left, *right]]

    def _moved(self, stages: list[Stage[Unit]], where: str) -> dict[int, str]:
        """Definitions that a side moved: id of the unit at its new place → merged text; the other places get none."""
        homes: dict[int, str] = {}
        new_a = _definitions(unit for stage in stages for unit in stage.inserted_a)
        new_b = _definitions(unit for stage in stages for unit in stage.inserted_b)
        for stage in stages:
            old = stage.base
            if old is None or not old.is_definition:
                continue
            in_a, in_b = stage.a or new_a.get(old.label), stage.b or new_b.get(old.label)
            if (stage.a is None and in_a is not None) or (stage.b is None and in_b is not None):
                text = self.unit(old, in_a, in_b, where)
                home = in_a if stage.a is None and in_a is not None else in_b
                for unit in (old, in_a, in_b):
                    if unit is not None:
                        homes[id(unit)] = text if unit is home else ""
        return homes


def _definitions(found: Iterable[Unit]) -> dict[str, Unit]:
    return {unit.label: unit for unit in found if unit.is_definition}


def _binds(unit: Unit) -> bool:
    """Does the statement give its label a value, so that two of them at one place exclude each other?"""
    return unit.is_definition or unit.kind in ("Assign", "AnnAssign")


def _join(pieces: list[str]) -> str:
    """Concatenate; a piece that was the end of its file without a newline gets one where something follows."""
    filled = [piece for piece in pieces if piece]
    ended = [piece if piece.endswith(("\n", "\r")) or last == len(filled) else piece + "\n" for last, piece in enumerate(filled, start=1)]
    return "".join(ended)
