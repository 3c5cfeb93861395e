"""Berths: made before their program or when they are needed, they see it no sooner, and score it the same. And programs that overlap: one
is set up while the one before it is scored."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SmallLab
from programs_of import read

from evaluator import sandbox
from evaluator.berth import Berth
from evaluator.meter import cpu_seconds, descendants
from evaluator.outcome import CurvePoint, Failed, Interrupted, Outcome, Phase, Reason, Scored, Stopped
from evaluator.scoring import Judge
from evaluator.slot import Slot, SlotConfig, crowded_out
from evaluator.training import Limits

needs_namespaces = pytest.mark.skipif(sandbox.level()[0] != "namespaces", reason=f"no namespaces here: {sandbox.level()[1]}")
BERTH = ["forwarder.py", "forwarder.py", "trainee.py"]
TIMED = sorted(2 * BERTH)  # while a program is timed: its own three, and who waits for the next
FIVE_STEPS = ("in prepare.batches(BATCH_SIZE, VOCAB_SIZE):", "in (b for b, _ in zip(prepare.batches(BATCH_SIZE, VOCAB_SIZE), range(5))):")


@pytest.fixture(scope="module")
def config(small_lab: SmallLab, tmp_path_factory: pytest.TempPathFactory) -> SlotConfig:
    limits = Limits(setup_seconds=30, grace_seconds=1.5, host_memory_gib=1.5, weights_gib=0.1, file_gib=0.01)
    cache = str(tmp_path_factory.mktemp("compiled"))
    made = SlotConfig(prepare=small_lab.prepare, data=small_lab.data, measurement_key="test", limits=limits, compile_cache=cache)
    return replace(made, early_start=True)


@pytest.fixture(scope="module")
def slot(config: SlotConfig) -> Iterator[Slot]:
    with contextlib.closing(Slot(config)) as made:
        yield made


@pytest.fixture(scope="module")
def repeatable(small_lab: SmallLab) -> str:
    """A program whose score depends on its seed alone."""
    assert FIVE_STEPS[0] in small_lab.genome
    return small_lab.genome.replace(*FIVE_STEPS)


@pytest.fixture(scope="module")
def plain_score(config: SlotConfig, repeatable: str) -> float:
    """Its score under seed 5 where nothing is started early."""
    with contextlib.closing(Slot(replace(config, early_start=False))) as late:
        outcome = late(repeatable, 5, 1.0)
    assert isinstance(outcome, Scored), outcome
    return outcome.val_bpb


def running() -> dict[int, str]:
    """Process id -> script of the confined processes that descend from this one."""
    found = {}
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):  # it has ended
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            script = Path(Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").rpartition("\0")[2])
            started = script.name if script.parent == sandbox.INSIDE else ""  # a template's copy has its script's name instead
            found |= dict.fromkeys([pid] if {name, started} & {*BERTH} else [], started or name)
    return found


def waiting_berth(slot: Slot, program: str) -> Berth:
    """The one that waits for the slot's next program, settled. Where none waits `program` is scored first."""
    if slot._berths.waiting is None:
        assert isinstance(slot(program, 1, 0.5), Scored)
    assert slot._berths.waiting is not None
    assert slot._berths.waiting.trainee.settle()
    return slot._berths.waiting


def test_a_score_is_the_same_with_and_without_an_early_start(slot: Slot, repeatable: str, plain_score: float) -> None:
    outcomes = [slot(repeatable, 5, 1.0), slot(repeatable, 5, 1.0), slot(repeatable, 6, 1.0)]
    scores = [outcome.val_bpb for outcome in outcomes if isinstance(outcome, Scored)]
    assert len(scores) == 3, outcomes
    assert scores[0] == scores[1] == plain_score != scores[2]


