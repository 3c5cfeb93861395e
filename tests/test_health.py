"""Slots that fail: a broken one is found, whoever else fails as well is left alone, and a run does not end or drown in failures for it."""

from __future__ import annotations

import heapq
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from simulated import finished
from tiny_lab import Silent, drive, spec

from evaluator.evaluate import HarnessError
from evaluator.instant import Instant, Landscape
from evaluator.outcome import Failed, Interrupted, Outcome, Phase, Reason, Scored, Unwritten
from evo.core.health import Health, Remedy
from evo.core.records import Candidate, Record
from evo.drive import Driver
from evo.errors import SeedFailsError
from evo.executor import InlineExecutor, Running, check_submission
from evo.folder import Finished
from evo.store import snapshot
from evo.table import PlainLines

SLOTS, GOOD_SECONDS, BAD_SECONDS = 8, 330.0, 15.0


def test_a_slot_that_fails_alone_is_renewed_and_then_retired() -> None:
    health = Health()
    for k in range(14):
        assert health.add(f"good{k % 7}", False) is Remedy.NOTHING
    remedies = [health.add("bad", True) for _ in range(6)]
    assert remedies == [Remedy.NOTHING, Remedy.NOTHING, Remedy.RENEW, Remedy.NOTHING, Remedy.NOTHING, Remedy.RETIRE]


def test_a_slot_that_works_again_after_its_renewal_starts_anew() -> None:
    health = Health()
    for _ in range(20):
        health.add("good", False)
    assert [health.add("bad", True) for _ in range(3)][-1] is Remedy.RENEW
    assert health.add("bad", False) is Remedy.NOTHING
    assert [health.add("bad", True) for _ in range(3)] == [Remedy.NOTHING, Remedy.NOTHING, Remedy.RENEW]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_slots_that_fail_alike_are_hardly_ever_renewed_and_never_retired(share: float) -> None:
    random, health, found = Random(1), Health(), list[Remedy]()
    for _ in range(5000):
        found.append(health.add(f"slot{random.randrange(SLOTS)}", random.random() < share))
    assert found.count(Remedy.RENEW) < 15
    assert found.count(Remedy.RETIRE) == 0


class OneBroken:
    """Slots in simulated time, of which the first fails everything from a moment on: and soon, so that it is free most often."""

    starting = 0

    fault: Outcome = Failed(Reason.CRASH, Phase.SETUP, "RuntimeError: CUDA error: unspecified launch failure")
    unable = False
    apart_seconds = 0.0  # that each slot is slower than the one before

    def __init__(self, breaks_at: float, mends: bool = False, slots: int = SLOTS) -> None:
        self.now, self.breaks_at, self.mends = 0.0, breaks_at, mends
        self.submitted = 0
        self.lab = Instant(Landscape(noise_sd=0.001))
        self.busy: dict[int, Candidate] = {}
        self.queue: list[tuple[float, int, int, Outcome]] = []
        self.alive = list(range(slots))

    @property
    def slots(self) -> int:
        return len(self.alive)

    @property
    def free_slots(self) -> int:
        return sum(slot not in self.busy for slot in self.alive)

    def submit(self, candidate: Candidate, text: str) -> None:
        check_submission(self, candidate)
        slot = min(slot for slot in self.alive if slot not in self.busy)
        broken = self.breaks(slot, candidate)
        outcome = self.fault if broken else self.lab(text, candidate.proposal.seed, 1.0)
        self.submitted += 1
        self.busy[slot] = candidate
        seconds = BAD_SECONDS if broken else GOOD_SECONDS + self.apart_seconds * slot
        heapq.heappush(self.queue, (self.now + seconds, candidate.index, slot, outcome))

    def breaks(self, slot: int, candidate: Candidate) -> bool:
        return slot == 0 and self.now >= self.breaks_at

    def next_finished(self, timeout_seconds: float) -> Finished | None:
        self.now, index, slot, outcome = heapq.heappop(self.queue)
        del self.busy[slot]
        return Finished(index, outcome, f"gpu{slot}", self.now, self.now + 1, self.unable and isinstance(outcome, Interrupted))

    def running(self) -> tuple[Running, ...]:
        return tuple(Running(c.index, f"gpu{slot}", 0.0, None) for slot, c in self.busy.items())

    def renew(self, slot: str) -> None:
        self.breaks_at = float("inf") if self.mends else self.breaks_at

    def retire(self, slot: str) -> bool:
        if self.slots == 1:
            return False
        self.alive.remove(int(slot.removeprefix("gpu")))
        return True

    def close(self) -> None:
        pass


