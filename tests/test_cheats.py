"""Every way to cheat of `WAYS`, and more, as real programs (tests/cheats): each is refused with a reason that names what was found,
or gets the score of its honest twin and leaves no trace. What succeeds at something it should not prints a line with CHEATED."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SmallLab
from programs_of import names, read

from evaluator import data as datafolder
from evaluator import sandbox
from evaluator.evaluate import HarnessError
from evaluator.outcome import Failed, Phase, Reason, Scored
from evaluator.slot import Slot, SlotConfig
from evaluator.training import Limits
from evo import profiles

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
pytestmark = pytest.mark.skipif(sandbox.level()[0] != "namespaces", reason=f"no namespaces here: {sandbox.level()[1]}")

# How a program can cheat, counted from 1: the numbers that the programs begin with.
WAYS = (
    "untimed first steps: a huge batch, inner loops",
    "training in set-up, between timers or after the loop; weights of an earlier run",
    "its own clock: another budget, a patched time, an edited counter of seconds",
    "a false score in what it prints",
    "a patched evaluator, loader or byte table",
    "its own loss, where the evaluator asks the model for one",
    "a look into the future: no mask, a negative shift, statistics of the batch",
    "training on the validation text",
    "learning while it is scored",
    "a batch size by which fewer tokens are scored",
    "a rewritten tokeniser, byte table or row in a folder that programs share",
    "a search over seeds",
    "byte inflation",
    "a sibling's GPU or cores",
    "memory, disk and processes without end",
    "thousands of looks at one validation text",
    "words in its log for the model that writes next",
    "keys in the environment, files outside its folder, sockets, processes left behind",
    "patched operations of torch, by which a scorer in its process computes nonsense",
    "a walk over live objects for targets or data",
    "learning in set-up or in warm-up",
    "work queued on the GPU, or beside it, that outlives the budget",
)
SAME_BPB = 1e-4  # of two runs with the same seed and steps: rounding
LUCK_BPB = 0.4  # what other first weights can change: three sds of the twin under its seeds; twenty steps more change 1.0, a hundred 1.5
GONE_SECONDS = 2.0  # from the deadline until nothing of a program is left
BUDGET_SECONDS = 20.0  # more than twenty steps take, however busy the machine is

# Runs the `cheat()` of each beside the same training, all in one program. Each is a program of its own, too (scripts/hostile_drill.py).
WITHOUT_EFFECT = (
    "i02_weights_of_an_earlier_run",
    "i04_false_score",
    "i08_validation_text",
    "i14_cores_of_siblings",
    "i18_secrets_and_sockets",
)
AS_THE_TWIN = ("i11_rewritten_rows", "i13_byte_inflation", "i19_patched_operations", "i20_objects_walked")
OFFSET = "i06_offset_logits"
READER = "i21_reads_in_set_up"
SEED_SEARCH, LEARNER = "i12_seed_search", "i21_learns_in_set_up"  # other weights at the first real token than the twin's
WHILE_TRAINED = {
    "i01_work_between_timers": (Reason.OVERRAN, Phase.TRAIN, "1.5 s of grace"),
    "i02_training_after_the_loop": (Reason.OVERRAN, Phase.TRAIN, "had not arrived"),
    "i03_own_clock": (Reason.OVERRAN, Phase.TRAIN, "had not arrived"),
    "i14_floods_the_harness": (Reason.CONTRACT, Phase.TRAIN, "sent more than 110 messages"),
    "i15_memory": (Reason.OUT_OF_MEMORY, Phase.SETUP, "1.5 GiB allowed"),
    "i15_memory_in_files": (Reason.OUT_OF_MEMORY, Phase.SETUP, "more host memory than the 1.5 GiB"),
    "i15_disk": (Reason.TOO_BIG, Phase.SETUP, "more on disk than the 0.01 GiB"),
    "i15_large_file": (Reason.TOO_BIG, Phase.SETUP, "File too large"),
    "i15_processes": (Reason.TOO_MANY, Phase.SETUP, "more processes and threads than the 200"),
    "i17_words_for_the_next_model": (Reason.CRASH, Phase.SETUP, "ValueError: ```"),
    "i18_daemon": (Reason.OVERRAN, Phase.TRAIN, "had not arrived"),
    "i22_work_beside_the_clock": (Reason.OVERRAN, Phase.TRAIN, "had not arrived"),
}
IN_THE_GRACE = ("i02_training_in_the_grace", "i02_training_in_a_child")
ON_A_GPU = {
    "i15_gpu_memory": (Reason.OUT_OF_MEMORY, "more GPU memory than the card's total less 8 GiB"),
    "i22_work_queued_on_the_gpu": (Reason.OVERRAN, "had not arrived"),
}
WHILE_SCORED = {
    "i02_training_while_loaded": (Reason.OVERRAN, "to load its weights and predict a first chunk, more than the"),
    "i05_false_verdict": (Reason.BAD_LOGITS, "verdict"),
    "i05_weights_that_run": (Reason.CRASH, "Weights only load failed"),
    "i06_own_loss": (Reason.BAD_LOGITS, "gave shape ()"),
    "i07_dithered_look": (Reason.NOT_CAUSAL, "they look ahead"),
    "i07_first_positions": (Reason.NOT_CAUSAL, "changed with later tokens"),
    "i07_look_by_dice": (Reason.NOT_CAUSAL, "they look ahead"),
    "i07_next_token": (Reason.NOT_CAUSAL, "changed with later tokens"),
    "i07_small_look": (Reason.NOT_CAUSAL, "they look ahead"),
    "i07_statistics_of_the_batch": (Reason.NOT_CAUSAL, "other rows"),
    "i07_whole_row": (Reason.NOT_CAUSAL, "changed with later tokens"),
    "i09_learns_while_scored": (Reason.NOT_CAUSAL, "order of rows"),
    "i09_replays_answers": (Reason.NOT_CAUSAL, "changed with later tokens"),
    "i09_takes_what_suits_the_text": (Reason.NOT_CAUSAL, "other rows"),
    "i10_fewer_tokens": (Reason.BAD_LOGITS, "logits have shape"),
}
TOLD_ELSEWHERE = {16: "tests/test_heldout.py"}  # thousands of looks at one text: no program's doing

LOOKS_FOR_WEIGHTS = """
def build_model():
    import os, pathlib
    given = os.environ.get("EVO_WEIGHTS")  # a forwarder's
    if given:
        raise OSError(f"given {[*pathlib.Path(given).parent.iterdir()]}")
