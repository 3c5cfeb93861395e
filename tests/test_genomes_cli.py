"""`python -m genomes`: what people see, and what scripts read."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import genomes
from genomes.__main__ import main

SEED = Path(__file__).resolve().parent.parent / "trainer" / "train.py"
TEXT = SEED.read_text(encoding="utf-8")


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def out(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(arguments) == code
    return capsys.readouterr().out


def test_knobs_lists_every_literal_and_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    lines = out(capsys, "knobs", str(SEED)).splitlines()
    assert len(lines) == 1 + len(genomes.knobs(TEXT))
    assert lines[1].split()[:2] == ["DEPTH", "8"]
    tunable = json.loads(out(capsys, "knobs", str(SEED), "--tunable", "--json"))["knobs"]
    assert [knob["name"] for knob in tunable] == [knob.name for knob in genomes.knobs(TEXT) if knob.tunable]


def test_diff_exits_with_1_where_programs_differ_and_with_0_where_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = written(tmp_path, "other.py", genomes.set_knobs(TEXT, {"MATRIX_LR": 0.05}))
    assert out(capsys, "diff", str(SEED), other, code=1).splitlines()[0] == "MATRIX_LR 0.04 → 0.05"
    found = json.loads(out(capsys, "diff", str(SEED), other, "--json", code=1))
    assert (found["same_genome"], found["same_species"], len(found["edits"])) == (False, True, 1)
    assert "the same genome, distance 0" in out(capsys, "diff", str(SEED), str(SEED))


def test_a_number_that_python_does_not_print_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = "0x1" + "0" * 4000
    long, comment = written(tmp_path, "long.py", f"X = 1\nY = {number}\n"), written(tmp_path, "comment.py", f"X = '{number}'\n")
    assert main(["diff", comment, long]) == 2
    assert capsys.readouterr().err == f"genomes: {long}: line 2: a whole number of 16001 bits, more than Python prints\n"
    assert main(["diff", comment, comment]) == 0


def test_merge_unites_on_standard_output_and_says_conflicts_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path, "a.py", genomes.set_knobs(TEXT, {"MATRIX_LR": 0.05}))
    b = written(tmp_path, "b.py", genomes.set_knobs(TEXT, {"SCALAR_LR": 0.4}))
    assert out(capsys, "merge", str(SEED), a, b) == genomes.set_knobs(TEXT, {"MATRIX_LR": 0.05, "SCALAR_LR": 0.4})
    c = written(tmp_path, "c.py", genomes.set_knobs(TEXT, {"MATRIX_LR": 0.03}))
    assert main(["merge", str(SEED), a, c]) == 1
    said = capsys.readouterr()
    assert said.out in (Path(a).read_text(encoding="utf-8"), Path(c).read_text(encoding="utf-8"))
    assert "conflict: MATRIX_LR" in said.err
    assert "0.03" in said.err
    assert "(taken)" in said.err
    for side, path in (("a", a), ("b", c)):
        assert out(capsys, "merge", str(SEED), a, c, "--prefer", side, code=1) == Path(path).read_text(encoding="utf-8")
    found = json.loads(out(capsys, "merge", str(SEED), a, c, "--json", code=1))
    assert [(c["base"], c["a"], c["b"]) for c in found["conflicts"]] == [("0.04", "0.05", "0.03")]


def test_mutate_writes_the_child_that_its_seed_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "mutate", str(SEED), "--seed", "7") == genomes.mutate(TEXT, random.Random(7)).text
    child = json.loads(out(capsys, "mutate", str(SEED), "--names", "shift-share", "--json"))
    assert child["mutation"] == "shift-share"
    listed = out(capsys, "mutate", "--list").splitlines()
    assert len(listed) == 1 + len(genomes.MUTATIONS)


def test_check_names_file_and_line_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = written(tmp_path, "bad.py", TEXT.replace("def main()", "def other()"))
    lines = out(capsys, "check", str(SEED), bad, code=1).splitlines()
    assert genomes.identity(TEXT) in lines[0]
    assert lines[1].startswith(f"{bad}:")
    assert "main" in lines[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["knobs", "nothing.py"], "nothing.py"),
        (["mutate"], "--list"),
        (["mutate", str(SEED), "--names", "shift-shore"], "shift-share"),
        (["knobs", str(SEED.parent)], "directory"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_which_of_several_files_is_wrong_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, binary = written(tmp_path, "broken.py", "x = 1\ndef f(:\n"), str(tmp_path / "binary.py")
    Path(binary).write_bytes(b"\xff\xfe")
    for arguments in (["diff", str(SEED), broken], ["merge", str(SEED), broken, str(SEED)], ["knobs", broken], ["mutate", broken]):
        assert main(arguments) == 2
        assert f"{broken}: line 2: " in capsys.readouterr().err
    assert main(["diff", str(SEED), binary]) == 2
    assert f"{binary} is not UTF-8 text" in capsys.readouterr().err
    assert out(capsys, "check", broken, code=1).startswith(f"{broken}: line 2: ")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_signs_that_a_terminal_lacks_end_nothing(encoding: str, tmp_path: Path) -> None:
    other = written(tmp_path, "other.py", genomes.set_knobs(TEXT, {"MATRIX_LR": 0.05}))
    command = [sys.executable, "-m", "genomes", "diff", str(SEED), other]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(b"MATRIX_LR 0.04 ? 0.05")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said_as_what_it_is() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "genomes", "knobs", str(SEED)], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (2, "genomes: cannot write: No space left on device\n")


def test_the_command_reads_standard_input_and_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m genomes knobs - | head -1"
    ran = subprocess.run(["bash", "-o", "pipefail", "-c", command], input=TEXT, capture_output=True, text=True, cwd=SEED.parent.parent)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("knob")
