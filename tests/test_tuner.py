"""The tuner: boxes around the incumbent, values that fit their knobs, proposals that depend on samples and seed alone."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import genomes
from evo.tuner import MOST_AXES, Sample, axis, matter, propose

TEXT = (Path(__file__).parent.parent / "trainer" / "train.py").read_text()
KNOBS = genomes.knobs(TEXT)
TUNABLE = [knob for knob in KNOBS if knob.tunable]
BASE = {knob.name: knob.value for knob in TUNABLE}
INCUMBENT = Sample(BASE, 1.0)


@pytest.mark.parametrize("knob", TUNABLE, ids=lambda knob: knob.name)
def test_the_incumbents_value_lies_in_its_own_box_and_survives_the_round_trip(knob: genomes.Knob) -> None:
    around = axis(knob)
    place = around.coordinate(knob.value)
    assert place is not None
    back = around.value(place)
    assert type(back) is type(knob.value)
    assert back == knob.value or math.isclose(float(back), float(knob.value), rel_tol=0.01)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_whatever_is_proposed_can_be_written_and_stays_within_the_knobs_ranges(seed: int) -> None:
    values = propose(KNOBS, [INCUMBENT], Random(seed))
    known = {knob.name: knob for knob in TUNABLE}
    assert len(values) <= MOST_AXES
    for name, value in values.items():
        knob = known[name]
        if knob.kind == "choice":
            assert value in knob.choices
        elif knob.kind != "bool":
            assert knob.low <= float(value) <= knob.high
    child = genomes.set_knobs(TEXT, values)
    assert genomes.species(child) == genomes.species(TEXT)
    assert (genomes.identity(child) == genomes.identity(TEXT)) == (not values)


@pytest.mark.parametrize(("range_", "allowed"), [("64..128", {64, 128}), ("100..300", {128, 256}), ("1..4096", {64, 128, 256})])
def test_a_power_of_two_stays_in_the_range_that_its_remark_states(range_: str, allowed: set[int]) -> None:
    (knob,) = (k for k in genomes.knobs(f"BATCH_SIZE = 128  # rows; range {range_}\n") if k.tunable)
    assert knob.kind == "power_of_two"
    around = axis(knob)
    ends = (around.low, 7.0, around.high)
    assert {
        around.value(place + shift) for place in ends for shift in (-1e-9, 0.0, 1e-9) if around.low <= place + shift <= around.high
    } == allowed


def test_a_decay_near_one_moves_by_its_distance_from_one() -> None:
    knob = next(k for k in TUNABLE if k.name == "MUON_MOMENTUM")
    around = axis(dataclasses.replace(knob, value=0.99))
    assert around.value(around.high) == pytest.approx(0.97, abs=0.002)
    assert around.value(around.low) == pytest.approx(0.9967, abs=0.0005)


def test_a_failed_sample_repels_without_being_a_number() -> None:
    """The larger batch failed whenever it was tried: it is proposed less often than where nothing is known of it."""
    knob = next(k for k in TUNABLE if k.name == "DEVICE_BATCH_SIZE")
    scored = [INCUMBENT, *(Sample({knob.name: 64}, 0.99 + 0.01 * i) for i in range(4))]

    def larger(samples: list[Sample]) -> int:
        return sum(propose([knob], samples, Random(seed)).get(knob.name) == 256 for seed in range(80))

    assert larger([*scored, *(Sample({knob.name: 256}) for _ in range(6))]) < larger(scored) / 2


def test_what_is_pending_is_not_proposed_again_at_once() -> None:
    """Ten pending samples at the best place push proposals away from it, so that parallel slots try different things."""
    knob = next(k for k in TUNABLE if k.name == "MATRIX_LR")
    scored = [Sample({knob.name: 0.04 * 1.2**i}, 1.0 + 0.01 * abs(i - 3)) for i in range(-5, 6)]
    best = 0.04 * 1.2**3

    def near(samples: list[Sample]) -> int:
        drawn = [float(propose([knob], samples, Random(seed)).get(knob.name, 0.04)) for seed in range(80)]
        return sum(abs(math.log(value / best)) < 0.1 for value in drawn)

    assert near([*scored, *(Sample({knob.name: best * (1 + 0.001 * i)}, pending=True) for i in range(10))]) < near(scored)


def test_the_draw_of_knobs_prefers_the_knob_block_and_what_the_better_samples_moved() -> None:
    def share(name: str, samples: list[Sample]) -> float:
        return sum(name in {k.name for k in matter(KNOBS, samples, Random(seed))} for seed in range(400)) / 400

    assert share("MATRIX_LR", [INCUMBENT]) > 2 * share("orthogonalise.x", [INCUMBENT])
    shown = [Sample({**BASE, "orthogonalise.x": 1.05}, 0.9 + 0.001 * i) for i in range(3)] + [
        Sample(BASE, 1.0 + 0.001 * i) for i in range(9)
    ]
    assert share("orthogonalise.x", shown) > 2 * share("orthogonalise.x", [INCUMBENT])


def test_nothing_to_tune_gives_nothing() -> None:
    assert propose([k for k in KNOBS if not k.tunable], [INCUMBENT], Random(0)) == {}
