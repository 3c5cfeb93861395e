"""`python -m evo.run`: new, resumed and extended runs, and that wrong input is one clear line, exit code 2 and no change."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, SmallLab
from small_run import PROGRAM
from tiny_lab import make_lab

from evaluator.outcome import Scored
from evo import assembly, session
from evo.config import load
from evo.core.history import EXPLORATIONS
from evo.core.records import CALIBRATE, CONFIRM, FINAL, GIVEN, Record
from evo.errors import UserError
from evo.evaluate import main as evaluate
from evo.executor import InlineExecutor
from evo.run import main
from evo.session import Session
from evo.store import snapshot
from evo.watchdog import alive, descendants

INLINE = ["--set", "run.executor=inline"]
INSTANT = ["--set", "evaluator.kind=instant", *INLINE]
Run = Callable[..., int]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny lab; the test works beside it."""
    monkeypatch.chdir(tmp_path)
    return make_lab(tmp_path / "lab")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a lab and a run that is complete."""
    place = tmp_path_factory.mktemp("kept") / "place"
    lab = make_lab(place / "lab")
    with contextlib.chdir(place):
        assert main(["done", "--lab", str(lab), "--evals", "6", *INSTANT]) == 0
    return Path(shutil.copytree(place, place.with_name("copy")))


@pytest.fixture
def done(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that is complete, where it was made, whatever earlier tests have done to it; the test works beside it and its lab."""
    place = kept.with_name("place")
    shutil.rmtree(place)
    monkeypatch.chdir(shutil.copytree(kept, place))
    return Path("done")


def tree(folder: Path) -> dict[str, bytes]:
    """All files and folders; what sqlite keeps beside its file comes and goes with a reader."""
    ignored = ("run.sqlite-shm", "run.sqlite-wal")
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if path.name not in ignored
    }


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command says; nothing is different afterwards."""
    before = tree(Path())
    try:
        code = main(arguments)
    except SystemExit as stopped:  # argparse's way
        code = int(stopped.code or 0)
    said = capsys.readouterr().err
    assert code == 2, said
    assert tree(Path()) == before
    assert len(said.splitlines()) == 1, said
    assert said.startswith("evo.run: ")
    return said


# ---- what works


def test_a_new_run_is_named_first_and_ends_with_how_to_look_further(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--lab", str(lab), "--evals", "6", "--pop", "4", *INSTANT]) == 0
    lines = capsys.readouterr().out.splitlines()
    (run_dir,) = Path("runs").iterdir()
    assert lines[0].startswith(f"run: runs/{run_dir.name} (new")
    said = "\n".join(lines[-10:])
    assert "best genome: " in said
    assert "97.5 % interval" in said or "the seed itself" in said
    assert f"{run_dir}/best/train.py" in said
    assert f"python -m evo.lineage {run_dir}" in said
    assert f"optuna-dashboard {run_dir}/optuna.log" in said
    assert snapshot(run_dir).meta["settings"]["search.population"] == 4


def test_each_new_run_gets_a_folder_of_its_own(lab: Path) -> None:
    for _ in range(2):
        assert main(["--lab", str(lab), "--evals", "1", *INSTANT]) == 0
    assert [path.name[-3:] for path in sorted(Path("runs").iterdir())] == ["-01", "-02"]


def test_output_that_is_no_terminal_is_plain_lines(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--lab", str(lab), "--evals", "3", *INSTANT]) == 0
    out = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    events = [line for line in out.splitlines() if line.startswith("elapsed=")]
    assert len(events) == len(snapshot(Path("run")).records)
    assert all("index=" in line and "op=" in line and "outcome=" in line for line in events)


def test_the_folder_alone_goes_on_with_its_settings(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(done).records
    assert main([str(done), *INLINE]) == 0
    assert "resumed" in capsys.readouterr().out
    assert snapshot(done).records == before


def test_a_larger_limit_extends_a_run_and_is_remembered(done: Path) -> None:
    assert main([str(done), "--evals", "9", *INLINE]) == 0
    assert len({r.candidate.genome for r in snapshot(done).records if r.operator in EXPLORATIONS}) >= 9
    before = snapshot(done).records
    assert main([str(done), *INLINE]) == 0
    assert snapshot(done).records == before


def handed_in(path: Path, lab: Path, **values: str) -> Path:
    """The lab's program with other numbers, in a file of its own."""
    text = (lab / "train.py").read_text()
    for name, value in values.items():
        text, count = re.subn(rf"^{name} = \S+", f"{name} = {value}", text, flags=re.MULTILINE)
        assert count == 1
    path.write_text(text)
    return path


def given_records(run_dir: Path) -> list[Record]:
    return [record for record in snapshot(run_dir).records if record.operator == GIVEN]


def test_programs_that_people_hand_in_are_evaluated_and_become_parents(lab: Path) -> None:
    mine = [handed_in(Path(f"{depth}.py"), lab, DEPTH=str(depth)) for depth in (7, 9)]
    assert main(["run", "--lab", str(lab), "--evals", "20", "--add", str(mine[0]), "--add", str(mine[1]), *INSTANT]) == 0
    records, given = snapshot(Path("run")).records, given_records(Path("run"))
    assert [record.candidate.note for record in given] == ["7.py", "9.py"]
    assert all(isinstance(record.outcome, Scored) for record in given)
    assert {record.candidate.proposal.parents for record in given} == {(records[0].candidate.genome,)}
    assert min(record.index for record in given) == 4, "after the seed's repeats, before all else"
    ours = {record.candidate.genome for record in given}
    assert any(ours & {*record.candidate.proposal.parents} for record in records if record.operator in EXPLORATIONS)


def test_a_program_enters_a_run_that_was_complete_and_only_once(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = Path("lab")
    mine = handed_in(Path("mine.py"), lab, DEPTH="7")
    assert main([str(done), "--add", str(mine), *INLINE]) == 0
    (record,) = given_records(done)
    assert isinstance(record.outcome, Scored)
    capsys.readouterr()
    assert main([str(done), "--add", str(mine), "--add", str(lab / "train.py"), *INLINE]) == 0
    assert given_records(done) == [record]
    said = capsys.readouterr().out
    assert f"mine.py is already in the run, as {record.candidate.genome}, " in said
    assert "train.py is " in said


def test_a_run_that_is_stopped_before_a_program_was_added_says_how_to_add_it(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = handed_in(Path("mine.py"), lab, DEPTH="7")
    with monkeypatch.context() as broken:
        broken.setattr("evo.drive.Driver._take", lambda *_: signal.raise_signal(signal.SIGINT))
        assert main(["run", "--lab", str(lab), "--evals", "6", "--add", str(mine), *INSTANT]) == 130
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("--add mine.py")
    assert main([*shlex.split(last.partition("evo.run ")[2])]) == 0
    assert [record.candidate.note for record in given_records(Path("run"))] == ["mine.py"]


def test_programs_handed_in_do_not_count_for_the_limit(lab: Path) -> None:
    mine = [handed_in(Path(f"{depth}.py"), lab, DEPTH=str(depth)) for depth in (7, 9, 11)]
    assert main(["run", "--lab", str(lab), "--evals", "2", *[word for path in mine for word in ("--add", str(path))], *INSTANT]) == 0
    operators = [record.operator for record in snapshot(Path("run")).records]
    assert operators.count(GIVEN) == 3
    assert sum(operator in EXPLORATIONS for operator in operators) >= 2


def test_the_best_of_one_run_is_compared_with_the_seed_in_another_and_nothing_is_explored(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = str(done / "best" / "train.py")
    arguments = ["check", "--lab", "lab", "--evals", "0", "--budget", "5", "--add", best, *INSTANT]
    assert main(arguments) == 0
    operators = [record.operator for record in snapshot(Path("check")).records]
    assert {*operators} == {CALIBRATE, GIVEN, CONFIRM, FINAL}
    assert "fresh draws)" in capsys.readouterr().out


def test_a_check_whose_program_does_not_lead_says_by_how_much(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = handed_in(Path("worse.py"), lab, DEPTH="60")
    assert main(["check", "--lab", str(lab), "--evals", "0", "--add", str(worse), *INSTANT]) == 0
    (record,) = given_records(Path("check"))
    said = capsys.readouterr().out
    assert "the seed itself: nothing better was found" in said
    assert re.search(
        rf"^the program handed in, {record.candidate.genome}, has val_bpb \d\.\d{{4}} ± .*, the seed \d\.\d{{4}} ± ", said, re.MULTILINE
    )


def test_a_limit_that_no_longer_holds_is_named_and_the_next_command_has_both(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--lab", str(lab), "--evals", "4", "--hours", "5", *INSTANT]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("--evals MORE --hours 5.0")
    assert main(["run", "--evals", "6", "--hours", "5", *INLINE]) == 0
    assert "no longer holds" not in capsys.readouterr().out
    assert main(["run", "--evals", "7", *INLINE]) == 0
    said = capsys.readouterr().out
    assert "the limits given replace those of before: --hours 5.0 no longer holds" in said
    assert said.splitlines()[-1].endswith("--evals MORE")


@pytest.mark.parametrize(
    ("text", "words"),
    [("def main(:\n", "line 1"), ("X = 1\n", "is not a program of this lab: line "), (None, "cannot read mine.py: No such file")],
)
def test_a_file_that_is_no_program_of_the_lab_is_refused(
    text: str | None, words: str, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path("mine.py").write_text(text)
    monkeypatch.setattr("evo.assembly.build", None)  # files are looked at before data are prepared
    assert words in refused([str(done), "--add", "mine.py", *INLINE], capsys)


def test_a_run_goes_on_from_another_folder(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Path("elsewhere")
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main([f"../{done}", "--evals", "7", *INLINE]) == 0


def test_a_limit_below_what_there_is_says_how_much_there_is(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(done), "--evals", "3", *INLINE]) == 0
    assert "the run has 6 new genomes already, and the limit is 3: nothing new is explored" in capsys.readouterr().out
    assert main([str(done), "--evals", "6", *INLINE]) == 0
    assert "already" not in capsys.readouterr().out


def test_who_does_not_wait_for_the_end_of_the_slots_hears_what_came_of_the_run(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends, close = iter([KeyboardInterrupt()]), InlineExecutor.close

    def impatient(executor: InlineExecutor) -> None:
        for interrupt in ends:
            raise interrupt
        close(executor)

    monkeypatch.setattr(InlineExecutor, "close", impatient)
    assert main(["run", "--lab", str(lab), "--evals", "1", *INSTANT]) == 130
    said = capsys.readouterr()
    assert "done: 1 new genome evaluated" in said.out
    assert "to see more:" in said.out
    assert "go on: python -m evo.run run" in said.err


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_cleanly_and_says_how_to_go_on(lab: Path, kind: signal.Signals) -> None:
    command = [sys.executable, "-m", "evo.run", "run", "--lab", str(lab), *INSTANT, "--set", "instant.seconds=0.05"]

    def as_in_a_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it that starts a command in the background

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=as_in_a_terminal) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if "index=5" in line:
                break
        os.kill(driver.pid, kind)
        began = time.monotonic()
        rest = driver.stdout.read()
    assert driver.returncode == 130
    assert time.monotonic() - began < 5
    assert rest.splitlines()[-1] == "go on: python -m evo.run run --set run.executor=inline"
    assert rest.count("stopping…") == 1
    assert "Traceback" not in rest
    assert len(snapshot(Path("run")).records) >= 6


def test_a_signal_while_a_run_is_resumed_says_how_to_go_on(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(done), "--evals", "9", *INLINE]
    for early in ("evo.session.resolve", "evo.assembly.build", "evo.run.make_executor"):
        with monkeypatch.context() as slow:
            slow.setattr(early, lambda *_: signal.raise_signal(signal.SIGINT))
            assert main(command) == 130
        assert capsys.readouterr().err == f"evo.run: stopped; nothing finished is lost, go on: python -m evo.run {shlex.join(command)}\n"
    with monkeypatch.context() as slow:
        slow.setattr("evo.assembly.build", lambda *_: signal.raise_signal(signal.SIGINT))
        assert main(["new", *command[1:]]) == 130
    assert capsys.readouterr().err == "evo.run: stopped before anything was started\n"


def test_a_signal_while_a_command_is_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins, signal\n"
        "real = builtins.__import__\n"
        "def interrupted(name, *more, **named):\n"
        "    if name == 'evo.assembly':\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return real(name, *more, **named)\n"
        "builtins.__import__ = interrupted\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "evo.run", "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert done.stderr == "evo: stopped before anything was started\n"
    assert done.returncode in (130, -signal.SIGINT)


TWO_SIGNALS = """
import os, signal, time
from evo.run import _signals

with _signals(lambda: "COMMAND"):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("half a row", end="", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)
"""


def test_a_second_signal_gives_the_terminal_back_and_says_how_to_go_on() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", TWO_SIGNALS], stdout=theirs, stderr=theirs) as driver:
        os.close(theirs)
        assert driver.wait(20) == 130
    assert os.read(ours, 1000).decode().partition("half a row")[2] == (
        "\x1b[0m\x1b[?25h\r\nevo.run: ended on the spot; nothing finished is lost, go on: COMMAND\r\n"
    )
    os.close(ours)


def test_a_second_signal_ends_a_run_whose_words_nobody_takes() -> None:
    reads, full = os.pipe()
    os.set_blocking(full, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(full, bytes(4096))
    os.set_blocking(full, True)
    with subprocess.Popen([sys.executable, "-c", TWO_SIGNALS], stdout=subprocess.DEVNULL, stderr=full) as driver:
        assert driver.wait(15) == 130
    os.close(reads)
    os.close(full)


def test_a_run_on_ray_is_stopped_cleanly_by_sigterm_and_takes_no_place_whose_name_is_too_long(lab: Path, tmp_path: Path) -> None:
    """Ray has a handler of its own, that ends the process on the spot; and names of sockets have room for a short folder alone."""
    long = tmp_path / ("t" * 60)
    long.mkdir()
    command = [sys.executable, "-m", "evo.run", "run", "--lab", str(lab), *INSTANT[:2], "--set", "instant.seconds=0.2"]
    env = {**os.environ, "TMPDIR": str(long)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        assert driver.stdout is not None
        next(line for line in driver.stdout if "index=5" in line)
        os.kill(driver.pid, signal.SIGTERM)
        rest = driver.stdout.read()
    assert driver.returncode == 130
    assert rest.splitlines()[-1] == "go on: python -m evo.run run"
    assert list(long.iterdir()) == []


def test_a_run_under_nohup_does_not_end_with_its_terminal(lab: Path) -> None:
    command = [sys.executable, "-m", "evo.run", "run", "--lab", str(lab), *INSTANT, "--evals", "12", "--set", "instant.seconds=0.05"]

    def as_nohup_does() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=as_nohup_does) as driver:
        assert driver.stdout is not None
        next(line for line in driver.stdout if "index=5" in line)
        os.kill(driver.pid, signal.SIGHUP)
        assert "done: 12 new genomes" in driver.stdout.read()
    assert driver.returncode == 0


@pytest.fixture
def short() -> Iterator[Path]:
    """A place for temporary files in which Ray finds room."""
    with tempfile.TemporaryDirectory(prefix="e", dir="/tmp") as folder:
        yield Path(folder)


def test_a_killed_driver_leaves_no_process_and_no_folder_behind(lab: Path, short: Path) -> None:
    """Ray's helpers and the slots' processes, ten seconds after `kill -9`; then the run goes on."""
    command = [sys.executable, "-m", "evo.run", "run", "--lab", str(lab), "--evals", "500", *INSTANT[:2]]
    command += ["--set", "instant.seconds=0.1", "--slots", "2"]
    env = {**os.environ, "TMPDIR": str(short)}
    driver = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert driver.stdout is not None
    next(line for line in driver.stdout if "index=5" in line)
    started = descendants(driver.pid)
    assert len(started) >= 5
    assert [path.name[:8] for path in short.iterdir()] == ["evo-ray-"]
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    deadline = time.monotonic() + 10
    while left := alive(started):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    while left_files := list(short.iterdir()):
        assert time.monotonic() < deadline + 10, left_files
        time.sleep(0.1)
    kept = snapshot(Path("run")).records
    assert main(["run", "--evals", "3", *INLINE]) == 0
    resumed = {record.index: record for record in snapshot(Path("run")).records}
    assert all(resumed[record.index] == record for record in kept)


ONE_AFTER_ANOTHER = """
import runpy, sys
for command in COMMANDS:
    print(f"---- {command[0]}")
    sys.argv = command
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        assert ended.code in (0, 2), (command, ended.code)
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_signs_that_a_terminal_lacks_end_no_command(lab: Path, encoding: str) -> None:
    """All of them in one process, which imports what they need once."""
    commands = [
        ["evo.run", "run", "--lab", str(lab), "--evals", "6", "--set", "search.tune_share=1", *INSTANT],
        ["evo.lineage", "run"],
        ["evo.lineage", "run", "best"],
        ["evo.lineage", "run", "show", "", "--json"],
        ["evo.views", "run"],
    ]
    script = f"COMMANDS = {commands!r}\n{ONE_AFTER_ANOTHER}"
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, encoding=encoding, check=False)
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.returncode == 0
    _, *said = ended.stdout.split("---- ")
    assert [part.split()[0] for part in said] == [command[0] for command in commands]
    if encoding == "ascii":
        for part in (said[1], said[4]):  # the table, and where the views are
            assert "?" not in part
        assert "+-" in said[1]
        assert "+-" not in said[4]
    assert snapshot(Path("run")).records


def test_a_run_goes_on_when_nobody_reads_what_it_says(lab: Path) -> None:
    """Its log's pipe may end before the night does."""
    command = [sys.executable, "-m", "evo.run", "run", "--lab", str(lab), "--evals", "6", *INSTANT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stderr is not None
        driver.stdout.readline()
        driver.stdout.close()
        said = driver.stderr.read()
    assert driver.returncode == 0
    assert said == "evo.run: standard output: Broken pipe; the run goes on and prints nothing more there\n"
    assert snapshot(Path("run")).records[-1].operator in ("final", "tune", "mutate", "crossover", "confirm")


def test_a_failure_of_the_machinery_says_how_to_go_on(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr("evo.drive.Driver.run", fails)
        assert main(["--lab", str(lab), "--evals", "3", *INSTANT]) == 1
    (run_dir,) = Path("runs").iterdir()
    said = capsys.readouterr().err
    assert said.rstrip().endswith(f"nothing finished is lost, go on: python -m evo.run {run_dir}")


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--evls", "3"], "--evls"),
        (["--evals", "many"], "invalid int"),
        (["--evals", "-1"], "evo.run: --evals is -1, must not be negative"),
        (["--set", "search.evals=-1"], "evo.run: search.evals is -1, must not be negative"),
        (["--pop", "0"], "--pop is 0, must be at least"),
        (["--hours", "0"], "--hours is 0, must be more than 0"),
        (["--budget", "-3"], "--budget is -3, must be more than 0"),
        (["--budget", "1e12"], "--budget is 1e+12, must be at most 2.592e+06"),
        (["--slots", "0"], "--slots is 0, must be at least 1"),
        (["--llm", "here"], "--llm "),
        (["--config", "nothing.toml"], "nothing.toml"),
        (["--set", "search.evls=3"], "nearest: search.evals"),
        (["--set", "serch.evals=3"], "nearest: search"),
        (["--lab", "nowhere"], "no lab folder nowhere"),
        (["--profile", "h1000"], "nearest: h100"),
        (["--gpus", "99"], "--gpus 99"),
        (["--slots", "9999"], "at most"),
        (["--set", "evaluator.kind=instant", "--slots", str(10**20)], "the instant lab has at most 128"),
        (["--set", "instant.noise_sd=nan"], "instant.noise_sd is nan"),
        (["--set", "instant.seconds=-1"], "instant.seconds is -1"),
        (["--set", "instant.failure_share=2"], "instant.failure_share is 2"),
        (["lab"], "is not a run folder"),
        (["lab/train.py"], "is a file"),
        (["n" * 300], "File name too long"),
        (["--profile", "cpu", "--set", "run.data=nowhere.parquet"], "run.data is 'nowhere.parquet': no such file or folder"),
    ],
)
def test_wrong_input_is_refused(lab: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(arguments, capsys)


def test_an_address_where_no_cluster_answers_is_refused_at_once(lab: Path) -> None:
    """In a process of its own: where Ray is up already, it is used. Ray itself would end the process after half a minute."""
    command = [
        sys.executable,
        "-m",
        "evo.run",
        "run",
        "--lab",
        str(lab),
        *INSTANT[:2],
        "--evals",
        "1",
        "--set",
        "run.ray_address=127.0.0.1:1",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("evo.run: no Ray cluster at 127.0.0.1:1: ")
    assert len(ended.stderr.splitlines()) == 1
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["prepare.py", "train.py", "program.md"])
def test_a_lab_without_a_file_is_refused(lab: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / name).unlink()
    assert name in refused(["run", "--lab", str(lab), *INSTANT], capsys)


def test_all_that_a_new_lab_lacks_is_told_at_once(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("prepare.py", "program.md"):
        (lab / name).unlink()
    said = refused(["run", "--lab", str(lab), *INSTANT], capsys)
    assert "has no prepare.py (constants, data and batches: the constitution), program.md (the research agenda)" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seed", "5"], "--seed is 5, but RUN was started with 0; leave it out"),
        (["--pop", "3"], "--pop is 3, but RUN was started with 16"),
        (["--set", "search.population=3"], "search.population is 3, but RUN was started with 16"),
        (["--set", "instant.salt=2"], "instant.salt is 2, but RUN was started with 0"),
        (["--budget", "7"], "budget seconds 1.0, but this would be 7.0"),
        (["--set", "evaluator.kind=slot"], "evaluator.kind"),
        (["--profile", "cpu"], "instant lab has no profile"),
    ],
)
def test_what_contradicts_a_run_is_refused(done: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said.replace("RUN", str(done)) in refused([str(done), *arguments], capsys)


def test_a_run_folder_of_another_lab_is_refused(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab, other = Path("lab").absolute(), make_lab(Path("other").absolute(), PROGRAM.replace("0.04", "0.05"))
    said = refused([str(done), "--lab", str(other)], capsys)
    assert f"done belongs to the lab {lab}, not to {other}" in said
    (lab / "train.py").write_text(PROGRAM.replace("DEPTH = 4", "DEPTH = 5"))
    said = refused([str(done)], capsys)
    assert "was started with another lab: train.py of " in said


def test_a_comment_that_changes_in_the_lab_ends_no_run(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The seed genome is what it was; the program goes on as it was stored."""
    Path("lab/train.py").write_text(PROGRAM.replace("# rate of the matrices", "# another word"))
    assert main([str(done), "--evals", "8", *INLINE]) == 0
    said = capsys.readouterr().out
    assert said.count("comments or layout of") == 1
    children = [p.read_text() for p in (done / "genomes").glob("*.py")]
    assert len(children) > 8
    assert not any("# another word" in text for text in children)
    Path("lab/prepare.py").write_text("TIME_BUDGET = 300  # another word\n")
    assert "prepare.py, train.py of" in refused([str(done)], capsys)


KEY = "cpu | AMD | 10 s | data aaa | tokenisers bbb | prepare ccc | judge 1 | torch 2.13"


@pytest.mark.parametrize(
    ("key", "own", "given", "said"),
    [
        (KEY.replace("aaa", "new"), "/texts", "/texts", "the text under /texts has changed (data new, was aaa)"),
        (KEY.replace("aaa", "new").replace("bbb", "x"), "/texts", "/texts", "the text under /texts has changed (data new, was aaa)"),
        (KEY.replace("aaa", "new"), "", "", "the lab's own text, which comes from installed packages, has changed (data new, was aaa)"),
        (
            KEY.replace("aaa", "new"),
            "/texts",
            "/other",
            "run trains on the text under /texts, not on the text under /other (data new, was aaa)",
        ),
        (KEY.replace("2.13", "2.14"), "", "", "run was measured differently (torch 2.14 here, torch 2.13 there)"),
    ],
)
def test_what_differs_in_the_measurement_is_told_and_nothing_else(key: str, own: str, given: str, said: str) -> None:
    meta = {"measurement_key": KEY, "settings": {"run.data": own}}
    config = load(None, [f"run.data={given}"])
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        session._agree_on_measurement(Session(Path("run"), True, config, meta), key)
    assert "judge" not in str(caught.value)
    session._agree_on_measurement(Session(Path("run"), True, config, meta), KEY)


def test_the_same_command_goes_on_where_calibrations_were_raised_to_the_number_of_slots(lab: Path, tmp_path: Path) -> None:
    command = [str(tmp_path / "run"), "--lab", str(lab), *INSTANT, "--slots", "6", "--set", "search.calibrations=4", "--evals", "2"]
    assert main(command) == 0
    assert main(command) == 0
    assert sum(r.operator == CALIBRATE for r in snapshot(tmp_path / "run").records) == 6
    assert main([*command, "--set", "search.calibrations=7"]) == 2


def test_a_run_folder_of_another_measurement_is_refused(done: Path) -> None:
    stored = snapshot(done).meta
    planned = assembly.plan(load(None, ["evaluator.kind=instant", f"run.lab={stored['settings']['run.lab']}"]))
    assembled = replace(assembly.build(planned, print), measurement_key="another card")
    with pytest.raises(UserError, match="another card"):
        session.settle(Session(done, True, planned.config, stored), planned, assembled)


def test_a_run_that_is_being_written_is_refused(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "evo.run", "done", "--evals", "500", *INLINE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        assert driver.stdout is not None
        next(line for line in driver.stdout if line.startswith("elapsed="))
        assert main([str(done), "--evals", "500"]) == 2
        assert "being written by process" in capsys.readouterr().err
        os.kill(driver.pid, signal.SIGKILL)


def test_a_lab_that_fails_at_once_leaves_nothing_behind(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    always = [*INSTANT, "--set", "instant.failure_share=1"]
    assert "gets no score (crash in train" in refused(["some/run", "--lab", str(lab), *always], capsys)


def test_a_lab_that_fails_at_once_leaves_an_existing_folder_as_it_was(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run/genomes").mkdir(parents=True)
    Path("run/genomes/mine.txt").touch()
    refused(["run", "--lab", str(lab), *INSTANT, "--set", "instant.failure_share=1"], capsys)


def test_a_lab_that_fails_is_told_with_a_command_that_can_be_pasted(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = lab.rename("my lab").absolute()
    said = refused(["run", "--lab", "my lab", *INSTANT, "--set", "instant.failure_share=1"], capsys)
    words = shlex.split(said.partition("try it alone: ")[2])
    assert words[:4] == ["python", "-m", "evo.evaluate", str(lab / "train.py")]
    capsys.readouterr()
    assert evaluate(words[3:]) == 1
    assert "this tree crashes" in capsys.readouterr().out


def test_commands_at_the_end_can_be_pasted(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["my run", "--lab", str(lab), "--evals", "1", *INSTANT]) == 0
    commands = [shlex.split(line.partition("python -m ")[2]) for line in capsys.readouterr().out.splitlines() if "python -m " in line]
    assert [words[0] for words in commands] == ["evo.evaluate", "evo.lineage", "evo.lineage", "evo.lineage", "evo.run"]
    alone, *others = commands
    assert all(words[1] == "my run" for words in others)
    assert evaluate(alone[1:]) == 0  # the program as it lies there
    assert "my run/best/train.py (as it is)" in capsys.readouterr().out
    assert main([*others[-1][1:-1], "2"]) == 0


def test_the_end_says_which_limit_was_reached_and_how_to_go_further(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--lab", str(lab), "--hours", "0.0002", "--slots", "2", *INSTANT, "--set", "instant.seconds=0.05"]) == 0
    said = capsys.readouterr().out
    assert "exploration ended: the run has worked for 0.00 of 0.0002 hours" in said
    assert said.splitlines()[-1] == "go further: python -m evo.run run --slots 2 --set run.executor=inline --hours MORE"
    assert main(["other", "--lab", str(lab), "--evals", "0", *INSTANT]) == 0
    assert "the seed itself: nothing else has been tried yet" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[]", "3", '{"search.policy": "greedy"}', "{", '{"search.evals": "many"}'])
def test_damaged_limits_are_refused(done: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (done / "limits.json").write_text(text)
    assert "limits" in refused([str(done)], capsys) or "search.evals" in text


def test_a_run_that_has_lost_its_programs_says_so_in_one_line(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for program in (done / "genomes").glob("*.py"):
        program.unlink()
    assert main([str(done), "--evals", "12", *INLINE]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is missing: the run folder is damaged" in line


def test_a_full_disk_is_one_line(lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("evo.store.write_atomically", full)
    assert main(["run", "--lab", str(lab), "--evals", "1", *INSTANT]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "evo.run: run: No space left on device; nothing finished is lost, go on: python -m evo.run run"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write done: No space left on device"),
        (OSError("cannot write done/run.sqlite: database or disk is full"), "cannot write done/run.sqlite: database or disk is full"),
    ],
)
def test_a_run_that_cannot_go_on_on_a_full_disk_says_what_to_do(
    error: OSError, told: str, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("evo.store.Store._recover", full)
    assert main([str(done), "--evals", "9", *INLINE]) == 2
    assert capsys.readouterr().err == f"evo.run: {told}; make room there, or make it writable, and go on\n"


@pytest.mark.parametrize(
    ("forced", "level", "said"),
    [
        ("auto", ("namespaces", ""), "sandbox: namespaces"),
        ("auto", ("process", "no"), "sandbox: process only: no; programs can read files and use the network"),
        ("process", None, "sandbox: process only: as evaluator.sandbox says; programs can read files and use the network"),
    ],
)
def test_how_programs_are_kept_in_is_told(
    lab: Path, monkeypatch: pytest.MonkeyPatch, forced: str, level: tuple[str, str] | None, said: str
) -> None:
    monkeypatch.setattr("evaluator.sandbox.level", lambda: level)
    settings = [f"evaluator.sandbox={forced}", "run.profile=cpu"]
    assert assembly.sandbox_line(assembly.plan(load(None, settings))) == said
    assert assembly.sandbox_line(assembly.plan(load(None, ["evaluator.kind=instant"]))) == ""


def test_unreadable_data_are_refused(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.csv").touch()
    assert "fails with exit code 2" in refused(["run", "--set", "run.data=text.csv", "--profile", "cpu"], capsys)


# ---- all of it, for real


def test_a_real_run_on_ray_trains_scores_announces_and_leaves_no_folder_behind(small_lab: SmallLab, tmp_path: Path, short: Path) -> None:
    """Two slots on Ray, real training in the sandbox, real data: the command as a person types it. Neither Ray's folder is left nor those
    of slots, which hold a lock in one each."""
    lab = make_lab(tmp_path / "lab", small_lab.genome, small_lab.prepare)
    profile = tmp_path / "small.toml"
    head = 'name = "small"\ndevice = "cpu"\nbudget_seconds = 0.3\nslots = "per_core"\nthreads_per_slot = 1\n'
    profile.write_text(f"[profile]\n{head}\n[limits]\nsetup_seconds = 60\n")
    texts = Path(small_lab.data).parent.parent / "texts"
    command = [sys.executable, "-m", "evo.run", "run", "--lab", str(lab), "--profile", str(profile), "--evals", "1"]
    command += ["--set", f"run.data={texts}", "--set", "search.final_draws=2"]
    environment = {**os.environ, "EVO_DATA_DIR": str(Path(small_lab.data).parent), "PYTHONPATH": str(ROOT), "TMPDIR": str(short)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    records = snapshot(tmp_path / "run").records
    scored = [r for r in records if r.outcome.__class__.__name__ == "Scored"]
    assert len(scored) >= 5
    assert len({r.slot for r in scored}) == min(2, len(os.sched_getaffinity(0)))
    assert "python -m evo.lineage run" in done.stdout
    assert done.stdout.splitlines()[1].startswith("sandbox: ")
    assert list(short.iterdir()) == []
