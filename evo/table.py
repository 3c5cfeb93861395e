"""What a person sees of a run while it goes on: a live table on a terminal, plain lines `key=value` elsewhere. Both show `Progress`."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evaluator.outcome import SELF_REPORTED, CurvePoint, Duplicate, Evaluated, Failed, Outcome, Scored, Stopped
from evo.core.history import EXPLORATIONS
from evo.core.records import CALIBRATE, FINAL, Record
from evo.drive import Driver
from evo.errors import one_line
from evo.llm.desk import Answer

REFRESH_SECONDS = 0.5
LINES = 8  # of the latest records in the live table
RESULT_WIDTH = 24  # of its column: what is longer would take the place of all others on a narrow terminal
LEAST_RATE_COUNT = 4  # evaluations of a session before their rate foretells its end


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
    late: int  # proposals that no slot could wait for
    tokens: int
    trouble: str  # what it last got wrong, or why it is not asked; "" while all is well


@dataclass(frozen=True)
class Progress:
    """A run at one moment."""

    phase: str  # "calibrate", "explore" or "final"
    evaluated: int  # new genomes
    goal: int | None
    finals: tuple[int, int]  # final draws that have come in, and that there are to be
    repeats: int  # other evaluations: calibration, confirmation, final draws
    elapsed_seconds: float  # this session
    left_seconds: float | None  # until a limit ends exploration; None: no limit, or nobody knows
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
    """Reads it off a driver; one that has ended will try nothing again."""
    standing, search, now = driver.search.standing, driver.search, time.time()
    running = driver.executor.running()
    elapsed = max(now - driver.began, 1e-9)
    outcomes = [r.outcome for r in standing.records]
    fruitless = sum(not isinstance(r.outcome, Evaluated) for r in standing.records)
    operators = {driver.candidates[r.index].operator for r in running}
    phase = FINAL if search.finals[1] else CALIBRATE if CALIBRATE in operators else "explore"
    return Progress(
        phase=phase,
        evaluated=standing.history.evaluated,
        goal=search.config.evals,
        finals=search.finals,
        repeats=len(outcomes) - fruitless - standing.history.evaluated,
        elapsed_seconds=elapsed,
        left_seconds=_left(driver, elapsed) if phase != FINAL else None,
        best=_known(driver, standing.champion),
        seed=_known(driver, standing.founder),
        noise_sd=standing.belief.noise_sd,
        working=tuple(_work(driver, r.index, r.slot, now - r.started, _curve(r.point)) for r in running),
        failures=tuple(Counter(str(o.reason) for o in outcomes if isinstance(o, Failed)).most_common()),
        unevaluated=fruitless,
        per_hour=3600 * driver.evaluations / elapsed,
        idle_share=max(0.0, 1 - driver.busy_seconds(now) / (elapsed * driver.executor.slots)),
        model=_authorship(driver, ended),
        notices=(*driver.notices, *([driver.busy] if driver.busy else [])),
        self_reported=standing.history.self_reported,
    )


def plain_line(record: Record, now: Progress) -> str:
    """One event as `key=value` pairs; values with spaces are quoted, control characters removed."""
    candidate = record.candidate
    fields = {
        "elapsed": clock(now.elapsed_seconds),
        "n": f"{now.evaluated}/{now.goal}" if now.goal is not None else str(now.evaluated),
        "index": str(record.index),
        "op": record.operator,
        "genome": candidate.genome or "-",
        **_said(record.outcome),
        "best": f"{now.best.mean:.4f}±{now.best.sd:.4f}" if now.best else "-",
        **({"champion": now.best.genome[:8], "gain": f"{now.seed.mean - now.best.mean:+.4f}"} if now.best and now.seed else {}),
        **({"scores": SELF_REPORTED} if now.self_reported else {}),
        "slot": record.slot or "-",
        "seconds": f"{record.finished - record.started:.1f}",
        "note": candidate.note,
        **({"writer": candidate.writer} if candidate.writer else {}),
    }
    return _line(fields)


def _line(fields: Mapping[str, str]) -> str:
    return " ".join(f"{key}={_quoted(one_line(value))}" for key, value in fields.items())


def _quoted(value: str) -> str:
    if value and not set(value) & set(" \"'="):
        return value
    return json.dumps(value, ensure_ascii=False) if value else "-"


def clock(seconds: float) -> str:
    """0:01:23"""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class PlainLines:
    """A line per event, for logs and pipes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told_spent = self._told_busy = False
        self._told_notices = 0

    def told(self, record: Record, driver: Driver) -> None:
        self._say(plain_line(record, progress(driver)))

    def answered(self, answer: Answer, driver: Driver) -> None:
        if answer.written is None:
            fields = {"model": "endpoint failed" if answer.endpoint_failed else "refused", "index": str(answer.proposal.index)}
            self._say(_line({**fields, "why": driver.desk.trouble or answer.why}))

    def tick(self, driver: Driver) -> None:
        """Between events a limit can be reached, or a slot looked after."""
        for notice in driver.notices[self._told_notices :]:
            self._say(_line({"notice": notice}))
        self._told_notices = len(driver.notices)
        if driver.busy and not self._told_busy:
            self._told_busy = True
            self._say(_line({"notice": driver.busy}))
        spent = driver.desk.spent
        if spent and not self._told_spent:
            self._told_spent = True
            self._say(_line({"model": "asked no more", "why": spent}))


