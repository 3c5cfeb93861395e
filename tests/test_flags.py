"""What an evaluation is flagged for, and that usual ones are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from evaluator.outcome import Failed, Phase, Reason, Scored
from evo.core import flags
from evo.core.records import Candidate, Proposal, Record

USUAL = Scored(2.0, 10.1, 20.0, 1000, 10_000, 100, 0.5, "key", "namespaces", setup_seconds=4.0, score_seconds=3.0)


def record(index: int, genome: str = "seed", operator: str = "calibrate", **unusual: Any) -> Record:
    candidate = Candidate(Proposal(index, operator, (), index), genome, "species", 10, "")
    return Record(candidate, replace(USUAL, **unusual))


def found(unusual: Record) -> list[str]:
    calibration = [record(index, steps=1000 + index) for index in range(4)]
    return flags.of(unusual, flags.usual([*calibration, unusual]))


def test_a_usual_evaluation_has_no_flag() -> None:
    assert found(record(9, "child", "mutate")) == []
    assert found(record(9)) == []


@pytest.mark.parametrize(
    ("unusual", "words"),
    [
        ({"waited_share": 0.34}, "waited for a core in 34%"),
        ({"steps": 700}, "steps a second"),
        ({"training_seconds": 11.8}, "came 1.7 s later"),
        ({"setup_seconds": 40.0}, "40 s from its start"),
        ({"score_seconds": 30.0}, "30 s to be scored, 27 s more"),
        ({"training_seconds": 2.0, "steps": 198}, "it trained for only 2.0 s, the seed genome for 10.1 s"),
    ],
)
def test_an_unusual_evaluation_is_flagged_for_what_is_unusual(unusual: dict[str, float], words: str) -> None:
    (flag,) = [flag for flag in found(record(9, **unusual)) if "steps a second" not in flag or "steps" in unusual]
    assert words in flag


@pytest.mark.parametrize(("training", "most"), [(10.0, 3.0), (300.0, 10.0)])
@pytest.mark.parametrize(("beyond", "flagged"), [(-0.1, False), (0.1, True)])
def test_seconds_off_the_clock_weigh_by_the_clock(training: float, most: float, beyond: float, flagged: bool) -> None:
    """Eight seconds before ten are almost as good as eighteen."""
    calibration = [record(index, training_seconds=training, setup_seconds=0.5) for index in range(4)]
    child = record(9, "child", "mutate", training_seconds=training, setup_seconds=0.5 + most + beyond)
    assert bool(flags.of(child, flags.usual([*calibration, child]))) == flagged


def test_speed_is_compared_only_between_evaluations_of_one_genome() -> None:
    assert found(record(9, "child", "mutate", steps=100)) == []


def test_a_failure_and_a_run_without_calibration_have_no_flags() -> None:
    failed = Record(record(9).candidate, Failed(Reason.CRASH, Phase.TRAIN, "ValueError: no"))
    assert found(failed) == []
    alone = record(0, setup_seconds=90.0, training_seconds=12.0)
    assert flags.of(alone, flags.usual([alone])) == []


def test_of_a_genome_the_latest_score_tells() -> None:
    calibration = [record(index) for index in range(4)]
    odd, usual_again = record(5, "child", "mutate", score_seconds=40.0), record(6, "child", "final")
    failed = Record(record(7, "child").candidate, Failed(Reason.CRASH, Phase.TRAIN, "ValueError: no"))
    assert "to be scored" in flags.latest([*calibration, odd, failed], "child")[0]
    assert flags.latest([*calibration, odd, usual_again], "child") == []
    assert flags.latest([*calibration, odd], "nobody") == []
