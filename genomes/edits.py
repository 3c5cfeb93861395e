"""Edits between two programs, as values: sets of literals, and replaced, inserted and deleted statements.

`apply(diff(a, b), a) == b`, exactly and always: what the tree cannot express is one edit of the whole program. An edit names its statement
by path in the tree of `a` and carries the old text, so that it refuses a program that it was not made for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from genomes.align import Keyed, align
from genomes.errors import EditError
from genomes.knobs import Spot, spots
from genomes.source import Splice, parse, splice
from genomes.units import Unit, units
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
    """One program while it is compared: its text and knobs."""

    text: str
    spots: tuple[Spot, ...]


def diff(a: str, b: str) -> tuple[Edit, ...]:
    """The edits that lead from a to b; empty for equal texts. Raises ParseError where either is not a program."""
    if a == b:
        return ()
    sides = _Side(a, spots(a)), _Side(b, spots(b))
    edits = tuple(_blocks(sides, (units(a), units(b)), (0, 0), (), ""))
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


def _blocks(
    sides: tuple[_Side, _Side],
    blocks: tuple[tuple[Unit, ...], tuple[Unit, ...]],
    offsets: tuple[int, int],
    path: tuple[int, ...],
    where: str,
) -> Iterator[Edit]:
    """Edits between two blocks whose first characters are at `offsets`."""
    old, new = blocks
    pairs = align(keyed(old), keyed(new))
    at_new, at = 0, list(offsets)
    for index in range(len(old) + 1):
        stop = len(new) if index == len(old) else pairs.get(index, at_new)
        for turn, unit in enumerate(new[at_new:stop]):
            yield Edit(INSERT, where, (*path, index), 0, "", unit.text, turn, old[index].text if index < len(old) else "")
            at[1] += len(unit.text)
        at_new = stop
        if index == len(old):
            return
        if index not in pairs:
            yield Edit(DELETE, where, (*path, index), 0, old[index].text, "")
        else:
            if old[index].text != new[stop].text:
                yield from _units(sides, (old[index], new[stop]), (at[0], at[1]), (*path, index), where)
            at[1] += len(new[stop].text)
            at_new += 1
        at[0] += len(old[index].text)


def _units(
    sides: tuple[_Side, _Side], pair: tuple[Unit, Unit], offsets: tuple[int, int], path: tuple[int, ...], where: str
) -> Iterator[Edit]:
    """Edits between two versions of one statement."""
    old, new = pair
    if old.kind != new.kind or len(old.clauses) != len(new.clauses):
        yield Edit(REPLACE, where, path, 0, old.text, new.text)
        return
    if old.lead != new.lead:
        yield Edit(REPLACE, where, path, 0, old.lead, new.lead)
    inner = old.inside(where)
    done = len(old.lead), len(new.lead)
    for number, (before, after) in enumerate(zip(old.clauses, new.clauses, strict=True)):
        starts = offsets[0] + done[0], offsets[1] + done[1]
        if before.head != after.head:
            yield from _heads(sides, (before.head, after.head), starts, Edit(REPLACE, inner, path, done[0], before.head, after.head))
        bodies = starts[0] + len(before.head), starts[1] + len(after.head)
        yield from _blocks(sides, (before.body, after.body), bodies, (*path, number), inner)
        done = done[0] + len(before.text), done[1] + len(after.text)


def _heads(sides: tuple[_Side, _Side], heads: tuple[str, str], starts: tuple[int, int], whole: Edit) -> Iterator[Edit]:
    """One edit per literal where nothing else changed, else the whole head."""
    found = [_spots_in(side, start, start + len(head)) for side, head, start in zip(sides, heads, starts, strict=True)]
    if len(found[0]) != len(found[1]) or _around(sides[0], found[0], starts[0], heads[0]) != _around(
        sides[1], found[1], starts[1], heads[1]
    ):
        yield whole
        return
    for old, new in zip(*found, strict=True):
        before, after = sides[0].text[old.start : old.end], sides[1].text[new.start : new.end]
        if before != after:
            yield Edit(SET, old.knob.name, whole.path, whole.at + old.start - starts[0], before, after)


def _spots_in(side: _Side, start: int, end: int) -> list[Spot]:
    return sorted((spot for spot in side.spots if start <= spot.start and spot.end <= end), key=lambda spot: spot.start)


def _around(side: _Side, found: list[Spot], start: int, head: str) -> list[str]:
    """The text between the literals."""
    edges = [start, *(edge for spot in found for edge in (spot.start, spot.end)), start + len(head)]
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
