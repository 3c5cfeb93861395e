"""Berths and forwarders: started before there is a program or when they are needed, they see it no sooner, and score it the same."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SmallLab

from evaluator import data as datafolder
from evaluator import sandbox
from evaluator.berth import Berth
from evaluator.forwarding import Forwarder, shared_memory
from evaluator.inside import wire
from evaluator.inside.hostmemory import pinned
from evaluator.outcome import CurvePoint, Failed, Scored, Stopped
from evaluator.scoring import task_for
from evaluator.slot import Slot, SlotConfig
from evaluator.task import Task
from evaluator.training import Limits, TrainingRun

needs_namespaces = pytest.mark.skipif(sandbox.level()[0] != "namespaces", reason=f"no namespaces here: {sandbox.level()[1]}")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
BERTH = ["forwarder.py", "forwarder.py", "trainee.py"]
FIVE_STEPS = ("in prepare.batches(BATCH_SIZE, VOCAB_SIZE):", "in (b for b, _ in zip(prepare.batches(BATCH_SIZE, VOCAB_SIZE), range(5))):")


@pytest.fixture(scope="module")
def config(small_lab: SmallLab) -> SlotConfig:
    limits = Limits(setup_seconds=30, grace_seconds=1.5, host_memory_gib=1.5, weights_gib=0.1, file_gib=0.01)
    return SlotConfig(prepare=small_lab.prepare, data=small_lab.data, measurement_key="test", limits=limits, early_start=True)


@pytest.fixture(scope="module")
def slot(config: SlotConfig) -> Iterator[Slot]:
    with contextlib.closing(Slot(config)) as made:
        yield made


def small_task(lab: SmallLab) -> Task:
    data = datafolder.load(lab.data)
    vocabulary = data.vocabularies[0]
    return task_for(vocabulary, vocabulary.val, data.length, "cpu", 60.0)


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
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    processes = [(int(pid), int(parent), args) for pid, parent, args in (line.split(maxsplit=2) for line in listed)]
    family = {os.getpid()}
    while more := {pid for pid, parent, _ in processes if parent in family} - family:
        family |= more
    scripts = (f"{sandbox.INSIDE}/forwarder.py", f"{sandbox.INSIDE}/trainee.py")
    return {pid: Path(args.split()[-1]).name for pid, _, args in processes if pid in family and args.endswith(scripts)}


def waiting_berth(slot: Slot, program: str) -> Berth:
    """The one that waits for the slot's next program, settled. Where none waits `program` is scored first."""
    if slot._next is None:
        assert isinstance(slot(program, 1, 0.5), Scored)
    assert slot._next is not None
    assert slot._next.trainee.settle()
    slot._next.forwarders.settle()
    return slot._next


@pytest.fixture
def forwarder(tmp_path: Path, small_lab: SmallLab) -> Iterator[Forwarder]:
    """One without weights yet, whose program leaves a file when it is imported."""
    for name in ("lab", "work", "root"):
        (tmp_path / name).mkdir()
    leave = "import os\nwith open('imported', 'w') as file:\n    file.write(os.environ['EVO_SEED'])\n"
    (tmp_path / "lab" / "train.py").write_text(leave + small_lab.genome)
    (tmp_path / "lab" / "prepare.py").write_text(small_lab.prepare)
    (tmp_path / "weights.pt").touch()
    lab, work, weights = (str(tmp_path / name) for name in ("lab", "work", "weights.pt"))
    env = sandbox.environment(1, EVO_DEVICE="cpu", EVO_LAB=lab, EVO_WEIGHTS=weights)
    root, level = str(tmp_path / "root"), sandbox.level()[0]
    what = sandbox.Confined("forwarder.py", work, (lab, weights), (work,), (), env, (), 2 << 30, 1 << 20, level, root)
    made = Forwarder(what, tmp_path / "log.txt")
    yield made
    made.end()