@needs_namespaces
def test_what_waits_beside_a_timed_program_lies_still(slot: Slot, small_lab: SmallLab) -> None:
    waiting_berth(slot, small_lab.genome)
    waited = set(running())
    seen: list[tuple[dict[int, str], dict[int, float]]] = []

    def watch(_: CurvePoint) -> None:
        beside = {pid: name for pid, name in running().items() if pid not in waited}
        seen.append((beside, {pid: cpu_seconds([pid]) for pid in beside}))

    assert isinstance(slot(small_lab.genome, 2, 1.5, watch), Scored)
    (first, spent), (last, spent_at_last) = seen[0], seen[-1]
    assert sorted(first.values()) == BERTH
    assert (last, spent_at_last) == (first, spent)
    assert len(seen) > 1
    assert running() == first  # what waits for the next


BUSY = """
def build_model():
    import threading
    if "EVO_WEIGHTS" in __import__("os").environ:  # a forwarder
        threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()
        if not __import__("os").fork():
            __import__("signal").pause()
    return build_model_plainly()
"""


@needs_namespaces
def test_no_thread_of_a_forwarder_runs_while_its_program_is_timed(slot: Slot, small_lab: SmallLab) -> None:
    waiting_berth(slot, small_lab.genome)
    own = {pid for pid, name in running().items() if name == "forwarder.py"}
    spent: list[dict[int, float]] = []
    program = small_lab.genome.replace("def build_model()", "def build_model_plainly()") + BUSY
    outcome = slot(program, 2, 1.0, lambda _: spent.append({pid: cpu_seconds([pid]) for pid in own}))
    assert isinstance(outcome, Scored), outcome
    assert spent[0] == spent[-1]
    assert len(spent) > 1


@needs_namespaces
def test_a_slot_that_starts_early_leaves_no_descriptor_behind(slot: Slot, small_lab: SmallLab) -> None:
    waiting_berth(slot, small_lab.genome)
    before = len(os.listdir("/proc/self/fd"))
    assert isinstance(slot("import nothing_of_that_name", 2, 0.3), Failed)
    assert isinstance(slot(small_lab.genome, 2, 0.3), Scored)
    assert len(os.listdir("/proc/self/fd")) == before


@needs_namespaces
def test_closing_a_slot_ends_what_waits_and_leaves_no_folder(slot: Slot, small_lab: SmallLab) -> None:
    others, own = running(), Slot(slot.config)
    folder = waiting_berth(own, small_lab.genome).files.lab.parent
    assert running() != others
    own.close()
    assert running() == others
    assert not folder.exists()
    assert not folder.parent.exists()  # of all its evaluations


@needs_namespaces
def test_a_program_that_no_berth_waits_for_gets_one_of_its_own(slot: Slot, small_lab: SmallLab) -> None:
    slot._berths.close()
    seen: list[list[str]] = []

    def watch(_: CurvePoint) -> str:
        seen.append(sorted(running().values()))
        return "seen enough"

    assert isinstance(slot(small_lab.genome, 1, 5.0, watch), Stopped)
    assert seen == [TIMED]
    assert sorted(running().values()) == BERTH


@pytest.mark.parametrize("program", ["def main(:\n", "def build_model(): pass\ndef main(): raise ValueError\n"])
def test_a_training_that_fails_leaves_no_process_but_who_waits_for_the_next(slot: Slot, program: str) -> None:
    assert isinstance(slot(program, 1, 1.0), Failed)
    slot._berths.settle()  # they may be starting still
    assert sorted(running().values()) == (BERTH if slot.level == "namespaces" else [])


@needs_namespaces
def test_a_waiting_berth_has_seen_nothing_and_runs_the_next_program_under_its_seed(slot: Slot, small_lab: SmallLab) -> None:
    waiting_berth(slot, small_lab.genome)
    (lab,) = lab_folders(slot)
    assert list(lab.iterdir()) == []
    told = slot(small_lab.genome.replace("def main():", "def main():\n    print('seed', prepare.seed())", 1), 5, 1.0)
    assert isinstance(told, Scored)
    assert "seed 5" in told.log


