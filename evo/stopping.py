"""Early stopping: which running candidate cannot be a survivor any more, by its learning curve and this run's own finished curves.

At some checkpoints the mean loss of late is compared with what a candidate exactly as good as the bar (the value that it must beat to
survive) would show there. That level, and its spread, come from finished runs whose loss code is the same, under the same budget: a line
of level on final value, both as logarithms, through the better half of them. Level on value and not value on level: a run that is stopped
is chosen by its level, so the latter would be bent by the stopping itself, and would take all candidates for average ones. The
candidate is stopped where its level is too high for one at the bar, and is not coming nearer: by more standard deviations than would-be
survivors show at the worst of their checkpoints, so many that about a share `false_stops` of them is lost over all checkpoints together.
How far would-be survivors scatter is what the finished runs show, each against the line through the others; by how much they beat the bar,
the present survivors. Who is unlike all others, such as a slow starter, is rarely among the finished, so that there is a margin.

Rates that rise first hold a run back for as long as they do: a program is judged, and compared, from its warm-up on alone.

A curve is read by share of the budget, not by step: values are under a budget too, and a program that is slow, or a machine that is
busy, has a higher level and a higher value alike. What the rule cannot see is a machine that was busy in the beginning alone.

Pure: a function of finished runs, bar and settings. A `Rule` is plain data that travels with its candidate.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from statistics import fmean, pstdev

from evaluator.outcome import CurvePoint, Scored, Stopped
from evo.records import REPEATS, Candidate, Record
from evo.rule import Limit, Rule, Watching, level_at, not_nearing
from evo.statistics import t_quantile

CHECKPOINTS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # shares of the budget
WINDOW = 0.25  # of the budget, that a level is the mean over: longer averages more noise, shorter sees later; docs/log.md
SETTLED = 0.1  # of the budget, after its warm-up: from here on a curve is like others
LATEST = 200  # finished runs that count: the cost stays bounded, and early ones lie far from the bar
NEAR = 0.5  # share of them, the better ones, that levels are learned from: the bar lies among them
SPARED = 0.05  # share of candidates that are finished whatever their rule says: they measure how often it is wrong
CAUTION = 1.3  # times as many standard deviations as normal surprises ask for; by recorded curves, docs/log.md
LEAST = 16  # finished runs with the same loss code below which nothing is stopped


@dataclass(frozen=True)
class Trace:
    """What a finished run taught."""

    index: int  # of its candidate
    loss_code: str  # genomes.loss_code
    val_bpb: float
    levels: tuple[float | None, ...]  # at each checkpoint: logarithm of the mean loss, nats per token; None: not told, or rates rise


class Curves:
    """What a run's finished curves have taught so far. No order of `add` shows."""

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
        code, outcome, index = record.candidate.loss_code, record.outcome, record.candidate.proposal.index
        if not (self._false_stops and code and isinstance(outcome, Scored) and outcome.val_bpb > 0):  # it has no logarithm
            return
        traces = self._traces.setdefault(code, [])
        told = trace(index, code, outcome.val_bpb, curve, self._budget_seconds, record.candidate.warmup)
        insort(traces, told, key=lambda t: t.index)
        del traces[:-LATEST]

    def rule(self, candidate: Candidate, bar: float | None) -> Rule | None:
        """For a candidate that has just been written; None for a repeat of a known genome, which gets its whole budget."""
        proposal = candidate.proposal
        if bar is None or bar <= 0 or not self._false_stops or proposal.operator in REPEATS:
            return None
        known, code = self._traces.get(candidate.loss_code, ()), candidate.loss_code
        found = learn(known, code, bar, self._false_stops, self._budget_seconds, candidate.warmup)
        spared = Random(f"{self._seed}/{proposal.index}/spared").random() < SPARED
        return replace(found, spared=True) if found is not None and spared else found


def latest(records: Iterable[Record]) -> list[Record]:
    """The records that `Curves` goes by, if all are added: their curves need to be read, others' do not."""
    by_code: dict[str, list[Record]] = {}
    telling = (r for r in records if isinstance(r.outcome, Scored) and r.outcome.val_bpb > 0)
    for record in sorted(telling, key=lambda r: r.candidate.proposal.index):
        by_code.setdefault(record.candidate.loss_code, []).append(record)
    return [record for code, found in by_code.items() if code for record in found[-LATEST:]]


@dataclass(frozen=True)
class Audit:
    """What early stopping has done in a run."""

    stopped: int  # runs
    saved_seconds: float
    trained_seconds: float  # of all runs
    doomed: int  # that a rule would have stopped and that were finished to check it
    wrong: int  # of those: that beat the bar all the same

    def sentence(self) -> str:
        """One line for people."""
        saved = self.saved_seconds / (self.saved_seconds + self.trained_seconds) if self.saved_seconds else 0.0
        checked = (
            f"of {self.doomed} more that were finished to check it, {self.wrong} would have survived" if self.doomed else "none checked yet"
        )
        return f"stopped early: {self.stopped} runs, {saved:.0%} of the training time saved; {checked}"


def audit(records: Iterable[Record], curve_of: Callable[[int], Sequence[CurvePoint]], budget_seconds: float) -> Audit:
    """Of a run's records; `curve_of` gives the learning curve of a record by its index, and is asked for those that were spared."""
    stopped = doomed = wrong = 0
    saved = trained = 0.0
    for record in records:
        outcome, rule = record.outcome, record.candidate.rule
        trained += outcome.training_seconds if isinstance(outcome, Scored | Stopped) else 0.0
        if isinstance(outcome, Stopped):
            stopped, saved = stopped + 1, saved + max(0.0, budget_seconds - outcome.training_seconds)
        elif isinstance(outcome, Scored) and rule is not None and rule.spared:
            watch = Watching(rule)
            if any(watch(point) is not None for point in curve_of(record.candidate.proposal.index)):
                doomed, wrong = doomed + 1, wrong + (outcome.val_bpb < rule.bar)
    return Audit(stopped, saved, trained, doomed, wrong)


def trace(index: int, loss_code: str, val_bpb: float, curve: Sequence[CurvePoint], budget_seconds: float, warmup: float = 0.0) -> Trace:
    """What is kept of a finished run.

    Args:
        warmup: share of the budget, see `Candidate.warmup`.
    """
    levels = (level_at(curve, share, WINDOW, budget_seconds) if settled(share, warmup) else None for share in CHECKPOINTS)
    return Trace(index, loss_code, val_bpb, tuple(levels))


def settled(share: float, warmup: float) -> bool:
    """Whether a program with such a warm-up can be compared with others at this share of the budget."""
    return warmup == 0 or share >= warmup + SETTLED


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
    near = sorted(same, key=lambda t: (t.val_bpb, t.index))[: max(LEAST, math.ceil(NEAR * len(same)))]
    lines = {k: line for k in range(len(CHECKPOINTS)) if (line := _line([(math.log(t.val_bpb), t.levels[k]) for t in near])) is not None}
    allowed = _allowed(list(lines.values()), math.log(bar), [math.log(t.val_bpb) for t in same if t.val_bpb < bar], false_stops)
    if allowed is None:
        return None
    limits = []
    for k, line in lines.items():
        expected = _line([(t.levels[k], math.log(t.val_bpb)) for t in same if t.levels[k] is not None])
        if expected is not None and settled(CHECKPOINTS[k], warmup):
            spread = line.spread(math.log(bar))
            limits.append(Limit(CHECKPOINTS[k], line.at(math.log(bar)) + allowed * spread, spread, expected.slope, expected.offset))
    return Rule(bar, budget_seconds, tuple(limits), WINDOW)


def _allowed(lines: Sequence[_Line], bar: float, survivors: Sequence[float], false_stops: float) -> float | None:
    """How many standard deviations a level may lie above that of a candidate at the bar; None where too few runs tell.

    A would-be survivor is any of the present ones, with the surprises of any of the finished runs. What counts is its worst checkpoint
    of those at which it is not coming nearer; over all of them that is taken for a normal distribution, of which as many draws are known
    as there are finished runs, with a margin.

    Args:
        lines: of levels over logarithms of values, through the same runs.
        bar, survivors: logarithms of values.
    """
    known = [row for row in zip(*(line.surprises for line in lines), strict=True) if any(z is not None for z in row)]
    if len(known) < LEAST:
        return None
    better = [[(line.at(bar) - line.at(value)) / line.spread(bar) for line in lines] for value in survivors] or [[0.0] * len(lines)]
    above = ([None if z is None else z - lead for z, lead in zip(row, leads, strict=True)] for row in known for leads in better)
    worst = [max(counted) for heights in above if (counted := [z for z in not_nearing(heights) if z is not None])]
    if len(worst) < LEAST:
        return None
    reach = CAUTION * _quantile(1 - false_stops, len(known) - 1) * math.sqrt(1 + 1 / len(known))
    return float(fmean(worst) + reach * pstdev(worst))


@lru_cache(maxsize=LATEST)
def _quantile(probability: float, freedom: int) -> float:
    return t_quantile(probability, freedom)


@dataclass(frozen=True)
class _Line:
    """Least squares of y on x."""

    slope: float
    offset: float
    sd: float  # of y around the line
    count: int
    centre: float  # mean of x
    squares: float  # summed, of the distances of x from it
    surprises: tuple[float | None, ...]  # of each y: how many standard deviations of a new one it lies above the line through the others

    def at(self, x: float) -> float:
        return self.offset + self.slope * x

    def spread(self, x: float) -> float:
        """Standard deviation of a new y around the line, the line's own uncertainty included."""
        return self.sd * math.sqrt(1 + 1 / self.count + (x - self.centre) ** 2 / self.squares)


def _line(pairs: Sequence[tuple[float | None, float | None]]) -> _Line | None:
    """None where there are too few pairs without a None, or where the line does not rise."""
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    if len(known) < LEAST:
        return None
    count, centre, middle = len(known), fmean(x for x, _ in known), fmean(y for _, y in known)
    squares = math.fsum((x - centre) ** 2 for x, _ in known)
    slope = math.fsum((x - centre) * (y - middle) for x, y in known) / squares if squares else 0.0
    if slope <= 0:
        return None
    offset = middle - slope * centre
    left = math.fsum((y - offset - slope * x) ** 2 for x, y in known)

    def surprise(x: float | None, y: float | None) -> float | None:
        """The externally studentised residual: Cook and Weisberg, Residuals and Influence in Regression (1982), section 2.2.1."""
        if x is None or y is None:
            return None
        residual, kept = y - offset - slope * x, 1 - 1 / count - (x - centre) ** 2 / squares
        variance = (left - residual**2 / kept) / (count - 3) if kept > 0 else 0.0
        return residual / math.sqrt(variance * kept) if variance > 0 else None

    return _Line(slope, offset, math.sqrt(left / (count - 2)), count, centre, squares, tuple(surprise(x, y) for x, y in pairs))
