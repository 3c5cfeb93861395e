"""Real programs that fail are repaired and score: training process, failure, search, rule, and training process again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import SmallLab
from simulated import scored

import genomes
from evaluator.outcome import Failed, Outcome, Reason, Scored
from evaluator.slot import Slot, SlotConfig
from evaluator.training import Limits
from evo.belief import believe
from evo.history import fold
from evo.operators import Library, describe_seed, write
from evo.records import CALIBRATE, MUTATE, REPAIR, Candidate, Proposal, Record, lean
from evo.search import Founder, Search, SearchConfig


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
    search = Search(SearchConfig(), Founder(seed.genome, seed.species, seed.size))
    search.resume(records)
    (proposal,) = search.ask(1)
    assert (proposal.operator, proposal.parents) == (REPAIR, (child.genome,))
    history, texts = fold(records), {seed.genome: lab.genome, child.genome: broken}
    known = {seed.genome: calibrations[0].candidate, child.genome: child}
    library = Library(seed, texts.__getitem__, known, 0, history, believe(history.genomes), prepare=lab.prepare)
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
