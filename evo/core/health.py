"""Which slot is broken: one where everything fails while elsewhere it does not, as on a GPU that has an error or that a stranger fills.

Such a slot is free most often, so it would be given most of the work and spoil it. A slot's failures in a row are compared with the share
that has failed on all others, drawn towards a quarter as if `PRIOR_COUNT` more were known. If chance gives such a row in less than `CHANCE`
of all cases, the slot gets new processes, and if it goes on failing, no more work in this session. An interruption counts as a failure,
since a full /tmp interrupts everything in no time. A slot that itself reports that it can evaluate nothing is not compared with others: it
gets new processes at once, and no more work if these report the same with another candidate.

It also shows whether other work takes the cores of this machine. Pure.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from statistics import median

from evo.core.flags import WAITED_SHARE

PRIOR_FAILED, PRIOR_COUNT = 0.5, 2
LEAST_ROW = 3
CHANCE = 1e-3
AFTER_RENEWAL = 3  # further failures in a row after which the slot is given up; the first may come from the old processes
LATEST = 4  # latest scored programs, which show whether the machine is busy


class Remedy(StrEnum):
    """What is to be done about a slot."""

    NOTHING = "nothing"
    RENEW = "renew"
    RETIRE = "retire"


class Health:
    """The health of the slots of one session."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}  # slot -> (failed, evaluated)
        self._row: dict[str, int] = {}  # slot -> failures since its last success
        self._renewed_at: dict[str, int] = {}  # slot -> length of the row at which it was renewed
        self._unable: dict[str, int] = {}  # slot that can evaluate nothing, until it evaluates something -> candidate that showed it first
        self._waited: deque[float] = deque(maxlen=LATEST)

    def add(self, slot: str, failed: bool) -> Remedy:
        """Takes in how an evaluation ended."""
        self._unable.pop(slot, None)
        return self._add(slot, failed)

    def interrupted(self, slot: str) -> Remedy:
        """Takes in that an evaluation was interrupted, which its program is not to blame for."""
        return self._add(slot, True)

    def unable(self, slot: str, index: int) -> Remedy:
        """Takes in that a slot, given the candidate of this index, reports that it can evaluate nothing. Twice with the same candidate may
        be the candidate's doing."""
        if slot not in self._unable:
            self._unable[slot] = index
            return Remedy.RENEW
        return Remedy.RETIRE if self._unable[slot] != index else Remedy.NOTHING

    def _add(self, slot: str, failed: bool) -> Remedy:
        bad, count = self._counts.get(slot, (0, 0))
        self._counts[slot] = bad + failed, count + 1
        if not failed:
            self._row.pop(slot, None)
            self._renewed_at.pop(slot, None)
            return Remedy.NOTHING
        row = self._row[slot] = self._row.get(slot, 0) + 1
        if row < LEAST_ROW or self._share_elsewhere(slot) ** row >= CHANCE:
            return Remedy.NOTHING
        if slot not in self._renewed_at:
            self._renewed_at[slot] = row
            return Remedy.RENEW
        return Remedy.RETIRE if row >= self._renewed_at[slot] + AFTER_RENEWAL else Remedy.NOTHING

    def row(self, slot: str) -> int:
        """Failures in a row, up to now."""
        return self._row.get(slot, 0)

    def waited(self, share: float) -> None:
        """Takes in the share of its time that a scored program waited for a core."""
        self._waited.append(share)

    @property
    def busy(self) -> str:
        """A line on other work on this machine, as the latest programs show it; "" if they have not waited for it."""
        if len(self._waited) < LATEST or median(self._waited) <= WAITED_SHARE:
            return ""
        return (
            f"other work is taking this machine's cores: the latest {LATEST} programs waited for one for {median(self._waited):.0%} of "
            "their time (median), so scores are worse and noisier than they need be; end that work, or start with fewer --slots"
        )

    def _share_elsewhere(self, slot: str) -> float:
        others = [counts for name, counts in self._counts.items() if name != slot]
        return (sum(bad for bad, _ in others) + PRIOR_FAILED) / (sum(count for _, count in others) + PRIOR_COUNT)
