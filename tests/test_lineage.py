"""The lineage command: each answer as text and as JSON, and one clear line for wrong input."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_run import PROGRAM, make_run

from evaluator.instant import Instant, Landscape
from evaluator.outcome import Scored
from evo.core.policies import SHARED
from evo.core.yields import factors
from evo.lineage.__main__ import main
from evo.lineage.operators import operators
from evo.lineage.questions import read
from evo.lineage.text import sparkline, tree_lines
from evo.search import Search
from evo.store import Store
from genomes import set_knobs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lineage") / "run"
    make_run(folder, evals=40)
    return folder


def score(lab: Instant, program: str) -> float:
    outcome = lab(program, 0, 10.0)
    assert isinstance(outcome, Scored)
    return outcome.val_bpb


class Command:
    """Runs the command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stopped:  # argparse's way
            code = int(stopped.code or 0)
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *arguments: object) -> dict[str, Any]:
        code, out, _ = self(*arguments, "--json")
        assert code == 0
        return json.loads(out)  # type: ignore[no-any-return]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_the_tree_holds_every_genome_once_with_branches(run: Path, command: Command) -> None:
    code, out, _ = command(run)
    assert code == 0
    genomes = command.json(run)["genomes"]
    assert all(out.count(f"{g['genome'][:8]}  ") == 1 for g in genomes)
    assert "├─ " in out
    assert "└─ " in out
    assert out.count("★") == 1
    assert out.count("✗") == sum(g["val_bpb"] is None for g in genomes) > 0
    assert "±" in out


TREE = {"run": "r", "champion": None, "noise_sd": 0.1, "self_reported": False, "unfinished": [], "goes_on": True}
TREE |= {"duplicates": 0, "unwritten": 0}


def test_a_child_hangs_under_its_parent() -> None:
    node = {"operator": "mutate", "note": "n", "val_bpb": 1.0, "sd": 0.1, "n": 1, "self_reported": False, "trouble": None}
    genomes = [
        {**node, "genome": g, "parents": p} for g, p in (("a" * 9, []), ("b" * 9, ["a" * 9]), ("c" * 9, ["b" * 9]), ("d" * 9, ["a" * 9]))
    ]
    starts = [text.split("  1.0")[0] for text, _ in tree_lines({**TREE, "genomes": genomes})[1:-1]]
    assert starts == ["aaaaaaaa", "├─ bbbbbbbb", "│  └─ cccccccc", "└─ dddddddd"]


def test_ids_are_lengthened_until_they_differ() -> None:
    node = {"operator": "mutate", "note": "n", "val_bpb": 1.0, "sd": 0.1, "n": 1, "self_reported": False, "trouble": None, "parents": []}
    lines = tree_lines({**TREE, "genomes": [{**node, "genome": "0123456789"}, {**node, "genome": "0123456780"}]})
    assert lines[1][0].startswith("0123456789 ")


def test_show_has_figures_evaluations_difference_and_curve(run: Path, command: Command) -> None:
    child = next(g for g in command.json(run)["genomes"] if g["parents"] and g["val_bpb"])
    code, out, _ = command(run, "show", child["genome"][:10])
    assert code == 0
    for part in (child["genome"], child["note"], f"--- {child['parents'][0]}", "seed ", "training loss", "val_bpb"):
        assert part in out
    data = command.json(run, "show", child["genome"])
    assert len(data["evaluations"]) == child["n"]
    assert data["diffs"][0]["unified"]
    assert len(data["curve"]) == 4


def test_show_says_why_a_genome_failed(run: Path, command: Command) -> None:
    failed = next(g for g in command.json(run)["genomes"] if g["val_bpb"] is None)
    _, out, _ = command(run, "show", failed["genome"])
    assert "failed at train, crash: RuntimeError: this tree crashes" in out


def test_path_adds_up_from_the_seed(run: Path, command: Command) -> None:
    data = command.json(run)
    steps = command.json(run, "path", data["champion"])["steps"]
    assert steps[0]["parents"] == []
    assert steps[-1]["genome"] == data["champion"]
    assert sum(s["gain"]["mean"] for s in steps) == pytest.approx(steps[-1]["total"]["mean"])
    assert steps[0]["total"] == {"mean": 0.0, "sd": 0.0}
    code, out, _ = command(run, "path", data["champion"])
    assert code == 0
    assert "gain so far" in out


def test_best_shows_the_announcement_and_beside_it_what_the_held_out_text_says(run: Path, command: Command) -> None:
    code, out, _ = command(run, "best")
    assert code == 0
    said = command.json(run, "best")["announcement"]
    assert said["sentence"] in out
    assert said["heldout"]["sentence"] in out


