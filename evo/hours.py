"""How long a run has worked: this session and all before it, against the run's limit, and how busy its slots were."""

from __future__ import annotations

import time
from collections.abc import Iterable

from evo.core.records import Record
from evo.executor import Running
from evo.folder import Finished

PAUSE_SECONDS = 30.0  # longest pause between evaluations that still counts as time worked


class Hours:
    """The hours of a run, counted from now on; evaluations of this session are told as they finish."""

    def __init__(self, limit: float | None, records: Iterable[Record]) -> None:
        """
        Args:
            limit: of `spent`; None: there is none.
            records: of earlier sessions.
        """
        self.limit = limit
        self.began = time.time()  # the session, seconds since the epoch
        self.evaluations = 0  # finished in this session
        self._before = covered_seconds(((r.started, r.finished) for r in records), PAUSE_SECONDS)
        self._busy: dict[str, list[tuple[float, float]]] = {}  # slot -> (started, finished) of this session's evaluations

    @property
    def spent(self) -> float:
        """Hours worked, in this session and all before."""
        return (self._before + time.time() - self.began) / 3600

    @property
    def are_up(self) -> bool:
        """Whether nothing new is explored any more."""
        return self.limit is not None and self.spent >= self.limit

    def finished(self, event: Finished) -> None:
        """Takes in an evaluation that came to its end."""
        self.evaluations += 1
        self._busy.setdefault(event.slot, []).append((event.started, event.finished))

    def busy_seconds(self, running: Iterable[Running], now: float) -> float:
        """How long slots have been at work in this session, summed over slots; time in which evaluations of a slot overlap counts once.

        Args:
            running: evaluations under way, which count until `now`, seconds since the epoch.
        """
        slots = {slot: list(spans) for slot, spans in self._busy.items()}
        for each in running:
            slots.setdefault(each.slot, []).append((each.started, now))
        return sum(map(covered_seconds, slots.values()))


def covered_seconds(intervals: Iterable[tuple[float, float]], pause: float = 0.0) -> float:
    """Length of the union of intervals: how long at least one of them was going on. Gaps of up to `pause` count as well."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - (reached if start - reached <= pause else start))
        reached = max(reached, end)
    return total
