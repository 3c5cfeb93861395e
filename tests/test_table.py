"""What a person sees: the live table says all that matters, plain lines can be read by a program, nothing strange gets through."""

from __future__ import annotations

import io
import re
import shlex
import time
from pathlib import Path

import pytest
from rich.console import Console
from tiny_lab import NOISY, Silent, drive, spec

from evaluator.instant import Landscape
from evaluator.outcome import Failed, Phase, Reason, Scored, Unwritten
from evo.core.records import MUTATE, Candidate, Proposal, Record
from evo.drive import Driver
from evo.errors import one_line
from evo.executor import InlineExecutor
from evo.progress import Progress, progress
from evo.store import snapshot
from evo.table import LiveTable, PlainLines, clock, plain_line, render

EVALS = 12


def text_of(driver: Driver, latest: list[Record], width: int = 160) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(render(progress(driver), latest))
    return out.getvalue()


class Collects(Silent):
    """Takes down what the table would show after each record."""

    def __init__(self) -> None:
        self.seen: list[Progress] = []
        self.last = self.narrow = ""
        self.latest: list[Record] = []

    def told(self, record: Record, driver: Driver) -> None:
        self.latest.append(record)
        self.seen.append(progress(driver))
        self.last = text_of(driver, self.latest)
        self.narrow = text_of(driver, self.latest, 80)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Collects, Path]:
    run_dir = tmp_path_factory.mktemp("watched") / "run"
    watcher = Collects()
    drive(run_dir, EVALS, InlineExecutor((spec(run_dir, Landscape(2, 0.0005, 0.3, 0.01)),) * 2), watcher)
    return watcher, run_dir


def test_progress_counts_what_the_records_say(watched: tuple[Collects, Path]) -> None:
    watcher, run_dir = watched
    records = snapshot(run_dir).records
    last = watcher.seen[-1]
    assert (last.evaluated, last.goal) == (EVALS, EVALS)
    assert last.evaluated + last.repeats + last.unevaluated == len(records)
    assert dict(last.failures) == {"crash": sum(isinstance(r.outcome, Failed) for r in records)}
    assert 0 <= last.idle_share <= 1
    assert last.per_hour > 0
    assert {p.phase for p in watcher.seen} == {"calibrate", "explore", "confirm", "final"}
    assert [p.evaluated for p in watcher.seen] == sorted(p.evaluated for p in watcher.seen)


def test_the_table_shows_progress_best_work_and_failures(watched: tuple[Collects, Path]) -> None:
    watcher, _ = watched
    last = watcher.seen[-1]
    assert f"{EVALS}/{EVALS} evaluated" in watcher.last
    assert last.best is not None
    assert last.best.genome[:8] in watcher.last
    assert f"{last.best.mean:.4f} ± {last.best.sd:.4f}" in watcher.last
    assert "failures: crash" in watcher.last
    assert "evaluations/h" in watcher.last
    assert "slots idle" in watcher.last


def test_at_eighty_columns_each_record_has_its_index_operator_genome_and_result(watched: tuple[Collects, Path]) -> None:
    watcher, _ = watched
    lines = watcher.narrow.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any(isinstance(r.outcome, Failed) for r in watcher.latest)
    for record in watcher.latest:
        result = f"{record.outcome.val_bpb:.4f}" if isinstance(record.outcome, Scored) else type(record.outcome).__name__.lower()
        proposal = record.candidate.proposal
        row = next(line for line in lines if line.split()[:1] == [str(proposal.index)] and result in line)
        assert proposal.operator in row
        assert record.candidate.genome[:8] in row
    assert lines[0].startswith("final  draw ")


def test_the_time_that_is_left_goes_by_the_first_limit_and_is_told_once_it_is_known(watched: tuple[Collects, Path], tmp_path: Path) -> None:
    watcher, _ = watched
    assert watcher.seen[0].left_seconds is None
    explored = [p for p in watcher.seen if p.phase == "explore"]
    known = [p.left_seconds for p in explored if p.left_seconds is not None]
    assert 0 < known[-1] < 60
    assert explored[-1].evaluated == EVALS
    assert explored[-1].left_seconds is None  # nothing is left
    assert all(p.left_seconds is None for p in watcher.seen if p.phase == "final")
    assert watcher.seen[-1].finals == (8, 8)

    class Looks(Silent):
        def told(self, record: Record, driver: Driver) -> None:
            left.append(progress(driver).left_seconds)

    left: list[float | None] = []
    drive(tmp_path / "run", EVALS, InlineExecutor((spec(tmp_path / "run"),)), Looks(), hours=1.0)
    assert left[0] is not None
    assert 3590 < left[0] <= 3600