@needs_namespaces
@pytest.mark.parametrize(
    ("dies", "when"), [("trainee", "waiting"), ("first", "waiting"), ("second", "waiting"), ("first", "timed"), ("second", "timed")]
)
def test_a_process_that_dies_before_it_has_a_program_is_replaced_and_the_score_is_unaffected(
    slot: Slot, repeatable: str, plain_score: float, dies: str, when: str
) -> None:
    berth = waiting_berth(slot, repeatable)
    timed: list[CurvePoint] = []

    def watch(point: CurvePoint) -> None:
        if when == "timed" and not timed:
            berth.forwarders._running[dies].process.end()
        timed.append(point)

    if when == "waiting":
        (berth.trainee if dies == "trainee" else berth.forwarders._running[dies]).process.end()
    outcome = slot(repeatable, 5, 1.0, watch)
    assert isinstance(outcome, Scored), outcome
    assert outcome.val_bpb == plain_score
    assert timed


def test_without_namespaces_nothing_waits_where_a_program_could_reach_it(config: SlotConfig, small_lab: SmallLab) -> None:
    before = running()
    with contextlib.closing(Slot(replace(config, sandbox="process"))) as exposed:
        assert isinstance(exposed(small_lab.genome, 1, 1.0), Scored)
        assert running() == before


def lab_folders(slot: Slot) -> list[Path]:
    assert slot._evaluations._scratch is not None
    return list(slot._evaluations._scratch.path.glob("evaluation-*/lab"))


PROBE = """
def probe():
    import os, stat
    def tried(what):
        try:
            return str(what())
        except Exception as error:
            return type(error).__name__
    def named(path):
        return path.rsplit('/', 1)[-1]
    beside = os.path.dirname(os.environ["EVO_LAB"])
    weights = os.environ.get("EVO_WEIGHTS", "")
    links = [tried(lambda: os.readlink(f"/proc/self/fd/{n}")) for n in os.listdir("/proc/self/fd")]
    return "; ".join(f"{name} {value}" for name, value in (
        ("beside", sorted(os.listdir(beside))),
        ("berths", len(os.listdir(os.path.dirname(beside)))),
        ("read", tried(lambda: len(open(weights, "rb").read()) > 1000)),
        ("write", tried(lambda: open(weights, "r+b"))),
        ("processes", len([p for p in os.listdir("/proc") if p.isdigit()])),
        ("files", len([link for link in links if "weights" in link or "evo-logits" in link])),
    ))
"""


def facts(told: str) -> dict[str, str]:
    return dict(part.split(" ", 1) for part in told.strip().split("; "))


@needs_namespaces
def test_a_training_program_sees_no_weights_and_no_forwarder(slot: Slot, small_lab: SmallLab) -> None:
    program = small_lab.genome.replace("    prepare.save(model)", "    print(probe())\n    prepare.save(model)") + PROBE
    outcome = slot(program, 1, 0.5)
    assert isinstance(outcome, Scored), outcome
    found = facts(outcome.log)
    assert (found["beside"], found["berths"]) == ("['lab', 'work']", "1")
    assert found["read"] == found["write"] == "FileNotFoundError"
    assert int(found["processes"]) <= 2  # the init of its namespace and itself
    assert found["files"] == "0"


@needs_namespaces
def test_a_forwarder_reads_its_weights_writes_nothing_to_them_and_sees_no_other_forwarder_nor_berth(
    slot: Slot, small_lab: SmallLab
) -> None:
    tell = "        if not self.training:\n            raise RuntimeError(probe())\n        x = self.embedding"
    outcome = slot(small_lab.genome.replace("        x = self.embedding", tell) + PROBE, 1, 0.5)
    assert isinstance(outcome, Failed), outcome
    found = facts(outcome.message.removeprefix("RuntimeError: "))
    assert len(lab_folders(slot)) == 1  # the next berth's, made before this one answered
    assert (found["beside"], found["berths"]) == ("['first', 'first_given', 'lab']", "1")
    assert (found["read"], found["write"]) == ("True", "OSError")  # a read-only mount
    assert int(found["processes"]) <= 2
    assert found["files"] == "1"  # its own memory


