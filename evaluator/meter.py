"""What a program and all that it has started hold of the machine, measured from outside: memory, tasks, disk. Standard library only.

Memory means what is its own: anonymous pages, and shared pages whether mapped or not (a memfd, a file on a tmpfs). Mapped files are left
out: their pages are the machine's cache, where those of libraries and training rows exist once for all slots.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO

from evaluator.card import Card

_TMPFS = ("tmp", "dev/shm")  # in a root that was built for the program
_ENTRY_BYTES = 4096  # least disk space that anything with a name counts as: inodes are limited too
_UNSEEN = (errno.ENAMETOOLONG, errno.EACCES)  # of a folder that is there
_JUMP_TASKS, _JUMP_SHARE = 64, 0.125  # signs at a glance: more new tasks on the machine, or a larger share of the allowed memory


@dataclass(frozen=True)
class Allowance:
    """What a program may hold."""

    memory_bytes: int
    tasks: int  # processes and threads
    disk_bytes: int  # in all files in `folder`, and in those in `shared` that have changed since the start
    folder: str
    gpu: str = ""  # value of CUDA_VISIBLE_DEVICES
    gpu_free_bytes: int = 0  # memory of the card that must stay free; 0: any may be used
    shared: tuple[str, ...] = ()  # folders that others write to as well, and that may already hold much


class Meter:
    """Compares what the descendants of a process hold with what they may."""

    def __init__(self, parent: int, allowance: Allowance, init: int | None) -> None:
        """
        Args:
            init: the descendant that is process 1 to the others. It is the harness's own and left out; the others then have a root of
                their own, with tmpfs that are theirs alone. None: there is none.
        """
        self._parent, self._allowance, self._init, self._own_root = parent, allowance, init, init is not None
        self._seen = _glance()
        self._began, self._shared_bytes, self._shared_due = time.time(), 0, 0.0
        self._card: Card | None = None
        if allowance.gpu_free_bytes:
            with contextlib.suppress(OSError):  # no NVML here: then the allocator's own cap is all there is
                self._card = Card(allowance.gpu)
        self.peak_memory_bytes = 0
        self.waited_share = 0.0  # how much of the time in which main threads could have run they waited for a core

    def sign(self) -> bool:
        """Whether the machine as a whole changed so much since the last measurement that another cannot wait. Takes microseconds."""
        (available, tasks), (available_then, tasks_then) = _glance(), self._seen
        return tasks - tasks_then > _JUMP_TASKS or available_then - available > _JUMP_SHARE * self._allowance.memory_bytes

    def exceeded(self) -> str | None:
        """What they hold too much of: "memory", "tasks", "disk", "GPU memory" or None."""
        self._seen = _glance()
        allowed, pids = self._allowance, [pid for pid in descendants(self._parent) if pid != self._init]
        self.waited_share = waited_share(pids)
        if sum(map(_tasks, pids)) > allowed.tasks:
            return "tasks"
        held = memory_bytes(pids, self._own_root)
        if held > allowed.memory_bytes:
            held = memory_bytes(pids, self._own_root, exact=True)
        self.peak_memory_bytes = max(held, self.peak_memory_bytes)
        if held > allowed.memory_bytes:
            return "memory"
        if self._card is not None and self._card.free_bytes() < allowed.gpu_free_bytes:
            return "GPU memory"
        return "disk" if self._disk_bytes() > allowed.disk_bytes else None

    def _disk_bytes(self) -> int:
        """Shared folders can hold very many files: they are scanned only so often that it takes a hundredth of a core."""
        if (began := time.monotonic()) >= self._shared_due:
            self._shared_bytes = sum(folder_bytes(folder, self._began) for folder in self._allowance.shared)
            self._shared_due = began + 100 * (time.monotonic() - began)
        return folder_bytes(self._allowance.folder) + self._shared_bytes


def descendants(pid: int) -> list[int]:
    """All that descend from `pid`, by one look through the process table; nothing where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if entry.isdigit():
            with contextlib.suppress(OSError):  # it may have ended meanwhile
                children.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
    found, open_ = [], [pid]
    while open_:
        found += children.get(open_[-1], [])
        open_ += children.get(open_.pop(), [])
    return found


def stopped(pid: int) -> bool:
    """Whether none of its threads runs: stopped by a signal, ended, or gone. Other threads may outlive the first."""
    states = set()
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                states.add(_stat(f"{pid}/task/{thread}")[0])
    return states <= set("TtZX")


def memory_bytes(pids: list[int], own_root: bool, exact: bool = False) -> int:
    """Anonymous and shared memory of these processes.

    Args:
        exact: count a page that several of them share, since one forked the other, once; that takes milliseconds for each GiB.
    """
    source, names = ("smaps_rollup", ("Pss_Anon", "Pss_Shmem")) if exact else ("status", ("RssAnon", "RssShmem"))
    anonymous = mapped = 0
    for pid in pids:
        private, shared = _held(f"/proc/{pid}/{source}", names) or _held_by_threads(pid)
        anonymous, mapped = anonymous + private, mapped + shared
    return anonymous + max(mapped, _held_in_files(pids, own_root))


def _held(path: str, names: tuple[str, str]) -> tuple[int, int] | None:
    """Two fields of a file of /proc, in bytes; None where it has none of them."""
    try:
        with _opened(path) as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:  # it may have ended meanwhile
        return None
    one, other = (1024 * int(fields.get(name, "0").split()[0]) for name in names)
    return (one, other) if names[0] in fields else None


