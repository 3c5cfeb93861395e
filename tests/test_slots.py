"""Slots that score unlike the others are found, and by how much; slots that are alike are not told apart."""

from __future__ import annotations

import dataclasses
from random import Random

import pytest
from simulated import PACE_SLOPE, World, drive, improving, neutral, search

from evaluator.outcome import Scored
from evo.core.records import Proposal, Record
from evo.core.standing import assess
from evo.lineage.offsets import LEAST, Draw, offsets
from evo.lineage.slots import slots, slots_lines

NOISE = 0.001
HOT = {"gpu2": 3 * NOISE}  # adds this to every score
GLOWING = {"gpu2": 30 * NOISE}  # beside what edits do


class Machine(World):
    """Some of its slots add something to every score."""

    def __init__(self, uneven: dict[str, float], **world: object) -> None:
        super().__init__(**{"effect": improving, "noise_sd": NOISE, **world})  # type: ignore[arg-type]
        self.uneven = uneven

    def evaluate(self, proposal: Proposal) -> Record:
        slot = f"gpu{Random(f'slot/{self.salt}/{proposal.index}').randrange(4)}"
        record = dataclasses.replace(super().evaluate(proposal), slot=slot)
        if not isinstance(record.outcome, Scored):
            return record
        moved = dataclasses.replace(record.outcome, val_bpb=record.outcome.val_bpb + self.uneven.get(slot, 0.0))
        return dataclasses.replace(record, outcome=moved)


def children(rng: Random, count: int, uneven: dict[str, float], ruined: float = 0.0) -> list[Draw]:
    """Of one parent with eight draws, on four slots."""
    found = [Draw("seed", (), f"gpu{i % 4}", 1.0 + uneven.get(f"gpu{i % 4}", 0.0) + rng.gauss(0, NOISE)) for i in range(8)]
    for i in range(count):
        slot = f"gpu{rng.randrange(4)}"
        worse = rng.random() if rng.random() < ruined else 0.0
        found.append(Draw(f"g{i}", ("seed",), slot, 1.0 + worse + uneven.get(slot, 0.0) + rng.gauss(0, NOISE)))
    return found


def test_slots_that_are_alike_are_hardly_ever_told_apart() -> None:
    """In one look of a thousand."""
    looks = [bool(offsets(children(Random(f"alike/{i}"), 60, {}))) for i in range(500)]
    assert sum(looks) <= 3


@pytest.mark.parametrize("ruined", [0.0, 0.3])
def test_a_slot_that_scores_higher_is_found_and_by_how_much(ruined: float) -> None:
    for i in range(20):
        found = offsets(children(Random(f"hot/{ruined}/{i}"), 400, HOT, ruined))
        assert set(found) == {"gpu0", "gpu1", "gpu2", "gpu3"}
        others = sum(found[slot].mean for slot in found if slot != "gpu2") / 3
        assert found["gpu2"].mean - others == pytest.approx(HOT["gpu2"], abs=5 * found["gpu2"].sd)
        assert 0 < found["gpu2"].sd < NOISE


def test_few_draws_say_nothing() -> None:
    draws = children(Random(1), 400, HOT)
    few = [d for d in draws if d.slot != "gpu2"] + [d for d in draws if d.slot == "gpu2"][: LEAST - 1]
    assert "gpu2" not in offsets(few)
    assert offsets([]) == {}
    assert offsets([Draw("seed", (), "gpu0", 1.0)]) == {}


def test_identical_scores_and_a_single_slot_say_nothing() -> None:
    assert offsets([Draw("seed", (), f"gpu{i % 2}", 1.0) for i in range(40)]) == {}
    assert offsets([dataclasses.replace(d, slot="gpu0") for d in children(Random(2), 100, HOT)]) == {}
    exact = [Draw(f"a{i}", ("seed",), "gpu0", 0.5) for i in range(30)]  # such a slot has all the weight there is
    assert offsets([Draw("seed", (), "gpu1", 1.0), *exact, *(Draw(f"b{i}", ("seed",), "gpu1", 1.0 + i) for i in range(30))]) == {}


def test_lineage_shows_what_each_slot_did_and_its_offset() -> None:
    records = drive(search(evals=100, seed=7), Machine(GLOWING, failures=0.1))
    data = slots(assess(records))
    assert data["differ"]
    assert sum(row["evaluations"] for row in data["slots"]) == len(records)
    assert sum(row["failed"] for row in data["slots"]) == sum(not isinstance(r.outcome, Scored) for r in records) > 0
    text = "\n".join(line for line, _ in slots_lines(data))
    hot = next(row for row in data["slots"] if row["slot"] == "gpu2")
    assert f"{hot['offset']['mean']:+.4f} ± {hot['offset']['sd']:.4f}" in text
    assert "may be hot" in text
    shuffled = list(records)
    Random(7).shuffle(shuffled)
    assert slots(assess(shuffled)) == data

    even = slots(assess(drive(search(evals=60, seed=7), Machine({}, effect=neutral))))
    assert not even["differ"]
    assert "cannot be told apart" in "\n".join(line for line, _ in slots_lines(even))


def test_lineage_says_how_much_of_the_noise_is_the_machines_pace() -> None:
    busy = slots(assess(drive(search(evals=80, seed=7, calibrations=8), Machine({}, busy_sd=0.1), stop_after=80)))
    text = "\n".join(line for line, _ in slots_lines(busy))
    assert busy["noise"]["slope"] == pytest.approx(PACE_SLOPE, rel=0.3)
    assert f"1 % more tokens change val_bpb by {busy['noise']['slope'] / 100:+.5f}" in text
    quiet = slots(assess(drive(search(evals=80, seed=7), Machine({}), stop_after=80)))
    assert quiet["noise"]["slope"] is None
    assert "nothing shows" in "\n".join(line for line, _ in slots_lines(quiet))
    assert "too few repeats" in "\n".join(line for line, _ in slots_lines(slots(assess(drive(search(seed=7), Machine({}), stop_after=3)))))


def test_lineage_of_a_run_that_has_not_begun_says_so() -> None:
    assert slots_lines(slots(assess(()))) == [("no slot has evaluated anything yet", "")]
