"""The store loses nothing and refuses what it must: idempotence, recovery, locks, foreign folders, kill -9."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import World, improving, scored, search

import genomes
from evaluator.outcome import CurvePoint, Duplicate, Failed, Interrupted, Outcome, Phase, Reason, Stopped, Unwritten
from evo.core.records import Candidate, Proposal, Record, lean, record_from_dict, record_to_dict
from evo.folder import LOCK, Finished, StoreError, held, locked, log, read_outcomes, write_outcome
from evo.store import Store, curve, known, snapshot

META = {"lab": "abc", "seed": 0, "measurement_key": "cpu/10s"}
ROOT = Path(__file__).resolve().parent.parent


def candidate(index: int, genome: str = "") -> Candidate:
    return Candidate(Proposal(index, "mutate", ("seed",), 100 + index), genome or f"genome{index}", "species", 10, "LR 0.04 → 0.05")


def record(index: int, outcome: Outcome | None = None) -> Record:
    return Record(candidate(index), outcome or scored(0.9 + index / 100), "cpu0", 1.0, 2.0)


def open_store(run_dir: Path) -> Store:
    return Store.open(run_dir, META)


# ---- round trips


OUTCOMES = [
    scored(1.25),
    Stopped("hopeless", 3.0, (CurvePoint(1.0, 1, 10, 2.5),), "log"),
    Failed(Reason.CRASH, Phase.TRAIN, "boom", "Traceback", 1.0, (CurvePoint(1.0, 1, 10, None),), "printed"),
    Duplicate(3),
    Unwritten("nothing applies"),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda o: type(o).__name__)
def test_records_come_back_as_they_went_in(outcome: Outcome, tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as store:
        store.begin(candidate(4), "text")
        store.finish(record(4, outcome))
    with open_store(tmp_path / "run") as store:
        assert store.records() == (lean(record(4, outcome)),)
        assert store.pending() == ()


@given(st.sampled_from(OUTCOMES), st.text(), st.floats(0, 2e11))
def test_record_dictionaries_survive_json(outcome: Outcome, note: str, when: float) -> None:
    original = Record(dataclasses.replace(candidate(1), note=note), outcome, note, when, when)
    assert record_from_dict(json.loads(json.dumps(record_to_dict(original)))) == original


def test_log_and_curve_are_kept_beside_the_record(tmp_path: Path) -> None:
    points = (CurvePoint(0.5, 1, 64, 7.0), CurvePoint(1.0, 2, 128, None))
    failed = Failed(Reason.CRASH, Phase.TRAIN, "boom", "Traceback: boom", 1.0, points, "step 1\nstep 2")
    with open_store(tmp_path / "run") as store:
        store.begin(candidate(0), "text")
        store.finish(record(0, failed))
    assert curve(tmp_path / "run", 0) == points
    assert log(tmp_path / "run", 0) == "step 1\nstep 2\nTraceback: boom"
    assert log(tmp_path / "run", 99) == ""
    assert curve(tmp_path / "run", 99) == ()


def test_programs_keep_every_byte(tmp_path: Path) -> None:
    text = "# ü →\r\nx = 1\n"
    with open_store(tmp_path / "run") as store:
        store.begin(candidate(0, genomes.identity(text)), text)
        assert store.text(genomes.identity(text)) == text
        with pytest.raises(StoreError, match="is missing"):
            store.text("other")


def test_known_names_the_candidate_that_introduced_a_genome(tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as store:
        for index, genome in ((0, "a"), (1, "a"), (2, "b")):
            store.begin(candidate(index, genome), "text")
        store.finish(Record(candidate(0, "a"), scored(1.0)))
        store.finish(Record(candidate(3, "a"), Duplicate(0)))
        store.finish(Record(Candidate(Proposal(4, "mutate", ("a",), 1), "", "", 0, ""), Unwritten("no")))
        assert {id_: c.index for id_, c in known(store.records(), store.pending()).items()} == {"a": 0, "b": 2}


# ---- idempotence


def test_begin_and_finish_are_idempotent(tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as store:
        for _ in range(2):
            store.begin(candidate(0), "text")
        for _ in range(2):
            store.finish(record(0))
        assert len(store.records()) == 1


def test_another_record_under_an_index_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as store:
        store.begin(candidate(0), "text")
        store.finish(record(0))
        with pytest.raises(StoreError, match="index 0 was finished before with something else"):
            store.finish(record(0, scored(0.1)))
        with pytest.raises(StoreError, match="index 0 was begun before with something else"):
            store.begin(candidate(0, "other"), "text")
        assert store.records() == (record(0),)


def test_what_was_not_begun_cannot_finish(tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as store, pytest.raises(StoreError, match="not begun"):
        store.finish(record(0))


def test_an_interrupted_evaluation_is_not_finished(tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as store:
        store.begin(candidate(0), "text")
        with pytest.raises(StoreError, match="run it again"):
            store.finish(record(0, Interrupted("worker lost")))
        assert store.pending() == (candidate(0),)


@pytest.mark.parametrize(
    "outcome",
    [scored(float("nan")), scored(1e200), dataclasses.replace(scored(1.0), tokens=2**63), Stopped("a note", float("inf"))],
    ids=["nan", "huge", "tokens", "seconds"],
)
def test_what_could_not_be_read_again_is_never_stored(outcome: Outcome, tmp_path: Path) -> None:
    """Else a bug in an evaluator would cost the whole run."""
    with open_store(tmp_path / "run") as store:
        store.begin(candidate(0), "text")
        with pytest.raises(ValueError, match="is "):
            store.finish(record(0, outcome))
        assert store.pending() == (candidate(0),)
    with open_store(tmp_path / "run") as store:
        assert store.records() == ()


# ---- recovery


def test_outcomes_that_were_never_reported_become_records(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with open_store(run) as store:
        for index in range(3):
            store.begin(candidate(index), "text")
        write_outcome(run, Finished(0, scored(0.9), "cpu0", 1.0, 2.0))
        write_outcome(run, Finished(1, Interrupted("worker lost"), "cpu1", 1.0, 2.0))
        assert read_outcomes(run)[0].outcome == scored(0.9)
    with open_store(run) as store:
        assert store.records() == (record(0),)
        assert store.pending() == (candidate(1), candidate(2))
        assert read_outcomes(run) == {}


def test_an_outcome_that_was_ingested_already_is_only_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with open_store(run) as store:
        store.begin(candidate(0), "text")
        store.finish(record(0))
        write_outcome(run, Finished(0, scored(0.1), "cpu9", 5.0, 6.0))
    with open_store(run) as store:
        assert store.records() == (record(0),)
    assert read_outcomes(run) == {}


def test_half_written_files_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    run = tmp_path / "run"
    open_store(run).close()
    (run / "genomes" / ".g.py.123.tmp").write_text("half")
    open_store(run).close()
    assert list((run / "genomes").iterdir()) == []


# ---- refusals


def test_a_second_writer_is_refused_and_named(tmp_path: Path) -> None:
    with open_store(tmp_path / "run"), pytest.raises(StoreError, match=f"being written by process {os.getpid()}"):
        open_store(tmp_path / "run")
    open_store(tmp_path / "run").close()


def test_another_run_is_refused_with_both_values(tmp_path: Path) -> None:
    open_store(tmp_path / "run").close()
    with pytest.raises(StoreError, match="seed is 0 there, 1 here") as caught:
        Store.open(tmp_path / "run", {**META, "seed": 1})
    assert "lab" not in str(caught.value).split("(")[1]
    with pytest.raises(StoreError, match="measurement_key is 'cpu/10s' there, None here"):
        Store.open(tmp_path / "run", {"lab": "abc", "seed": 0})


def test_a_folder_that_is_no_run_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds notes\.txt"):
        open_store(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(StoreError, match="is a file"):
        open_store(tmp_path / "notes.txt")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "run").close()
    connection = sqlite3.connect(tmp_path / "run" / "run.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="version 99, this program knows 1"):
        open_store(tmp_path / "run")
    with pytest.raises(StoreError, match="version 99"):
        snapshot(tmp_path / "run")


def test_a_damaged_database_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        open_store(tmp_path / "run")
    with pytest.raises(StoreError, match="cannot be read"):
        snapshot(tmp_path / "run")


def test_a_full_disk_is_not_taken_for_a_damaged_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(tmp_path / "run").close()
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("evo.store.read_meta", full)
    with pytest.raises(StoreError, match=r"disk I/O error.*make room"):
        snapshot(tmp_path / "run")


def test_a_start_that_was_killed_before_the_schema_is_a_new_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "genomes").mkdir(parents=True)
    (run / "run.lock").touch()
    (run / "run.sqlite").touch()
    with open_store(run) as store:
        assert store.records() == ()


# ---- looking at the lock

LOOKS = """
import sys
from pathlib import Path
from evo.folder import held
lock = Path(sys.argv[1])
lock.with_name("looked").touch()
while True:
    held(lock)