NOTES = """
import os
CACHE, _left = os.environ["TORCHINDUCTOR_CACHE_DIR"], []

def leave(name):
    os.makedirs(CACHE, exist_ok=True)
    try:
        with open(f"{CACHE}/{name}", "a"):
            _left.append("wrote")
    except OSError as error:
        _left.append(str(error.errno))
    if len(_left) > 1:
        raise RuntimeError(" ".join(_left))
"""


@needs_namespaces
def test_who_has_seen_validation_rows_leaves_no_note_in_the_compile_cache(slot: Slot, small_lab: SmallLab) -> None:
    leave = "        if not self.training:\n            leave(f'chunk-{len(_left)}')\n        x = self.embedding"
    outcome = slot(small_lab.genome.replace("        x = self.embedding", leave) + NOTES, 1, 0.5)
    assert isinstance(outcome, Failed), outcome
    assert outcome.message == f"RuntimeError: wrote {errno.EROFS}"  # the rehearsal did, on random tokens
    assert [path.name for path in Path(slot.config.compile_cache).rglob("chunk-*")] == ["chunk-0"]


FILLS_THE_CACHE = """def main():
    import os, time
    os.makedirs(os.environ["TORCHINDUCTOR_CACHE_DIR"], exist_ok=True)
    for k in range(16):
        with open(f"{os.environ['TORCHINDUCTOR_CACHE_DIR']}/{k}", "wb") as file:
            file.write(os.urandom(1 << 20))
    time.sleep(30)
"""


@needs_namespaces
def test_what_a_program_writes_to_the_compile_cache_is_bounded_and_what_others_wrote_is_not_its_own(
    config: SlotConfig, repeatable: str, tmp_path: Path
) -> None:
    cache = tmp_path / "kernels"
    cache.mkdir()
    (cache / "of_others").write_bytes(os.urandom(64 << 20))
    with contextlib.closing(Slot(replace(config, compile_cache=str(cache)))) as made:
        assert isinstance(made(repeatable, 1, 0.5), Scored)
        outcome = made(repeatable.replace("def main():\n", FILLS_THE_CACHE, 1), 1, 0.5)
    assert isinstance(outcome, Failed), outcome
    assert (outcome.reason, outcome.message) == (Reason.TOO_BIG, "more on disk than the 0.01 GiB allowed")


def test_forwarders_that_were_started_early_share_nothing(slot: Slot) -> None:
    """tests/test_cheats.py has the same program where they are started late."""
    outcome = slot(read("cheats", "i09_replays_answers"), 1, 20.0)
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason is Reason.NOT_CAUSAL


