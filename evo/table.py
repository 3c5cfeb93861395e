"""What a person sees of a run while it goes on: a live table on a terminal, plain lines `key=value` elsewhere. Both show `Progress`
(evo/progress.py)."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.constrain import Constrain
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evaluator.outcome import SELF_REPORTED, Duplicate, Failed, Outcome, Scored, Stopped
from evo.core.records import FINAL, Record
from evo.core.words import counted
from evo.drive import Driver
from evo.errors import one_line
from evo.llm.desk import Answer
from evo.progress import STOPPING, Authorship, Progress, authorship, progress

REFRESH_SECONDS = 0.5
ECHO_WIDTH = 2  # of "^C", which a terminal puts behind the last line: were there no room, it would begin another
LINES = 8  # latest records in the live table
RESULT_WIDTH = 24  # widest column of results: a wider one would take the place of all others on a narrow terminal


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
            remedy = driver.desk.remedy if answer.endpoint_failed else ""
            self._say(_line({**fields, "why": f"{answer.why}; {remedy}" if remedy else answer.why}))

    def tick(self, driver: Driver) -> None:
        """Reports what happens between events: a limit is reached, or a slot is looked after."""
        for notice in driver.notices[self._told_notices :]:
            self._say(_line({"notice": notice}))
        self._told_notices = len(driver.notices)
        if driver.upkeep.busy and not self._told_busy:
            self._told_busy = True
            self._say(_line({"notice": driver.upkeep.busy}))
        if driver.stopping:  # the last tick
            self._say(_line({"notice": STOPPING}))
        spent = driver.desk.spent
        if spent and not self._told_spent:
            self._told_spent = True
            self._say(_line({"model": "no longer asked", "why": spent}))


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
        if driver.stopping or time.monotonic() - self._drawn_at >= REFRESH_SECONDS:
            self._draw(driver)

    def _draw(self, driver: Driver, ended: bool = False) -> None:
        """Draws the table. A run does not end because its terminal has gone."""
        with contextlib.suppress(OSError):
            console, now = self._live.console, progress(driver, ended)
            width = console.width - ECHO_WIDTH
            taken = len(console.render_lines(Constrain(render(now, []), width)))
            room = max(0, console.height - taken)  # what a terminal has no room for would be cut off, under a row of dots
            latest = self._latest[max(0, len(self._latest) - room) :]
            self._live.update(Constrain(render(now, latest), width), refresh=True)
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
    lines = [f"{now.phase}  {draws}{count} evaluated + {counted(now.repeats, 'repeat')}   {clock(now.elapsed_seconds)}{left}"]
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
    model = authorship(driver, ended=True)
    return [_model_line(model)] if model is not None else []


def _model_line(model: Authorship) -> str:
    said = (
        f"model, this session: wrote {model.written} of {model.written + model.others} new genomes, gave nothing usable for {model.refused}"
    )
    said += f", was too slow for {model.late}{f', its endpoint failed for {model.failed}' if model.failed else ''}, {model.tokens} tokens"
    return one_line(f"{said}; {model.trouble}" if model.trouble else said)


def _columns(*names: str) -> Table:
    """A table whose column of changes takes what width is left, one line each."""
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
    """An outcome in a few words."""
    said = _said(outcome)
    if isinstance(outcome, Scored):
        return f"{said['val_bpb']} {SELF_REPORTED}" if outcome.self_reported else said["val_bpb"]
    return f"{said['outcome']} {said['reason'].partition(' of the budget')[0]}"


def _said(outcome: Outcome) -> dict[str, str]:
    name = type(outcome).__name__.lower()
    if isinstance(outcome, Scored):
        return {"outcome": name, "val_bpb": f"{outcome.val_bpb:.4f}"}
    if isinstance(outcome, Failed):
        return {"outcome": name, "reason": str(outcome.reason), "message": outcome.message}
    if isinstance(outcome, Duplicate):
        return {"outcome": name, "reason": f"of {outcome.of}"}
    return {"outcome": name, "reason": outcome.note if isinstance(outcome, Stopped) else outcome.why}
