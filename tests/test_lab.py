"""The lab: read as text, rendered for a profile, its data prepared by its own prepare.py."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from conftest import SMALL
from hypothesis import given
from hypothesis import strategies as st
from tiny_lab import make_lab

import genomes
from evaluator.packing import Preparation
from evo import given as handed_in
from evo import lab, profiles
from evo.assembly import Plan
from evo.config import from_flat
from evo.errors import UserError
from evo.machine import Machine
from evo.store import Store

PREPARE = """# a lab
MAX_SEQ_LEN = 2048  # «tokens» of context
VOCAB_SIZES = (8192,)  # sizes
EVAL_TOKENS = 40 * 524288  # targets
TIME_BUDGET = 300


def work(): MAX_SEQ_LEN = 3
"""


def test_constants_are_set_and_nothing_else_changes() -> None:
    text = lab.set_constants(PREPARE, {"MAX_SEQ_LEN": 256, "VOCAB_SIZES": [256, 1024], "EVAL_TOKENS": 65536}, "prepare.py")
    expected = PREPARE.replace("2048", "256", 1).replace("(8192,)", "(256, 1024)").replace("40 * 524288", "65536")
    assert text == expected


@given(st.dictionaries(st.sampled_from(["MAX_SEQ_LEN", "TIME_BUDGET", "EVAL_TOKENS"]), st.integers(1, 10**9)))
def test_setting_constants_is_idempotent_and_reads_back(values: dict[str, int]) -> None:
    text = lab.set_constants(PREPARE, values, "prepare.py")
    assert lab.set_constants(text, values, "prepare.py") == text
    read = {n.targets[0].id: n.value.value for n in ast.parse(text).body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)}
    assert values.items() <= read.items()


def test_an_unknown_constant_names_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest: MAX_SEQ_LEN"):
        lab.set_constants(PREPARE, {"MAX_SEQ_LENGTH": 1}, "prepare.py")


@pytest.mark.parametrize("name", list(lab.FILES))
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = make_lab(tmp_path / "lab")
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        lab.load(folder)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("train.py", "def main(:\n", "does not parse"),
        ("prepare.py", "x = (\n", "does not parse"),
        ("train.py", "x = 1\n", "is not a genome"),
        ("train.py", "\x00", "does not parse"),
    ],
)
def test_a_broken_file_is_told_before_anything_runs(tmp_path: Path, name: str, text: str, said: str) -> None:
    folder = make_lab(tmp_path / "lab")
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=said):
        lab.load(folder)


def test_the_agenda_may_change_during_a_run(tmp_path: Path) -> None:
    folder = make_lab(tmp_path / "lab")
    before = lab.load(folder).hash
    (folder / "program.md").write_text("Something else.\n")
    assert lab.load(folder).hash == before
    (folder / "prepare.py").write_text("TIME_BUDGET = 301\n")
    assert lab.load(folder).hash != before


def test_a_profile_that_does_not_fit_a_lab_is_told(tmp_path: Path) -> None:
    mine = lab.load(make_lab(tmp_path / "lab"))
    with pytest.raises(UserError, match="--profile FILE"):
        lab.render(mine, profiles.Profile(profiles.load(profiles.FOLDER / "cpu.toml").head, knobs={"HEAD_DIM": 3}), 10)


def test_data_are_prepared_once_and_progress_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVO_DATA_DIR", str(tmp_path / "data"))
    texts = tmp_path / "texts"
    texts.mkdir()
    for path in sorted(lab.DEFAULT.parent.glob("*/*.py")):
        (texts / f"{path.parent.name}-{path.stem}.txt").write_text(path.read_text())
    prepare = lab.set_constants((lab.DEFAULT / "prepare.py").read_text(), SMALL, "prepare.py")
    heard: list[str] = []
    preparation = Preparation(prepare, lab.load(lab.DEFAULT).modules)
    folder = lab.prepare_data(preparation, str(texts), heard.append)
    assert (Path(folder) / "manifest.json").exists()
    assert heard[0] == f"preparing data from {texts}; they are only checked if that was done before"
    assert any("training rows" in line for line in heard)
    stamp = (Path(folder) / "manifest.json").stat().st_mtime_ns
    assert lab.prepare_data(preparation, str(texts), heard.append) == folder
    assert (Path(folder) / "manifest.json").stat().st_mtime_ns == stamp


def test_a_lab_of_three_files_prepares_with_the_default_labs_modules_but_for_those_it_brings(tmp_path: Path) -> None:
    default = lab.load(lab.DEFAULT)
    folder = make_lab(tmp_path / "lab", default.train, default.prepare)
    assert {name for name, _ in default.modules} == {path.name for path in lab.DEFAULT.glob("data_*.py")}
    assert lab.load(folder).modules == default.modules
    (folder / "data_texts.py").write_text("own = 1\n")
    assert dict(lab.load(folder).modules)["data_texts.py"] == "own = 1\n"
    assert lab.load(folder).hash != default.hash


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        ("raise SystemExit('the disk is full')", "exit code 1: the disk is full"),
        ("print('done')", "must end with a line"),
        ("print(3)", "must end with a line"),
    ],
)
def test_a_failing_preparation_is_told_with_its_last_line(prepare: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        lab.prepare_data(Preparation(prepare), "", lambda line: None)


def test_a_model_is_told_the_constants_and_functions_of_prepare_with_the_profiles_values() -> None:
    rendered = lab.render(lab.load(lab.DEFAULT), profiles.find("cpu", Machine((0,), "x")), 10)
    found = lab.offers(rendered)
    assert "MAX_SEQ_LEN = 256" in found
    assert "TIME_BUDGET = 10" in found
    assert any(line.startswith("batches(batch_size: int, vocab_size: int) -> Iterator[") for line in found)
    assert {line.partition("(")[0] for line in found if "(" in line.partition("=")[0]} == {
        "device", "seed", "progress", "warmup_batches", "batches", "report", "save",
    }  # fmt: skip
    assert len("\n".join(found)) < 3000


def test_all_constants_and_knobs_that_a_lab_lacks_are_told_at_once(tmp_path: Path) -> None:
    folder = make_lab(tmp_path / "lab")
    profile = profiles.find("cpu", Machine((0,), "x"))
    with pytest.raises(UserError) as caught:
        lab.render(lab.load(folder), profile, 10)
    said = str(caught.value)
    assert "no constants MAX_SEQ_LEN, EVAL_TOKENS" in said
    assert "no knobs ASPECT_RATIO, HEAD_DIM" in said
    assert "--profile FILE" in said
    assert "\n" not in said


def test_a_copy_of_the_lab_s_file_is_fitted_to_a_profile_and_a_run_s_program_stays_as_it_is() -> None:
    default, cpu = lab.load(lab.DEFAULT), profiles.load(profiles.FOLDER / "cpu.toml")
    changed = default.train.replace("WARMUP_RATIO = 0.0", "WARMUP_RATIO = 0.1")
    assert changed != default.train
    fitted = lab.fitted(changed, default, cpu)
    rendered = lab.render(default, cpu, 10).seed
    assert fitted == rendered.replace("WARMUP_RATIO = 0.0", "WARMUP_RATIO = 0.1") != rendered
    assert lab.fitted(fitted, default, cpu) == fitted
    assert lab.fitted(changed, default, None) == changed
    deeper = re.sub(r"^DEPTH = \d+", "DEPTH = 3", default.train, flags=re.MULTILINE)
    assert lab.fitted(deeper, default, cpu) == re.sub(r"^DEPTH = \d+", "DEPTH = 3", rendered, flags=re.MULTILINE), "its own change stays"


def test_a_program_handed_in_names_the_knobs_that_it_has_from_another_profile(tmp_path: Path) -> None:
    """Its gain is theirs, too. One from a run on the same profile has changed them by itself, which is what is asked about."""
    default, mps, cuda = lab.load(lab.DEFAULT), *(profiles.load(profiles.FOLDER / f"{name}.toml") for name in ("mps", "cuda"))
    program = re.sub(r"^WARMUP_RATIO = \S+", "WARMUP_RATIO = 0.1", lab.render(default, mps, 10).seed, flags=re.MULTILINE)
    planned, instant = (Plan(from_flat({"run.budget_seconds": 10}), default, profile, Machine((), ""), 1) for profile in (cuda, None))
    here = planned.rendered
    own, theirs = ({knob.name: knob.value for knob in genomes.knobs(text)} for text in (program, here.seed))
    for profile, named in (("", True), ("mps", True), ("cuda", False)):
        run_dir = tmp_path / (profile or "none")
        file = run_dir / "best" / "train.py"
        if profile:
            Store.open(run_dir, {"profile": profile}).close()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(program)
        (found,) = handed_in.read([file], planned)
        assert found.text == program
        assert bool(found.unlike) == named
        if named:
            assert f"DEPTH {own['DEPTH']} (here {theirs['DEPTH']})" in found.unlike
            assert "WARMUP_RATIO" not in found.unlike
    copy = tmp_path / "mine.py"
    copy.write_text(default.train)
    assert handed_in.read([copy], planned)[0].unlike == ""
    assert handed_in.read([copy], instant)[0].unlike == ""
