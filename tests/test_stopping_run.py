"""Runs that stop candidates early: what is saved, what is kept, and that going on after a stop gives the same."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, SmallLab
from small_run import PROGRAM
from tiny_lab import BUDGET_SECONDS, NOISY, StopAfter, drive, facts

from evaluator.instant import true_bpb
from evaluator.outcome import Scored, Stopped
from evaluator.slot import SlotConfig
from evo.core.history import EXPLORATIONS
from evo.core.records import REPEATS, Record, record_from_dict, record_to_dict
from evo.core.rule import Limit, Rule
from evo.core.stopping import audit
from evo.executor import InlineExecutor, SlotSpec
from evo.folder import read_text
from evo.operators import describe_seed
from evo.store import curve, snapshot

REPORTING = PROGRAM.replace("import torch.nn as nn\n", "import prepare\nimport torch.nn as nn\n").replace(
    "    return model, scale, bias\n", "    loss = model.loss()\n    prepare.report(loss)\n    return model, scale, bias\n"
)
EVALS, SETTINGS = 120, {"population": 5, "early_stopping": 0.1, "seed": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("stopping") / "run"
    drive(run_dir, EVALS, program=REPORTING, **SETTINGS)
    return run_dir


@pytest.fixture(scope="module")
def records(whole: Path) -> tuple[Record, ...]:
    return snapshot(whole).records


def stopped(records: tuple[Record, ...]) -> list[Record]:
    return [r for r in records if isinstance(r.outcome, Stopped)]


def test_hopeless_candidates_are_stopped_and_say_why(records: tuple[Record, ...]) -> None:
    found = stopped(records)
    assert len(found) >= 10
    for record in found:
        assert isinstance(record.outcome, Stopped)
        assert record.outcome.training_seconds < BUDGET_SECONDS
        assert record.outcome.foretold is not None
        assert f"predicts {record.outcome.foretold:.4f}" in record.outcome.note


def test_nothing_that_was_stopped_is_better_than_the_best_that_was_not(whole: Path, records: tuple[Record, ...]) -> None:
    worth = {r.candidate.genome: true_bpb(read_text(whole, r.candidate.genome), NOISY.salt) for r in records if r.candidate.genome}
    best = min(worth[r.candidate.genome] for r in records if isinstance(r.outcome, Scored))
    assert min(worth[r.candidate.genome] for r in stopped(records)) > best


def test_only_new_genomes_are_stopped_each_once_and_none_becomes_a_parent(records: tuple[Record, ...]) -> None:
    found = stopped(records)
    assert {r.operator for r in found} <= set(EXPLORATIONS)
    ids = {r.candidate.genome for r in found}
    assert len(ids) == len(found)
    assert not ids & {parent for r in records for parent in r.candidate.proposal.parents}
    assert all(r.candidate.rule is None for r in records if r.operator in REPEATS)


def test_some_are_finished_on_purpose_and_tell_how_often_rules_are_wrong(whole: Path, records: tuple[Record, ...]) -> None:
    spared = [r for r in records if r.candidate.rule is not None]
    assert spared
    assert all(r.candidate.rule and r.candidate.rule.spared and isinstance(r.outcome, Scored) for r in spared)
    told = audit(records, lambda index: curve(whole, index), BUDGET_SECONDS)
    assert told.stopped == len(stopped(records))
    assert 0 < told.saved_seconds < told.stopped * BUDGET_SECONDS
    assert 0 < told.doomed <= len(spared)
    assert told.wrong == 0
    assert f"of {told.doomed} more, finished as a check, 0 would have survived" in told.sentence()


def test_a_run_that_goes_on_stops_the_same_ones(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        drive(tmp_path / "run", EVALS, watcher=StopAfter(70), program=REPORTING, **SETTINGS)
    drive(tmp_path / "run", EVALS, program=REPORTING, **SETTINGS)
    assert facts(tmp_path / "run") == facts(whole)


def test_where_it_is_off_every_run_gets_its_whole_budget(tmp_path: Path) -> None:
    drive(tmp_path / "run", 45, program=REPORTING, **{**SETTINGS, "early_stopping": 0.0})
    assert not stopped(snapshot(tmp_path / "run").records)


def test_baselines_stop_nothing(tmp_path: Path) -> None:
    drive(tmp_path / "run", 60, program=REPORTING, **{**SETTINGS, "policy": "random"})
    found = snapshot(tmp_path / "run").records
    assert not stopped(found)
    assert all(r.candidate.rule is None for r in found)


def test_records_with_rules_survive_storage(records: tuple[Record, ...]) -> None:
    assert [record_from_dict(record_to_dict(r)) for r in records] == list(records)


def test_on_a_real_slot_a_slow_learner_loses_the_rest_of_its_budget_and_a_good_one_does_not(small_lab: SmallLab, tmp_path: Path) -> None:
    level = math.log(5.0)  # nats; a byte of no model has 5.5
    limits = tuple(Limit(share, level, 0.05, 10.0, 0.0, math.log(3.0), 0.05, 0.0, 0.01, 0.0, 0.0, 0.0) for share in (0.2, 0.3))
    budget, rule = 2.0, Rule(3.0, 2.0, limits, 0.5, reach=0.5)
    config = SlotConfig(prepare=small_lab.prepare, data=small_lab.data, measurement_key="test")
    (tmp_path / "outcomes").mkdir()
    executor = InlineExecutor((SlotSpec("cpu0", config, tmp_path, budget, 60.0),))
    outcomes = []
    for index, text in enumerate((small_lab.genome, small_lab.genome.replace("LEARNING_RATE = 0.01", "LEARNING_RATE = 1e-9"))):
        written = describe_seed(text)
        executor.submit(replace(written, proposal=replace(written.proposal, index=index), rule=rule), text)
        finished = executor.next_finished(60.0)
        assert finished is not None
        outcomes.append(finished.outcome)
    executor.close()
    good, slow = outcomes
    assert isinstance(good, Scored), good
    assert isinstance(slow, Stopped), slow
    assert slow.training_seconds < 0.7 * budget
    assert slow.foretold == pytest.approx(math.exp(math.log(5.5) - 0.4), rel=0.1)
    assert slow.curve


def test_what_a_run_would_have_saved_is_told_of_its_folder_and_of_what_was_packed_of_it(tmp_path: Path) -> None:
    """The measurement of the rule: on a run that stopped nothing, and on the file that keeps its curves."""
    run_dir, packed = tmp_path / "run", tmp_path / "packed.jsonl.xz"
    drive(run_dir, EVALS, program=REPORTING, **{**SETTINGS, "early_stopping": 0.0})
    script(ROOT / "scripts" / "record_curves.py", "--pack", str(run_dir), str(packed))
    asked = (ROOT / "scripts" / "bench_stopping.py", "--population", "5", "--orders", "3", "--false-stops", "0.1", "--json", "--curves")
    of_folder, of_file = (json.loads(script(*asked, str(path))) for path in (run_dir, packed))
    assert of_folder == of_file
    evaluated = {r.candidate.genome for r in snapshot(run_dir).records if isinstance(r.outcome, Scored)}
    assert of_folder["runs"] == len(evaluated)
    assert of_folder["as_recorded_saved"] > 0.02
    assert of_folder["as_recorded_lost"] <= 0.1 * of_folder["as_recorded_survivors"]


def script(path: Path, *arguments: str) -> str:
    command = [sys.executable, str(path), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout
