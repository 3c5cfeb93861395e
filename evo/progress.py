"""A run at one moment, as values: what a person is shown of it while it goes on, read off its driver."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from evaluator.outcome import CurvePoint, Evaluated, Failed
from evo.core.history import EXPLORATIONS
from evo.core.records import CALIBRATE, CONFIRM, FINAL
from evo.drive import Driver

STOPPING = "stopping…"
LEAST_RATE_COUNT = 4  # evaluations of a session before their rate predicts its end


@dataclass(frozen=True)
class Best:
    """The leading genome and what is known of it."""

    genome: str
    mean: float
    sd: float  # of the mean: the noise band


@dataclass(frozen=True)
class Work:
    """What runs on a slot."""

    slot: str
    index: int
    operator: str
    note: str
    seconds: float
    curve: str  # latest point: "step 120 loss 3.21", or ""


@dataclass(frozen=True)
class Authorship:
    """What a model has done in this session."""

    written: int  # evaluated programs that it wrote
    others: int  # new programs that were made without it
    refused: int  # proposals that it gave back without a usable program
    failed: int  # proposals to which its endpoint gave no reply
    late: int  # proposals that no slot could wait for
    tokens: int
    trouble: str  # what it last got wrong, or why it is not asked; "" while all is well


@dataclass(frozen=True)
class Progress:
    """A run at one moment."""

    phase: str  # "calibrate", "explore" or "final"
    evaluated: int  # new genomes
    goal: int | None
    finals: tuple[int, int]  # final draws that have come in, and how many there are to be
    repeats: int  # other evaluations: calibration, confirmation, final draws
    elapsed_seconds: float  # this session
    left_seconds: float | None  # until a limit ends exploration; None: no limit, it has ended, or nobody knows
    best: Best | None
    seed: Best | None
    noise_sd: float
    working: tuple[Work, ...]
    failures: tuple[tuple[str, int], ...]  # (reason, count), most frequent first
    unevaluated: int  # duplicates and unwritten
    per_hour: float
    idle_share: float  # of slot time in this session
    model: Authorship | None  # None: no model writes
    notices: tuple[str, ...] = ()  # about slots
    self_reported: bool = False  # scores are the programs' own word


def progress(driver: Driver, ended: bool = False) -> Progress:
    """The progress of a run, read off its driver; `ended`: it will try nothing again."""
    standing, search, now = driver.search.standing, driver.search, time.time()
    running = driver.executor.running()
    elapsed = max(now - driver.hours.began, 1e-9)
    outcomes = [r.outcome for r in standing.records]
    fruitless = sum(not isinstance(r.outcome, Evaluated) for r in standing.records)
    operators = {driver.candidates[r.index].operator for r in running}
    explored = driver.hours.are_up or search.limit_reached
    closing = FINAL if search.finals[1] else CONFIRM if explored and operators == {CONFIRM} else None
    phase = closing or (CALIBRATE if CALIBRATE in operators else "explore")
    return Progress(
        phase=phase,
        evaluated=standing.history.evaluated,
        goal=search.config.evals,
        finals=search.finals,
        repeats=len(outcomes) - fruitless - standing.history.evaluated,
        elapsed_seconds=elapsed,
        left_seconds=None if explored or ended else _left(driver, elapsed),
        best=_known(driver, standing.champion),
        seed=_known(driver, standing.founder),
        noise_sd=standing.belief.noise_sd,
        working=tuple(_work(driver, r.index, r.slot, now - r.started, _curve(r.point)) for r in running),
        failures=tuple(Counter(str(o.reason) for o in outcomes if isinstance(o, Failed)).most_common()),
        unevaluated=fruitless,
        per_hour=3600 * driver.hours.evaluations / elapsed,
        idle_share=max(0.0, 1 - driver.hours.busy_seconds(running, now) / (elapsed * driver.executor.slots)),
        model=authorship(driver, ended),
        notices=(*driver.notices, *filter(None, (driver.upkeep.busy, STOPPING if driver.stopping and not ended else ""))),
        self_reported=standing.history.self_reported,
    )


def authorship(driver: Driver, ended: bool) -> Authorship | None:
    """What the model has done; None where none writes."""
    desk = driver.desk
    if not desk.staffed:
        return None
    told = (r for r in driver.search.standing.records if r.index not in driver.told_before)
    new = [r for r in told if r.operator in EXPLORATIONS and isinstance(r.outcome, Evaluated)]
    written = sum(bool(r.candidate.writer) for r in new)
    trouble = desk.why if ended else desk.trouble
    tokens = desk.tokens - desk.tokens_before
    return Authorship(written, len(new) - written, desk.refused, desk.failed, desk.late, tokens, trouble)


def _left(driver: Driver, elapsed: float) -> float | None:
    """Seconds until the first limit, by the session's rate."""
    goal, history = driver.search.config.evals, driver.search.history
    hours = driver.hours
    limits = [] if hours.limit is None else [3600 * max(0.0, hours.limit - hours.spent)]
    if goal is not None and hours.evaluations >= LEAST_RATE_COUNT:
        limits.append(max(0, goal - history.evaluated) * elapsed / hours.evaluations)
    return min(limits, default=None)


def _known(driver: Driver, genome: str | None) -> Best | None:
    estimate = driver.search.belief.of.get(genome or "")
    return Best(genome or "", estimate.mean, estimate.sd) if estimate else None


def _work(driver: Driver, index: int, slot: str, seconds: float, curve: str) -> Work:
    candidate = driver.candidates[index]
    return Work(slot, index, candidate.operator, candidate.note, seconds, curve)


def _curve(point: CurvePoint | None) -> str:
    if point is None:
        return ""
    return f"step {point.step}" + (f" loss {point.loss:.2f}" if point.loss is not None else "")