@pytest.mark.parametrize("rehearse", [False, True])
def test_a_forwarder_imports_the_program_and_reads_its_weights_only_when_it_is_told_to(
    forwarder: Forwarder, tmp_path: Path, small_lab: SmallLab, rehearse: bool
) -> None:
    assert forwarder.settle()
    assert not (tmp_path / "work" / "imported").exists()
    state = {"embedding.weight": torch.zeros(256, 32), "head.weight": torch.zeros(256, 32), "head.bias": torch.zeros(256)}
    torch.save(state, tmp_path / "weights.pt")  # the inode that its sandbox shows
    forwarder.load(small_task(small_lab), 7, rehearse)
    reply = wire.receive(forwarder.channel, deadline=time.monotonic() + 60)
    assert reply is not None
    assert reply[0] == {"op": "ready", "parameters": 2 * 256 * 32 + 256, "pinned": False}
    assert (tmp_path / "work" / "imported").read_text() == "7"  # the seed, which comes with the word


def test_a_forwarder_that_has_died_is_no_error_of_its_owner(forwarder: Forwarder, small_lab: SmallLab) -> None:
    assert forwarder.settle()
    forwarder.process.end()
    assert not forwarder.settle()
    forwarder.load(small_task(small_lab), 7, rehearse=True)
    with contextlib.suppress(ConnectionError):
        assert wire.receive(forwarder.channel, deadline=time.monotonic() + 60) is None


def test_a_score_is_the_same_with_and_without_an_early_start(slot: Slot, repeatable: str, plain_score: float) -> None:
    outcomes = [slot(repeatable, 5, 1.0), slot(repeatable, 5, 1.0), slot(repeatable, 6, 1.0)]
    scores = [outcome.val_bpb for outcome in outcomes if isinstance(outcome, Scored)]
    assert len(scores) == 3, outcomes
    assert scores[0] == scores[1] == plain_score != scores[2]


@needs_namespaces
def test_a_program_is_timed_beside_exactly_the_processes_that_waited_before_it_came(slot: Slot, small_lab: SmallLab) -> None:
    waiting_berth(slot, small_lab.genome)
    waited, seen = running(), list[dict[int, str]]()

    def watch(_: CurvePoint) -> str:
        seen.append(running())
        return "seen enough"

    assert sorted(waited.values()) == BERTH
    assert isinstance(slot(small_lab.genome, 2, 5.0, watch), Stopped)
    assert seen == [waited]


@needs_namespaces
def test_a_program_that_no_berth_waits_for_is_timed_beside_one_of_its_own_which_ends_with_it(slot: Slot, small_lab: SmallLab) -> None:
    slot.close()
    seen: list[list[str]] = []

    def watch(_: CurvePoint) -> str:
        seen.append(sorted(running().values()))
        return "seen enough"

    assert isinstance(slot(small_lab.genome, 1, 5.0, watch), Stopped)
    assert seen == [BERTH]
    assert running() == {}  # nothing was scored, so no berth was made meanwhile


@pytest.mark.parametrize("program", ["def main(:\n", "def build_model(): pass\ndef main(): raise ValueError\n"])
def test_a_training_that_fails_leaves_no_process(slot: Slot, program: str) -> None:
    assert isinstance(slot(program, 1, 1.0), Failed)
    assert running() == {}


@needs_namespaces
def test_closing_a_slot_ends_what_waits(slot: Slot, small_lab: SmallLab) -> None:
    folder = waiting_berth(slot, small_lab.genome).files.lab
    slot.close()
    assert running() == {}
    assert not folder.exists()


@needs_namespaces
def test_a_waiting_berth_has_seen_nothing_and_runs_the_next_program_under_its_seed(slot: Slot, small_lab: SmallLab) -> None:
    waiting_berth(slot, small_lab.genome)
    (lab,) = lab_folders(slot)
    assert list(lab.iterdir()) == []
    told = slot(small_lab.genome.replace("def main():", "def main():\n    print('seed', prepare.seed())", 1), 5, 1.0)
    assert isinstance(told, Scored)
    assert "seed 5" in told.log


