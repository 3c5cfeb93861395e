"""Early stopping: which running candidate can no longer become a survivor, by its learning curve and this run's own finished curves.

At some checkpoints the final value is predicted from the recent mean loss and the tokens so far, all as logarithms: by ridge regression
over the finished runs whose loss code is the same, under the same budget. Tokens count because under a budget of seconds a slow program or
a busy machine has fewer: a higher loss for now and a higher value in the end. The loss alone does not show whether a run is behind in steps
or in worth. A candidate is stopped if the predicted value lies above the bar, which it must beat to survive, by more standard deviations
than predictions are off for all but a share `false_stops` of would-be survivors. How far predictions are off is measured by each finished
run against the line through the others, and is more for a run that is unlike them. Stopped runs teach nothing, but this does not bend the
line: they are chosen by what it predicts from, not by what it predicts.

Rates that rise at first hold a run back while they do: a program is judged, and compared, only after its warm-up.

A curve is read by share of the budget, not by step, since values are for a budget too. What the rule cannot see is a machine that was busy
only in the beginning.

Pure: a function of finished runs, bar and settings. A `Rule` is plain data that travels with its candidate.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from statistics import fmean, median, pstdev

from evaluator.outcome import CurvePoint, Scored, Stopped
from evo.core.belief import MAD_TO_SD
from evo.core.records import REPEATS, Candidate, Record
from evo.core.rule import Limit, Rule, Watching, level_at, tokens_at
from evo.core.statistics import t_quantile
from evo.core.words import counted

CHECKPOINTS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # shares of the budget
WINDOW = 0.25  # share of the budget over which a level is the mean: more averages more noise, less is more recent; docs/log.md
LATEST = 200  # finished runs that count: the cost stays bounded, and early ones lie far from the bar
OUTLIERS = 3.0  # robust standard deviations above the median: a run that lies higher teaches nothing about good ones
LEAST_SPREAD = 1e-9  # of a logarithm: repeats of a deterministic lab agree exactly
PENALTY = 3.0  # of the ridge: as if so many runs had shown that a curve predicts nothing
SPARED = 0.05  # share of candidates that are finished whatever their rule says: they measure how often it is wrong
CAUTION = 1.15  # factor on the standard deviations that normal surprises at one checkpoint need; from recorded curves, docs/log.md
LEAST = 24  # finished runs with the same loss code; with fewer nothing is stopped


@dataclass(frozen=True)
class Trace:
    """What a finished run taught."""

    index: int  # index of its candidate
    loss_code: str  # genomes.loss_code
    val_bpb: float
    levels: tuple[float | None, ...]  # at each checkpoint: logarithm of the mean loss, nats per token; None: not reported, or rates rise
    tokens: tuple[float | None, ...]  # at each checkpoint: logarithm of the tokens so far; None: not reported


class Curves:
    """What a run's finished curves have taught so far. The order of `add` does not matter."""

    def __init__(self, false_stops: float, seed: int, budget_seconds: float) -> None:
        """
        Args:
            false_stops: see `learn`; 0: no rules.
            seed: of the run, which draws who is spared.
            budget_seconds: of one evaluation; 0: no rules.
        """
        self._false_stops = false_stops if budget_seconds else 0.0
        self._seed = seed
        self._budget_seconds = budget_seconds
        self._traces: dict[str, list[Trace]] = {}  # loss code -> the latest, in index order

    def add(self, record: Record, curve: Sequence[CurvePoint]) -> None:
        """Takes in a record with its curve; only a scored one whose loss can be compared with others teaches something."""
        code, outcome, index = record.candidate.loss_code, record.outcome, record.index
        if not (self._false_stops and code and isinstance(outcome, Scored) and outcome.val_bpb > 0):  # else it has no logarithm
            return
        traces = self._traces.setdefault(code, [])
        told = trace(index, code, outcome.val_bpb, curve, self._budget_seconds, record.candidate.warmup)
        insort(traces, told, key=lambda t: t.index)
        del traces[:-LATEST]

    def rule(self, candidate: Candidate, bar: float | None) -> Rule | None:
        """The rule for a candidate that has just been written; None for a repeat of a known genome, which gets its whole budget."""
        if bar is None or bar <= 0 or not self._false_stops or candidate.operator in REPEATS:
            return None
        known, code = self._traces.get(candidate.loss_code, ()), candidate.loss_code
        found = learn(known, code, bar, self._false_stops, self._budget_seconds, candidate.warmup)
        spared = Random(f"{self._seed}/{candidate.index}/spared").random() < SPARED
        return replace(found, spared=True) if found is not None and spared else found


def latest(records: Iterable[Record]) -> list[Record]:
    """The records that `Curves` would keep if all were added: only their curves need to be read."""
    by_code: dict[str, list[Record]] = {}
    telling = (r for r in records if isinstance(r.outcome, Scored) and r.outcome.val_bpb > 0)
    for record in sorted(telling, key=lambda r: r.index):
        by_code.setdefault(record.candidate.loss_code, []).append(record)
    return [record for code, found in by_code.items() if code for record in found[-LATEST:]]


@dataclass(frozen=True)
class Audit:
    """What early stopping has done in a run."""

    stopped: int  # runs
    saved_seconds: float
    trained_seconds: float  # of all runs
    doomed: int  # runs that a rule would have stopped and that were finished to check it
    wrong: int  # doomed ones that beat the bar all the same

    def sentence(self) -> str:
        """One line for people."""
        saved = self.saved_seconds / (self.saved_seconds + self.trained_seconds) if self.saved_seconds else 0.0
        checked = f"of {self.doomed} more, finished as a check, {self.wrong} would have survived" if self.doomed else "none checked yet"
        return f"stopped early: {counted(self.stopped, 'run')}, {saved:.0%} of the training time saved; {checked}"