def _held_by_threads(pid: int) -> tuple[int, int]:
    """`_held` of a process whose first thread has ended: /proc then shows its memory only through the other threads."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            if (held := _held(f"/proc/{pid}/task/{thread}/status", ("RssAnon", "RssShmem"))) is not None:
                return held
    return 0, 0


def waited_share(pids: list[int]) -> float:
    """Share of the time in which the main threads of these processes could have run, since their start, that they waited for a core; 0
    where the kernel does not say."""
    ran = waited = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/schedstat") as file:
            on_core, in_queue, _ = map(int, file.read().split())
            ran, waited = ran + on_core, waited + in_queue
    return waited / (ran + waited) if ran + waited else 0.0


def cpu_seconds(pids: list[int]) -> float:
    """Time that these processes, and those of their children that have ended, have spent on a core."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


class Worked:
    """Time on a core since a first look. The kernel adds an ended child's time to its parent, unless the parent ignores the end of its
    children; so each process's own time is kept as well, as far as looks have seen it, and the larger of the two sums counts."""

    def __init__(self) -> None:
        self._first: float | None = None  # seconds by the kernel's sums
        self._began: dict[tuple[int, str], int] = {}  # (pid, when it started) -> own ticks at the first look; 0 for one that came later
        self._seen: dict[tuple[int, str], int] = {}
        self.seconds = 0.0

    def look(self, pids: list[int]) -> None:
        """Takes in what has been spent until now."""
        summed, first = cpu_seconds(pids), self._first is None
        self._first = summed if self._first is None else self._first
        for pid in pids:
            with contextlib.suppress(OSError):
                fields = _stat(pid)
                key, ticks = (pid, fields[19]), int(fields[11]) + int(fields[12])
                self._began.setdefault(key, ticks if first else 0)
                self._seen[key] = ticks
        own = sum(ticks - self._began[key] for key, ticks in self._seen.items()) / os.sysconf("SC_CLK_TCK")
        self.seconds = max(self.seconds, summed - self._first, own)


class Looks:
    """Looks again and again at the time that a process and all it has started spend on a core: once one of them has ended, its time may be
    counted nowhere."""

    def __init__(self, look: Callable[[Worked], None], after_seconds: float, every_seconds: float) -> None:
        """
        Args:
            look: lets a `Worked` look at the process.
            after_seconds: until the first look.
        """
        self._look, self._worked, self._over = look, Worked(), threading.Event()
        self._thread = threading.Thread(target=self._go_on, args=(after_seconds, every_seconds), name="looks", daemon=True)
        self._thread.start()

    def seconds(self) -> float:
        """Time on a core from the first look to now; there are no more looks. 0 if there was none."""
        self.end()
        self._thread.join()
        self._look(self._worked)
        return self._worked.seconds

    def end(self) -> None:
        """There are no more looks."""
        self._over.set()

    def _go_on(self, wait: float, every: float) -> None:
        while not self._over.wait(wait):
            self._look(self._worked)
            wait = every


def folder_bytes(folder: str, since: float = 0.0) -> int:
    """Disk space of all that is in a folder, empty files and folders as well; links are not followed. What cannot be looked at, since its
    path is too long or its mode forbids it, is as large as can be.

    Args:
        since: seconds since the epoch; what has not changed since then is left out.
    """
    total, open_ = 0, [(folder, math.inf)]  # and when it has changed
    while open_:
        path, changed = open_.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile; the others have not
                        stat = entry.stat(follow_symlinks=False)
                        total += max(_ENTRY_BYTES, 512 * stat.st_blocks) if stat.st_ctime >= since else 0
                        if entry.is_dir(follow_symlinks=False):
                            open_.append((entry.path, stat.st_ctime))
        except OSError as error:
            if error.errno in _UNSEEN and changed >= since:
                return sys.maxsize
    return total


def _held_in_files(pids: list[int], own_root: bool) -> int:
    """Memory that lies in files without a disk: open memfds, and the program's own tmpfs."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in pids:
        for path in _memory_files(pid):
            with contextlib.suppress(OSError):
                stat = os.stat(path)
                sizes[stat.st_dev, stat.st_ino] = 512 * stat.st_blocks
    total = sum(sizes.values())
    if own_root and pids:
        for name in _TMPFS:
            with contextlib.suppress(OSError):
                space = os.statvfs(f"/proc/{pids[-1]}/root/{name}")
                total += (space.f_blocks - space.f_bfree) * space.f_frsize
    return total


def _memory_files(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            with contextlib.suppress(OSError):
                if os.readlink(path).startswith("/memfd:"):
                    yield path


def _tasks(pid: int) -> int:
    try:
        return int(_stat(pid)[17])
    except OSError:
        return 0


def _stat(pid: int | str) -> list[str]:
    """Fields of /proc/PID/stat after the name: state, parent, … Of a thread: "PID/task/TID"."""
    with _opened(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


def _opened(path: str) -> TextIO:
    """A file of /proc, which holds the name that a process gave itself: any bytes, of any process of the machine."""
    return open(path, encoding="ascii", errors="replace")


def _glance() -> tuple[int, int]:
    """Bytes of memory that are free on the machine, and its tasks."""
    try:
        with open("/proc/meminfo") as memory, open("/proc/loadavg") as load:
            available = next(int(line.split()[1]) for line in memory if line.startswith("MemAvailable"))
            return 1024 * available, int(load.read().split()[3].partition("/")[2])
    except (OSError, StopIteration):  # no /proc
        return 0, 0