@needs_namespaces
@pytest.mark.parametrize(("dies", "when"), [("trainee", "waiting"), ("first", "waiting"), ("second", "waiting"), ("second", "timed")])
def test_a_process_that_dies_before_it_has_a_program_is_replaced_and_the_score_is_unaffected(
    slot: Slot, repeatable: str, plain_score: float, dies: str, when: str
) -> None:
    berth = waiting_berth(slot, repeatable)
    dying = berth.trainee if dies == "trainee" else berth.forwarders._running[dies]
    timed: list[CurvePoint] = []

    def watch(point: CurvePoint) -> None:
        if when == "timed":
            dying.process.end()
        timed.append(point)

    if when == "waiting":
        dying.process.end()
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
    assert slot._scratch is not None
    return list(slot._scratch.path.glob("evaluation-*/lab"))


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
    weights = beside + "/weights.pt"
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
    assert (found["beside"], found["berths"]) == ("['first', 'lab', 'weights.pt']", "1")
    assert (found["read"], found["write"]) == ("True", "OSError")  # a read-only mount
    assert int(found["processes"]) <= 2
    assert found["files"] == "1"  # its own memory


def test_the_clock_starts_after_what_would_disturb_it(tmp_path: Path, small_lab: SmallLab) -> None:
    (tmp_path / "root").mkdir()
    env = sandbox.environment(1)
    what = sandbox.Confined(
        "probe.py", str(tmp_path), (), (str(tmp_path),), (), env, (), 1 << 30, 1 << 20, "process", str(tmp_path / "root")
    )
    ours, theirs = socket.socketpair()
    with ours, theirs, open(tmp_path / "log", "wb") as log:
        waits: list[bool] = []

        def before_clock() -> None:
            time.sleep(0.2)
            theirs.setblocking(False)
            with pytest.raises(BlockingIOError):
                theirs.recv(1)
            theirs.setblocking(True)
            waits.append(True)

        wire.send(theirs, {"op": "start", "batch_size": 1, "vocab_size": 256})
        wire.send(theirs, {"op": "step", "step": 1, "tokens": 1, "loss": None})
        theirs.shutdown(socket.SHUT_WR)
        process, data = sandbox.Process(what, (), log.fileno()), datafolder.load(small_lab.data)
        outcome = TrainingRun(process, ours, data, Limits(), 1.0, tmp_path / "weights.pt", None, before_clock).run()
        told = wire.receive(theirs, max_fds=1)
    assert waits == [True]
    assert told is not None
    assert told[0]["op"] == "go"
    os.close(told[1][0])
    assert isinstance(outcome, Failed)
    assert outcome.curve[0].seconds < 0.2  # on a clock that did not run meanwhile


def shared(size: int) -> mmap.mmap:
    descriptor = shared_memory(size)
    memory = mmap.mmap(descriptor, size)
    os.close(descriptor)
    return memory


def test_memory_is_not_pinned_without_a_gpu() -> None:
    with pinned(shared(1 << 16), "cpu") as done:
        assert not done


@needs_cuda
def test_memory_is_pinned_while_the_block_lasts_and_a_refusal_harms_nothing() -> None:
    memory = shared(1 << 24)
    view = torch.frombuffer(memory, dtype=torch.uint8)
    with pinned(memory, "cuda") as done:
        assert done
        assert view.is_pinned()
        with pinned(memory, "cuda") as again:  # already registered: refused
            assert not again
            assert float(torch.ones(8, device="cuda").sum()) == 8.0
        assert view.is_pinned()
    assert not view.is_pinned()


@needs_cuda
def test_importing_libraries_early_makes_no_cuda_context() -> None:
    code = "import forwarder, torch; forwarder.import_libraries('cuda'); print(torch.cuda.is_initialized())"
    env = {**os.environ, "PYTHONPATH": str(sandbox.INSIDE)}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