def test_only_final_draws_are_scored_on_the_held_out_text(run: Path, command: Command) -> None:
    shown = [e for g in command.json(run)["genomes"] for e in command.json(run, "show", g["genome"])["evaluations"]]
    read = {e["operator"] for e in shown if e.get("heldout_bpb") is not None}
    assert read == {"final"}
    said = command.json(run, "best")["announcement"]
    draws = [e["heldout_bpb"] for e in command.json(run, "show", said["champion"])["evaluations"] if e["operator"] == "final"]
    assert said["heldout"]["champion_mean"] == pytest.approx(sum(draws) / len(draws))


def test_effects_list_each_edit_once_best_first_and_say_what_they_are(run: Path, command: Command) -> None:
    code, out, _ = command(run, "effects")
    assert code == 0
    data = command.json(run, "effects")
    worths = [row["worth"] for row in data["effects"]]
    assert worths == sorted(worths)
    assert len({row["edit"] for row in data["effects"]}) == len(worths) >= 4
    assert data["scored"] == sum(g["val_bpb"] is not None for g in command.json(run)["genomes"])
    assert all(1 <= row["genomes"] < data["scored"] for row in data["effects"])
    assert any(row["in_champion"] for row in data["effects"])
    assert f"An additive estimate from {data['scored']} scored genomes, not proof" in out
    assert all((row["edit"] in out) == (abs(row["worth"]) > row["sd"]) for row in data["effects"])


def test_effects_say_how_many_diverged_genomes_they_leave_out(tmp_path: Path, command: Command) -> None:
    make_run(tmp_path / "run", evals=20, failure_share=0.0)
    plain = command.json(tmp_path / "run", "effects")
    assert plain["diverged"] == 0
    with sqlite3.connect(tmp_path / "run" / "run.sqlite") as database:
        index, payload = database.execute("SELECT idx, payload FROM records WHERE operator = 'mutate' ORDER BY idx LIMIT 1").fetchone()
        data = json.loads(payload)
        data["outcome"]["val_bpb"] = 7.0
        database.execute("UPDATE records SET payload = ? WHERE idx = ?", (json.dumps(data), index))
    data = command.json(tmp_path / "run", "effects")
    assert (data["diverged"], data["scored"]) == (1, plain["scored"] - 1)
    assert all(abs(row["worth"]) < 0.5 for row in data["effects"])
    assert "left out: 1 more, with scores so bad" in command(tmp_path / "run", "effects")[1]


def test_effects_agree_with_the_lab_that_scored_the_run(run: Path, command: Command) -> None:
    lab = Instant(Landscape(salt=1))  # without noise, as small_run has it with
    knobs = [row for row in command.json(run, "effects")["effects"] if row["values"] > 1]
    assert len(knobs) >= 3
    for row in knobs:
        name, new = row["edit"].partition(" ")[0], row["edit"].rpartition(" → ")[2]
        value = float(new) if "." in new else int(new)
        truth = score(lab, set_knobs(PROGRAM, {name: value})) - score(lab, PROGRAM)
        assert row["worth"] == pytest.approx(truth, abs=4 * row["sd"]), row["edit"]


def test_operators_are_listed_with_what_they_brought_and_took(run: Path, command: Command) -> None:
    code, out, _ = command(run, "operators")
    assert code == 0
    rows = command.json(run, "operators")["operators"]
    made = [row for row in command.json(run)["genomes"] if row["operator"] != "calibrate"]
    assert {row["operator"]: row["children"] for row in rows} == Counter(row["operator"] for row in made)
    assert all(row["hours"] > 0 and 0 <= row["better"] <= row["children"] - row["failed"] for row in rows)
    assert sum(row["reward"] for row in rows) > 0
    assert all(row["operator"] in out for row in rows)


@pytest.mark.parametrize("size", [1, 2, 16])
def test_the_shares_shown_are_those_that_the_policy_goes_by(tmp_path: Path, size: int) -> None:
    """It looks at its survivors; in a small population the best by belief need not be one of them."""
    found = make_run(tmp_path / "run", evals=40)
    small = Search(replace(found.config, population=size), found.founder)
    small.resume(found.standing.records)
    rows = operators(small.standing, small.config)["operators"]
    expected = factors(small.history.genomes, small.belief, small._view().survivors[0], SHARED)
    assert [row["factor"] for row in rows] == [expected.get(row["operator"]) for row in rows]


