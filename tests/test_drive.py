"""The loop: whatever stops it, going on gives what an unstopped run gives; nothing finished is lost, nothing runs twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import finished
from small_run import PROGRAM
from tiny_lab import NOISY, Silent, StopAfter, drive, facts, make_lab, spec

import genomes
from evaluator.instant import Landscape
from evaluator.outcome import Evaluated, Interrupted, Unwritten
from evo import operators
from evo.core.history import EXPLORATIONS
from evo.core.records import CALIBRATE, FINAL, Candidate, Proposal, Record
from evo.core.standing import Standing
from evo.drive import Driver
from evo.errors import ClusterError, SeedFailsError
from evo.executor import InlineExecutor
from evo.folder import Finished
from evo.hours import covered_seconds
from evo.llm.desk import Answer, Desk
from evo.run import main
from evo.store import snapshot
from evo.upkeep import INTERRUPTIONS

EVALS = 25


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    drive(run_dir, EVALS)
    return run_dir


class Shaky(InlineExecutor):
    """An executor whose slots die under some evaluations: index -> how often."""

    def __init__(self, run_dir: Path, deaths: dict[int, int]) -> None:
        super().__init__((spec(run_dir),))
        self.deaths = dict(deaths)
        self.submitted: list[int] = []

    def submit(self, candidate: Candidate, text: str) -> None:
        super().submit(candidate, text)
        self.submitted.append(candidate.index)

    def next_finished(self, timeout_seconds: float) -> Finished | None:
        (running,) = self.running()
        if not self.deaths.get(running.index):
            return super().next_finished(timeout_seconds)
        self.deaths[running.index] -= 1
        self._queue.clear()
        return Finished(running.index, Interrupted("killed by the test"), running.slot, running.started, time.time())


def test_a_run_ends_with_what_was_asked_for(whole: Path) -> None:
    records = snapshot(whole).records
    operators = [r.operator for r in records]
    evaluated = [r for r in records if isinstance(r.outcome, Evaluated)]
    explored = [r for r in evaluated if r.operator in EXPLORATIONS]
    assert len(explored) == EVALS
    assert operators.count(CALIBRATE) == 4
    assert operators.count(FINAL) >= 8
    assert [r.index for r in records] == list(range(len(records)))
    assert snapshot(whole).pending == ()
    assert len((whole / "results.tsv").read_text().splitlines()) == len(evaluated) + 1
    assert (whole / "best" / "train.py").exists()


@pytest.mark.parametrize("records", [1, 3, 4, 5, 11, 26, 33])
def test_resumed_equals_uninterrupted(whole: Path, tmp_path: Path, records: int) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        drive(run_dir, EVALS, watcher=StopAfter(records))
    assert len(snapshot(run_dir).records) == records
    drive(run_dir, EVALS)
    assert facts(run_dir) == facts(whole)


def test_a_finished_run_has_nothing_to_add_and_a_larger_limit_extends_it(whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    drive(run_dir, EVALS)
    drive(run_dir, EVALS)
    assert facts(run_dir) == facts(whole)
    drive(run_dir, EVALS + 5)
    assert facts(run_dir)[: len(facts(whole))] == facts(whole)
    assert drive(run_dir, EVALS + 5).search.history.evaluated == EVALS + 5


def test_spent_hours_close_the_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        drive(run_dir, EVALS, watcher=StopAfter(26))
    before = drive(run_dir, EVALS, watcher=Silent(), hours=1e-9).search
    assert before.history.evaluated < EVALS
    assert before.history.finals
    assert finished(before, closing=True)


def test_a_kill_of_the_driver_loses_nothing_and_runs_nothing_twice(tmp_path: Path) -> None:
    """`kill -9` of the real command at random moments of its work; what was on disk before each kill is there, unchanged, at the end.

    Moments are counted in evaluations: by the clock, a busy machine would be killed in its imports again and again.
    """
    lab, rng = make_lab(tmp_path / "lab"), random.Random(4)
    landscape = Landscape(NOISY.salt, NOISY.noise_sd, NOISY.failure_share, seconds=0.03)
    settings = [f"instant.{name}={getattr(landscape, name)}" for name in ("salt", "noise_sd", "failure_share", "seconds")]
    assignments = [part for text in ("evaluator.kind=instant", "run.executor=inline", *settings) for part in ("--set", text)]

    def command(run_dir: Path) -> list[str]:
        return [sys.executable, "-m", "evo.run", str(run_dir), "--lab", str(lab), "--evals", str(EVALS), *assignments]

    def start(run_dir: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(command(run_dir), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    witnesses: dict[int, Record] = {}
    kills = 0
    while True:
        driver, evaluations = start(tmp_path / "killed"), rng.randrange(3, 14)
        assert driver.stdout is not None
        if len(list(islice((line for line in driver.stdout if "index=" in line), evaluations))) < evaluations:
            break  # it came to its end
        time.sleep(rng.uniform(0.0, 0.06))
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
        kills += 1
        if (tmp_path / "killed" / "run.sqlite").exists():
            witnesses |= {r.index: r for r in snapshot(tmp_path / "killed").records}
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    assert kills >= 3
    records = {r.index: r for r in snapshot(tmp_path / "killed").records}
    assert all(records[index] == record for index, record in witnesses.items())
    assert main(command(tmp_path / "whole")[3:]) == 0
    assert facts(tmp_path / "killed") == facts(tmp_path / "whole")


def test_an_interrupted_candidate_runs_again_under_its_index(whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    executor = Shaky(run_dir, {2: 1, 7: INTERRUPTIONS - 1})
    drive(run_dir, EVALS, executor)
    assert facts(run_dir) == facts(whole)
    assert executor.submitted.count(2) == 2
    assert executor.submitted.count(7) == INTERRUPTIONS


def test_a_candidate_that_is_always_interrupted_is_given_up_without_a_failure(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    driver = drive(run_dir, EVALS, Shaky(run_dir, {7: 99}))
    given_up = next(r for r in snapshot(run_dir).records if r.index == 7)
    assert isinstance(given_up.outcome, Unwritten)
    assert "killed by the test" in given_up.outcome.why
    assert driver.search.history.evaluated == EVALS
    genome = driver.search.history.genomes.get(given_up.candidate.genome)
    assert genome is None or genome.index > 7


def test_a_broken_machinery_ends_the_run_and_keeps_what_is_finished(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with pytest.raises(ClusterError, match="in a row"):
        drive(run_dir, EVALS, Shaky(run_dir, dict.fromkeys(range(9, 99), 99)))
    assert len(snapshot(run_dir).records) >= 9
    assert finished(drive(run_dir, EVALS).search)


def test_a_seed_that_fails_ends_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(SeedFailsError, match="defines no main"):
        drive(tmp_path / "run", EVALS, program=PROGRAM.replace("def main", "def start"))
    assert len(snapshot(tmp_path / "run").records) == 2


def test_slots_are_filled_at_once_and_one_candidate_waits_written(tmp_path: Path) -> None:
    class Looks(Silent):
        def tick(self, driver: Driver) -> None:
            ready = len(snapshot(tmp_path / "run").pending) - len(driver.candidates)
            seen.append((driver.executor.free_slots, ready))

    seen: list[tuple[int, int]] = []
    run_dir = tmp_path / "run"
    drive(run_dir, EVALS, InlineExecutor((spec(run_dir),) * 3), Looks())
    assert set(seen[:20]) == {(1, 1)}  # the finished one's slot is free again, its next program is written


def test_the_deterministic_lab_is_fast(tmp_path: Path) -> None:
    """2,000 evaluations in two minutes; an eighth of them here, in seconds of the processor, since tests have neighbours.

    By a policy that asks no model of numbers: one proposal of evo's takes longer than all the rest of an evaluation here.
    """
    began = time.process_time()
    drive(tmp_path / "run", 250, policy="random")
    assert time.process_time() - began < 15


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10)), max_size=12))
def test_covered_seconds_is_the_length_of_the_union(spans: list[tuple[int, int]]) -> None:
    covered = {second for start, length in spans for second in range(start, start + length)}
    assert covered_seconds((start, start + length) for start, length in spans) == len(covered)


# ---- with a model that writes beside training


class Scribe:
    """Writes every proposal by halving or doubling a number that no built-in operator chose; can be slow, wrong or unreachable."""

    def __init__(self, usable: bool = True, endpoint_failed: bool = False) -> None:
        self.usable, self.endpoint_failed = usable, endpoint_failed
        self.asked: list[int] = []

    def __call__(self, proposal: Proposal, library: operators.Library, standing: Standing, beside: int) -> Answer:
        self.asked.append(proposal.index)
        written = self._write(proposal, library) if self.usable and not self.endpoint_failed else None
        return Answer(proposal, written, "" if written else "no block matched", self.endpoint_failed, 100, '{"said": 1}')

    def _write(self, proposal: Proposal, library: operators.Library) -> operators.Written:
        text = library.texts(proposal.parents[0]).replace(
            "def main():\n", f"def main():\n    step_{proposal.index} = {proposal.index}\n", 1
        )
        identity = genomes.identity(text), genomes.species(text), genomes.size(text)
        return operators.Written(Candidate(proposal, *identity, "a statement more", "scribe"), text)


def explorations(run_dir: Path) -> list[Record]:
    evaluated = [r for r in snapshot(run_dir).records if isinstance(r.outcome, Evaluated)]
    return [r for r in evaluated if r.operator in EXPLORATIONS]


def slow_slots(run_dir: Path, slots: int) -> InlineExecutor:
    return InlineExecutor((spec(run_dir, Landscape(salt=1, noise_sd=0.0005, seconds=0.02)),) * slots)


def test_what_a_model_writes_is_evaluated_and_known_as_its_work(tmp_path: Path) -> None:
    driver = drive(tmp_path / "run", 40, slow_slots(tmp_path / "run", 8), desk=Desk(Scribe(), calls=8), calibrations=8, tune_share=0.1)
    made = explorations(tmp_path / "run")
    assert len(made) == 40
    by_model = [r for r in made if r.candidate.writer == "scribe"]
    others = {r.operator for r in made if not r.candidate.writer}
    assert len(by_model) >= 0.8 * len(made)  # the others: numbers are tuned
    assert others <= {"tune", "mutate", "crossover"}
    assert all((tmp_path / "run" / "prompts" / f"{r.index}.json").exists() for r in by_model)
    assert driver.desk.tokens >= 100 * len(by_model)


@pytest.mark.parametrize("scribe", [Scribe(usable=False), Scribe(endpoint_failed=True)], ids=["refuses", "unreachable"])
def test_a_model_that_gives_nothing_costs_no_evaluation(tmp_path: Path, scribe: Scribe) -> None:
    drive(tmp_path / "run", 20, slow_slots(tmp_path / "run", 4), desk=Desk(scribe, calls=4))
    made = explorations(tmp_path / "run")
    assert len(made) == 20
    assert not any(r.candidate.writer for r in made)
    assert scribe.asked
    unwritten = [r for r in snapshot(tmp_path / "run").records if isinstance(r.outcome, Unwritten)]
    assert not unwritten  # the built-in operator wrote each of them under its own index
    if not scribe.endpoint_failed:
        assert set(scribe.asked) <= {r.index for r in snapshot(tmp_path / "run").records}


def test_a_slot_never_waits_for_a_model_that_never_answers(tmp_path: Path) -> None:
    """Not even at the end, where all that is left to explore is at the model's."""
    gate = threading.Event()

    def never(proposal: Proposal, library: operators.Library, standing: Standing, beside: int) -> Answer:
        gate.wait()
        return Answer(proposal, None, "too late", False, 0, "")

    driver = drive(tmp_path / "run", 20, slow_slots(tmp_path / "run", 2), desk=Desk(never, calls=2))
    gate.set()
    assert len(explorations(tmp_path / "run")) == 20
    assert not any(r.candidate.writer for r in explorations(tmp_path / "run"))
    assert finished(driver.search)


