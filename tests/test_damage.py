"""A run folder that a disk, or a person, has damaged: every command says so in one line or goes on; none ends in a traceback."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_lab import make_lab

from evo.folder import StoreError, tokens_spent
from evo.lineage.__main__ import main as lineage
from evo.lineage.questions import read
from evo.run import main as run
from evo.store import snapshot
from evo.views.__main__ import main as views

INSTANT = ["--set", "evaluator.kind=instant", "--set", "run.executor=inline"]
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "no text": lambda data: b"\xff\xfe" + data,
    "brackets": lambda data: b"[" * 200_000,
    "another kind": lambda data: b"[1, null]\n",
    "many digits": lambda data: b'{"tokens": ' + b"1" * 5000 + b"}\n",
}


FILES = {
    "limits": "limits.json",
    "outcome": "outcomes/*.json",
    "prompt": "prompts/*.json",
    "database": "run.sqlite",
    "study": "optuna.log",
    "results": "results.tsv",
    "best": "best/train.py",
    "figures": "best/best.json",
}


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after ten evaluations: one is begun, and another finished and not reported."""
    folder = tmp_path_factory.mktemp("damage")
    lab = make_lab(folder / "lab")
    run_dir = folder / "run"
    assert run([str(run_dir), "--lab", str(lab), "--evals", "10", *INSTANT]) == 0
    with closing(sqlite3.connect(run_dir / "run.sqlite")) as connection, connection:
        last = connection.execute("SELECT max(idx) FROM records").fetchone()[0]
        payload = json.loads(connection.execute("SELECT payload FROM records WHERE idx = ?", (last,)).fetchone()[0])
        connection.execute("DELETE FROM records WHERE idx = ?", (last,))
    report = {"outcome": payload["outcome"], "slot": "cpu0", "started": 1.0, "finished": 2.0}
    (run_dir / "outcomes" / f"{last}.json").write_text(json.dumps(report))
    turn = {"reply": "DEPTH = 5", "prompt_tokens": 4, "reply_tokens": 3, "seconds": 0.5, "trouble": ""}
    index = read(run_dir).standing.history.genomes[named(run_dir)["champion"]].index
    (run_dir / "prompts" / f"{index}.json").write_text(json.dumps({"tokens": 7, "model": "m", "messages": [], "turns": [turn]}))
    return run_dir


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    """Its own copy for a test."""
    shutil.copytree(stopped.parent, tmp_path / "copy")
    return tmp_path / "copy" / "run"


def commands(run_dir: Path) -> dict[str, Callable[[], int]]:
    folder = str(run_dir)
    told = [["show", named(run_dir)["champion"]], ["best"], ["effects"], ["operators"], ["slots"]]
    asked: dict[str, Callable[[], int]] = {words[0]: partial(lineage, [folder, *words]) for words in told}
    return {"lineage": partial(lineage, [folder]), **asked, "views": partial(views, [folder]), "run": partial(run, more(run_dir))}


def more(run_dir: Path) -> list[str]:
    return [str(run_dir), "--evals", "12", "--set", "run.executor=inline"]


def named(run_dir: Path) -> dict[str, str]:
    """Genomes with a part to play: the champion is parent, repeat and best program at once."""
    standing = read(run_dir).standing
    assert standing.champion is not None
    assert standing.founder is not None
    (parent,) = standing.history.genomes[standing.champion].parents[:1]
    return {"champion": standing.champion, "seed": standing.founder, "parent": parent}


def file_of(run_dir: Path, kind: str) -> Path:
    pattern = FILES.get(kind) or f"genomes/{named(run_dir)[kind]}.py"
    return sorted(run_dir.glob(pattern))[0]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", [*FILES, "champion", "seed", "parent"])