"""
RUN_ALL = """
    for name, text in CHEATS.items():
        space = {"__name__": name}
        exec(text, space)
        space.update(KNOWN)
        space["cheat"]()
"""


@pytest.fixture(scope="module")
def config(small_lab: SmallLab) -> SlotConfig:
    limits = Limits(setup_seconds=60, grace_seconds=1.5, host_memory_gib=1.5, weights_gib=0.1, file_gib=0.01, tasks=200)
    core = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % (os.cpu_count() or 1)  # workers beside each other do not share one
    return SlotConfig(prepare=small_lab.prepare, data=small_lab.data, measurement_key="test", limits=limits, cpus=(core,))


@pytest.fixture(scope="module")
def slot(config: SlotConfig) -> Iterator[Slot]:
    made = Slot(config)
    yield made
    made.close()


@pytest.fixture(scope="module")
def twin(slot: Slot) -> float:
    """The honest twin's score."""
    return score(slot, read("cheats", "honest"))


def score(slot: Slot, program: str) -> float:
    return scored(slot, program, 1).val_bpb


def scored(slot: Slot, program: str, seed: int) -> Scored:
    outcome = slot(program, seed, BUDGET_SECONDS)
    assert isinstance(outcome, Scored), outcome
    assert outcome.steps == 20
    assert "CHEATED" not in outcome.log, outcome.log
    return outcome


def all_in_one(chosen: tuple[str, ...], known: dict[str, object]) -> str:
    """The honest twin, which runs the `cheat()` of each program first, with the constants `known` set."""
    texts = {name: read("cheats", name) for name in chosen}
    program = read("cheats", "honest")
    assert program.count("def main():\n") == 1
    return program.replace("def main():\n", f"CHEATS = {texts!r}\nKNOWN = {known!r}\n\n\ndef main():\n{RUN_ALL}")


def test_every_item_of_the_list_has_a_program_and_every_program_a_test() -> None:
    listed = {*WITHOUT_EFFECT, *AS_THE_TWIN, OFFSET, READER, SEED_SEARCH, LEARNER, *WHILE_TRAINED, *WHILE_SCORED, *ON_A_GPU, *IN_THE_GRACE}
    assert listed == set(names("cheats")) - {"honest"}
    heads = [read("cheats", name).split('"""')[1].split(". ")[0] for name in listed]  # "2, 11"
    covered = {int(number) for head in heads for number in re.findall(r"\d+", head)}
    assert covered | set(TOLD_ELSEWHERE) == set(range(1, len(WAYS) + 1))


