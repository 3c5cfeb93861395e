"""What a merge keeps a record of: changes of one side, which may be refused, and clashes, which somebody settles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Clash:
    """A place that both sides changed differently; empty text means deleted."""

    where: str  # qualified name of the definition or constant around it, else ""; for a loose end, what would be missing
    base: str
    a: str  # for a loose end, what this side changed, as a diff
    b: str


@dataclass(frozen=True)
class Conflict(Clash):
    """A clash and how it was settled."""

    taken: str  # "a" | "b"


Settle = Callable[[Clash], str]  # → "a" | "b"


@dataclass(frozen=True)
class Hunk:
    """A change that one side made: in the definition `where`, `old` became `new`."""

    side: str  # "a" | "b"
    where: str
    old: str
    new: str


@dataclass
class Ledger:
    """The record of one pass over the three programs. `fine`: changes of one side are noted statement by statement, which takes longer."""

    settle: Settle
    refused: frozenset[Hunk] = frozenset()
    fine: bool = False
    conflicts: list[Conflict] = field(default_factory=list)
    hunks: list[Hunk] = field(default_factory=list)

    def clash(self, where: str, base: str, a: str, b: str) -> str:
        """Has a clash settled, notes it, and returns the side that is taken."""
        taken = self.settle(Clash(where, base, a, b))
        self.conflicts.append(Conflict(where, base, a, b, taken))
        return taken

    def choose(self, where: str, base: str, a: str, b: str) -> str:
        """One of three versions of a text: the changed one, or a settled side where both changed."""
        if a == b:
            return a
        a, b = self.allowed("a", where, base, a), self.allowed("b", where, base, b)
        if a == base or b == base:
            return a if b == base else b
        return a if self.clash(where, base, a, b) == "a" else b

    def allowed(self, side: str, where: str, old: str, new: str) -> str:
        """The new text of one side, noted as its change; the old one where the change is refused."""
        if old == new:
            return old
        hunk = Hunk(side, where, old, new)
        if hunk in self.refused:
            return old
        self.hunks.append(hunk)
        return new
