"""What holds for every way to be evaluated: the instant lab, a slot that really trains, and compat mode pass one suite."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import SmallLab
from script_lab import TRAIN, compat_config

from evaluator.compat import Compat
from evaluator.evaluate import Evaluate
from evaluator.instant import Instant, Landscape
from evaluator.outcome import Failed, Outcome, Reason, Scored, Stopped, from_dict, to_dict
from evaluator.slot import Slot, SlotConfig

BUDGET = 0.7  # seconds: a step is told of every fifth of one


@dataclass(frozen=True)
class Way:
    """A way to be evaluated, and programs for it."""

    evaluate: Evaluate
    honest: str
    outside: str  # breaks what the way asks of a program
    lacks: str  # what it lacks


@pytest.fixture(scope="module", params=["instant", "slot", "early slot", "compat"])
def way(request: pytest.FixtureRequest, small_lab: SmallLab, script_home: Path) -> Iterator[Way]:
    made: Evaluate
    honest, outside, lacks = small_lab.genome, "def build_model():\n    return None\n", "main"
    if "slot" in request.param:
        early = request.param == "early slot"
        made = Slot(SlotConfig(prepare=small_lab.prepare, data=small_lab.data, measurement_key="test", early_start=early))
    elif request.param == "compat":
        made, honest = Compat(compat_config(script_home)), TRAIN
        outside, lacks = TRAIN.replace("torch.manual_seed(42)", "").replace("torch.cuda.manual_seed(42)", ""), "manual_seed"
    else:
        made = Instant(Landscape(noise_sd=0.001))
    yield Way(made, honest, outside, lacks)
    made.close()


@pytest.fixture(scope="module")
def honest(way: Way) -> Outcome:
    return way.evaluate(way.honest, 1, BUDGET)


@pytest.fixture(scope="module")
def refused(way: Way) -> Outcome:
    """Of a program that is none."""
    return way.evaluate(way.outside, 1, BUDGET)


@pytest.fixture(scope="module")
def next_one(refused: Outcome, way: Way) -> Outcome:
    """The honest program under another seed, right after a failure."""
    assert isinstance(refused, Failed)
    return way.evaluate(way.honest, 2, BUDGET)


def test_an_honest_program_is_scored(honest: Outcome, way: Way) -> None:
    assert isinstance(honest, Scored), honest
    assert 0.1 < honest.val_bpb < 8.5
    assert honest.measurement_key == way.evaluate.measurement_key
    assert honest.steps > 0 < honest.tokens
    assert honest.training_seconds >= BUDGET
    assert honest.total_seconds >= 0


def test_an_outcome_survives_pickling_and_json(honest: Outcome) -> None:
    assert pickle.loads(pickle.dumps(honest)) == honest
    assert from_dict(to_dict(honest)) == honest


def test_an_outcome_recorded_before_a_field_existed_can_be_read(honest: Outcome) -> None:
    recorded = to_dict(honest)
    for name in ("setup_seconds", "score_seconds", "logits_through"):
        del recorded[name]
    read = from_dict(recorded)
    assert isinstance(read, Scored)
    assert (read.setup_seconds, read.score_seconds, read.logits_through) == (0.0, 0.0, "")


def test_the_parts_of_the_time_are_within_the_whole(honest: Outcome, way: Way) -> None:
    assert isinstance(honest, Scored)
    if isinstance(way.evaluate, Slot):
        assert honest.setup_seconds > 0 < honest.score_seconds
        assert honest.setup_seconds + honest.training_seconds + honest.score_seconds <= honest.total_seconds
        assert honest.logits_through == "memory"


def test_the_curve_moves_forward_in_time_and_tokens(honest: Outcome) -> None:
    assert isinstance(honest, Scored)
    assert len(honest.curve) >= 2
    for before, after in zip(honest.curve, honest.curve[1:], strict=False):
        assert before.seconds <= after.seconds
        assert before.step < after.step
        assert before.tokens < after.tokens


def test_another_seed_gives_another_score(honest: Outcome, next_one: Outcome) -> None:
    assert isinstance(honest, Scored)
    assert isinstance(next_one, Scored)
    assert next_one.val_bpb != honest.val_bpb


def test_a_program_that_does_not_parse_fails_for_its_syntax(way: Way) -> None:
    outcome = way.evaluate("def main(:\n", 1, BUDGET)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.SYNTAX


def test_a_program_that_lacks_what_is_asked_of_it_fails_for_the_contract(refused: Outcome, way: Way) -> None:
    assert isinstance(refused, Failed)
    assert refused.reason is Reason.CONTRACT
    assert way.lacks in refused.message


def test_a_watch_stops_a_run_and_its_note_is_kept(way: Way) -> None:
    outcome = way.evaluate(way.honest, 1, BUDGET, watch=lambda point: "seen enough" if point.step > 0 else None)
    assert isinstance(outcome, Stopped)
    assert outcome.note == "seen enough"
    assert outcome.training_seconds < BUDGET


def test_an_evaluate_can_be_used_again_after_a_failure(next_one: Outcome) -> None:
    assert isinstance(next_one, Scored), next_one


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_instant_lab_fails_the_share_of_trees_it_is_told_to(share: float, small_lab: SmallLab) -> None:
    outcome = Instant(Landscape(failure_share=share))(small_lab.genome, 1, BUDGET)
    assert isinstance(outcome, Failed if share else Scored)


def test_the_instant_lab_is_deterministic_and_sees_numbers_and_structure(small_lab: SmallLab) -> None:
    def value(program: str) -> float:
        outcome = Instant()(program, 1, BUDGET)
        assert isinstance(outcome, Scored)
        return outcome.val_bpb

    base = value(small_lab.genome)
    assert value(small_lab.genome) == base
    assert value(small_lab.genome.replace("0.01", "0.02")) != base
    assert value(small_lab.genome.replace("F.silu(x)", "F.relu(x)")) != base
    assert value(small_lab.genome.replace("x = self", "x  =  self")) == base
