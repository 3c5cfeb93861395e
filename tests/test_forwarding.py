"""A forwarder sees the program only when it is told to load, and what it shares with the judge is memory."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SmallLab

from evaluator import data as datafolder
from evaluator import sandbox
from evaluator.evaluate import HarnessError
from evaluator.forwarding import Forwarder, Forwarders, shared_memory
from evaluator.inside import wire
from evaluator.inside.devicememory import DeviceMemory
from evaluator.inside.hostmemory import pinned
from evaluator.scoring import task_for
from evaluator.task import Task, Weights
from evaluator.template import Template

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def small_task(lab: SmallLab) -> Task:
    data = datafolder.load(lab.data)
    vocabulary = data.vocabularies[0]
    return task_for(vocabulary, vocabulary.val, data.length, "cpu", 60.0)


def confined(tmp_path: Path, small_lab: SmallLab) -> sandbox.Confined:
    """What a forwarder gets that has no weights yet, and whose program leaves a file when it is imported."""
    for name in ("lab", "work", "root", "given"):
        (tmp_path / name).mkdir()
    leave = "import os\nwith open('imported', 'w') as file:\n    file.write(os.environ['EVO_SEED'])\n"
    (tmp_path / "lab" / "train.py").write_text(leave + small_lab.genome)
    (tmp_path / "lab" / "prepare.py").write_text(small_lab.prepare)
    lab, work, given = (str(tmp_path / name) for name in ("lab", "work", "given"))
    env = sandbox.environment(1, EVO_DEVICE="cpu", EVO_LAB=lab, EVO_WEIGHTS=weights_in(tmp_path).given)
    root, level = str(tmp_path / "root"), sandbox.level()[0]
    return sandbox.Confined("forwarder.py", work, (lab, given), (work,), (), env, (), 2 << 30, 2 << 30, 256, 1 << 20, level, root)


def weights_in(folder: Path) -> Weights:
    return Weights(str(folder / "weights.pt"), str(folder / "given" / "weights.pt"))


@pytest.fixture
def forwarder(tmp_path: Path, small_lab: SmallLab) -> Iterator[Forwarder]:
    made = Forwarder(confined(tmp_path, small_lab), tmp_path / "log.txt", weights_in(tmp_path))
    yield made
    made.end()


def hear(forwarder: Forwarder) -> dict[str, object]:
    received = wire.receive(forwarder.channel, deadline=time.monotonic() + 60)
    assert received is not None
    return received[0]


@pytest.mark.parametrize("rehearse", [False, True])
def test_a_forwarder_imports_the_program_and_reads_its_weights_only_when_it_is_told_to(
    forwarder: Forwarder, tmp_path: Path, small_lab: SmallLab, rehearse: bool
) -> None:
    assert forwarder.lie_still(0.0)
    assert not (tmp_path / "work" / "imported").exists()
    forwarder.build(small_task(small_lab), 7, rehearse)
    assert forwarder.lie_still(60.0)
    assert (tmp_path / "work" / "imported").read_text() == "7"  # the seed, which comes with the word
    state = {"embedding.weight": torch.zeros(256, 32), "head.weight": torch.zeros(256, 32), "head.bias": torch.zeros(256)}
    torch.save(state, weights_in(tmp_path).file)
    os.link(weights_in(tmp_path).file, weights_in(tmp_path).given)  # as the judge does
    forwarder.load(small_task(small_lab))
    forwarder.tell({"op": "load"}, (forwarder.memory,))
    assert hear(forwarder) == {"op": "ready", "parameters": 2 * 256 * 32 + 256}


def test_a_forwarder_that_has_built_is_frozen_until_it_loads(forwarder: Forwarder, small_lab: SmallLab) -> None:
    assert forwarder.settle()
    forwarder.build(small_task(small_lab), 7, rehearse=False)
    assert forwarder.lie_still(60.0)
    forwarder.tell({"op": "load"}, (shared_memory(1 << 20),))  # which would make it say that it is ready, or fail
    with pytest.raises(TimeoutError):
        wire.receive(forwarder.channel, deadline=time.monotonic() + 1.0)
    forwarder.process.thaw()
    assert hear(forwarder)["op"] == "error"  # there are no weights


def test_a_forwarder_that_has_run_since_it_was_frozen_does_not_lie_still(forwarder: Forwarder, tmp_path: Path, small_lab: SmallLab) -> None:
    program = tmp_path / "lab" / "train.py"
    program.write_text("import os\nif not os.fork():\n    while True:\n        pass\n" + program.read_text())
    assert forwarder.settle()
    forwarder.build(small_task(small_lab), 7, rehearse=False)
    assert forwarder.lie_still(60.0)
    assert forwarder.lie_still(0.0)
    forwarder.process.thaw()  # as a timer that it left behind would do
    time.sleep(0.3)
    assert forwarder.process.freeze()
    assert not forwarder.lie_still(0.0)


def test_a_forwarder_that_has_died_is_no_error_of_its_owner(forwarder: Forwarder, small_lab: SmallLab) -> None:
    assert forwarder.settle()
    forwarder.process.end()
    assert not forwarder.lie_still(0.0)
    forwarder.build(small_task(small_lab), 7, rehearse=True)
    assert not forwarder.lie_still(5.0)
    forwarder.load(small_task(small_lab))
    with contextlib.suppress(ConnectionError):
        assert wire.receive(forwarder.channel, deadline=time.monotonic() + 60) is None


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_a_start_that_fails_leaves_no_process_and_no_descriptor(tmp_path: Path, small_lab: SmallLab) -> None:
    what, before, made = confined(tmp_path, small_lab), os.listdir("/proc/self/fd"), list[Forwarder]()

    def start(name: str, cached: bool) -> Forwarder:
        closed = Template(sandbox.environment(1))
        closed.close()
        made.append(Forwarder(what if name == "first" else replace(what, template=closed), tmp_path / "log.txt", weights_in(tmp_path)))
        return made[-1]

    with pytest.raises(HarnessError, match="closed"):
        Forwarders(start, early=True)
    assert not made[0].process.alive
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_a_process_that_finds_too_few_descriptors_leaves_none_behind(tmp_path: Path, small_lab: SmallLab) -> None:
    what, before, (soft, hard) = confined(tmp_path, small_lab), os.listdir("/proc/self/fd"), resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull, "wb") as log:
        for room in range(1, 100):
            resource.setrlimit(resource.RLIMIT_NOFILE, (log.fileno() + room, hard))
            try:
                started = sandbox.Process(what, log.fileno())
            except OSError:
                continue
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            started.end()
            break
    assert room > 4
    assert os.listdir("/proc/self/fd") == before


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


MAPS = """
import sys, torch
from devicememory import DeviceMemory
torch.ones(1, device="cuda")
handle, size = sys.argv[1], int(sys.argv[2])
print(DeviceMemory.open("00" * 64, size) is None)
memory = DeviceMemory.open(handle, size)
flat = memory.flat(torch.bfloat16, 8, 4096)
print(flat.tolist() == [0.0] * 8)
flat.copy_(torch.arange(8, device="cuda"))
torch.cuda.synchronize()
del flat
memory.close()
"""


@needs_cuda
def test_gpu_memory_is_shared_with_a_process_that_knows_its_name_alone() -> None:
    memory = DeviceMemory.allocate(1 << 24)
    assert memory is not None
    memory.flat(torch.uint8, 1 << 24, 0).zero_()
    torch.cuda.synchronize()
    command = [sys.executable, "-c", MAPS, memory.handle, str(1 << 24)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(sandbox.INSIDE), os.environ.get("PYTHONPATH", "")])}
    assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split() == ["True", "True"]
    assert memory.flat(torch.bfloat16, 8, 4096).tolist() == list(range(8))
    with pytest.raises(ValueError, match="do not fit"):
        memory.flat(torch.float32, 1 << 22, 4)
    memory.close()


@needs_cuda
def test_importing_libraries_early_starts_up_no_driver_so_that_a_copy_can_be_made() -> None:
    code = "import trainee; trainee.import_libraries('cuda'); from evaluator import template; print(repr(template.shared_by_copies()))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(sandbox.INSIDE), str(ROOT), os.environ.get("PYTHONPATH", "")])}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "''"