def failed(driver: Driver) -> int:
    records = driver.search.standing.records
    return sum(isinstance(r.outcome, Failed) and "CUDA error" in r.outcome.message for r in records)


@pytest.mark.parametrize("breaks_at", [0.0, 1500.0])
def test_a_broken_gpu_costs_a_handful_of_evaluations_and_not_the_run(tmp_path: Path, breaks_at: float) -> None:
    executor = OneBroken(breaks_at)
    driver = drive(tmp_path / "run", 60, executor, Silent(), calibrations=SLOTS)
    assert 0 < failed(driver) <= 8
    assert executor.slots == SLOTS - 1
    assert len(driver.notices) == 2
    assert "slot gpu0" in driver.notices[1]
    assert driver.search.standing.announcement is not None


def test_two_gpus_of_which_one_is_broken_from_the_start_leave_the_seed_its_repeats(tmp_path: Path) -> None:
    driver = drive(tmp_path / "run", 20, OneBroken(0.0, slots=2), Silent())
    assert driver.search.history.calibrations[0] == 4
    assert driver.executor.slots == 1


def test_a_gpu_that_new_processes_mend_stays(tmp_path: Path) -> None:
    executor = OneBroken(1500.0, mends=True)
    driver = drive(tmp_path / "run", 60, executor, Silent(), calibrations=SLOTS)
    assert 0 < failed(driver) <= 5
    assert executor.slots == SLOTS
    assert "were restarted" in driver.notices[0]


def test_a_seed_that_fails_on_two_slots_ends_the_run(tmp_path: Path) -> None:
    executor = OneBroken(0.0)
    executor.lab = lambda *_: Failed(Reason.CRASH, Phase.TRAIN, "no such thing")  # type: ignore[assignment]
    with pytest.raises(SeedFailsError, match="no such thing"):
        drive(tmp_path / "run", 120, executor, Silent(), calibrations=SLOTS)


class Unable(OneBroken):
    """Slots of which some can evaluate nothing, and say so."""

    fault = Interrupted("it cannot work: no readable data")
    unable = True

    def __init__(self, broken: int, **settings: Any) -> None:
        super().__init__(0.0, **settings)
        self.broken = broken

    def breaks(self, slot: int, candidate: Candidate) -> bool:
        return slot < self.broken and self.now >= self.breaks_at


def given_up(driver: Driver) -> list[Record]:
    found = [r for r in driver.search.standing.records if isinstance(r.outcome, Unwritten)]
    return [r for r in found if "interruptions" in getattr(r.outcome, "why", "")]


@pytest.mark.parametrize("broken", [1, 3, SLOTS - 1])
def test_slots_that_can_evaluate_nothing_cost_the_run_no_candidate(tmp_path: Path, broken: int) -> None:
    executor = Unable(broken)
    driver = drive(tmp_path / "run", 40, executor, Silent(), calibrations=SLOTS)
    assert not given_up(driver)
    assert executor.slots == SLOTS - broken
    assert {int(r.slot.removeprefix("gpu")) for r in driver.search.standing.records if r.slot} == set(range(broken, SLOTS))
    assert len(driver.notices) == 2 * broken
    assert all("no readable data" in notice for notice in driver.notices)
    assert driver.search.standing.announcement is not None


def test_slots_that_break_one_after_another_cost_the_run_no_candidate(tmp_path: Path) -> None:
    """Each meets the candidate that the one before has given back."""
    executor = Unable(SLOTS - 1)
    executor.breaks_at, executor.apart_seconds = 1000.0, 40.0
    driver = drive(tmp_path / "run", 40, executor, Silent(), calibrations=SLOTS)
    assert executor.slots == 1
    assert not given_up(driver)


