"""The rule that travels with a candidate: at which level of its learning curve it is stopped. Learned in evo/stopping.py.

Plain data, and what the slot's side needs to go by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluator.outcome import CurvePoint
from evaluator.plain import checked

FORMER_WINDOW = 0.5  # of rules from before they told it
NEARER = 0.1  # standard deviations by which a level must have come down to be nearer
LEAST_COVERED = 0.5  # of a checkpoint's window that the points must cover
_MOST_LOGARITHM = 700.0  # that a float holds the exponential of


@dataclass(frozen=True)
class Limit:
    """What is known about one checkpoint."""

    share: float  # of the budget
    level: float  # highest at which a run goes on
    spread: float  # standard deviation of the level of a candidate at the bar
    slope: float  # of the logarithm of the value over the level: what to expect of a run; shown, not decided by
    offset: float

    def height(self, level: float | None) -> float | None:
        """How far a level lies above the highest at which a run goes on, in standard deviations."""
        return None if level is None else (level - self.level) / self.spread

    def predicted(self, level: float) -> float:
        """The final value, bits per byte, to be expected of a run with such a level."""
        return math.exp(min(self.offset + self.slope * level, _MOST_LOGARITHM))


@dataclass(frozen=True)
class Rule:
    """When one candidate is to be stopped."""

    bar: float  # bits per byte
    budget_seconds: float
    limits: tuple[Limit, ...]  # in order of their shares
    window: float  # share of the budget that a level is the mean over
    spared: bool = False  # what it would stop is finished all the same, to count how often that would have been wrong


def rule_from_dict(data: Mapping[str, Any]) -> Rule:
    """Inverse of `dataclasses.asdict`. Limits of before there were spreads are left out: they stop nothing any more."""
    limits = tuple(checked(Limit(**limit)) for limit in data["limits"] if "spread" in limit)
    return checked(Rule(**{"window": FORMER_WINDOW, **data, "limits": limits}))


def not_nearing(heights: Sequence[float | None]) -> list[float | None]:
    """Of heights above something, those that are not lower by `NEARER` than the one before. None for all others.

    Only they count against a run: one that comes nearer may be a slow starter, whose rates rise first or are high, or whose structure
    takes longer to learn. Of 256 recorded runs one of the best was such a one (docs/log.md).
    """
    found, before = list[float | None](), None
    for height in heights:
        found.append(height if height is not None and before is not None and height > before - NEARER else None)
        before = before if height is None else height
    return found


class Watching:
    """`evaluator.evaluate.Watch` over one run: judges it once at each checkpoint, by the points before it."""

    def __init__(self, rule: Rule) -> None:
        self.foretold: float | None = None  # final value, bits per byte, of a run that was stopped
        self._rule = rule
        self._points: list[CurvePoint] = []
        self._heights: list[float | None] = []  # at the checkpoints that were judged

    def __call__(self, point: CurvePoint) -> str | None:
        """One line that says why the run is stopped; None to go on."""
        self._points.append(point)
        limits, budget = self._rule.limits, self._rule.budget_seconds
        while len(self._heights) < len(limits) and point.seconds >= limits[len(self._heights)].share * budget:
            limit = limits[len(self._heights)]
            level = level_at(self._points, limit.share, self._rule.window, budget)
            self._heights.append(limit.height(level))
            against = not_nearing(self._heights)[-1]
            if level is not None and against is not None and against > 0:
                self.foretold = limit.predicted(level)
                return (
                    f"at {limit.share:.0%} of the budget its loss of {math.exp(level):.4f} foretells {self.foretold:.4f}, "
                    f"and {self._rule.bar:.4f} must be beaten; a run goes on up to {math.exp(limit.level):.4f}, or while it comes nearer"
                )
        return None


def level_at(curve: Iterable[CurvePoint], share: float, window: float, budget_seconds: float) -> float | None:
    """Logarithm of the mean loss in the window that ends at a share of the budget; None where the points do not cover enough of it.

    The window is a share of the budget too. A point's loss is the mean since the point before: it weighs as much as the time between them.
    """
    end = share * budget_seconds
    start, before, total, covered = max(0.0, end - window * budget_seconds), 0.0, 0.0, 0.0
    for point in curve:
        if start < point.seconds <= end and point.loss is not None:
            seconds = point.seconds - max(start, before)
            total, covered = total + seconds * point.loss, covered + seconds
        before = point.seconds
    return math.log(total / covered) if 0 < total < math.inf and covered >= LEAST_COVERED * (end - start) else None
