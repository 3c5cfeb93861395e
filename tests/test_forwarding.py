"""Forwarders: started beside the training or after it, they see the program only when it has trained, and score it the same."""

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


def running() -> list[str]:
    """The scripts of the confined processes that descend from this one."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    processes = [(int(pid), int(parent), args) for pid, parent, args in (line.split(maxsplit=2) for line in listed)]
    found, family = [], {os.getpid()}
    while more := {pid for pid, parent, _ in processes if parent in family} - family:
        family |= more
    for pid, _, args in processes:
        if pid in family and args.endswith((f"{sandbox.INSIDE}/forwarder.py", f"{sandbox.INSIDE}/trainee.py")):
            found.append(Path(args.split()[-1]).name)
    return sorted(found)


@pytest.fixture
def forwarder(tmp_path: Path, small_lab: SmallLab) -> Iterator[Forwarder]:
    """One without weights yet, whose program leaves a file when it is imported."""
    for name in ("lab", "work", "root"):
        (tmp_path / name).mkdir()
    (tmp_path / "lab" / "train.py").write_text("open('imported', 'w').close()\n" + small_lab.genome)
    (tmp_path / "lab" / "prepare.py").write_text(small_lab.prepare)
    (tmp_path / "weights.pt").touch()
    lab, work, weights = (str(tmp_path / name) for name in ("lab", "work", "weights.pt"))
    env = sandbox.environment(1, EVO_SEED="1", EVO_DEVICE="cpu", EVO_LAB=lab, EVO_WEIGHTS=weights)
    root, level = str(tmp_path / "root"), sandbox.level()[0]
    what = sandbox.Confined("forwarder.py", work, (lab, weights), (work,), (), env, (), 2 << 30, 1 << 20, level, root)
    made = Forwarder(what, tmp_path / "log.txt")
    yield made
    made.end()


@pytest.mark.parametrize("rehearse", [False, True])
def test_a_forwarder_imports_the_program_and_reads_its_weights_only_when_it_is_told_to(
    forwarder: Forwarder, tmp_path: Path, small_lab: SmallLab, rehearse: bool
) -> None:
    forwarder.settle()
    assert not (tmp_path / "work" / "imported").exists()
    state = {"embedding.weight": torch.zeros(256, 32), "head.weight": torch.zeros(256, 32), "head.bias": torch.zeros(256)}
    torch.save(state, tmp_path / "weights.pt")  # the inode that its sandbox shows
    forwarder.load(small_task(small_lab), rehearse)
    reply = wire.receive(forwarder.channel, deadline=time.monotonic() + 60)
    assert reply is not None
    assert reply[0] == {"op": "ready", "parameters": 2 * 256 * 32 + 256, "pinned": False}
    assert (tmp_path / "work" / "imported").exists()


def test_a_forwarder_that_has_died_is_no_error_of_its_owner(forwarder: Forwarder, small_lab: SmallLab) -> None:
    forwarder.stop()
    forwarder.load(small_task(small_lab), rehearse=True)
    with contextlib.suppress(ConnectionError):
        assert wire.receive(forwarder.channel, deadline=time.monotonic() + 60) is None


def test_a_score_is_the_same_with_and_without_an_early_start(config: SlotConfig, slot: Slot, small_lab: SmallLab) -> None:
    assert FIVE_STEPS[0] in small_lab.genome
    program = small_lab.genome.replace(*FIVE_STEPS)
    with contextlib.closing(Slot(replace(config, early_start=False))) as late:
        outcomes = [late(program, 5, 1.0), slot(program, 5, 1.0), slot(program, 6, 1.0)]
    scores = [outcome.val_bpb for outcome in outcomes if isinstance(outcome, Scored)]
    assert len(scores) == 3, outcomes
    assert scores[0] == scores[1] != scores[2]


def test_early_forwarders_run_beside_the_training_and_end_with_a_run_that_is_stopped(slot: Slot, small_lab: SmallLab) -> None:
    seen: list[str] = []

    def watch(_: CurvePoint) -> str:
        seen.extend(running())
        return "seen enough"

    assert isinstance(slot(small_lab.genome, 1, 5.0, watch), Stopped)
    assert seen == ["forwarder.py", "forwarder.py", "trainee.py", "trainee.py"]
    assert running() == ["trainee.py"]  # which waits for the next program


@pytest.mark.parametrize("program", ["def main(:\n", "def build_model(): pass\ndef main(): raise ValueError\n"])
def test_early_forwarders_end_with_a_training_that_fails(slot: Slot, program: str) -> None:
    assert isinstance(slot(program, 1, 1.0), Failed)
    assert running() == ["trainee.py"]  # which waits for the next program
    slot.close()
    assert running() == []


def test_a_waiting_trainee_has_seen_nothing_and_runs_the_next_program_under_its_seed(slot: Slot, small_lab: SmallLab) -> None:
    """The same program and seed score the same in a process that has waited and in one that was started for it."""
    first = slot(small_lab.genome, 1, 1.0)
    (waiting,) = lab_folders(slot)
    assert list(waiting.iterdir()) == []
    with contextlib.closing(Slot(replace(slot.config, early_start=False))) as late:
        fresh = late(small_lab.genome, 5, 1.0)
    assert isinstance(first, Scored)
    assert isinstance(fresh, Scored)
    program = small_lab.genome.replace("def main():", "def main():\n    print('seed', prepare.seed())", 1)
    told = slot(program, 5, 1.0)
    assert isinstance(told, Scored)
    assert "seed 5" in told.log


def test_a_waiting_trainee_that_dies_is_replaced(slot: Slot, small_lab: SmallLab) -> None:
    slot(small_lab.genome, 1, 1.0)
    assert slot._spare is not None
    slot._spare.trainee.process.end()
    assert isinstance(slot(small_lab.genome, 2, 1.0), Scored)


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
    assert found["beside"] == "['lab', 'work']"
    assert found["read"] == found["write"] == "FileNotFoundError"
    assert int(found["processes"]) <= 2  # the init of its namespace and itself
    assert found["files"] == "0"


@needs_namespaces
def test_a_forwarder_reads_its_weights_writes_nothing_to_them_and_sees_no_other_forwarder(slot: Slot, small_lab: SmallLab) -> None:
    tell = "        if not self.training:\n            raise RuntimeError(probe())\n        x = self.embedding"
    outcome = slot(small_lab.genome.replace("        x = self.embedding", tell) + PROBE, 1, 0.5)
    assert isinstance(outcome, Failed), outcome
    found = facts(outcome.message.removeprefix("RuntimeError: "))
    assert found["beside"] == "['first', 'lab', 'weights.pt']"
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
