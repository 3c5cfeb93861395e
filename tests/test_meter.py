"""What is measured of a program from outside, and the descriptors that it is lent."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs_of import nest

from evaluator import sandbox
from evaluator.evaluate import HarnessError
from evaluator.lending import Library
from evaluator.meter import Allowance, Meter, cpu_seconds, descendants, folder_bytes, memory_bytes, stopped, waited_share
from evaluator.scratch import remove

linux = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
needs_namespaces = pytest.mark.skipif(sandbox.level()[0] != "namespaces", reason=f"no namespaces here: {sandbox.level()[1]}")
MIB = 1 << 20


@contextmanager
def running(code: str) -> Iterator[int]:
    """The process id of a Python program that has said something and waits."""
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


WAIT = "; print(1, flush=True); input()"


@linux
@pytest.mark.parametrize(
    "code",
    [
        "held = b'x' * (64 << 20)",
        "import os; held = os.memfd_create('held'); os.write(held, bytes(64 << 20))",  # in no process's resident pages
        "import mmap; held = mmap.mmap(-1, 64 << 20); held.write(bytes(64 << 20))",
    ],
)
def test_memory_counts_wherever_it_lies(code: str) -> None:
    with running("pass" + WAIT) as empty, running(code + WAIT) as full:
        for exact in (False, True):
            more = memory_bytes([full], False, exact) - memory_bytes([empty], False, exact)
            assert 60 * MIB < more < 72 * MIB


@linux
def test_memory_counts_after_the_first_thread_has_ended_and_the_others_stop_before_all_is_still() -> None:
    end_thread = f"__import__('ctypes').CDLL(None).syscall({93 if platform.machine() == 'aarch64' else 60}, 0)"
    code = f"import threading; held = b'x' * (64 << 20); threading.Thread(target=input).start(); print(1, flush=True); {end_thread}"
    with running(code) as pid:
        for exact in (False, True):
            assert 60 * MIB < memory_bytes([pid], False, exact) < 90 * MIB
        assert not stopped(pid)
        os.kill(pid, signal.SIGSTOP)
        while not stopped(pid):
            time.sleep(0.01)
        os.kill(pid, signal.SIGCONT)


@linux
@pytest.mark.parametrize("name", [b"\xff\xfe", "Überprüfung".encode()[:8], b") R 1 (", b"a\nPPid:\t1"])
def test_a_process_may_call_itself_anything(name: bytes) -> None:
    """Whoever failed at one name would fail for all programs of the machine: each look goes through all its processes."""
    with running(f"__import__('ctypes').CDLL(None).prctl(15, {name!r}, 0, 0, 0); held = b'x' * (64 << 20){WAIT}") as pid:
        assert Path(f"/proc/{pid}/comm").read_bytes() == name + b"\n"
        assert pid in descendants(os.getpid())
        assert not stopped(pid)
        assert 60 * MIB < memory_bytes([pid], False) < 90 * MIB


@linux
def test_pages_that_processes_share_by_a_fork_count_once_where_it_must_be_exact() -> None:
    code = "import os; held = b'x' * (64 << 20); fork = os.fork(); fork and print(1, flush=True); input()"
    with running(code) as parent:
        family = [parent, *descendants(parent)]
        assert len(family) == 2
        assert memory_bytes(family, False) > 120 * MIB
        assert memory_bytes(family, False, exact=True) < 90 * MIB


@linux
@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("pass", None),
        ("held = b'x' * (64 << 20)", "memory"),
        ("import threading, time; [threading.Thread(target=time.sleep, args=(9,), daemon=True).start() for _ in range(40)]", "tasks"),
        ("open('block', 'wb').write(bytes(4 << 20))", "disk"),
    ],
)
def test_what_a_program_holds_too_much_of_is_named(code: str, found: str | None, tmp_path: Path) -> None:
    allowance = Allowance(memory_bytes=48 * MIB, tasks=20, disk_bytes=2 * MIB, folder=str(tmp_path))
    program = f"import os; os.chdir({str(tmp_path)!r}); {code}{WAIT}"
    with running(f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {program!r}])") as parent:
        meter = Meter(parent, allowance, init=None)
        assert meter.exceeded() == found
    if found in ("memory", "tasks"):
        assert meter.exceeded() is None


@linux
@pytest.mark.parametrize(("own", "shared", "found"), [(0, 1, None), (0, 4, "disk"), (3, 2, "disk"), (3, 0, None)])
def test_what_is_written_to_a_shared_folder_counts_and_what_was_there_before_does_not(
    own: int, shared: int, found: str | None, tmp_path: Path
) -> None:
    folder, others = tmp_path / "own", tmp_path / "shared"
    (others / "inner").mkdir(parents=True)
    folder.mkdir()
    (others / "before").write_bytes(os.urandom(8 * MIB))
    time.sleep(0.02)  # a file's time is the kernel's last tick
    meter = Meter(os.getpid(), Allowance(1 << 50, 1 << 20, 4 * MIB - 1, str(folder), shared=(str(others),)), init=None)
    assert meter.exceeded() is None
    for where, mebibytes in ((folder, own), (others / "inner", shared)):
        with open(where / "block", "wb") as block:
            block.write(os.urandom(mebibytes * MIB))
            os.fsync(block.fileno())
    time.sleep(0.5)  # the folder has been looked through lately
    assert meter.exceeded() == found


def test_a_folder_s_size_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "block").write_bytes(bytes(MIB))
    before = folder_bytes(str(tmp_path))
    (tmp_path / "link").symlink_to("/usr")
    assert before >= MIB
    assert folder_bytes(str(tmp_path)) - before < 8192
    assert folder_bytes(str(tmp_path / "gone")) == 0
    before = folder_bytes(str(tmp_path))
    for k in range(10):
        (tmp_path / "inner" / str(k)).touch()
        (tmp_path / f"folder {k}").mkdir()
    assert folder_bytes(str(tmp_path)) - before >= 20 * 4096


@linux
def test_a_folder_too_deep_to_look_into_counts_as_full_to_who_made_it(tmp_path: Path) -> None:
    """Else a program could fill the disk down there."""
    nest(tmp_path, 20, name="x" * 250)
    after = time.time() + 0.1
    assert folder_bytes(str(tmp_path)) > 1 << 60
    assert folder_bytes(str(tmp_path), after) == 0
    remove(tmp_path)


@needs_namespaces
def test_privileges_that_were_given_up_are_not_regained_in_a_namespace_of_ones_own() -> None:
    """Neither by unshare nor by clone; to fork, to start threads and commands stays possible."""
    code = """
