"""Real programs that fail are repaired and score: training process, failure, search, rule, and training process again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SmallLab
from simulated import scored
from tiny_lab import StopAfter, drive, facts, spec

import genomes
from evaluator.instant import Landscape
from evaluator.outcome import Failed, Outcome, Phase, Reason, Scored
from evaluator.slot import Slot, SlotConfig
from evaluator.training import Limits
from evo.core.belief import believe
from evo.core.history import fold
from evo.core.records import CALIBRATE, MUTATE, REPAIR, Candidate, Proposal, Record, lean
from evo.executor import InlineExecutor
from evo.folder import Finished, read_text
from evo.lineage import __main__ as lineage
from evo.operators import Library, describe_seed, write
from evo.search import Search, SearchConfig
from evo.store import snapshot


@pytest.fixture(scope="module")
def slot(small_lab: SmallLab) -> Iterator[Slot]:
    limits = Limits(setup_seconds=30, grace_seconds=1.5, host_memory_gib=1.5, weights_gib=0.1, file_gib=0.01)
    made = Slot(SlotConfig(prepare=small_lab.prepare, data=small_lab.data, measurement_key="test", limits=limits))
    yield made
    made.close()


def repaired(slot: Slot, lab: SmallLab, broken: str) -> tuple[Failed, str, Outcome]:
    """What a broken child of the lab's genome fails of, the note of the repair that the search asks for, and what comes of it."""
    seed = describe_seed(lab.genome)
    child = Candidate(Proposal(4, MUTATE, (seed.genome,), 1), genomes.identity(broken), genomes.species(broken), genomes.size(broken), "")
    failed = slot(broken, 1, 0.5)
    assert isinstance(failed, Failed), failed
    calibrations = [
        Record(Candidate(Proposal(i, CALIBRATE, (), i), seed.genome, seed.species, seed.size, ""), scored(3.0)) for i in range(4)
    ]
    records = [lean(record) for record in [*calibrations, Record(child, failed)]]
    search = Search(SearchConfig(), seed.genome)
    search.resume(records)
    (proposal,) = search.ask(1)
    assert (proposal.operator, proposal.parents) == (REPAIR, (child.genome,))
    history, texts = fold(records), {seed.genome: lab.genome, child.genome: broken}
    known = {seed.genome: calibrations[0].candidate, child.genome: child}
    library = Library(
        founder=seed, texts=texts.__getitem__, known=known, seed=0, history=history, belief=believe(history.genomes), prepare=lab.prepare
    )
    written = write(proposal, library)
    assert written.outcome is None, written.outcome
    return failed, written.candidate.note, slot(written.text, 1, 0.5)


def test_a_program_that_runs_out_of_memory_is_repaired_and_scores(slot: Slot, small_lab: SmallLab) -> None:
    hungry = small_lab.genome.replace(
        "    model = build_model()\n", "    waste = torch.ones(BATCH_SIZE, 25_000_000)\n    model = build_model()\n"
    )
    assert hungry != small_lab.genome
    failed, note, outcome = repaired(slot, small_lab, hungry)
    assert failed.reason is Reason.OUT_OF_MEMORY
    assert note == "BATCH_SIZE 16 → 8; the total batch shrinks with it (out_of_memory)"
    assert isinstance(outcome, Scored), outcome


def test_a_view_that_does_not_fit_is_repaired_at_its_line_and_scores(slot: Slot, small_lab: SmallLab) -> None:
    old = "    prepare.save(model)\n"
    broken = small_lab.genome.replace(old, "    print(torch.ones(2, 3).T.view(-1), torch.ones(6).view(2, 3))\n" + old)
    assert broken != small_lab.genome
    failed, note, outcome = repaired(slot, small_lab, broken)
    assert failed.reason is Reason.CRASH
    assert note == "view → reshape (crash)"
    assert isinstance(outcome, Scored), outcome


# ---- a whole run, on the instant lab with little memory

WIDE = """import torch.nn as nn

MATRIX_LR = 0.04  # rate of the matrices
TOTAL = 4096  # tokens per step
DEVICE_BATCH_SIZE = 16  # rows per pass


def build_model():
    return nn.Linear(8, 8)


def main():
    passes = TOTAL // DEVICE_BATCH_SIZE
    return passes, MATRIX_LR
"""
MOST_ROWS = 24


class LittleMemory(InlineExecutor):
    """More than MOST_ROWS rows per pass do not fit."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__((spec(run_dir, Landscape(salt=2)),))
        self._rows: dict[int, int] = {}

    def submit(self, candidate: Candidate, text: str) -> None:
        super().submit(candidate, text)
        self._rows[candidate.index] = rows(text)

    def next_finished(self, timeout_seconds: float) -> Finished | None:
        finished = super().next_finished(timeout_seconds)
        if finished is None or self._rows[finished.index] <= MOST_ROWS:
            return finished
        return replace(finished, outcome=Failed(Reason.OUT_OF_MEMORY, Phase.TRAIN, "MemoryError: in the instant lab"))


def rows(text: str) -> int:
    return int(next(knob.value for knob in genomes.knobs(text) if knob.name == "DEVICE_BATCH_SIZE"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repairs") / "whole"
    drive(folder, 40, LittleMemory(folder), program=WIDE, tune_share=1.0, crossover_share=0.0)
    return folder


def repairs(run_dir: Path) -> list[Record]:
    return [record for record in snapshot(run_dir).records if record.operator == REPAIR]


def test_what_ran_out_of_memory_is_repaired_with_fewer_rows_and_scores(whole: Path) -> None:
    failed = {record.candidate.genome for record in snapshot(whole).records if isinstance(record.outcome, Failed)}
    made = repairs(whole)
    left = failed - {record.candidate.proposal.parents[0] for record in made}
    assert len(left) <= 1 < len(failed)  # the last evaluation that the limit allowed
    for record in made:
        if isinstance(record.outcome, Scored | Failed):
            before, after = (read_text(whole, id_) for id_ in (*record.candidate.proposal.parents, record.candidate.genome))
            assert rows(after) == rows(before) // 2
    assert any(isinstance(record.outcome, Scored) for record in made)


@pytest.mark.parametrize("records", [6, 11, 17, 30])
def test_a_run_with_repairs_is_the_same_resumed_or_not(whole: Path, tmp_path: Path, records: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        drive(tmp_path / "run", 40, LittleMemory(tmp_path / "run"), StopAfter(records), program=WIDE, tune_share=1.0, crossover_share=0.0)
    drive(tmp_path / "run", 40, LittleMemory(tmp_path / "run"), program=WIDE, tune_share=1.0, crossover_share=0.0)
    assert facts(tmp_path / "run") == facts(whole)


def test_lineage_and_study_show_a_child_of_what_failed(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = next(record.candidate.genome for record in repairs(whole) if isinstance(record.outcome, Scored))
    assert lineage.main([str(whole)]) == 0
    tree = capsys.readouterr().out
    assert "└─ " in tree
    assert "repair: DEVICE_BATCH_SIZE" in tree
    assert lineage.main([str(whole), "path", child]) == 0
    assert lineage.main([str(whole), "show", child]) == 0
    assert "against" in capsys.readouterr().out
    assert (whole / "optuna.log").stat().st_size > 0