def test_every_command_says_so_or_goes_on(kind: str, damage: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every, path = commands(copy), file_of(copy, kind)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    for name, command in every.items():
        capsys.readouterr()
        code, said = command(), capsys.readouterr().err
        assert code in (0, 1, 2), (name, said)
        assert code == 0 or len(said.splitlines()) == 1, (name, said)
        assert code == 0 or path.name in said, (name, said)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_program_is_not_shown_as_the_best_one(damage: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, best = file_of(copy, "champion"), copy / "best" / "train.py"
    text = best.read_bytes()
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert views([str(copy)]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert best.read_bytes() == text
    assert run(more(copy)) == 1
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_all_programs_are_damaged_the_first_that_is_needed_is_named(
    damage: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = commands(copy)
    for path in copy.glob("genomes/*.py"):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    for name, command in every.items():
        capsys.readouterr()
        code, said = command(), capsys.readouterr().err
        assert code == 0 or ("is damaged" in said and len(said.splitlines()) == 1), (name, said)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_model_said_is_damaged_and_nothing_else_is(damage: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(copy, "prompt")
    assert tokens_spent(copy) == 7
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(StoreError, match=f"{path.name} is damaged"):
        tokens_spent(copy)
    assert lineage([str(copy), "show", named(copy)["champion"]]) == 2
    assert f"{path.name} is damaged" in capsys.readouterr().err
    assert run(more(copy)) == 0


STRANGE = ("abc", None, 10**400, float("nan"), [["a"]], 1e300, -1)


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:8])
def test_an_outcome_that_parses_and_holds_something_else_is_set_aside_or_harmless(
    value: object, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = json.loads(file_of(stopped, "outcome").read_text())
    fields = [("outcome", name) for name in written["outcome"]] + [(name,) for name in written]
    set_aside = 0
    for number, field in enumerate(fields):
        copy = tmp_path / str(number)
        shutil.copytree(stopped, copy)
        file_of(copy, "outcome").write_text(json.dumps(changed(written, field, value)))
        assert run(more(copy)) == 0, (field, capsys.readouterr().err)
        set_aside += len(list(copy.glob("outcomes/*.damaged")))
        assert lineage([str(copy)]) == 0, field
    assert set_aside >= 3


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:8])
def test_a_row_that_parses_and_holds_something_else_is_one_line_or_harmless(
    value: object, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(copy / "run.sqlite")) as connection:
        index, stored = connection.execute("SELECT idx, payload FROM records WHERE operator = 'mutate'").fetchone()
    payload, refused = json.loads(stored), 0
    fields = [("outcome", name) for name in payload["outcome"]] + [("candidate", name) for name in payload["candidate"]]
    fields += [("candidate", "proposal", name) for name in payload["candidate"]["proposal"]] + [(name,) for name in payload]
    for field in fields:
        with closing(sqlite3.connect(copy / "run.sqlite")) as connection, connection:
            row = json.dumps(changed(payload, field, value))
            connection.execute("UPDATE records SET payload = ? WHERE idx = ?", (row, index))
        for name, command in {"lineage": [str(copy)], "slots": [str(copy), "slots"], "show": [str(copy), "best"]}.items():
            capsys.readouterr()
            code, said = lineage(command), capsys.readouterr().err
            assert code == 0 or (code == 2 and len(said.splitlines()) == 1), (name, field, said)
        assert views([str(copy)]) == code, field
        refused += code == 2
    assert refused >= 3


def changed(data: dict[str, Any], field: tuple[str, ...], value: object) -> dict[str, Any]:
    """The same with another value in one place."""
    first, *rest = field
    return {**data, first: changed(data[first], tuple(rest), value) if rest else value}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_outcome_is_set_aside_and_its_evaluation_runs_again(damage: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(copy, "outcome")
    damaged = DAMAGES[damage](path.read_bytes())
    path.write_bytes(damaged)
    (index,) = [c.index for c in snapshot(copy).pending]
    assert run(more(copy)) == 0
    assert f"damaged: {path.with_suffix('.damaged')} cannot be read" in capsys.readouterr().out
    assert path.with_suffix(".damaged").read_bytes() == damaged
    assert index in [r.index for r in snapshot(copy).records]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM meta WHERE key = 'settings'", "has lost the run's settings"),
        ("UPDATE meta SET value = '{' WHERE key = 'settings'", "cannot be read as a run"),
        ("DELETE FROM meta WHERE key = 'budget_seconds'", "was started with budget seconds None"),
        ("UPDATE records SET payload = substr(payload, 1, 90) WHERE idx = 6", "cannot be read as a run"),
        ("UPDATE candidates SET payload = '[]' WHERE idx NOT IN (SELECT idx FROM records)", "cannot be read as a run"),
        ("UPDATE meta SET value = '[]' WHERE key = 'settings'", "has lost the run's settings"),
        ("UPDATE records SET payload = (SELECT payload FROM records WHERE idx = 7) WHERE idx = 6", "row 6 holds index 7"),
        ("DROP TABLE records", "cannot be read as a run"),
    ],
)
def test_a_damaged_row_is_one_line(statement: str, said: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(copy / "run.sqlite")) as connection, connection:
        connection.execute(statement)
    assert run(more(copy)) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("kind", ["results", "best", "figures", "study"])
def test_a_folder_where_a_view_belongs_does_not_end_a_run(kind: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(copy, kind)
    path.unlink()
    path.mkdir()
    assert run(more(copy)) == 0
    assert "cannot be written" in capsys.readouterr().out