import ctypes, os, subprocess, sys, threading
from evaluator import kernel
kernel.give_up_privileges()
kernel.refuse_calls()
libc = ctypes.CDLL(None, use_errno=True)
clone, clone3, shmget = {"x86_64": (56, 435, 29), "aarch64": (220, 435, 194)}[os.uname().machine]
def refused(*arguments):
    ended = libc.syscall(*arguments)
    if ended == 0:
        os._exit(3)
    return ended == -1 and ctypes.get_errno()
new_user, sigchld = 0x10000000, 17
print(refused(clone, new_user | sigchld, 0, 0, 0, 0), refused(clone3, 0, 0), refused(shmget, 0, 4096, 0o1600))
if os.fork() == 0:
    os._exit(0)
os.wait()
thread = threading.Thread(target=print, args=("thread",))
thread.start()
thread.join()
print(subprocess.run(["echo", "command"], capture_output=True, text=True).stdout.strip())
"""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "38", "1", "thread", "command"], done.stderr


@linux
def test_time_on_a_core_counts_that_of_ended_children_too() -> None:
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {burn!r}])"
    with running("pass" + WAIT) as idle, running(parent + WAIT) as busy:
        assert cpu_seconds([idle]) < 0.25
        assert cpu_seconds([busy]) >= 0.29


@linux
def test_the_time_that_a_process_waited_for_a_core_is_a_share() -> None:
    assert 0.0 <= waited_share([os.getpid()]) <= 1.0
    assert waited_share([]) == 0.0


@needs_namespaces
def test_a_lent_file_is_read_and_cannot_be_changed_by_any_way_its_descriptor_gives(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"0123456789")
    library = Library(read_only=True)
    first, second = library.lend(str(path)), library.lend(str(path))
    try:
        assert os.read(first, 4) == b"0123"
        assert os.read(second, 4) == b"0123"  # a position of its own
        for change in (
            lambda: os.open(f"/proc/self/fd/{first}", os.O_RDWR),
            lambda: os.truncate(f"/proc/self/fd/{first}", 0),
            lambda: os.fchmod(first, 0o777),
            lambda: os.utime(first, ns=(0, 0)),
        ):
            with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
                change()
        assert library.changed() == ""
    finally:
        library.close()
        os.close(first)
        os.close(second)


@pytest.mark.parametrize("read_only", [False, pytest.param(True, marks=needs_namespaces)])
def test_a_file_that_was_changed_all_the_same_is_lent_no_more(read_only: bool, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"0123456789")
    library = Library(read_only)
    try:
        os.close(library.lend(str(path)))
        path.write_bytes(b"0000000000")
        assert library.changed() == str(path)
        with pytest.raises(HarnessError, match="prepare the data again"):
            library.lend(str(path))
    finally:
        library.close()


def test_a_file_that_is_not_there_is_the_harness_s_error(tmp_path: Path) -> None:
    library = Library(read_only=False)
    with pytest.raises(HarnessError, match="cannot open the training rows"):
        library.lend(str(tmp_path / "rows"))
