"""The file of the study: whatever happens to it, the next refresh leaves what a whole one has. And the command that makes it anew."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import make_run
from study_facts import facts, make_studied_run, opened, rebuilt, standing, told_alike
from tiny_lab import Silent, drive

from evaluator.outcome import Evaluated
from evo.core.records import MUTATE, Record
from evo.core.standing import assess
from evo.drive import Driver
from evo.store import Store, snapshot
from evo.views.__main__ import main
from evo.views.study import FILE, OVERVIEW, StudyView


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_studied_run(tmp_path_factory.mktemp("study") / "run")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


# ---- whatever happened to its file


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1))
def test_a_file_torn_anywhere_is_completed(run: Path, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    copy = Path(shutil.copytree(run, tmp_path_factory.mktemp("torn") / "run"))
    os.truncate(copy / FILE, int(share * (copy / FILE).stat().st_size))
    StudyView(copy).refresh(standing(copy), whole=True)
    assert told_alike(facts(copy), facts(run))
    shutil.rmtree(copy)


FOREIGN = {
    "text": b"nothing to read here\n",
    "binary": bytes(range(256)) * 20,
    "sqlite": b"SQLite format 3\x00" + bytes(4096),
    "other JSON": b'{"a": 1}\n[1, 2]\n"x"\n',
    "no objects": b"[1, 2]\n",
    "unknown operation": b'{"op_code": 99, "worker_id": "w"}\n',
    "lacks fields": b'{"op_code": 4, "worker_id": "w", "study_id": 0}\n{"op_code": 0}\n',
    "empty": b"",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("appended", [False, True])
def test_a_foreign_or_damaged_file_is_replaced(run: Path, copy: Path, content: bytes, appended: bool) -> None:
    (copy / FILE).write_bytes((copy / FILE).read_bytes() + content if appended else content)
    StudyView(copy).refresh(standing(copy), whole=True)
    assert told_alike(facts(copy), facts(run))


def test_another_runs_study_is_made_anew(run: Path, copy: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "other", evals=20, failure_share=0.5)
    StudyView(tmp_path / "other").refresh(standing(tmp_path / "other"), whole=True)
    shutil.copy(tmp_path / "other" / FILE, copy / FILE)
    StudyView(copy).refresh(standing(copy), whole=True)
    assert told_alike(facts(copy), facts(run))


def test_a_users_edits_in_the_dashboard_do_not_disturb_it(run: Path, copy: Path) -> None:
    """A note edited, a study added, the study renamed or deleted while the run goes on."""
    (copy / FILE).unlink()
    view, records = StudyView(copy), snapshot(copy).records
    for told, edit in ((8, "note"), (16, "study"), (24, "rename"), (32, "delete"), (len(records), "")):
        view.refresh(assess(records[:told]), whole=True)
        assert set(facts(copy)) == {r.index for r in records[:told] if isinstance(r.outcome, Evaluated)}
        storage = opened(copy)
        study_id = storage.get_study_id_from_name(OVERVIEW)
        if edit == "note":
            storage.set_study_system_attr(study_id, "dashboard:note_str:0", "mine")
        elif edit == "study":
            optuna.create_study(study_name="mine", storage=storage).add_trial(optuna.trial.create_trial(value=1.0))
        elif edit:
            if edit == "rename":
                trials_ = storage.get_all_trials(study_id)
                optuna.create_study(study_name="renamed", storage=storage).add_trials(trials_)
            storage.delete_study(study_id)
    assert told_alike(facts(copy), facts(run))


def test_a_stale_lock_is_not_waited_for(run: Path, copy: Path) -> None:
    (copy / FILE).unlink()
    (copy / f"{FILE}.lock").symlink_to(copy / FILE)
    StudyView(copy).refresh(standing(copy), whole=True)
    assert told_alike(facts(copy), facts(run))
    assert (copy / f"{FILE}.lock").is_symlink()
    assert main([str(copy)]) == 0
    assert not (copy / f"{FILE}.lock").is_symlink()


def test_a_kill_while_it_is_written_leaves_what_the_next_session_completes(run: Path, copy: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from evo.core.standing import assess; from evo.store import snapshot; from evo.views.study import *\n"
        "run = Path(sys.argv[1]); records = snapshot(run).records; print('ready', flush=True)\n"
        "while True:\n"
        "    (run / FILE).unlink(missing_ok=True); view = StudyView(run)\n"
        "    for told in range(len(records)): view.refresh(assess(records[:told + 1]), whole=True)\n"
    )
    rng = random.Random(7)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", script, str(copy)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.05, 0.4))
            os.kill(writer.pid, signal.SIGKILL)
        StudyView(copy).refresh(standing(copy), whole=True)
        assert told_alike(facts(copy), facts(run))


class Deletes(Silent):
    """Deletes the file in the middle of a run, and sees whether it comes back before the end."""

    def __init__(self, run_dir: Path) -> None:
        self.path, self.told_, self.seen = run_dir / FILE, 0, False

    def told(self, record: Record, driver: Driver) -> None:
        self.told_ += 1
        if self.told_ == 10:
            self.path.unlink()
        driver._views_cost = 0.0  # let every step refresh

    def tick(self, driver: Driver) -> None:
        self.seen |= 12 < self.told_ < 20 and self.path.exists()


def test_deleted_during_a_run_it_comes_back_and_is_complete_at_the_end(tmp_path: Path) -> None:
    watcher = Deletes(tmp_path / "run")
    drive(tmp_path / "run", 20, watcher=watcher)
    assert watcher.seen
    current, anew = facts(tmp_path / "run"), rebuilt(tmp_path / "run")
    for index, trial in anew.items():  # a knob that moved later is a parameter of earlier trials where they are written anew
        assert current[index]["params"].items() <= trial["params"].items()
        assert {**current[index], "params": {}} == {**trial, "params": {}}
    assert set(current) == set(anew)


def test_a_file_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    drive(run_dir, 3)
    (run_dir / FILE).unlink()
    (run_dir / FILE).mkdir()
    driver = drive(run_dir, 8)
    assert driver.search.history.evaluated == 8
    assert driver.views.trouble == f"{run_dir / FILE} cannot be written: Is a directory"
    (run_dir / FILE).rmdir()
    assert drive(run_dir, 8).views.trouble == ""
    assert len(facts(run_dir)) == sum(isinstance(r.outcome, Evaluated) for r in snapshot(run_dir).records)


def test_a_missing_program_costs_its_parameters_alone(run: Path, copy: Path) -> None:
    victim = next(t["attributes"]["genome"] for t in facts(run).values() if t["attributes"]["operator"] == MUTATE)
    (copy / "genomes" / f"{victim}.py").unlink()
    (copy / FILE).unlink()
    StudyView(copy).refresh(standing(copy), whole=True)
    before, after = facts(run), facts(copy)
    assert set(before) == set(after)
    lost = {i for i in after if after[i]["params"] != before[i]["params"]}
    assert lost == {i for i in after if after[i]["attributes"]["genome"] == victim}


# ---- the command


def test_the_command_makes_all_views_anew(run: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rebuilt(copy) == facts(run)
    records = snapshot(copy).records
    assert capsys.readouterr().out.startswith(f"results.tsv, best/ and {FILE} of {copy} made from {len(records)} records; ")
    assert len((copy / "results.tsv").read_text().splitlines()) == 1 + sum(isinstance(r.outcome, Evaluated) for r in records)
    assert json.loads((copy / "best" / "best.json").read_text())["genome"] == standing(copy).champion


def test_the_command_leaves_a_run_alone_that_is_going_on(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (copy / FILE).read_bytes()
    with Store.open(copy, {"lab": "test"}):
        assert main([str(copy)]) == 2
    said = capsys.readouterr().err
    assert said == f"evo.views: {copy} is being written by process {os.getpid()}: the run itself keeps its views current\n"
    assert (copy / FILE).read_bytes() == before


@pytest.mark.parametrize("arguments", [["nowhere"], ["."], ["file"], [], ["a", "b"], ["--all", "x"]])
def test_wrong_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    try:
        returned: object = main(arguments)
    except SystemExit as stop:
        returned = stop.code
    said = capsys.readouterr()
    assert returned == 2
    assert said.out == ""
    assert said.err.startswith("evo.views: ")
    assert said.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