@needs_namespaces
def test_a_bug_of_ours_while_a_program_is_scored_leaves_the_slot_in_order(
    slot: Slot, repeatable: str, plain_score: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as bug:
        bug.setattr(Judge, "check", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            slot(repeatable, 5, 1.0)
    outcome = slot(repeatable, 5, 1.0)
    assert isinstance(outcome, Scored), outcome
    assert outcome.val_bpb == plain_score


# ---- programs that overlap


SCORED = """

import os, time
CROWDED = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "") + "-crowded"  # in a folder that programs share
_begun = []


def second_look():
    weights = os.environ.get("EVO_WEIGHTS")
    if not weights or not os.path.exists(weights):  # it trains, or rehearses
        return False
    _begun.append(True)
    return len(_begun) == 2
"""


def when_scored(genome: str, then: str) -> str:
    """The program, with a model that does that first when it is asked for the second chunk of the text: the first must come soon."""
    line = "        x = self.embedding"
    assert genome.count(line) == 1
    return genome.replace(line, f"        if second_look():\n            {then}\n{line}") + SCORED


def overlapping(slot: Slot, first: str, second: str) -> tuple[Outcome, Outcome, float, float]:
    """Both, the second called as soon as the first has trained; when the first was done, and when the clock of the second started."""
    ready, points = threading.Event(), list[float]()
    with ThreadPoolExecutor(2) as threads:
        one: Future[tuple[Outcome, float]] = threads.submit(lambda: (slot(first, 5, 0.7, trained=ready.set), time.time()))
        assert ready.wait(60)
        other = threads.submit(lambda: slot(second, 5, 0.7, lambda point: points.append(time.time() - point.seconds)))
        (outcome, done), outcome_of_other = one.result(), other.result()
    return outcome, outcome_of_other, done, min(points, default=0.0)


@needs_namespaces
def test_a_program_is_set_up_while_another_is_scored_and_its_clock_waits_for_the_verdict(
    slot: Slot, repeatable: str, plain_score: float
) -> None:
    told = repeatable.replace("def main():", "def main():\n    print('begun', __import__('time').time())", 1)
    first, second, done, clock = overlapping(slot, when_scored(repeatable, "time.sleep(1.0)"), told)
    assert isinstance(first, Scored), first
    assert isinstance(second, Scored), second
    begun = float(re.findall(r"begun ([0-9.]+)", second.log)[0])
    assert begun < done < clock + 0.1  # points are stamped on arrival
    assert (first.val_bpb, second.val_bpb) == (plain_score, plain_score)
    assert second.setup_seconds + second.training_seconds + second.score_seconds < second.total_seconds - 0.5  # the wait counts for none


FAILS_ONCE = """def main():
    if not os.path.exists(CROWDED):
        open(CROWDED, "x").close()
        raise MemoryError("planted")
"""
UNTIL_IT_HAS = "while not os.path.exists(CROWDED): time.sleep(0.05)"


@needs_namespaces
def test_a_set_up_that_finds_too_little_memory_beside_another_is_tried_again_alone(slot: Slot, repeatable: str, plain_score: float) -> None:
    """The first is scored for as long as the second has not failed."""
    failing = repeatable.replace("def main():\n", FAILS_ONCE, 1) + SCORED
    first, second, done, clock = overlapping(slot, when_scored(repeatable, UNTIL_IT_HAS), failing)
    assert isinstance(first, Scored), first
    assert isinstance(second, Scored), second
    assert second.val_bpb == plain_score
    assert done < clock + 0.1


@pytest.mark.parametrize(
    ("said", "beside", "crowded"),
    [
        ("Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 512.00 MiB is free.", False, True),
        ("Tried to allocate 96.00 MiB. GPU 0 has a total capacity of 79.15 GiB of which 7.50 GiB is free.", True, False),
        ("more GPU memory than the card's total less 8 GiB", False, True),
        ("MemoryError: (64 GiB allowed)", True, True),
        ("MemoryError: (64 GiB allowed)", False, False),
    ],
)
def test_only_who_would_have_had_memory_without_others_is_tried_again(said: str, beside: bool, crowded: bool) -> None:
    assert crowded_out(Failed(Reason.OUT_OF_MEMORY, Phase.SETUP, said), beside) is crowded
    assert not crowded_out(Failed(Reason.CRASH, Phase.SETUP, said), beside)


@needs_namespaces
def test_a_program_that_lacks_memory_for_its_scoring_beside_another_is_interrupted_and_the_slot_overlaps_no_more(
    slot: Slot, repeatable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "_overlaps", True)  # and is as before afterwards
    greedy = when_scored(repeatable, "time.sleep(1.0); raise MemoryError('planted')")
    first, second, _, _ = overlapping(slot, greedy, repeatable)
    assert isinstance(first, Interrupted), first
    assert isinstance(second, Scored), second
    ready = threading.Event()
    alone = slot(greedy, 5, 0.7, trained=ready.set)
    assert isinstance(alone, Failed)
    assert not ready.is_set()