def test_hours_that_are_spent_end_a_run_whose_model_never_answers(tmp_path: Path) -> None:
    gate = threading.Event()

    def never(proposal: Proposal, library: operators.Library, standing: Standing, beside: int) -> Answer:
        gate.wait()
        return Answer(proposal, None, "too late", False, 0, "")

    driver = drive(tmp_path / "run", 10_000, slow_slots(tmp_path / "run", 2), desk=Desk(never, calls=2), hours=2 / 3600)
    gate.set()
    assert finished(driver.search, closing=True)
    assert any(isinstance(r.outcome, Unwritten) and "time was up" in r.outcome.why for r in snapshot(tmp_path / "run").records)


def test_a_run_with_a_model_goes_on_after_a_stop(tmp_path: Path) -> None:
    """Proposals at the model's when it stopped are forgotten: their indices stay unused, nothing else changes."""
    with pytest.raises(KeyboardInterrupt):
        drive(tmp_path / "run", 20, slow_slots(tmp_path / "run", 4), watcher=StopAfter(10), desk=Desk(Scribe(), calls=4))
    drive(tmp_path / "run", 20, slow_slots(tmp_path / "run", 4), desk=Desk(Scribe(), calls=4))
    indices = [r.index for r in snapshot(tmp_path / "run").records]
    assert len(indices) == len(set(indices))
    assert len(explorations(tmp_path / "run")) == 20
