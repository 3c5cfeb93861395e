"""A proposal becomes a program: repeats, mutations, crossovers, duplicates, and what could not be written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from shelves import Shelf

import genomes
from evaluator.outcome import Duplicate, Failed, Phase, Reason, Unwritten
from evo.core.belief import believe
from evo.core.history import fold
from evo.core.records import CALIBRATE, CONFIRM, CROSSOVER, FINAL, GIVEN, MUTATE, REPAIR, TUNE, Candidate, Proposal, Record, lean
from evo.operators import Library, describe_seed, judge, write

SEED_TEXT = '''"""A program of the test."""

import torch.nn as nn

MATRIX_LR = 0.04  # rate of the matrices
DEPTH = 4  # blocks
WARMDOWN = 0.5  # share of the budget


def build_model():
    layers = [nn.Linear(8, 8) for _ in range(DEPTH)]
    return nn.Sequential(*layers)


def main():
    model = build_model()
    rate = MATRIX_LR * WARMDOWN + MATRIX_LR
    scale = 1.25
    bias = 0.75
    return model, scale, bias
'''


def test_a_candidate_tells_its_warm_up_and_so_do_its_repeats() -> None:
    """Its learning curve is compared from then on alone."""
    rising = SEED_TEXT.replace("WARMDOWN = 0.5", "WARMUP_RATIO = 0.25  # share\nMUON_WARMUP_STEPS = 300\nWARMDOWN = 0.5")
    founder = describe_seed(rising)
    assert founder.warmup == 0.25
    library = Library(
        founder=founder,
        texts={founder.genome: rising}.__getitem__,
        known={founder.genome: founder},
        seed=0,
        history=fold([]),
        belief=believe({}),
    )
    repeat = write(Proposal(3, CALIBRATE, (), 7), library).candidate
    assert (repeat.warmup, repeat.genome, repeat.loss_code) == (0.25, founder.genome, founder.loss_code)
    assert describe_seed(SEED_TEXT).warmup == 0


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(SEED_TEXT)


def test_calibration_reuses_the_seed_text(shelf: Shelf) -> None:
    written = shelf.write(0, CALIBRATE)
    assert written.outcome is None
    assert written.text == SEED_TEXT
    assert written.candidate.genome == genomes.identity(SEED_TEXT)


@pytest.mark.parametrize("operator", [CONFIRM, FINAL])
def test_repeats_reuse_the_text_of_their_genome(operator: str, shelf: Shelf) -> None:
    child = shelf.add(1, SEED_TEXT.replace("0.04", "0.05"))
    written = shelf.write(5, operator, child)
    assert written.outcome is None
    assert written.candidate.genome == child
    assert "0.05" in written.text


def test_a_mutation_gives_a_new_sound_program_with_a_note(shelf: Shelf) -> None:
    for index in range(1, 20):
        written = shelf.write(index, MUTATE, shelf.founder.genome)
        assert written.outcome is None
        assert written.candidate.genome == genomes.identity(written.text) != shelf.founder.genome
        assert written.candidate.size == genomes.size(written.text)
        assert not genomes.check(written.text)
        assert written.candidate.note
        assert "\n" not in written.candidate.note


def test_what_is_written_depends_on_run_seed_and_index_alone() -> None:
    def texts(seed: int) -> list[str]:
        return [Shelf(SEED_TEXT, seed).write(i, MUTATE, describe_seed(SEED_TEXT).genome).text for i in range(1, 6)]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)
    assert len(set(texts(1))) > 1


def test_a_known_child_is_written_again_from_the_same_stream(shelf: Shelf) -> None:
    first = shelf.write(1, MUTATE, shelf.founder.genome)
    shelf.add(1, first.text)
    second = shelf.write(1, MUTATE, shelf.founder.genome)
    assert second.outcome is None
    assert second.candidate.genome != first.candidate.genome


def test_when_every_child_is_known_it_is_a_duplicate_of_the_first(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    child = SEED_TEXT.replace("0.04", "0.05")
    shelf.add(3, child)
    monkeypatch.setattr(genomes, "mutate", lambda text, rng, names, contract: genomes.Mutant(child, "nudge", "MATRIX_LR"))
    written = shelf.write(9, MUTATE, shelf.founder.genome)
    assert written.outcome == Duplicate(3)
    assert written.text == ""


def test_a_parent_that_nothing_applies_to_is_unwritten_with_the_reason(shelf: Shelf) -> None:
    empty = shelf.add(1, "x = y\n")
    written = shelf.write(2, MUTATE, empty)
    assert isinstance(written.outcome, Unwritten)
    assert written.outcome.why
    assert (written.candidate.genome, written.candidate.species, written.candidate.size) == ("", "", 0)


def test_a_child_that_breaks_the_contract_is_unwritten(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = SEED_TEXT.replace("def main", "def other")
    monkeypatch.setattr(genomes, "mutate", lambda text, rng, names, contract: genomes.Mutant(broken, "rename", "main"))
    written = shelf.write(2, MUTATE, shelf.founder.genome)
    assert isinstance(written.outcome, Unwritten)
    assert "main" in written.outcome.why


def test_where_numbers_are_apart_a_mutation_changes_structure_and_without_one_it_tunes(shelf: Shelf) -> None:
    apart = replace(shelf.library(), numbers_apart=True)
    child = write(Proposal(1, MUTATE, (shelf.founder.genome,), 7), apart)
    assert child.outcome is None
    assert child.candidate.species != shelf.founder.species
    plain = "RATE = 0.04  # of the matrices\n\n\ndef build_model():\n    return RATE\n\n\ndef main():\n    return build_model()\n"
    numbers = shelf.add(2, plain)
    shelf.score(numbers, 1.0)
    tuned = write(Proposal(3, MUTATE, (numbers,), 7), replace(shelf.library(), numbers_apart=True))
    assert tuned.outcome is None
    assert "RATE 0.04 →" in tuned.candidate.note
    assert genomes.species(tuned.text) == genomes.species(plain)


def test_a_crossover_unites_the_edits_of_both_parents(shelf: Shelf) -> None:
    a = shelf.add(1, SEED_TEXT.replace("0.04", "0.05"))
    b = shelf.add(2, SEED_TEXT.replace("scale = 1.25", "scale = 2.5"))
    written = shelf.write(3, CROSSOVER, a, b)
    assert written.outcome is None
    assert "0.05" in written.text
    assert "scale = 2.5" in written.text
    assert "1.25" in written.candidate.note


def test_what_both_parents_changed_is_as_the_fitter_one_has_it(shelf: Shelf) -> None:
    a = shelf.add(1, SEED_TEXT.replace("0.04", "0.05").replace("scale = 1.25", "scale = 2.5"))
    b = shelf.add(2, SEED_TEXT.replace("0.04", "0.06").replace("WARMDOWN = 0.5", "WARMDOWN = 0.9"))
    for id_, val_bpb in ((shelf.founder.genome, 1.0), (a, 1.1), (b, 0.9)):
        for _ in range(3):
            shelf.score(id_, val_bpb)
    for index, parents in enumerate(((a, b), (b, a)), start=3):
        written = shelf.write(index, CROSSOVER, *parents)
        assert written.outcome is None
        assert all(part in written.text for part in ("0.06", "scale = 2.5", "WARMDOWN = 0.9"))
        assert "conflicts settled: 1" in written.candidate.note


def test_a_conflict_of_parents_that_are_equally_good_is_settled_by_lot(shelf: Shelf) -> None:
    a = shelf.add(1, SEED_TEXT.replace("0.04", "0.05").replace("scale = 1.25", "scale = 2.5"))
    b = shelf.add(2, SEED_TEXT.replace("0.04", "0.06").replace("WARMDOWN = 0.5", "WARMDOWN = 0.9"))
    texts = [shelf.write(index, CROSSOVER, a, b).text for index in range(3, 23)]
    assert {"0.05" in text for text in texts} == {True, False}


def test_crossovers_are_merged_on_the_lowest_common_ancestor(shelf: Shelf) -> None:
    """Both children keep the edit of their common parent: on the seed as base it would look like an agreement, on it like nothing."""
    parent_text = SEED_TEXT.replace("WARMDOWN = 0.5", "WARMDOWN = 0.9")
    parent = shelf.add(1, parent_text)
    a = shelf.add(2, parent_text.replace("WARMDOWN = 0.9", "WARMDOWN = 0.5").replace("0.04", "0.05"), parent)
    b = shelf.add(3, parent_text.replace("scale = 1.25", "scale = 2.5"), parent)
    text = shelf.write(4, CROSSOVER, a, b).text
    assert "WARMDOWN = 0.5" in text  # a took the edit back; against the seed as base, b's 0.9 would win
    assert "0.05" in text
    assert "scale = 2.5" in text


def test_a_crossover_that_is_a_parent_again_is_a_duplicate(shelf: Shelf) -> None:
    a = shelf.add(1, SEED_TEXT.replace("0.04", "0.05"))
    assert shelf.write(2, CROSSOVER, a, shelf.founder.genome).outcome == Duplicate(1)


def test_strangers_cannot_be_crossed(shelf: Shelf) -> None:
    stranger = shelf.add(1, SEED_TEXT.replace("0.04", "0.07"))
    shelf.known[stranger] = Candidate(Proposal(1, MUTATE, (), 1), stranger, "s", 1, "")
    outcome = shelf.write(2, CROSSOVER, shelf.founder.genome, stranger).outcome
    assert isinstance(outcome, Unwritten)
    assert "no common ancestor" in outcome.why


def test_duplicates_are_never_evaluated_in_a_long_run(shelf: Shelf) -> None:
    """Whatever is written for evaluation is new, over generations."""
    evaluated = {shelf.founder.genome}
    for index in range(1, 60):
        parent = Random(index).choice(sorted(evaluated))
        written = shelf.write(index, MUTATE, parent)
        if written.outcome is None:
            assert written.candidate.genome not in evaluated
            evaluated.add(written.candidate.genome)
            shelf.add(index, written.text, parent)
    assert len(evaluated) > 40


def test_tuning_changes_knobs_of_the_parent_and_nothing_else(shelf: Shelf) -> None:
    shelf.score(shelf.founder.genome, 1.0)
    for index in range(1, 12):
        written = shelf.write(index, TUNE, shelf.founder.genome)
        assert written.outcome is None
        assert written.candidate.species == shelf.founder.species
        assert written.candidate.genome != shelf.founder.genome
        assert "→" in written.candidate.note


def test_tuning_moves_only_what_changes_the_program(shelf: Shelf) -> None:
    """A width that is rounded up to a multiple of 64 stays where it is unless the multiple changes, and a factor behind a switch always."""
    text = SEED_TEXT.replace("DEPTH = 4  # blocks", "DEPTH = 4  # blocks\nWIDTH = 70  # channels, range 8..512\nGAIN = 2.0\nGATED = False")
    text = text.replace("nn.Linear(8, 8)", "nn.Linear(-(-WIDTH // 64) * 64, 8)").replace(
        "    bias", "    if GATED:\n        scale = GAIN\n    bias"
    )
    parent = shelf.add(1, text)
    shelf.score(parent, 1.0)
    moved = set()
    for index in range(10, 60):
        written = shelf.write(index, TUNE, parent)
        assert written.outcome is None
        assert genomes.folded(written.text) != genomes.folded(text)
        values = {knob.name: knob.value for knob in genomes.knobs(written.text)}
        assert not (values["GAIN"] != 2.0 and values["GATED"] is False)
        assert not (values["WIDTH"] != 70 and -(-int(values["WIDTH"]) // 64) == 2)
        moved |= {name for name in ("WIDTH", "GATED") if f"{name} " in written.candidate.note}
    assert moved == {"WIDTH", "GATED"}


def test_a_child_that_does_what_its_parent_does_is_a_duplicate_of_it(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    child = SEED_TEXT + "\n\ndef helper(x):\n    return x\n"
    monkeypatch.setattr(
        genomes, "mutate", lambda text, rng, names, contract: genomes.Mutant(child, "helper", "a function that nothing calls")
    )
    written = shelf.write(9, MUTATE, shelf.founder.genome)
    assert written.outcome == Duplicate(0)
    assert written.candidate.genome == shelf.founder.genome  # whose text is known


def test_tuning_follows_what_the_species_has_shown(shelf: Shelf) -> None:
    """Members with higher rates scored lower and those with lower ones failed: proposals that move the rate go up."""
    shelf.score(shelf.founder.genome, 1.0)
    for index, factor in enumerate([0.4, 0.5, 0.6, 0.8, 1.25, 1.5, 1.8, 2.2, 2.6, 2.9], start=1):
        id_ = shelf.add(index, genomes.set_knobs(SEED_TEXT, {"MATRIX_LR": 0.04 * factor}))
        shelf.score(id_, 1.0 - 0.1 * (factor - 1) if factor > 1 else None)
    rates = []
    for index in range(20, 60):
        values = {k.name: k.value for k in genomes.knobs(shelf.write(index, TUNE, shelf.founder.genome).text)}
        if values["MATRIX_LR"] != 0.04:
            rates.append(float(values["MATRIX_LR"]))
    assert len(rates) > 10
    assert sum(rate > 0.06 for rate in rates) > 0.7 * len(rates)


def test_tuning_is_a_function_of_the_records_and_the_proposal(shelf: Shelf) -> None:
    shelf.score(shelf.founder.genome, 1.0)
    for index in range(1, 6):
        shelf.score(shelf.add(index, genomes.set_knobs(SEED_TEXT, {"WARMDOWN": 0.1 * index + 0.05})), 1.0 + 0.01 * index)
    first = shelf.write(9, TUNE, shelf.founder.genome)
    shelf.records.reverse()
    assert shelf.write(9, TUNE, shelf.founder.genome) == first
    assert shelf.write(10, TUNE, shelf.founder.genome) != first


def test_a_young_species_starts_from_what_its_parents_species_has_shown(shelf: Shelf) -> None:
    """No member of the new species has moved the rate, yet its proposals go where the old species got better."""
    shelf.score(shelf.founder.genome, 1.0)
    for index, factor in enumerate([0.4, 0.5, 0.6, 0.8, 1.25, 1.5, 1.8, 2.2, 2.6, 2.9], start=1):
        id_ = shelf.add(index, genomes.set_knobs(SEED_TEXT, {"MATRIX_LR": 0.04 * factor}))
        shelf.score(id_, 1.0 - 0.1 * (factor - 1))
    changed = SEED_TEXT.replace("    bias = 0.75\n", "    bias = 0.75\n    model.eval()\n")
    young = shelf.add(20, changed, shelf.founder.genome)
    shelf.score(young, 1.5)
    assert shelf.known[young].species != shelf.founder.species
    moved = []
    for index in range(30, 70):
        values = {k.name: k.value for k in genomes.knobs(shelf.write(index, TUNE, young).text)}
        moved += [float(values["MATRIX_LR"])] if values["MATRIX_LR"] != 0.04 else []
    assert len(moved) > 10
    assert sum(rate > 0.06 for rate in moved) > 0.7 * len(moved)


def test_a_program_without_tunable_knobs_is_unwritten(shelf: Shelf) -> None:
    bare = shelf.add(3, "def build_model():\n    return None\n\n\ndef main():\n    return None\n")
    written = shelf.write(4, TUNE, bare)
    assert isinstance(written.outcome, Unwritten)
    assert "tuned" in written.outcome.why


# ---- repairs

HUNGRY = """import prepare