def audit(records: Iterable[Record], curve_of: Callable[[int], Sequence[CurvePoint]], budget_seconds: float) -> Audit:
    """What early stopping has done, by a run's records; `curve_of` gives the learning curve of a record by its index, and is called for
    those that were spared."""
    stopped = doomed = wrong = 0
    saved = trained = 0.0
    for record in records:
        outcome, rule = record.outcome, record.candidate.rule
        trained += outcome.training_seconds if isinstance(outcome, Scored | Stopped) else 0.0
        if isinstance(outcome, Stopped):
            stopped, saved = stopped + 1, saved + max(0.0, budget_seconds - outcome.training_seconds)
        elif isinstance(outcome, Scored) and rule is not None and rule.spared:
            watch = Watching(rule)
            if any(watch(point) is not None for point in curve_of(record.index)):
                doomed, wrong = doomed + 1, wrong + (outcome.val_bpb < rule.bar)
    return Audit(stopped, saved, trained, doomed, wrong)


def trace(index: int, loss_code: str, val_bpb: float, curve: Sequence[CurvePoint], budget_seconds: float, warmup: float = 0.0) -> Trace:
    """What is kept of a finished run.

    Args:
        warmup: share of the budget, see `Candidate.warmup`.
    """
    levels = (level_at(curve, share, WINDOW, budget_seconds) if settled(share, warmup) else None for share in CHECKPOINTS)
    tokens = (tokens_at(curve, share, budget_seconds) for share in CHECKPOINTS)
    return Trace(index, loss_code, val_bpb, tuple(levels), tuple(tokens))


def settled(share: float, warmup: float) -> bool:
    """Whether a program with this warm-up can be compared with others at this share of the budget: no rates rise in its window."""
    return warmup == 0 or share >= warmup + WINDOW


def learn(
    traces: Iterable[Trace], loss_code: str, bar: float, false_stops: float, budget_seconds: float, warmup: float = 0.0
) -> Rule | None:
    """The rule for a candidate; None where too few finished runs can be compared with it.

    Args:
        traces: of finished runs under one budget and measurement key, in any order.
        bar: value that the candidate must beat, bits per byte.
        false_stops: share of would-be survivors, those that would beat the bar, that may be stopped.
        warmup: of the candidate, share of the budget.
    """
    same = sorted((t for t in traces if loss_code and t.loss_code == loss_code), key=lambda t: t.index)[-LATEST:]
    values = [math.log(t.val_bpb) for t in same]
    if len(same) < LEAST:
        return None
    middle = median(values)
    highest = middle + OUTLIERS * MAD_TO_SD * median(abs(value - middle) for value in values)
    kept = [(t, value) for t, value in zip(same, values, strict=True) if value <= highest]
    limits = []
    for k, share in enumerate(CHECKPOINTS):
        rows = [(level, tokens, value) for t, value in kept if (level := t.levels[k]) is not None and (tokens := t.tokens[k]) is not None]
        if len(rows) >= LEAST and settled(share, warmup):
            limits.append(_limit(share, rows))
    reach = CAUTION * _quantile(1 - false_stops, len(kept) - 1)
    return Rule(bar, budget_seconds, tuple(limits), WINDOW, reach) if limits else None


def _limit(share: float, rows: Sequence[tuple[float, float, float]]) -> Limit:
    """Ridge regression of the value on level and tokens, both standardised; the spread is from leave-one-out residuals."""
    count = len(rows)
    levels, tokens, values = zip(*rows, strict=True)
    means, sds = (fmean(levels), fmean(tokens)), (pstdev(levels), pstdev(tokens))
    x, y = ([(v - mean) / sd if sd else 0.0 for v in column] for column, mean, sd in zip((levels, tokens), means, sds, strict=True))
    middle = fmean(values)
    xx, yy, xy = _sumprod(x, x) + PENALTY, _sumprod(y, y) + PENALTY, _sumprod(x, y)
    determinant = xx * yy - xy * xy
    doubt_x, doubt_y, doubt_xy = yy / determinant, xx / determinant, -xy / determinant  # the inverse
    right = _sumprod(x, [v - middle for v in values]), _sumprod(y, [v - middle for v in values])
    by_x, by_y = doubt_x * right[0] + doubt_xy * right[1], doubt_xy * right[0] + doubt_y * right[1]
    squares = 0.0
    for a, b, value in zip(x, y, values, strict=True):
        leverage = 1 / count + doubt_x * a * a + doubt_y * b * b + 2 * doubt_xy * a * b
        squares += ((value - middle - by_x * a - by_y * b) / (1 - leverage)) ** 2
    at_means = 1 + 1 / count
    spread = math.sqrt(max(squares / count, LEAST_SPREAD**2) * at_means)
    doubts = doubt_x / at_means, doubt_y / at_means, doubt_xy / at_means
    return Limit(share, means[0], sds[0], means[1], sds[1], middle, by_x, by_y, spread, *doubts)


def _sumprod(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


@lru_cache(maxsize=LATEST)
def _quantile(probability: float, freedom: int) -> float:
    return t_quantile(probability, freedom)