def test_a_slot_that_can_evaluate_again_with_new_processes_stays(tmp_path: Path) -> None:
    executor = Unable(1, mends=True)
    driver = drive(tmp_path / "run", 40, executor, Silent(), calibrations=SLOTS)
    assert executor.slots == SLOTS
    assert len(driver.notices) == 1
    assert "were restarted" in driver.notices[0]


@pytest.mark.parametrize("slots", [1, 2, SLOTS])
def test_what_no_slot_can_evaluate_ends_the_run_soon_and_says_why(tmp_path: Path, slots: int) -> None:
    executor = Unable(slots, slots=slots)
    with pytest.raises(HarnessError, match="no readable data"):
        drive(tmp_path / "run", 40, executor, Silent(), calibrations=SLOTS)
    assert executor.submitted <= 3 * slots
    assert snapshot(tmp_path / "run").records == ()
    assert finished(drive(tmp_path / "run", 40, OneBroken(float("inf")), Silent(), calibrations=SLOTS).search)


class Poisoned(Unable):
    """Slots of which each can evaluate nothing once a certain candidate has come."""

    def breaks(self, slot: int, candidate: Candidate) -> bool:
        return candidate.index == 20


def test_a_candidate_that_no_slot_can_evaluate_is_given_up_and_costs_no_slot(tmp_path: Path) -> None:
    executor = Poisoned(0)
    driver = drive(tmp_path / "run", 40, executor, Silent(), calibrations=SLOTS)
    assert [record.index for record in given_up(driver)] == [20]
    assert executor.slots == SLOTS
    assert finished(driver.search)


@pytest.mark.parametrize("slots", [2, SLOTS])
def test_a_slot_that_interrupts_everything_at_once_gets_no_more_work_before_long(tmp_path: Path, slots: int) -> None:
    """As with a full /tmp."""
    executor = OneBroken(1000.0, slots=slots)
    executor.fault = Interrupted("OSError: [Errno 28] No space left on device")
    driver = drive(tmp_path / "run", 40, executor, Silent(), calibrations=SLOTS)
    assert executor.slots == slots - 1
    assert len(given_up(driver)) <= 3
    assert len(driver.notices) == 2
    assert all("No space left on device" in notice for notice in driver.notices)


class Busy(InlineExecutor):
    """Says of each score that its program waited for a core."""

    share = 0.0

    def next_finished(self, timeout_seconds: float) -> Finished | None:
        event = super().next_finished(timeout_seconds)
        if event is not None and isinstance(event.outcome, Scored):
            event = replace(event, outcome=replace(event.outcome, waited_share=self.share))
        return event


@pytest.mark.parametrize(("share", "said"), [(0.0, 0), (0.05, 0), (0.5, 1)])
def test_a_machine_that_others_use_is_told_of_once(tmp_path: Path, share: float, said: int) -> None:
    executor = Busy((spec(tmp_path / "run"),))
    executor.share = share
    driver = drive(tmp_path / "run", 12, executor, Silent())
    assert not driver.notices
    assert ("waited for one for 50% of their time" in driver.upkeep.busy) == bool(said)
    lines: list[str] = []
    watcher = PlainLines(lines.append)
    for _ in range(3):
        watcher.tick(driver)
    assert sum("other work is taking" in line for line in lines) == said


def test_what_is_said_of_other_work_is_about_the_latest_programs() -> None:
    """A machine that was busy while the run was calibrated is no news at its end."""
    health = Health()
    for share in (0.5, 0.5, 0.5):
        health.waited(share)
    assert not health.busy
    health.waited(0.5)
    assert "waited for one for 50%" in health.busy
    for _ in range(3):
        health.waited(0.0)
    assert not health.busy


def test_a_slot_goes_only_where_a_second_candidate_says_that_it_can_evaluate_nothing() -> None:
    """The same one again may be to blame itself, as one whose weights find no room."""
    health = Health()
    assert [health.unable("gpu0", index) for index in (7, 7, 7)] == [Remedy.RENEW, Remedy.NOTHING, Remedy.NOTHING]
    assert health.unable("gpu0", 8) is Remedy.RETIRE
    health.add("gpu0", failed=False)
    assert health.unable("gpu0", 9) is Remedy.RENEW
