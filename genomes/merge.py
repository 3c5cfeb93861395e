"""Three-way merge of programs: what both parents changed since their common ancestor, united without a model.

Statements are matched by text, then by what they define; inside a statement the merge goes down to arguments and operands. So edits on
neighbouring lines, of different arguments of one call, and inside a function that the other side moved all unite. What truly clashes is
settled by whoever is asked, and listed with both versions; a result that does not parse is never returned.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from genomes.merging.ledger import Clash, Conflict, Hunk, Ledger, Settle
from genomes.merging.loose import blamed, loose_end
from genomes.merging.statements import merge_blocks
from genomes.source import parse
from genomes.units import units

_OTHER = {"a": "b", "b": "a"}
_ROUNDS = 6  # loose ends of one merge; each costs two weavings


@dataclass(frozen=True)
class Merge:
    """The merged program, and what had to be settled."""

    text: str
    conflicts: tuple[Conflict, ...]


def seeded(rng: random.Random) -> Settle:
    """Settles at random."""
    return lambda _: rng.choice("ab")


def prefer(side: str) -> Settle:
    """Settles for one side, "a" or "b", always."""
    if side not in _OTHER:
        raise ValueError(f"a side is 'a' or 'b', not {side!r}")
    return lambda _: side


def merge(base: str, a: str, b: str, settle: Settle) -> Merge:
    """Unite the edits base → a and base → b. Without a conflict, the text is the same whichever side comes first.

    Raises:
        ParseError: one of the three is no program.
    """
    for text in (base, a, b):
        parse(text)
    if a == b or b == base:
        return Merge(a, ())
    if a == base:
        return Merge(b, ())
    if a > b:  # where both orders would do, one of them is taken, whoever comes first
        mirrored = merge(base, b, a, lambda clash: _OTHER[settle(Clash(clash.where, clash.base, clash.b, clash.a))])
        return Merge(mirrored.text, tuple(Conflict(c.where, c.base, c.b, c.a, _OTHER[c.taken]) for c in mirrored.conflicts))
    return _tied(_Programs(base, a, b), settle)


@dataclass(frozen=True)
class _Programs:
    base: str
    a: str
    b: str

    def woven(self, ledger: Ledger) -> str:
        return merge_blocks(units(self.base), units(self.a), units(self.b), ledger)


def _tied(programs: _Programs, settle: Settle) -> Merge:
    """The united text without loose ends: of two changes that do not go together one is refused, or all of a side if that does not help."""
    settled = lru_cache(maxsize=None)(settle)  # asked once, however often the text is woven
    ledger = Ledger(settled)
    text, ends, refused = programs.woven(ledger), list[Conflict](), frozenset[Hunk]()
    while (message := loose_end(text, programs.a, programs.b)) is not None:
        ledger = Ledger(settled, refused, fine=True)
        programs.woven(ledger)
        clash = Clash(message, "", *(_told(blamed(message, ledger.hunks, side)) for side in "ab"))
        taken = settled(clash)
        more = blamed(message, ledger.hunks, _OTHER[taken])
        if not more or len(ends) == _ROUNDS:
            return _one_side(programs, settled)
        ends.append(Conflict(clash.where, clash.base, clash.a, clash.b, taken))
        refused |= {*more}
        ledger = Ledger(settled, refused, fine=True)
        text = programs.woven(ledger)
    return Merge(text, (*ledger.conflicts, *ends))


def _one_side(programs: _Programs, settle: Settle) -> Merge:
    """The program of one side, where both are legal alone and not together."""
    taken = settle(Clash("", programs.base, programs.a, programs.b))
    text = programs.a if taken == "a" else programs.b
    return Merge(text, (Conflict("", programs.base, programs.a, programs.b, taken),))


def _told(hunks: tuple[Hunk, ...]) -> str:
    """Changes as they would stand in a diff."""
    sides = [("-", hunk.old) if sign else ("+", hunk.new) for hunk in hunks for sign in (True, False)]
    return "".join(f"{sign}{line}\n" for sign, text in sides for line in text.splitlines() if line.strip())