def test_the_table_shows_what_runs_where(tmp_path: Path) -> None:
    class Looks(Silent):
        def tick(self, driver: Driver) -> None:
            shown.append((text_of(driver, []), [driver.candidates[r.index].note for r in driver.executor.running()]))

    shown: list[tuple[str, list[str]]] = []
    run_dir = tmp_path / "run"
    drive(run_dir, EVALS, InlineExecutor((spec(run_dir),) * 2), Looks())
    text, notes = shown[6]
    assert notes
    assert "instant0" in text
    assert all(note[:12] in text for note in notes)


def test_a_live_table_is_drawn_on_a_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    run_dir = tmp_path / "run"
    with LiveTable(Console(file=out, force_terminal=True, width=120)) as table:
        drive(run_dir, 3, InlineExecutor((spec(run_dir, Landscape(seconds=0.1)),)), table)
    assert "\x1b[" in out.getvalue()
    assert "evaluated" in out.getvalue()
    written = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert max(map(len, re.split("[\r\n]", written))) == 118  # an echoed ^C has room behind the last line
    assert "3/3 evaluated + 14 repeats" in out.getvalue().rpartition("final  draw 8/8")[2]  # the last frame is the end


def test_a_low_terminal_shows_the_records_that_it_has_room_for(tmp_path: Path) -> None:
    out = io.StringIO()
    with LiveTable(Console(file=out, force_terminal=True, width=80, height=14)) as table:
        drive(tmp_path / "run", 6, InlineExecutor((spec(tmp_path / "run", Landscape(seconds=0.2)),)), table)
    assert "..." not in out.getvalue()
    frames = out.getvalue().split("slots idle")
    assert 0 < max(frame.count("mutate") for frame in frames[:-1]) <= 4


def test_each_event_is_one_line_of_pairs(tmp_path: Path) -> None:
    lines: list[str] = []
    run_dir = tmp_path / "run"
    drive(run_dir, EVALS, InlineExecutor((spec(run_dir, NOISY),)), PlainLines(lines.append))
    records = snapshot(run_dir).records
    assert len(lines) == len(records)
    for line in lines:
        pairs = dict(part.split("=", 1) for part in shlex.split(line))
        record = records[int(pairs["index"])]
        assert pairs["op"] == record.operator
        assert pairs["outcome"] == type(record.outcome).__name__.lower()
        if isinstance(record.outcome, Scored):
            assert pairs["val_bpb"] == f"{record.outcome.val_bpb:.4f}"


NOW = Progress("explore", 1, None, (0, 0), 0, 5.0, None, None, None, 0.01, (), (), 0, 10.0, 0.5, None)


@pytest.mark.parametrize("note", ['quotes " and \\ and =', "two\nlines\r\x1b[31mred\x07", "", "plain", "±0.5 → 1", "half a pair \ud800"])
def test_no_note_breaks_a_line_or_a_terminal(note: str) -> None:
    for outcome in (Failed(Reason.CRASH, Phase.TRAIN, note), Unwritten(note)):
        record = Record(Candidate(Proposal(3, MUTATE, ("p",), 0), "g", "s", 1, note), outcome, "cpu0", 1.0, 2.5)
        line = plain_line(record, NOW)
        assert line.isprintable()
        pairs = dict(part.split("=", 1) for part in shlex.split(line))
        assert pairs["note"] == (one_line(note) or "-")
        assert pairs["seconds"] == "1.5"


def test_clock() -> None:
    assert [clock(s) for s in (0, 61.9, 3600, 90061)] == ["0:00:00", "0:01:01", "1:00:00", "25:01:01"]


def test_looking_costs_little(watched: tuple[Collects, Path], tmp_path: Path) -> None:
    driver = drive(tmp_path / "run", EVALS)
    seconds = []
    for _ in range(20):
        began = time.process_time()  # on a core, whatever else the machine does
        progress(driver)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.01