"""


@pytest.fixture
def looked_at(tmp_path: Path) -> Iterator[Path]:
    """A run folder whose lock another process looks at all the time."""
    (tmp_path / LOCK).touch()
    with subprocess.Popen([sys.executable, "-c", LOOKS, str(tmp_path / LOCK)], cwd=ROOT) as looking:
        try:
            while not (tmp_path / "looked").exists():
                assert looking.poll() is None
                time.sleep(0.01)
            yield tmp_path
        finally:
            looking.kill()


def test_looking_at_a_run_disturbs_no_start(looked_at: Path) -> None:
    for _ in range(500):
        locked(looked_at).close()


def test_two_that_look_at_a_run_do_not_take_each_other_for_a_writer(looked_at: Path) -> None:
    assert not any(held(looked_at / LOCK) for _ in range(5000))
    with locked(looked_at):
        assert held(looked_at / LOCK)


# ---- reading beside a writer


def test_a_run_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with open_store(run) as store:
        store.begin(candidate(0), "text")
        store.finish(record(0))
        store.begin(candidate(1), "text")
        seen = snapshot(run)
        assert seen.meta == META
        assert seen.records == (record(0),)
        assert seen.pending == (candidate(1),)
    with pytest.raises(StoreError, match="not a run folder"):
        snapshot(tmp_path)


# ---- kill -9


WRITER = """
import sys; sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from simulated import World, improving, search
from evo.core.history import EXPLORATIONS
from evo.folder import Finished, write_outcome
from evo.store import Store
run = Path(sys.argv[1])
world, found = World(improving, failures=0.2, blanks=0.1), search(evals=None)
with Store.open(run, {meta!r}) as store:
    for candidate in (*[r.candidate for r in store.records()], *store.pending()):
        if candidate.operator in EXPLORATIONS:
            world.evaluate(candidate.proposal)
    found.resume(store.records(), (c.proposal for c in store.pending()))
    waiting = list(found.pending)
    while True:
        waiting += found.ask(3 - len(waiting))
        proposal = waiting.pop(0)
        record = world.evaluate(proposal)
        if type(record.outcome).__name__ not in ("Unwritten", "Duplicate"):
            store.begin(record.candidate, record.candidate.genome)
            write_outcome(run, Finished(proposal.index, record.outcome, "", 0.0, 0.0))
            print(proposal.index, flush=True)
        store.finish(record)
        found.tell(record)
