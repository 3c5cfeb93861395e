"""The study: one trial per evaluation, the same however it came about; a failure never has a value."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna_dashboard._note import get_note_from_system_attrs
from small_run import PROGRAM
from study_facts import facts, make_studied_run, opened, rebuilt, standing, told_alike, tuned_run

import genomes
from evaluator.outcome import CurvePoint, Evaluated, Failed, Scored, Stopped
from evo.core.history import EXPLORATIONS
from evo.core.records import MUTATE, REPEATS, TUNE, Candidate, Proposal, Record
from evo.core.standing import assess
from evo.operators import describe_seed
from evo.store import snapshot
from evo.views import trials
from evo.views.notes import code, difference
from evo.views.study import FILE, OVERVIEW, StudyView, placed_in, species_study


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_studied_run(tmp_path_factory.mktemp("study") / "run")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


# ---- what it says


def test_every_evaluation_is_one_trial(run: Path) -> None:
    records = [r for r in snapshot(run).records if isinstance(r.outcome, Evaluated)]
    said = facts(run)
    assert sorted(said) == [r.index for r in records]
    assert {type(r.outcome) for r in records} == {Scored, Failed}
    for record in records:
        trial, candidate = said[record.index], record.candidate
        scored = isinstance(record.outcome, Scored)
        assert (trial["state"], trial["value"]) == (("COMPLETE", record.outcome.val_bpb) if scored else ("FAIL", None))
        assert trial["attributes"]["operator"] == candidate.operator
        assert trial["attributes"]["genome"] == candidate.genome
        parents = () if candidate.operator in REPEATS else candidate.proposal.parents
        assert trial["attributes"]["parents"] == ", ".join(parents)
        assert ("reason" in trial["attributes"]) == (not scored)
        assert ("tokens_per_second" in trial["attributes"]) == scored
        assert [loss / trial["curve"][10] for loss in trial["curve"].values()] == pytest.approx([1, 3 / 4, 2 / 3, 5 / 8])


def test_parameters_are_those_of_the_programs_own_constants_that_have_moved(run: Path) -> None:
    values = {}
    for trial in facts(run).values():
        text = (run / "genomes" / f"{trial['attributes']['genome']}.py").read_text()
        constants = {knob.name: knob.value for knob in genomes.knobs(text) if knob.name.isupper() and knob.tunable}
        values[trial["attributes"]["genome"]] = constants, trial["params"]
    seen = {(name, value) for constants, _ in values.values() for name, value in constants.items()}
    moved = {name for name, _ in seen if sum(other == name for other, _ in seen) > 1}
    assert {"MATRIX_LR", "DEPTH"} <= moved
    for constants, params in values.values():
        assert params == {name: value for name, value in constants.items() if name in moved}


def test_every_note_has_operator_parent_and_difference(run: Path) -> None:
    for trial in facts(run).values():
        note, said = trial["note"], trial["attributes"]
        assert note.startswith(f"**{said['operator']}**")
        assert said["genome"] in note
        if said["operator"] in EXPLORATIONS:
            first = said["parents"].split(", ")[0]
            assert f"```diff\n--- {first}\n+++ {said['genome']}\n@@" in note
        else:
            assert "a fresh draw of" in note
        assert ("**Failed** at train, crash: `RuntimeError" in note) == (trial["state"] == "FAIL")


def test_the_study_names_the_champion_and_warns_of_the_best_trial(run: Path) -> None:
    storage = opened(run)
    now = standing(run)
    study_id = storage.get_study_id_from_name(OVERVIEW)
    note = get_note_from_system_attrs(storage.get_study_system_attrs(study_id), None)["body"]
    assert now.champion is not None
    assert now.announcement is not None
    belief = now.belief.of[now.champion]
    for text in (now.champion, f"{belief.mean:.4f} ± {belief.sd:.4f}", now.announcement.sentence(), "luckiest draw"):
        assert text in note
    assert now.champion in storage.get_study_user_attrs(study_id)["champion"]


@pytest.mark.filterwarnings("ignore:Some regimes for parameter")  # the seed alone, before anything had moved
def test_what_never_moved_is_no_parameter_and_has_no_importance(tmp_path: Path) -> None:
    """Thirty constants at zero hide what matters."""
    run_dir = tmp_path / "run"
    tuned_run(run_dir, [{"MATRIX_LR": 0.01 * (k + 1)} for k in range(30)])
    StudyView(run_dir).refresh(standing(run_dir), whole=True)
    study = optuna.load_study(study_name=OVERVIEW, storage=opened(run_dir))
    assert optuna.importance.get_param_importances(study) == {"MATRIX_LR": 1.0}


def test_a_stopped_trial_is_pruned_and_a_self_report_and_a_writer_are_told() -> None:
    candidate = Candidate(Proposal(3, MUTATE, ("p",), 1), "g", "s", 5, "note", writer="model")
    stopped = Record(candidate, Stopped("hopeless", 3.0))
    assert trials.verdict(stopped) == ("PRUNED", None)
    assert trials.attributes(stopped)["message"] == "hopeless"
    assert trials.attributes(stopped)["writer"] == "model"
    scored = Record(candidate, Scored(1.0, 0.0, 1.0, 1, 1, 1, 0.1, "key", "process", self_reported=True))
    assert trials.attributes(scored)["self_reported"] is True
    assert "tokens_per_second" not in trials.attributes(scored)


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=400))
def test_a_curve_keeps_its_last_finite_point_and_at_most_sixty(losses: list[float | None]) -> None:
    found = trials.points(CurvePoint(0.0, step, 0, loss) for step, loss in enumerate(losses))
    finite = {step: loss for step, loss in enumerate(losses) if loss is not None and math.isfinite(loss)}
    assert len(found) <= trials.CURVE_POINTS
    assert found.items() <= finite.items()
    assert list(found) == sorted(found)
    assert max(found, default=None) == max(finite, default=None)


@settings(max_examples=300)
@example(value=5e-324, name="MATRIX_LR")
@given(value=st.one_of(st.floats(), st.integers(-(10**9), 10**9)), name=st.sampled_from(["MATRIX_LR", "DEPTH", "WARMDOWN"]))
def test_a_value_outside_of_the_range_widens_it_and_never_raises(value: float, name: str) -> None:
    knob = {k.name: k for k in genomes.knobs(PROGRAM)}[name]
    placed = placed_in(knob, value)
    if placed is not None:
        distribution, accepted = placed
        assert accepted == value
        assert distribution._contains(distribution.to_internal_repr(accepted))
        assert getattr(distribution, "log", None) == knob.log
        assert not knob.low <= value <= knob.high or (distribution.low, distribution.high) == (knob.low, knob.high)  # type: ignore[attr-defined]


def test_a_choice_that_was_not_foreseen_is_no_parameter() -> None:
    (knob,) = genomes.knobs('PATTERN = "SSSL"  # window: L | SL | SSSL\n')
    assert placed_in(knob, "SL") is not None
    assert placed_in(knob, "SSSSL") is None
    assert placed_in(knob, 1) is None


def test_no_text_of_a_program_or_model_becomes_markdown() -> None:
    assert code("a `b` ``c``") == "``` a `b` ``c`` ```"
    assert code("two\nlines\x07") == "`two lines`"
    texts = {"a": "x = 1\n", "b": "x = '''\n```\n<script>\n````\n'''\n"}
    shown = difference("a", "b", texts.__getitem__)
    assert shown.startswith("`````diff\n")
    assert shown.endswith("\n`````")


def test_a_long_difference_is_cut() -> None:
    texts = {"a": "", "b": ""}
    texts["a"], texts["b"] = "\n".join(map(str, range(500))), "\n".join(f"{k} " + "x" * 5000 for k in range(500))
    assert len(difference("a", "b", texts.__getitem__)) < 20_000
    assert "more lines" in difference("a", "b", texts.__getitem__)


# ---- the same however it came about


def arrivals(records: Iterable[Record], rng: random.Random) -> list[Record]:
    """An order in which slots may finish: shuffled, but no child before its parents."""
    waiting, arrived, order = list(records), set[str](), list[Record]()
    while waiting:
        ready = [r for r in waiting[:4] if set(r.candidate.proposal.parents) <= arrived]
        record = rng.choice(ready)
        waiting.remove(record)
        order.append(record)
        if isinstance(record.outcome, Evaluated):
            arrived.add(record.candidate.genome)
    return order


@pytest.mark.parametrize("seed", range(3))
def test_written_step_by_step_in_any_order_equals_written_at_once(run: Path, copy: Path, seed: int) -> None:
    rng = random.Random(seed)
    order = arrivals(snapshot(copy).records, rng)
    (copy / FILE).unlink()
    view = StudyView(copy)
    told = 0
    while told < len(order):
        told = min(len(order), told + rng.randrange(1, 6))
        view.refresh(assess(order[:told]), whole=rng.random() < 0.2)
        view = view if rng.random() < 0.7 else StudyView(copy)  # a new session now and then
    assert told_alike(facts(copy), facts(run))


def test_a_large_gap_is_closed_bit_by_bit(copy: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo.views.study.AT_ONCE", 7)
    (copy / FILE).unlink()
    view, sizes = StudyView(copy), []
    for _ in range(12):
        view.refresh(standing(copy), whole=False)
        sizes.append(len(facts(copy)))
    assert sizes[:3] == [7, 14, 21]
    assert told_alike(facts(copy), facts(run))


def test_nothing_new_writes_nothing(copy: Path) -> None:
    before = (copy / FILE).read_bytes()
    view = StudyView(copy)
    for _ in range(2):
        view.refresh(standing(copy), whole=True)
    assert (copy / FILE).read_bytes() == before


# ---- tuned species


MOVES = [{"MATRIX_LR": 0.05}, {"MATRIX_LR": 0.06}, {"main.scale": 1.5}, {"DEPTH": 5, "WARMDOWN": 0.4}]


def test_a_tuned_species_has_a_study_of_what_moved(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    tuned_run(run_dir, MOVES[:3])
    seed = describe_seed(PROGRAM)
    StudyView(run_dir).refresh(standing(run_dir), whole=True)
    said = facts(run_dir, species_study(seed.species))
    start = {"MATRIX_LR": 0.04, "main.scale": 1.25}
    assert {i: t["params"] for i, t in said.items()} == {0: start, **{i + 1: {**start, **move} for i, move in enumerate(MOVES[:3])}}
    assert [study.study_name for study in opened(run_dir).get_all_studies()] == [OVERVIEW, species_study(seed.species)]


def test_a_species_study_grows_with_what_moves_and_equals_one_made_at_once(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    tuned_run(run_dir, MOVES)
    name = species_study(describe_seed(PROGRAM).species)
    records = snapshot(run_dir).records
    for told in range(1, len(records)):
        StudyView(run_dir).refresh(assess(records[:told]), whole=False)  # each session ends by a kill: what moved must be remembered
    StudyView(run_dir).refresh(assess(records), whole=True)
    grown = facts(run_dir, name)
    assert set(grown[0]["params"]) == {"DEPTH", "MATRIX_LR", "main.scale", "WARMDOWN"}
    assert grown == rebuilt(run_dir, name)


def test_a_species_that_was_not_tuned_has_no_study(run: Path) -> None:
    tuned = {r.candidate.species for r in snapshot(run).records if r.operator == TUNE}
    assert {study.study_name for study in opened(run).get_all_studies()} == {OVERVIEW, *map(species_study, tuned)}
