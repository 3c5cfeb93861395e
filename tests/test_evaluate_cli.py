"""`python -m evo.evaluate`: one program in, one outcome out, in words or as JSON."""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, SmallLab
from small_run import PROGRAM
from tiny_lab import make_lab

from evaluator.berth import Files
from evaluator.outcome import Failed, Scored, from_dict
from evaluator.slot import Slot, SlotConfig
from evo import assembly, profiles
from evo import lab as labs
from evo.config import load
from evo.evaluate import describe, main
from evo.machine import Gpu, Machine
from evo.store import Store

INSTANT = ["--set", "evaluator.kind=instant"]
PROFILE = """[profile]
name = "small"
device = "cpu"
budget_seconds = 1
slots = "one"
threads_per_slot = 1
[knobs]
LEARNING_RATE = 0.02
[limits]
setup_seconds = 60
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return make_lab(tmp_path / "lab")


def outcome_of(text: str) -> tuple[dict[str, object], Scored | Failed]:
    said = json.loads(text)
    facts = {name: said.pop(name) for name in ("file", "program", "profile", "budget_seconds", "seed")}
    outcome = from_dict(said)
    assert isinstance(outcome, Scored | Failed)
    return facts, outcome


def test_a_scored_program_exits_with_0(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(lab / "train.py"), "--lab", str(lab), *INSTANT]) == 0
    out = capsys.readouterr().out
    assert "val_bpb" in out
    assert "measurement key" in out


def test_json_is_one_object_with_the_whole_outcome(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.py"
    other.write_text(PROGRAM.replace("0.04", "0.08"))
    scores = {}
    for file in (lab / "train.py", other):
        assert main([str(file), "--lab", str(lab), "--json", "--seed", "3", "--budget", "5", *INSTANT]) == 0
        facts, outcome = outcome_of(capsys.readouterr().out)
        assert (facts["file"], facts["seed"], facts["budget_seconds"]) == (str(file), 3, 5.0)
        assert facts["program"] == ("as it is" if file is other else "the lab's own, with the knobs of profile instant")
        assert isinstance(outcome, Scored)
        scores[file] = outcome.val_bpb
    assert len(set(scores.values())) == 2


def test_a_failed_program_exits_with_1_and_says_why(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("x = 1\n")
    assert main([str(bad), "--lab", str(lab), *INSTANT]) == 1
    assert "failed: contract in import: defines no" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.py"], "cannot read nothing.py"),
        (["FILE", "--lab", "nowhere"], "no lab folder"),
        (["FILE", "--profile", "nonesuch"], "no profile"),
        (["FILE", "--budget", "0"], "--budget is 0, must be more than 0"),
        (["FILE", "--seed", "-1"], "--seed is -1"),
        (["FILE", "--set", "run.x=1"], "no key run.x"),
        ([], "FILE"),
        (["FILE", "--jsn"], "--jsn"),
    ],
)
def test_wrong_input_exits_with_2_in_one_line(lab: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([str(lab / "train.py") if a == "FILE" else a for a in arguments])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert said in error
    assert len(error.splitlines()) == 1


def test_the_time_outside_training_is_told_where_it_was_measured() -> None:
    answer = {"file": "train.py", "program": "as it is", "seed": 0, "budget_seconds": 30.0}
    outcome = Scored(
        val_bpb=1.5,
        training_seconds=30.0,
        total_seconds=55.0,
        steps=300,
        tokens=45_000_000,
        parameters=1,
        peak_memory_gib=44.0,
        measurement_key="key",
        sandbox="namespaces",
        setup_seconds=14.0,
        score_seconds=9.5,
        logits_through="pinned memory",
    )
    said = describe(outcome, answer)
    assert "outside training start+set-up 14.0 s, scoring 9.5 s, the rest 1.5 s; logits through pinned memory" in said
    assert "tokens           45000000 (1500000 a second)" in said
    assert "outside training" not in describe(replace(outcome, score_seconds=0.0), answer)
    assert "a second" not in describe(replace(outcome, training_seconds=0.0), answer)  # a checkout's own word


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_forwarders_start_early_on_gpus_alone(device: str, small_lab: SmallLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(small_lab.data).parent
    monkeypatch.setenv("EVO_DATA_DIR", str(data))
    lab = make_lab(tmp_path / "lab", small_lab.genome, small_lab.prepare)
    profile = tmp_path / "small.toml"
    profile.write_text(PROFILE.replace('"cpu"', f'"{device}"'))
    config = load(None, [], {"run.lab": str(lab), "run.profile": str(profile), "run.data": str(data.parent / "texts")})
    machine = Machine((0,), "a CPU", (Gpu("H100", 80.0, 9),))
    assembled = assembly.build(assembly.plan(config, machine), print)
    assert [evaluator.early_start for evaluator in assembled.evaluators if isinstance(evaluator, SlotConfig)] == [device == "cuda"]


@pytest.mark.parametrize(("line", "compiles"), [("", True), ("COMPILE = True\n", True), ("COMPILE = False\n", False)])
def test_forwarders_compile_nothing_where_the_seed_program_does_not(
    line: str, compiles: bool, small_lab: SmallLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(small_lab.data).parent
    monkeypatch.setenv("EVO_DATA_DIR", str(data))
    lab = make_lab(tmp_path / "lab", small_lab.genome + line, small_lab.prepare)
    profile = tmp_path / "small.toml"
    profile.write_text(PROFILE)
    config = load(None, [], {"run.lab": str(lab), "run.profile": str(profile), "run.data": str(data.parent / "texts")})
    (evaluator,) = assembly.build(assembly.plan(config, Machine((0,), "a CPU", ())), print).evaluators
    assert isinstance(evaluator, SlotConfig)
    assert evaluator.compiles == compiles
    with contextlib.closing(Slot(evaluator)) as slot, tempfile.TemporaryDirectory() as folder:
        confined = slot._confined("forwarder.py", Files.lay_out(Path(folder)), Path(folder), False)
    assert ("EVO_UNCOMPILED" in dict(confined.env)) != compiles


def test_a_real_program_is_trained_and_scored_with_the_profiles_knobs(
    small_lab: SmallLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(small_lab.data).parent
    monkeypatch.setenv("EVO_DATA_DIR", str(data))
    lab = make_lab(tmp_path / "lab", small_lab.genome, small_lab.prepare)
    profile = tmp_path / "small.toml"
    profile.write_text(PROFILE)
    common = ["--lab", str(lab), "--profile", str(profile), "--set", f"run.data={data.parent / 'texts'}", "--json"]
    assert main([str(lab / "train.py"), *common]) == 0
    facts, outcome = outcome_of(capsys.readouterr().out)
    assert facts["program"] == "the lab's own, with the knobs of profile small"
    assert isinstance(outcome, Scored)
    assert 0 < outcome.val_bpb < 8
    assert outcome.measurement_key.startswith("small | ")
    bad = tmp_path / "bad.py"
    bad.write_text(small_lab.genome.replace("def main():", "def main():\n    raise ValueError('so it goes')\n"))
    assert main([str(bad), *common]) == 1
    facts, outcome = outcome_of(capsys.readouterr().out)
    assert isinstance(outcome, Failed)
    assert "so it goes" in outcome.message


def test_a_changed_copy_of_the_labs_program_gets_the_profiles_knobs_where_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.py"
    copy.write_text((ROOT / "trainer" / "train.py").read_text().replace("MLP_RATIO = 4", "MLP_RATIO = 3"))
    command = [str(copy), "--profile", "cpu", "--dry-run"]
    assert main([*command, "--render"]) == 0
    said = capsys.readouterr()
    assert "passed" in said.out
    assert not said.err
    main(command)
    assert "not those of profile cpu: --render sets the latter" in capsys.readouterr().err
    rendered = tmp_path / "rendered.py"
    cpu = profiles.load(profiles.FOLDER / "cpu.toml")
    rendered.write_text(labs.fitted(copy.read_text(), labs.load(labs.DEFAULT), cpu))
    assert "MLP_RATIO = 3" in rendered.read_text()
    assert main([str(rendered), "--profile", "cpu", "--dry-run"]) == 0  # a program of a run is told nothing
    assert not capsys.readouterr().err


def a_run(folder: Path, lab: Path) -> Path:
    """A run folder with the settings of a noisy instant lab and its best program."""
    settings = {"run.lab": str(lab), "run.budget_seconds": 7.0, "evaluator.kind": "instant", "instant.salt": 5, "search.population": 3}
    Store.open(folder, {"settings": settings}).close()
    (folder / "best").mkdir()
    (folder / "best" / "train.py").write_text(PROGRAM.replace("0.04", "0.08"))
    return folder / "best" / "train.py"


def test_a_file_of_a_run_is_measured_as_its_run_measures(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = a_run(tmp_path / "run", lab)
    assert main([str(best), "--json"]) == 0
    said = capsys.readouterr()
    facts, outcome = outcome_of(said.out)
    assert facts["budget_seconds"] == 7.0
    assert isinstance(outcome, Scored)
    assert "salt=5" in outcome.measurement_key
    assert said.err == f"measured as in the run {tmp_path / 'run'}, unless options say otherwise: lab {lab}, 7 s\n"


def test_options_win_over_the_run_that_a_file_lies_in(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = a_run(tmp_path / "run", lab)
    assert main([str(best), "--json", "--budget", "3", "--set", "instant.salt=6"]) == 0
    facts, outcome = outcome_of(capsys.readouterr().out)
    assert facts["budget_seconds"] == 3.0
    assert isinstance(outcome, Scored)
    assert "salt=6" in outcome.measurement_key


def test_a_file_of_a_damaged_run_is_not_measured_by_guess(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = a_run(tmp_path / "run", lab)
    (tmp_path / "run" / "run.sqlite").write_bytes(b"no database")
    assert main([str(best)]) == 2
    assert "lies in a run folder that cannot be read" in capsys.readouterr().err


def test_rendering_needs_a_profile_that_sets_knobs(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.py"
    other.write_text(PROGRAM)
    assert main([str(other), "--lab", str(lab), "--render", *INSTANT]) == 2
    assert "--render needs a lab" in capsys.readouterr().err