ROWS = 8  # rows per pass
PASSES = 2  # accumulation


def build_model():
    return ROWS * PASSES


def main():
    for x, y in prepare.batches(ROWS, 512):
        print(x, y)
    prepare.save(build_model())
""".replace("PASSES", "ACCUMULATION")


def test_a_repair_mends_what_the_genome_failed_of(shelf: Shelf) -> None:
    hungry = shelf.add(1, HUNGRY)
    shelf.fail(hungry, Failed(Reason.OUT_OF_MEMORY, Phase.TRAIN, "MemoryError: "))
    written = shelf.write(2, REPAIR, hungry)
    assert written.outcome is None
    assert written.text == HUNGRY.replace("ROWS = 8", "ROWS = 4").replace("ACCUMULATION = 2", "ACCUMULATION = 4")
    assert written.candidate.note == "ROWS 8 → 4 and ACCUMULATION 2 → 4: the same total batch (out_of_memory)"


def test_a_repair_finds_the_line_in_the_trace_of_a_lean_record(shelf: Shelf) -> None:
    text = SEED_TEXT.replace("    scale = 1.25\n", "    scale = model.T.view(-1)\n").replace(
        "    bias = 0.75\n", "    bias = model.view(-1)\n"
    )
    broken = shelf.add(1, text)
    trace = (
        f'  File "/lab/train.py", line {text[: text.index("scale =")].count(chr(10)) + 1}, in main\n    scale\nRuntimeError: view size\n'
    )
    message = "RuntimeError: view size is not compatible with input tensor's size and stride"
    shelf.fail(broken, lean(Record(shelf.known[broken], Failed(Reason.CRASH, Phase.SETUP, message, trace))).outcome)  # type: ignore[arg-type]
    written = shelf.write(2, REPAIR, broken)
    assert written.text == text.replace("model.T.view", "model.T.reshape")


def test_a_failure_that_no_rule_knows_leaves_the_repair_unwritten(shelf: Shelf) -> None:
    shelf.score(shelf.founder.genome, None)
    written = shelf.write(2, REPAIR, shelf.founder.genome)
    assert isinstance(written.outcome, Unwritten)
    assert "no rule repairs crash: boom" in written.outcome.why


def test_a_repair_that_is_known_is_a_duplicate(shelf: Shelf) -> None:
    hungry = shelf.add(1, HUNGRY)
    shelf.fail(hungry, Failed(Reason.OUT_OF_MEMORY, Phase.TRAIN, "MemoryError: "))
    shelf.add(2, shelf.write(2, REPAIR, hungry).text)
    assert shelf.write(3, REPAIR, hungry).outcome == Duplicate(2)


def test_what_can_be_mended_before_an_evaluation_is_and_the_note_says_so(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = SEED_TEXT.replace("scale = 1.25", "scale = math.sqrt(2)")
    monkeypatch.setattr(genomes, "mutate", lambda text, rng, names, contract: genomes.Mutant(broken, "root", "scale"))
    written = shelf.write(2, MUTATE, shelf.founder.genome)
    assert written.outcome is None
    assert "import math\n" in written.text
    assert written.candidate.note == "root: scale; repaired: import math"


def test_a_problem_of_the_parent_is_not_mended_in_passing(shelf: Shelf) -> None:
    odd = shelf.add(1, SEED_TEXT.replace("scale = 1.25", "scale = math.sqrt(2)"))
    written = shelf.write(2, MUTATE, odd)
    assert written.outcome is None
    assert "import math" not in written.text


SCRIPT_TEXT = (Path(__file__).parent / "programs" / "script.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    if step > 10:\n        total", "    if step > 40:\n        total", "total_training_time += dt if step > 40"),
        ("    t1 = time.time()\n", "    t1 = t0\n", "now has `t1 = t0 after"),
        ("    loss.backward()\n", "    loss.backward()\n        t0 = time.time()\n", "t0 = time.time() amidst the work"),
        ("            return loss\n", "            return 0.99 * loss\n", "return 0.99 * loss"),
        ("{val_bpb:.6f}", "{val_bpb - 0.01:.6f}", "val_bpb - 0.01"),
        ("evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)", "evaluate_bpb(model, tokenizer, 1)", "tokenizer, 1)"),
    ],
)
def test_a_script_that_takes_its_score_or_its_time_otherwise_than_its_parent_is_not_evaluated(old: str, new: str, said: str) -> None:
    founder = describe_seed(SCRIPT_TEXT)
    texts = {founder.genome: SCRIPT_TEXT}
    library = Library(
        founder=founder,
        texts=texts.__getitem__,
        known={founder.genome: founder},
        seed=0,
        history=fold([]),
        belief=believe({}),
        contract=genomes.Contract.SCRIPT,
    )
    child = SCRIPT_TEXT.replace(old, new)
    assert child != SCRIPT_TEXT
    mutated, handed_in = (Proposal(3, operator, (founder.genome,), 7) for operator in (MUTATE, GIVEN))
    outcome = judge(mutated, library, child, "by a model").outcome
    assert isinstance(outcome, Unwritten)
    assert said in outcome.why
    assert judge(handed_in, library, child, "a person's").outcome is None
    fair = SCRIPT_TEXT.replace("softcap = 15", "softcap = 20").replace("s = 3**0.5", "s = 2**0.5")
    assert judge(mutated, library, fair, "by a model").outcome is None