def test_effects_of_a_young_run_say_that_they_rest_on_little(tmp_path: Path, command: Command) -> None:
    make_run(tmp_path / "run", steps=9)
    code, out, _ = command(tmp_path / "run", "effects")
    assert code == 0
    assert "too little data" in out
    Store.open(tmp_path / "new", {}).close()
    code, out, _ = command(tmp_path / "new", "effects")
    assert code == 0
    assert "nothing to compare: 0 scored genomes" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "show needs an ID"),
        (["show", "zzz"], "no evaluated genome starts with 'zzz'"),
        (["path", ""], "path needs an ID"),
        (["best", "abc"], "best takes no ID"),
        (["effects", "abc"], "effects takes no ID"),
        (["shw"], "evo.lineage: argument what: invalid choice: 'shw'"),
    ],
)
def test_wrong_questions_get_one_line_and_exit_code_2(run: Path, command: Command, arguments: list[str], message: str) -> None:
    code, out, err = command(run, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_an_ambiguous_id_names_the_candidates(run: Path, command: Command) -> None:
    ids = [g["genome"] for g in command.json(run)["genomes"]]
    letter = next(i[0] for i in ids if i[0].isalpha() and sum(j.startswith(i[0]) for j in ids) > 1)
    code, _, err = command(run, "show", letter)
    assert code == 2
    assert f"'{letter}' is ambiguous: " in err


def test_a_genome_is_found_by_the_index_that_tables_show_and_in_any_case(run: Path, command: Command) -> None:
    for genome in command.json(run)["genomes"]:
        shown = command.json(run, "show", f"#{genome['index']}")
        assert shown["genome"] == genome["genome"]
        assert command.json(run, "show", genome["genome"].upper()) == shown
    assert command(run, "show", "#9999")[0] == 2


def test_a_bare_number_is_an_index_and_an_id_that_begins_so_is_named_beside_it(run: Path, command: Command) -> None:
    nodes = command.json(run)["genomes"]
    both = [(n, other) for n in nodes for other in nodes if n is not other and other["genome"].startswith(str(n["index"]))]
    assert both
    node, other = both[0]
    code, out, err = command(run, "show", str(node["index"]), "--json")
    assert (code, json.loads(out)["genome"]) == (0, node["genome"])
    assert f"{node['index']} is taken as #{node['index']}, {node['genome']}" in err
    assert other["genome"] in err
    alone = next(n for n in nodes if not any(o["genome"].startswith(str(n["index"])) for o in nodes))
    code, out, err = command(run, "show", str(alone["index"]), "--json")
    assert (code, json.loads(out)["genome"], err) == (0, alone["genome"], "")


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 77; shift; exec "$@"'


def on_read_only(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """The command where the folder is on a read-only file system."""
    inside = ["unshare", "-rm", "sh", "-c", READ_ONLY, "sh", str(folder), *command]
    made = subprocess.run(inside, cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode == 77 or made.stderr.startswith("unshare:"):
        pytest.skip("no mount namespaces here")
    return made


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_run_on_a_read_only_file_system_can_be_looked_at(run: Path, tmp_path: Path, command: Command) -> None:
    copies = [tmp_path / "whole" / "run", tmp_path / "killed" / "run"]
    shutil.copytree(run, copies[0])
    with Store.open(run, {"lab": "test"}):  # its write-ahead log is there, as a killed run leaves it
        shutil.copytree(run, copies[1])
    for copy in copies:
        made = on_read_only(copy, sys.executable, "-m", "evo.lineage", str(copy))
        assert made.returncode == 0, made.stderr
        assert made.stdout.replace(str(copy), str(run)) == command(run)[1]


def test_a_folder_that_is_no_run_gets_one_line(tmp_path: Path, command: Command) -> None:
    code, _, err = command(tmp_path)
    assert code == 2
    assert "not a run folder" in err
    assert err.count("\n") == 1


def test_a_name_that_no_folder_can_have_gets_one_line(command: Command) -> None:
    code, _, err = command("n" * 300)
    assert code == 2
    assert "File name too long" in err
    assert err.count("\n") == 1


def test_a_run_without_scores_can_be_looked_at(tmp_path: Path, command: Command) -> None:
    Store.open(tmp_path / "run", {}).close()
    assert command(tmp_path / "run")[0] == 0
    code, _, err = command(tmp_path / "run", "best")
    assert code == 2
    assert "no scored genome yet" in err


def test_a_run_can_be_looked_at_while_it_goes_on(tmp_path: Path, command: Command) -> None:
    make_run(tmp_path / "run", steps=12)
    with Store.open(tmp_path / "run", {"lab": "test"}) as store:
        (pending,) = store.pending()
        code, out, _ = command(tmp_path / "run")
        assert code == 0
        assert f"running: #{pending.index} " in out
        assert command(tmp_path / "run", "best")[0] == 0
    out = command(tmp_path / "run")[1]
    assert f"no session is working on it; begun but not finished: #{pending.index} " in out


def test_looking_changes_nothing(run: Path, command: Command) -> None:
    before = (run / "run.sqlite").read_bytes()
    command(run)
    assert (run / "run.sqlite").read_bytes() == before
    assert read(run).standing.history.evaluated == 40


def test_the_module_runs_as_a_program_without_colour_in_a_pipe(run: Path) -> None:
    made = subprocess.run([sys.executable, "-m", "evo.lineage", str(run)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "\x1b" not in made.stdout
    wrong = subprocess.run([sys.executable, "-m", "evo.lineage", str(run), "grow"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2


def test_a_sparkline_falls_with_the_curve_and_fits() -> None:
    line = sparkline([float(100 - i) for i in range(500)])
    assert len(line) <= 60
    assert line[0] == "█"
    assert line[-1] == "▁"
    assert sparkline([2.0, 2.0]) == "▁▁"
