"""results.tsv and best/: rebuilt from the records, no failure with a number, always whole."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from small_run import PROGRAM, make_run

from evaluator.outcome import Evaluated, Failed, Scored
from evo.core.standing import assess
from evo.search import Search
from evo.store import snapshot
from evo.views.results import COLUMNS, best_figures, results_table, write


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Search]:
    run = tmp_path_factory.mktemp("views") / "run"
    search = make_run(run)
    write(run, search.standing)
    return run, search


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_one_row_per_evaluation_in_upstreams_columns(finished: tuple[Path, Search]) -> None:
    run, search = finished
    table = rows(run)
    assert tuple(table[0]) == COLUMNS == ("commit", "val_bpb", "memory_gb", "status", "description")
    evaluated = [r for r in search.standing.records if isinstance(r.outcome, Evaluated)]
    assert [row["commit"] for row in table] == [r.candidate.genome for r in evaluated]
    for row, record in zip(table, evaluated, strict=True):
        if isinstance(record.outcome, Scored):
            assert float(row["val_bpb"]) == pytest.approx(record.outcome.val_bpb, abs=1e-6)


def test_a_crash_has_no_number(finished: tuple[Path, Search]) -> None:
    run, search = finished
    crashes = [row for row in rows(run) if row["status"] == "crash"]
    assert len(crashes) == sum(isinstance(r.outcome, Failed) for r in search.standing.records) > 0
    assert {(row["val_bpb"], row["memory_gb"]) for row in crashes} == {("", "")}
    assert all("crash:" in row["description"] for row in crashes)
    assert min(float(row["val_bpb"]) for row in rows(run) if row["val_bpb"]) > 0.5


def test_kept_are_the_steps_from_the_seed_to_the_champion(finished: tuple[Path, Search]) -> None:
    run, search = finished
    kept = {row["commit"] for row in rows(run) if row["status"] == "keep"}
    assert {search.champion, search.founder} <= kept
    for id_ in kept:
        assert set(search.history.genomes[id_].parents) <= kept


def test_best_is_the_champion_and_its_figures(finished: tuple[Path, Search]) -> None:
    run, search = finished
    assert search.champion is not None
    assert (run / "best" / "train.py").read_text() == (run / "genomes" / f"{search.champion}.py").read_text()
    figures = json.loads((run / "best" / "best.json").read_text())
    assert figures["genome"] == search.champion
    assert figures["val_bpb"] == search.belief.of[search.champion].mean
    assert figures["announcement"]["n_champion"] == 4
    assert figures["sandbox"] == ["instant"]


def test_views_can_be_deleted_and_rebuilt_from_the_records_alone(finished: tuple[Path, Search]) -> None:
    run, search = finished
    before = (run / "results.tsv").read_bytes(), (run / "best" / "best.json").read_bytes()
    (run / "results.tsv").unlink()
    shutil.rmtree(run / "best")
    standing = assess(snapshot(run).records)
    assert standing == search.standing
    write(run, standing)
    assert ((run / "results.tsv").read_bytes(), (run / "best" / "best.json").read_bytes()) == before


def test_an_unchanged_best_is_not_written_again(finished: tuple[Path, Search]) -> None:
    run, search = finished
    before = (run / "best" / "train.py").stat().st_mtime_ns
    write(run, search.standing)
    assert (run / "best" / "train.py").stat().st_mtime_ns == before


def test_a_run_without_records_has_an_empty_table_and_no_best(tmp_path: Path) -> None:
    write(tmp_path, assess(()))
    assert results_table(assess(())) == "\t".join(COLUMNS) + "\n"
    assert not (tmp_path / "best").exists()
    assert best_figures(assess(())) == {}


def test_the_seed_is_the_best_before_anything_beats_it(tmp_path: Path) -> None:
    search = make_run(tmp_path / "run", steps=2)
    write(tmp_path / "run", search.standing)
    assert (tmp_path / "run" / "best" / "train.py").read_text() == PROGRAM
