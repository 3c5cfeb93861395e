"""Edits between two programs, as values: sets of literals, and replaced, inserted and deleted statements.

`apply(diff(a, b), a) == b`, exactly and always: what the tree cannot express is one edit of the whole program. An edit names its statement
by path in the tree of `a` and carries the old text, so that it refuses a program that it was not made for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from genomes.align import Keyed, align
from genomes.errors import EditError
from genomes.knobs import Spot, in_order, within
from genomes.source import Splice, parse, splice
from genomes.units import Placed, Unit, placed, units
from genomes.wording import changed, named, says_the_same, shown

SET, REPLACE, INSERT, DELETE, PROGRAM = "set", "replace", "insert", "delete", "program"
_DESCRIBED = 4  # edits in a description


@dataclass(frozen=True)
class Edit:
    """One change. In the unit at `path` of the old program, `at` characters in, `old` becomes `new`."""

    kind: str  # "set" a literal | "replace" | "insert" | "delete" a statement or head | "program"
    where: str  # a knob's name, or the qualified name of the enclosing definition, for people
    path: tuple[int, ...]  # unit, clause, unit, clause, … unit; one past the last unit: the end of its block
    at: int
    old: str
    new: str
    turn: int = 0  # order among those that insert at one place
    before: str = ""  # for people: the text that an insertion stands before

    def __str__(self) -> str:
        if self.kind == SET:
            return f"{self.where} {shown(' '.join(self.old.split()))} → {shown(' '.join(self.new.split()))}"  # a minus may end a line
        place = f"{self.where}: " if self.where else ""
        if self.kind == PROGRAM:
            return f"whole program, {len(self.old.splitlines())} → {len(self.new.splitlines())} lines"
        sign = {INSERT: f"+ {shown(self.new)}", DELETE: f"− {shown(self.old)}"}
        return place + (sign.get(self.kind) or changed(self.old, self.new))


@dataclass(frozen=True)
class _Side:
    """One program while it is compared: its text, and its knobs in the order of the text."""

    text: str
    spots: tuple[Spot, ...]


def diff(a: str, b: str) -> tuple[Edit, ...]:
    """The edits that lead from a to b; empty for equal texts. Raises ParseError where either is not a program."""
    if a == b:
        return ()
    sides = _Side(a, in_order(a)), _Side(b, in_order(b))
    edits = tuple(_blocks(sides, placed(units(a)), placed(units(b)), (), ""))
    if splice(a, [_cut(a, edit) for edit in edits]) == b:
        return edits
    return (Edit(PROGRAM, "", (), 0, a, b),)


def apply(edits: Iterable[Edit], a: str) -> str:
    """All edits at once, in whatever order they come. Raises EditError where one does not fit; the message has the nearest lines."""
    ordered = sorted(edits, key=lambda edit: (edit.path, edit.kind != INSERT, edit.at, edit.turn))
    return splice(a, [_cut(a, edit) for edit in ordered])


def describe(edits: Iterable[Edit]) -> str:
    """One line for people: "MATRIX_LR 0.04 → 0.05; Block.forward: + x = norm(x); class MLP moved before class Block".

    Comments and docstrings are mentioned only where nothing else changed.
    """
    every = tuple(edits)
    lines = _lines(tuple(edit for edit in every if edit.kind in (SET, PROGRAM) or not says_the_same(edit.old, edit.new)) or every)
    rest = [f"and {len(lines) - _DESCRIBED} more"] if len(lines) > _DESCRIBED else []
    return "; ".join([*lines[:_DESCRIBED], *rest]) or "no change"


def _lines(edits: tuple[Edit, ...]) -> list[str]:
    """One line per edit; what is deleted here and inserted there has moved."""
    deleted = {edit.old.strip(): edit for edit in edits if edit.kind == DELETE}
    moved = {edit.new.strip(): edit for edit in edits if edit.kind == INSERT and edit.new.strip() in deleted}
    lines = []
    for edit in edits:
        if edit.kind == INSERT and moved.get(edit.new.strip()) is edit:
            place = f"{edit.where}: " if edit.where else ""
            lines.append(f"{place}{named(edit.new)} moved " + (f"before {named(edit.before)}" if edit.before else "to the end"))
        elif edit.kind != DELETE or edit.old.strip() not in moved or deleted[edit.old.strip()] is not edit:
            lines.append(str(edit))
    return lines


def keyed(block: Iterable[Unit]) -> list[Keyed[Unit]]:
    """Units in the form that `align` takes."""
    return [Keyed(unit, unit.text, unit.label) for unit in block]


def _blocks(sides: tuple[_Side, _Side], old: list[Placed], new: list[Placed], path: tuple[int, ...], where: str) -> Iterator[Edit]:
    """Edits between two blocks."""
    pairs = align(keyed(one.unit for one in old), keyed(one.unit for one in new))
    at_new = 0
    for index in range(len(old) + 1):
        before = old[index].unit.text if index < len(old) else ""
        stop = len(new) if index == len(old) else pairs.get(index, at_new)
        for turn, inserted in enumerate(new[at_new:stop]):
            yield Edit(INSERT, where, (*path, index), 0, "", inserted.unit.text, turn, before)
        at_new = stop
        if index in pairs:
            if before != new[stop].unit.text:
                yield from _units(sides, old[index], new[stop], (*path, index), where)
            at_new += 1
        elif index < len(old):
            yield Edit(DELETE, where, (*path, index), 0, before, "")


def _units(sides: tuple[_Side, _Side], a: Placed, b: Placed, path: tuple[int, ...], where: str) -> Iterator[Edit]:
    """Edits between two versions of one statement."""
    old, new = a.unit, b.unit
    if old.kind != new.kind or len(old.clauses) != len(new.clauses):
        yield Edit(REPLACE, where, path, 0, old.text, new.text)
        return
    if old.lead != new.lead:
        yield Edit(REPLACE, where, path, 0, old.lead, new.lead)
    inner = old.inside(where)
    for number, ((before, at, inside), (after, at_new, inside_new)) in enumerate(zip(a.clauses(), b.clauses(), strict=True)):
        if before != after:
            yield from _heads(sides, (at, at_new), Edit(REPLACE, inner, path, at - a.start, before, after))
        yield from _blocks(sides, inside, inside_new, (*path, number), inner)


def _heads(sides: tuple[_Side, _Side], starts: tuple[int, int], whole: Edit) -> Iterator[Edit]:
    """One edit per literal where nothing else changed, else the whole head."""
    spans = [(start, start + len(head)) for start, head in zip(starts, (whole.old, whole.new), strict=True)]
    found = [within(side.spots, span) for side, span in zip(sides, spans, strict=True)]
    around = [_around(*each) for each in zip(sides, found, spans, strict=True)]
    if around[0] != around[1]:
        yield whole
        return
    for old, new in zip(*found, strict=True):
        before, after = sides[0].text[old.start : old.end], sides[1].text[new.start : new.end]
        if before != after:
            yield Edit(SET, old.knob.name, whole.path, whole.at + old.start - starts[0], before, after)


def _around(side: _Side, found: Sequence[Spot], span: tuple[int, int]) -> list[str]:
    """The text between the literals."""
    edges = [span[0], *(edge for spot in found for edge in (spot.start, spot.end)), span[1]]
    return [side.text[i:j] for i, j in zip(edges[::2], edges[1::2], strict=True)]


def _cut(text: str, edit: Edit) -> Splice:
    """Where an edit lands, in characters."""
    start = (_offset(text, edit) if edit.path else 0) + edit.at
    end = start + len(edit.old)
    if text[start:end] != edit.old or (edit.kind == PROGRAM and text != edit.old):
        raise EditError(
            f"{edit.where or 'program'}: expected {shown(edit.old)!r}, found {shown(text[start:end])!r}; {_nearest(edit, text)}"
        )
    return Splice(start, end, edit.new)


def _offset(text: str, edit: Edit) -> int:
    block, offset, path = units(text), 0, list(edit.path)
    while True:
        index = path.pop(0)
        if index > len(block) or (path and index == len(block)):
            raise EditError(f"{edit.where or 'program'}: no statement {index + 1} in a block of {len(block)}; {_nearest(edit, text)}")
        offset += sum(len(unit.text) for unit in block[:index])
        if not path:
            return offset
        clauses, number = block[index].clauses, path.pop(0)
        if number >= len(clauses):
            raise EditError(f"{edit.where or 'program'}: no clause {number + 1} of {len(clauses)}; {_nearest(edit, text)}")
        offset += len(block[index].lead) + sum(len(clause.text) for clause in clauses[:number]) + len(clauses[number].head)
        block = clauses[number].body


def _nearest(edit: Edit, text: str) -> str:
    """The lines of the text that resemble the first line of the edit."""
    wanted = next((line.strip() for line in (edit.old or edit.new).splitlines() if line.strip()), "")
    lines = {line.strip(): number for number, line in reversed(list(enumerate(parse(text).lines, start=1))) if line.strip()}
    close = difflib.get_close_matches(wanted, lines, n=2, cutoff=0.4)
    return "nearest: " + ", ".join(f"line {lines[line]} {line!r}" for line in close) if close else "nothing is near"