"""


def test_kill_nine_at_random_moments_loses_no_finished_evaluation_and_runs_none_twice(tmp_path: Path) -> None:
    run, script = tmp_path / "run", tmp_path / "writer.py"
    script.write_text(WRITER.format(root=str(ROOT), tests=str(ROOT / "tests"), meta=META))
    reported: list[int] = []
    rng = random.Random(5)
    for _ in range(8):
        process = subprocess.Popen([sys.executable, str(script), str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        reported.append(int(process.stdout.readline()))  # it works
        time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err
        reported += [int(line) for line in out.splitlines() if line]
        snapshot(run)  # readable at once
    with open_store(run) as store:
        records = store.records()
    finished = {r.index for r in records}
    assert len(reported) == len(set(reported))
    assert set(reported) <= finished
    assert finished == set(range(len(records)))


def test_a_resumed_run_is_the_run_that_was_never_interrupted(tmp_path: Path) -> None:
    world, whole = World(improving), search(evals=15)
    while proposals := whole.ask(1):
        whole.tell(world.evaluate(proposals[0]))
    world = World(improving)
    for _ in range(200):  # reopen before every single step
        with open_store(tmp_path / "run") as store:
            found = search(evals=15)
            found.resume(store.records(), (c.proposal for c in store.pending()))
            if not (proposals := found.ask(1)):
                break
            made = world.evaluate(proposals[0])
            store.begin(made.candidate, "text")
            store.finish(made)
    assert found.standing == whole.standing


def test_a_full_disk_is_an_os_error_and_what_is_stored_stays(tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as store:
        store.begin(candidate(0), "x = 0\n")
        store._connection.execute("PRAGMA max_page_count = 1")  # SQLite's own way to be full: no page more than there are
        large = dataclasses.replace(candidate(1), note="n" * 100_000)
        with pytest.raises(OSError, match="disk is full"):
            store.begin(large, "x = 1\n")
    assert snapshot(tmp_path / "run").pending == (candidate(0),)