class LiveTable:
    """A table that is redrawn in place. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._latest: list[Record] = []
        self._drawn_at = 0.0
        self._driver: Driver | None = None

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None and self._driver is not None:  # what stays on the terminal is the end
            self._draw(self._driver, ended=True)
        with contextlib.suppress(OSError):
            self._live.stop()

    def told(self, record: Record, driver: Driver) -> None:
        self._latest = [*self._latest, record][-LINES:]
        self.tick(driver)

    def answered(self, answer: Answer, driver: Driver) -> None:
        self.tick(driver)

    def tick(self, driver: Driver) -> None:
        self._driver = driver
        if time.monotonic() - self._drawn_at >= REFRESH_SECONDS:
            self._draw(driver)

    def _draw(self, driver: Driver, ended: bool = False) -> None:
        """A run does not end because its terminal has gone."""
        with contextlib.suppress(OSError):
            self._live.update(render(progress(driver, ended), self._latest), refresh=True)
        self._drawn_at = time.monotonic()


def render(now: Progress, latest: list[Record]) -> Group:
    """The table: a headline, what runs where, what came last."""
    failures = [Text(_failure_line(now), style="yellow")] if now.failures or now.unevaluated else []
    model = [Text(_model_line(now.model), style="yellow" if now.model.trouble else "")] if now.model else []
    notices = [Text(one_line(notice), style="yellow") for notice in now.notices]
    return Group(Text(headline(now)), *failures, *model, *notices, _working(now), _records(latest))


def headline(now: Progress) -> str:
    """Progress, speed, best with its noise band; lines that fit a narrow terminal."""
    count = f"{now.evaluated}/{now.goal}" if now.goal is not None else str(now.evaluated)
    draws = f"draw {now.finals[0]}/{now.finals[1]}, " if now.phase == FINAL else ""
    left = f", about {clock(now.left_seconds)} left" if now.left_seconds is not None else ""
    lines = [f"{now.phase}  {draws}{count} evaluated + {now.repeats} repeats   {clock(now.elapsed_seconds)}{left}"]
    lines.append(f"{now.per_hour:.0f} evaluations/h, slots idle {100 * now.idle_share:.0f} %")
    if now.best and now.seed:
        gain = "the seed" if now.best.genome == now.seed.genome else f"believed gain {now.seed.mean - now.best.mean:+.4f}"
        band = f"{now.best.mean:.4f} ± {now.best.sd:.4f}"
        told = f" {SELF_REPORTED}" if now.self_reported else ""
        lines.append(f"best {now.best.genome[:8]}  {band}{told}   {gain}, noise of one draw {now.noise_sd:.4f}")
    return "\n".join(lines)


def _failure_line(now: Progress) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in now.failures) or "none"
    return f"failures: {reasons}; not evaluated: {now.unevaluated}"


def model_words(driver: Driver) -> list[str]:
    """What the model has brought, in a line at the end of a session; none where no model writes."""
    model = _authorship(driver, ended=True)
    return [_model_line(model)] if model is not None else []


def _model_line(model: Authorship) -> str:
    said = f"model, this session: wrote {model.written} of {model.written + model.others} new genomes, refused {model.refused}"
    said += f", too slow for {model.late}, {model.tokens} tokens"
    return one_line(f"{said}; {model.trouble}" if model.trouble else said)


def _columns(*names: str) -> Table:
    """A table whose changes take what width is left, one line each."""
    table = Table(box=SIMPLE, expand=True)
    for name in names:
        most = RESULT_WIDTH if name == "result" else None
        table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1 if name == "change" else None, max_width=most)
    return table


def _working(now: Progress) -> Table:
    table = _columns("slot", "index", "operator", "change", "since", "curve")
    for work in now.working:
        table.add_row(work.slot, str(work.index), work.operator, Text(one_line(work.note)), f"{work.seconds:.0f} s", work.curve)
    return table


def _records(latest: list[Record]) -> Table:
    table = _columns("index", "operator", "genome", "result", "change")
    for record in reversed(latest):
        result = _result(record.outcome)
        style = "yellow" if isinstance(record.outcome, Failed) else ""
        table.add_row(
            str(record.index),
            record.operator,
            record.candidate.genome[:8],
            Text(one_line(result)),
            Text(one_line(record.candidate.note)),
            style=style,
        )
    return table


def _result(outcome: Outcome) -> str:
    """In a few words."""
    said = _said(outcome)
    if isinstance(outcome, Scored):
        return f"{said['val_bpb']} {SELF_REPORTED}" if outcome.self_reported else said["val_bpb"]
    return f"{said['outcome']} {said['reason'].partition(' of the budget')[0]}"


def _left(driver: Driver, elapsed: float) -> float | None:
    """Seconds until the first limit, by the session's rate."""
    goal, history = driver.search.config.evals, driver.search.history
    limits = [] if driver.hours is None else [3600 * max(0.0, driver.hours - driver.hours_spent)]
    if goal is not None and driver.evaluations >= LEAST_RATE_COUNT:
        limits.append(max(0, goal - history.evaluated) * elapsed / driver.evaluations)
    return min(limits, default=None)


def _said(outcome: Outcome) -> dict[str, str]:
    name = type(outcome).__name__.lower()
    if isinstance(outcome, Scored):
        return {"outcome": name, "val_bpb": f"{outcome.val_bpb:.4f}"}
    if isinstance(outcome, Failed):
        return {"outcome": name, "reason": str(outcome.reason), "message": outcome.message}
    if isinstance(outcome, Duplicate):
        return {"outcome": name, "reason": f"of {outcome.of}"}
    return {"outcome": name, "reason": outcome.note if isinstance(outcome, Stopped) else outcome.why}


def _authorship(driver: Driver, ended: bool) -> Authorship | None:
    desk = driver.desk
    if not desk.staffed:
        return None
    told = (r for r in driver.search.standing.records if r.index not in driver.told_before)
    new = [r for r in told if r.operator in EXPLORATIONS and isinstance(r.outcome, Evaluated)]
    written = sum(bool(r.candidate.writer) for r in new)
    trouble = desk.why if ended else desk.trouble
    return Authorship(written, len(new) - written, desk.refused, desk.late, desk.tokens - desk.tokens_before, trouble)


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
