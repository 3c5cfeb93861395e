"""Reads a study as the dashboard does, and makes runs to write one of: what the tests of the study share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard._note import get_note_from_system_attrs
from small_run import PROGRAM, make_run

import genomes
from evaluator.outcome import Scored
from evo.core.records import CALIBRATE, TUNE, Candidate, Proposal, Record
from evo.core.standing import Standing, assess
from evo.operators import describe_seed
from evo.store import Store, snapshot
from evo.views.__main__ import main
from evo.views.study import FILE, OVERVIEW, StudyView

Facts = dict[int, dict[str, Any]]


def make_studied_run(run_dir: Path) -> Path:
    """A finished run whose study was written once, at its end."""
    make_run(run_dir)
    StudyView(run_dir).refresh(standing(run_dir), whole=True)
    return run_dir


def standing(run_dir: Path) -> Standing:
    return assess(snapshot(run_dir).records)


def opened(run_dir: Path) -> JournalStorage:
    """As the dashboard opens it."""
    return JournalStorage(JournalFileBackend(str(run_dir / FILE)))


def facts(run_dir: Path, study: str = OVERVIEW) -> Facts:
    """Index -> what the study says of an evaluation."""
    storage = opened(run_dir)
    study_id = storage.get_study_id_from_name(study)
    attributes = storage.get_study_system_attrs(study_id)
    found = storage.get_all_trials(study_id)
    said = {
        t.user_attrs["index"]: {
            "state": t.state.name,
            "value": t.value,
            "params": t.params,
            "attributes": t.user_attrs,
            "curve": t.intermediate_values,
            "times": (t.datetime_start, t.datetime_complete),
            "note": get_note_from_system_attrs(attributes, t._trial_id)["body"],
        }
        for t in found
    }
    assert len(said) == len(found)
    return said


def told_alike(one: Facts, other: Facts) -> bool:
    """Whether two studies say the same, but for knobs that had not moved yet when a trial was written."""
    both = {i: one[i]["params"].keys() & other[i]["params"].keys() for i in one.keys() & other.keys()}
    cut = [
        {i: {**said, "params": {name: said["params"][name] for name in both.get(i, ())}} for i, said in facts.items()}
        for facts in (one, other)
    ]
    return cut[0] == cut[1]


def rebuilt(run_dir: Path, study: str = OVERVIEW) -> Facts:
    (run_dir / FILE).unlink(missing_ok=True)
    assert main([str(run_dir)]) == 0
    return facts(run_dir, study)


def tuned_run(run_dir: Path, moves: list[dict[str, float]]) -> None:
    """The seed, and then one tuned child of it per set of values."""
    seed = describe_seed(PROGRAM)
    with Store.open(run_dir, {"lab": "test"}) as store:
        for index, values in enumerate([{}, *moves]):
            text = genomes.set_knobs(PROGRAM, values)
            proposal = Proposal(index, TUNE if values else CALIBRATE, (seed.genome,) if values else (), index)
            candidate = Candidate(proposal, genomes.identity(text), seed.species, seed.size, f"{values}")
            store.begin(candidate, text)
            store.finish(Record(candidate, Scored(1.0 + index / 100, 1.0, 2.0, 5, 50, 1, 0.1, "key", "process"), "cpu0", 1.0, 2.0))
