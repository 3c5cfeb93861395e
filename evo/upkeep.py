"""Keeps the slots of a session at work: gives a broken one new processes, and no more work if that does not help; and decides what becomes
of a candidate whose evaluation was interrupted.

health.py knows which slot is broken. One that can evaluate nothing gets new processes, then no more work: its candidate runs elsewhere, and
interruptions by a retired slot do not count towards giving it up. When no other slot is left, the run ends with that slot's reason. It
also ends after many interruptions in a row with nothing finished between them: then the machinery is broken.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from evaluator.evaluate import HarnessError
from evaluator.outcome import Failed, Scored
from evo.core.health import Health, Remedy
from evo.errors import ClusterError
from evo.executor import Executor
from evo.folder import Finished

INTERRUPTIONS = 3  # of one candidate, after which it is given up


class Fate(StrEnum):
    """What becomes of an interrupted candidate."""

    NEXT = "next"
    LATER = "later"  # behind the others, which show whether it is to blame
    NEVER = "never"


class Upkeep:
    """Looks after the slots of one session."""

    def __init__(self, executor: Executor, tell: Callable[[str], None]) -> None:
        """
        Args:
            tell: takes what people should know, one line each.
        """
        self._executor, self._tell = executor, tell
        self._health = Health()
        self._interruptions: dict[int, list[str]] = {}  # index -> slots where that happened
        self._in_a_row = 0
        self._retired: set[str] = set()

    @property
    def busy(self) -> str:
        """A line on other work on this machine, as the latest programs show it; "" if there is none to speak of."""
        return self._health.busy

    def finished(self, event: Finished) -> None:
        """Takes in that an evaluation came to its end."""
        self._in_a_row = 0
        self._look_after(event.slot, self._health.add(event.slot, isinstance(event.outcome, Failed)))
        if isinstance(event.outcome, Scored):
            self._health.waited(event.outcome.waited_share)

    def interrupted(self, event: Finished, why: str) -> Fate:
        """Takes in that an evaluation was interrupted.

        Raises:
            ClusterError: nothing but interruptions: the machinery is broken.
            HarnessError: the only slot that is left can evaluate nothing.
        """
        slots = self._interruptions.setdefault(event.index, [])
        slots.append(event.slot)
        if event.unable:
            self._look_after_unable(event, why)
        else:
            self._look_after_interrupted(event.slot, why)
        if sum(slot not in self._retired for slot in slots) >= INTERRUPTIONS:
            return Fate.NEVER
        return Fate.LATER if event.unable else Fate.NEXT

    def _look_after(self, slot: str, remedy: Remedy, why: str = "") -> None:
        """Looks after a slot where everything fails while elsewhere it does not."""
        told = f" (the last: {why})" if why else ""
        failed = f"slot {slot}: {self._health.row(slot)} evaluations in a row have failed there, but not elsewhere{told}"
        if remedy is Remedy.RENEW:
            self._renew(slot, failed)
        elif remedy is Remedy.RETIRE:
            self._retire(slot, failed)

    def _look_after_unable(self, event: Finished, why: str) -> None:
        """Looks after a slot that can evaluate nothing; `why` names it."""
        remedy = self._health.unable(event.slot, event.index)
        if remedy is Remedy.RENEW:
            self._renew(event.slot, why)
        elif remedy is Remedy.RETIRE and not self._retire(event.slot, why):
            raise HarnessError(why)

    def _look_after_interrupted(self, slot: str, why: str) -> None:
        self._in_a_row += 1
        if self._in_a_row >= INTERRUPTIONS * (self._executor.slots + 1):
            raise ClusterError(f"{self._in_a_row} evaluations in a row were interrupted, the last: {why}")
        if slot not in self._retired:  # else what ran there comes back
            self._look_after(slot, self._health.interrupted(slot), why)

    def _renew(self, slot: str, why: str) -> None:
        self._executor.renew(slot)
        self._tell(f"{why}; its processes were restarted")

    def _retire(self, slot: str, why: str) -> bool:
        """Gives a slot no more work; False, with nothing changed, if it is the only one."""
        if not self._executor.retire(slot):
            return False
        self._retired.add(slot)
        self._tell(f"{why}, even with new processes; the slot gets no more work in this session: look into it, then go on")
        return True
