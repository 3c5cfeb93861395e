"""The rule that travels with a candidate: what its learning curve predicts, and when it is stopped. Learned in evo/core/stopping.py.

Plain data, and what a slot needs to apply it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluator.outcome import CurvePoint
from evaluator.plain import checked

LEAST_COVERED = 0.5  # share of a checkpoint's window that the points must cover
FARTHEST = 4.0  # standard deviations from the others' mean, beyond which a level or a pace counts no further
_MOST_LOGARITHM = 700.0  # a float holds the exponential of this


@dataclass(frozen=True)
class Limit:
    """One checkpoint: predicts the logarithm of the final value linearly from level and tokens so far, both as logarithms, in standard
    deviations from the mean of the finished runs."""

    share: float  # share of the budget
    level_mean: float
    level_sd: float  # 0: the level says nothing
    tokens_mean: float
    tokens_sd: float
    value: float  # prediction for a run at both means
    by_level: float
    by_tokens: float
    spread: float  # standard deviation of a new run's value around the prediction at the means
    doubt_level: float  # growth of the variance, as a share of that at the means, with the square of either distance
    doubt_tokens: float
    doubt_both: float  # and with twice their product

    def foretold(self, level: float, tokens: float) -> tuple[float, float]:
        """Logarithm of the final value, and its standard deviation."""
        x, y = _distance(level, self.level_mean, self.level_sd), _distance(tokens, self.tokens_mean, self.tokens_sd)
        variance = 1 + self.doubt_level * x * x + self.doubt_tokens * y * y + 2 * self.doubt_both * x * y
        return self.value + self.by_level * x + self.by_tokens * y, self.spread * math.sqrt(max(variance, 1.0))


def _distance(x: float, mean: float, sd: float) -> float:
    return max(-FARTHEST, min(FARTHEST, (x - mean) / sd)) if sd else 0.0


@dataclass(frozen=True)
class Rule:
    """When one candidate is to be stopped."""

    bar: float  # bits per byte that it must beat
    budget_seconds: float
    limits: tuple[Limit, ...]  # in order of their shares
    window: float  # share of the budget that a level is the mean over
    reach: float  # standard deviations by which the prediction must lie above the bar
    spared: bool = False  # a run that it would stop is finished all the same, to count how often stopping would have been wrong


def rule_from_dict(data: Mapping[str, Any]) -> Rule:
    """Inverse of `dataclasses.asdict`. Limits of older kinds are left out: they no longer stop anything."""
    limits = tuple(checked(Limit(**limit)) for limit in data["limits"] if "by_tokens" in limit)
    return checked(Rule(**{"window": 1.0, "reach": 0.0, **data, "limits": limits}))


class Watching:
    """`evaluator.evaluate.Watch` over one run: judges it once at each checkpoint, by the points before it."""

    def __init__(self, rule: Rule) -> None:
        self.foretold: float | None = None  # predicted final value, bits per byte, of a run that was stopped
        self._rule = rule
        self._points: list[CurvePoint] = []
        self._judged = 0  # checkpoints so far

    def __call__(self, point: CurvePoint) -> str | None:
        """One line that says why the run is stopped; None to go on."""
        self._points.append(point)
        rule, budget = self._rule, self._rule.budget_seconds
        while self._judged < len(rule.limits) and point.seconds >= rule.limits[self._judged].share * budget:
            limit = rule.limits[self._judged]
            self._judged += 1
            level, tokens = level_at(self._points, limit.share, rule.window, budget), tokens_at(self._points, limit.share, budget)
            if level is None or tokens is None:
                continue
            value, sd = limit.foretold(level, tokens)
            if value - rule.reach * sd > math.log(rule.bar):
                self.foretold = _exponential(value)
                return (
                    f"at {limit.share:.0%} of the budget its loss of {_exponential(level):.4f} predicts {self.foretold:.4f} ± {sd:.1%}, "
                    f"more than {rule.reach:.1f} sds above the {rule.bar:.4f} that it must beat"
                )
        return None


def _exponential(logarithm: float) -> float:
    return math.exp(min(logarithm, _MOST_LOGARITHM))


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


def tokens_at(curve: Sequence[CurvePoint], share: float, budget_seconds: float) -> float | None:
    """Logarithm of the tokens that a run had taken at a share of the budget; None if it has not got so far, or reports none."""
    end, seconds, tokens = share * budget_seconds, 0.0, 0
    for point in curve:
        if point.seconds >= end:
            part = (end - seconds) / (point.seconds - seconds) if point.seconds > seconds else 1.0
            reached = tokens + part * (point.tokens - tokens)
            return math.log(reached) if reached > 0 else None
        seconds, tokens = point.seconds, point.tokens
    return None