@pytest.mark.parametrize("turn", ["first", "second"])
def test_programs_that_look_for_what_is_not_theirs_find_nothing_and_score_as_their_twin(
    slot: Slot, twin: float, turn: str, small_lab: SmallLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Twice, since some leave notes for the next."""
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    private = tmp_path / "credentials"
    private.write_text("hunter2")
    with socket.create_server(("127.0.0.1", 0)) as server:
        known = {
            "MADE_OF": datafolder.load(small_lab.data).masked,
            "PORT": server.getsockname()[1],
            "PRIVATE": str(private),
            "CHECKOUT": str(Path(__file__).resolve().parent),
        }
        assert score(slot, all_in_one(WITHOUT_EFFECT, known)) == pytest.approx(twin, abs=SAME_BPB)
    assert not Path("/usr/evo-was-here").exists()


@pytest.mark.parametrize("name", AS_THE_TWIN)
def test_a_cheat_without_effect_scores_as_its_twin(slot: Slot, twin: float, name: str, small_lab: SmallLab) -> None:
    rows = [v.train for v in datafolder.load(small_lab.data).vocabularies]
    assert score(slot, read("cheats", name)) == pytest.approx(twin, abs=SAME_BPB)
    assert all(hashlib.sha256(Path(r.file).read_bytes()).hexdigest() == r.sha256 for r in rows)


def test_who_adds_to_all_its_logits_has_rounded_them_away_and_scores_as_one_who_knows_nothing(slot: Slot) -> None:
    assert score(slot, read("cheats", OFFSET)) == pytest.approx(8.0, abs=SAME_BPB)  # bits of one byte in 256


@pytest.fixture
def on_gpu(config: SlotConfig) -> Iterator[Slot]:
    made = Slot(replace(config, device="cuda", gpu="0", limits=replace(config.limits, host_memory_gib=16.0, gpu_spare_gib=8.0)))
    yield made
    made.close()


@needs_cuda
def test_so_has_who_adds_to_them_on_a_gpu(on_gpu: Slot) -> None:
    assert score(on_gpu, read("cheats", OFFSET)) == pytest.approx(8.0, abs=SAME_BPB)


def test_a_search_over_seeds_gets_what_its_twin_gets_under_the_seed_that_it_took(slot: Slot) -> None:
    """It took it by random tokens, as it says itself if they were not."""
    found = scored(slot, read("cheats", SEED_SEARCH), 1)
    (taken,) = re.findall(r"took seed (\d+)", found.log)
    assert scored(slot, read("cheats", "honest"), int(taken)).val_bpb == pytest.approx(found.val_bpb, abs=SAME_BPB)


def test_who_trains_before_the_clock_scores_no_better_than_its_twin(slot: Slot, twin: float) -> None:
    assert score(slot, read("cheats", LEARNER)) > twin - LUCK_BPB


@pytest.mark.parametrize("name", WHILE_TRAINED)
def test_a_program_that_takes_more_than_its_share_is_ended_and_gone(slot: Slot, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    took = []

    def timed(process: sandbox.Process, end: Callable[[sandbox.Process], sandbox.Exit] = sandbox.Process.end) -> sandbox.Exit:
        began = time.monotonic()
        exit_ = end(process)
        took.append(time.monotonic() - began)
        return exit_

    monkeypatch.setattr(sandbox.Process, "end", timed)
    mark = f"86397.{os.getpid()}"  # no other process of the tests leaves the same one behind
    outcome = slot(read("cheats", name).replace("86397", mark), 1, 0.5)
    assert max(took) < GONE_SECONDS
    assert isinstance(outcome, Failed), outcome
    reason, phase, words = WHILE_TRAINED[name]
    assert (outcome.reason, outcome.phase) == (reason, phase), outcome
    assert words in outcome.message
    said = outcome.message + outcome.trace + outcome.log
    assert "CHEATED" not in said
    assert all(c == "\n" or c == "\t" or c.isprintable() for c in said), said
    assert len(outcome.message) <= 500
    assert "\n" not in outcome.message
    assert len(outcome.trace) <= 6000
    assert not outcome.trace or 'train.py", line' in outcome.trace  # however long the message below it is
    assert len(outcome.log) <= slot.config.limits.log_bytes
    table = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"sleep {mark}" not in table


@pytest.mark.parametrize("name", IN_THE_GRACE)
def test_a_long_grace_for_a_busy_machine_is_no_time_to_train_in(slot: Slot, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot, "config", replace(slot.config, limits=replace(slot.config.limits, grace_seconds=60.0)))
    outcome = slot(read("cheats", name), 1, 0.5)
    assert isinstance(outcome, Failed), outcome
    assert (outcome.reason, outcome.phase) == (Reason.OVERRAN, Phase.SAVE), outcome
    assert "on a core after its budget, more than the 0.5 s allowed" in outcome.message


@pytest.fixture
def careful(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> Slot:
    """The slot with the CPU profile's limit on work before the clock."""
    profile = profiles.load(Path(__file__).parents[1] / "configs" / "cpu.toml").limits
    limited = replace(slot.config.limits, setup_work_share=profile.setup_work_share, setup_work_seconds=profile.setup_work_seconds)
    monkeypatch.setattr(slot, "config", replace(slot.config, limits=limited))
    return slot


@pytest.mark.parametrize("where", ["IN_A_CHILD = False", "IN_A_CHILD = True"])
def test_whoever_learns_from_other_text_before_the_clock_is_refused_where_nothing_is_compiled(careful: Slot, where: str) -> None:
    outcome = careful(read("cheats", READER).replace("IN_A_CHILD = False", where), 1, 1.0)
    assert isinstance(outcome, Failed), outcome
    assert (outcome.reason, outcome.phase) == (Reason.SETUP_TIMEOUT, Phase.SETUP), outcome
    assert "on a core before its first real batch, more than the 1.0 s allowed" in outcome.message


def test_to_build_a_model_and_to_wait_before_the_clock_is_no_work(careful: Slot) -> None:
    slow = read("cheats", "honest").replace("def main():\n", "def main():\n    import time\n\n    time.sleep(1.5)\n")
    assert scored(careful, slow, 1).setup_seconds > 1.5


@needs_cuda
@pytest.mark.parametrize("name", ON_A_GPU)
def test_a_program_that_takes_more_of_the_gpu_than_its_share_is_ended(on_gpu: Slot, name: str) -> None:
    outcome = on_gpu(read("cheats", name), 1, 1.0)
    assert isinstance(outcome, Failed), outcome
    reason, words = ON_A_GPU[name]
    assert outcome.reason is reason, outcome
    assert words in outcome.message


@pytest.mark.parametrize("name", WHILE_SCORED)
def test_a_model_that_predicts_by_other_means_is_refused(slot: Slot, name: str) -> None:
    outcome = slot(read("cheats", name), 1, BUDGET_SECONDS)
    assert isinstance(outcome, Failed), outcome
    reason, words = WHILE_SCORED[name]
    assert (outcome.reason, outcome.phase) == (reason, Phase.SCORE), outcome
    assert words in outcome.message
    assert "CHEATED" not in outcome.message + outcome.trace + outcome.log


@pytest.mark.parametrize(("old", "new"), [('WHEN = "loaded"', 'WHEN = "predicted"'), ("PACE = 0.0", "PACE = 1.0")])
def test_who_trains_on_before_its_first_prediction_or_is_slow_later_on_is_refused_as_well(slot: Slot, old: str, new: str) -> None:
    program = read("cheats", "i02_training_while_loaded").replace(old, new)
    program = program.replace("SECONDS = 6.0", "SECONDS = 4.0")  # given are twice 1.5 s at most
    outcome = slot(program, 1, BUDGET_SECONDS)
    assert isinstance(outcome, Failed), outcome
    assert (outcome.reason, outcome.phase) == (Reason.OVERRAN, Phase.SCORE), outcome


def test_who_builds_its_model_to_be_scored_finds_no_weights_yet(slot: Slot) -> None:
    """What it would do with them then would not be on the judge's clock."""
    program = read("cheats", "honest").replace("def build_model():\n", LOOKS_FOR_WEIGHTS, 1)
    outcome = slot(program, 1, BUDGET_SECONDS)
    assert isinstance(outcome, Failed), outcome
    assert (outcome.phase, outcome.message) == (Phase.SCORE, "OSError: given []")


def test_rows_that_a_program_changes_where_files_are_open_are_noticed(config: SlotConfig, tmp_path: Path, small_lab: SmallLab) -> None:
    """At level "process", where nothing keeps it from them: the program is refused, and so is every evaluation on such rows."""
    copy = tmp_path / "data"
    subprocess.run(["cp", "-r", small_lab.data, str(copy)], check=True)
    open_slot = Slot(replace(config, data=str(copy), sandbox="process"))
    try:
        outcome = open_slot(read("cheats", "i11_rewritten_rows"), 1, BUDGET_SECONDS)
        assert isinstance(outcome, Failed), outcome
        assert outcome.reason is Reason.TAMPERED
        assert "train.bin" in outcome.message
        with pytest.raises(HarnessError, match="prepare the data again"):
            open_slot(read("cheats", "honest"), 1, BUDGET_SECONDS)
    finally:
        open_slot.close()
