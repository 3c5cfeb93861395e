"""The slot's side of `launch.py`: what a confined process is given, which level of confinement works here, how it is started and ended.

A program sees an allow-list: the interpreter, its installed packages, system libraries, its lab files (read-only) and one work folder.
It never sees the home folder, the run folder, the data folder, other slots' files, the network or the environment of the harness.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from evaluator import bare
from evaluator.launch import NOT_SEALED, SEALED
from evaluator.meter import Worked, cpu_seconds, descendants, stopped
from evaluator.template import Copy, Template, shared

INSIDE = Path(__file__).parent / "inside"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/alternatives",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/sys",
)
_OTHER_PYTHONS = ("usr/lib*/python3*", "usr/local/lib*/python3*", "usr/lib*/python3*/*-packages", "usr/local/lib*/python3*/*-packages")
_FREEZE_SECONDS, _SEAL_SECONDS = 5.0, 10.0
_DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True)
class Exit:
    """How a confined process ended."""

    code: int  # 128 + signal when a signal ended it
    killed: str | None  # "slot", "memory", "tasks", "disk", "GPU memory", or None when it ended by itself
    peak_memory_bytes: int  # as it was last measured, of it and all it started; of one process where that is more
    waited_share: float = 0.0  # how much of the time in which its main thread could have run it waited for a core


@dataclass(frozen=True)
class Confined:
    """What a process is given. Paths are absolute."""

    script: str  # a file of evaluator/inside
    cwd: str
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    masked: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cpus: tuple[int, ...]
    memory_bytes: int  # limit for it and all that it starts
    data_bytes: int  # limit for each process, so that an allocation too many fails at once; 0: none (CUDA reserves more than it uses)
    tasks: int  # processes and threads
    file_bytes: int  # limit for a file, and for all that lie in `cwd`
    level: str  # "namespaces" or "process"
    root: str  # an empty folder, where the process's own root is built
    gpu: str = ""  # value of CUDA_VISIBLE_DEVICES
    gpu_free_bytes: int = 0  # the card's free memory may not fall below this; 0: no limit
    template: Template | None = None  # a copy of it becomes the process; None: that starts from nothing


class Process:
    """A running confined process; `end()` leaves nothing of it behind."""

    def __init__(self, what: Confined, log: int, channel: int | None = None) -> None:
        """Starts it, its output going to the descriptor `log`.

        Args:
            channel: a further descriptor for it, whose number it finds in EVO_CHANNEL.
        Raises:
            HarnessError: the template that it should be a copy of does not start.
        """
        spec = _spec(what)
        with contextlib.ExitStack() as given, contextlib.ExitStack() as unless_started:
            lifeline_there, lifeline = os.pipe()
            given.callback(os.close, lifeline_there)
            unless_started.callback(os.close, lifeline)
            report, report_there = os.pipe()
            given.callback(os.close, report_there)
            unless_started.callback(os.close, report)
            self._launcher = _start(what, spec | {"lifeline": lifeline_there, "report": report_there}, log, channel)
            unless_started.pop_all()
        self._lifeline: int | None = lifeline
        self._report = report
        self._lock = threading.Lock()
        self._begun = b""  # what has been read of the report
        self._exit: Exit | None = None

    @property
    def alive(self) -> bool:
        """Whether anything of it runs."""
        return self._launcher.poll() is None

    def cpu_seconds(self) -> float:
        """Time that it and all it started have spent on a core; 0 where there is no /proc."""
        return cpu_seconds(descendants(self._launcher.pid))

    def note_work(self, worked: Worked) -> None:
        """Lets `worked` look at the time that it and all it started have spent on a core."""
        worked.look(descendants(self._launcher.pid))

    def freeze(self) -> bool:
        """Stops all threads of it and of what it has started, until `thaw`; False where that does not work. It can be ended meanwhile."""
        deadline = time.monotonic() + _FREEZE_SECONDS
        while running := [pid for pid in descendants(self._launcher.pid) if not stopped(pid)]:
            if time.monotonic() > deadline:
                return False
            for pid in running:  # over and over, since one that has not been stopped yet may have started another
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            time.sleep(0.001)
        return self.alive

    def thaw(self) -> None:
        """Lets it run again."""
        for pid in descendants(self._launcher.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def seal(self) -> bool:
        """Makes all folders but its working folder read-only to it; False where that does not work. Not to be called during `wait`."""
        with self._lock:
            if self._lifeline is None or not self.alive:
                return False
            with contextlib.suppress(BrokenPipeError):
                os.write(self._lifeline, b"s")
            if not select.select([self._report], [], [], _SEAL_SECONDS)[0]:
                return False
            said = os.read(self._report, 1)
            if said not in (SEALED, NOT_SEALED):  # it has ended, and this begins its last word
                self._begun = said
            return said == SEALED

    def stop(self) -> None:
        """Begins to end it, for a caller that ends several. Idempotent."""
        with self._lock:
            self._cut_lifeline()

    def end(self) -> Exit:
        """Kills it if it still runs, waits until all its descendants are gone, says how it ended. Idempotent."""
        self.stop()
        return self.wait()

    def wait(self) -> Exit:
        """Waits until it ends by itself, says how it ended."""
        with self._lock:
            if self._exit is None:
                self._exit = self._reap()
                self._cut_lifeline()
            return self._exit

    def _cut_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def _reap(self) -> Exit:
        report = self._begun
        while piece := os.read(self._report, 4096):
            report += piece
        os.close(self._report)
        self._launcher.wait()
        if not report:
            return Exit(self._launcher.returncode, None, 0)
        return Exit(**json.loads(report.lstrip(SEALED + NOT_SEALED)))


def _start(what: Confined, spec: dict[str, Any], log: int, channel: int | None) -> subprocess.Popen[bytes] | Copy:
    """Starts the launcher, as a copy of the template where that works."""
    lifeline, report = spec["lifeline"], spec["report"]
    if what.template is not None:
        copy = what.template.fork(spec, lifeline, report, log, channel)
        if copy is not None:
            return copy
    if channel is not None:
        spec["env"]["EVO_CHANNEL"] = str(channel)
    return subprocess.Popen(
        bare.command("launch", json.dumps(spec)),
        env=spec["env"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=(lifeline, report) + (() if channel is None else (channel,)),
        start_new_session=True,
        cwd="/",
    )


@cache
def level() -> tuple[str, str]:
    """The strongest level that works here, found by trying, and why not a stronger one ("" at the strongest)."""
    if sys.platform != "linux":
        return "process", f"namespaces are a Linux feature, this is {sys.platform}"
    with tempfile.TemporaryDirectory(prefix="evo-probe-") as folder, tempfile.TemporaryFile() as log:
        work, root = os.path.join(folder, "work"), os.path.join(folder, "root")
        os.mkdir(work)
        os.mkdir(root)
        what = Confined("probe.py", work, (), (work,), (), environment(1), (), 1 << 30, 0, 64, 1 << 20, "namespaces", root)
        process = Process(what, log.fileno())
        outcome = process.wait()
        if outcome.code == 0:
            return "namespaces", ""
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
        return "process", lines[-1] if lines else f"the probe ended with code {outcome.code}"


def environment(threads: int, **more: str) -> tuple[tuple[str, str], ...]:
    """All that a program finds in its environment: nothing of the harness's but what it needs to run."""
    fixed = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "USER": "evo",
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join([str(INSIDE), *_package_folders()]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # a spinning thread pool takes the sibling slot's core: 14,000 tokens/s became 1,500
    }
    return tuple({**fixed, **more}.items())


@contextlib.contextmanager
def template(level: str, device: str, threads: int) -> Iterator[Template | None]:
    """The template for processes with `environment(threads)`; None where none can be used (template.py)."""
    if level != "namespaces":
        yield None
        return
    with shared(environment(threads, EVO_DEVICE=device)) as made:
        yield made


def _package_folders() -> list[str]:
    """Folders of installed packages on this interpreter's path, and what the user put on PYTHONPATH, but nothing of the project's own."""
    project, prefix = Path(__file__).resolve().parent.parent, Path(sys.prefix).resolve()
    asked = {Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    kept = []
    for folder in dict.fromkeys(Path(entry).resolve() for entry in sys.path if entry and os.path.isdir(entry)):
        installed = folder.name in ("site-packages", "dist-packages")
        ours = project.is_relative_to(folder) or (folder.is_relative_to(project) and not folder.is_relative_to(prefix))
        if (installed or folder in asked) and not ours:
            kept.append(str(folder))
    return kept


def _all_copies(masked: tuple[str, ...]) -> list[str]:
    """The masked paths, and packages of the same names in every Python installation that a program can see."""
    roots = [*_package_folders(), os.path.join(os.path.realpath(sys.base_prefix), "lib", f"python3.{sys.version_info.minor}")]
    roots += [str(path) for pattern in _OTHER_PYTHONS for path in Path("/").glob(pattern)]
    names = {os.path.basename(path) for path in masked}
    copies = {os.path.join(root, name) for root in roots for name in names}
    return sorted({*masked, *(path for path in copies if os.path.exists(path))})


def _spec(what: Confined) -> dict[str, Any]:
    """The spec that launch.py is given."""
    links = [(path, os.readlink(path)) for path in _SYSTEM if os.path.islink(path)]
    interpreter = [os.path.realpath(sys.base_prefix), *_package_folders(), str(INSIDE)]
    readable = [path for path in (*_SYSTEM, *_SYSTEM_FILES) if os.path.exists(path) and not os.path.islink(path)]
    devices = [f"/dev/{name}" for name in _DEVICES]
    devices += [str(path) for path in sorted(Path("/dev").glob("nvidia*"))]
    python = os.path.realpath(sys.executable)
    return {
        "argv": [python, "-S", "-P", str(INSIDE / what.script)],
        "env": dict(what.env),
        "cwd": what.cwd,
        "root": what.root,
        "links": links,
        "devices": devices,
        "readable": [*readable, *(p for p in interpreter if not p.startswith("/usr/")), *what.readable],
        "writable": list(what.writable),
        "masked": _all_copies(what.masked),
        "cpus": list(what.cpus),
        "allowance": {
            "memory_bytes": what.memory_bytes,
            "tasks": what.tasks,
            "disk_bytes": what.file_bytes,
            "folder": what.cwd,
            "gpu": what.gpu,
            "gpu_free_bytes": what.gpu_free_bytes,
            "shared": [folder for folder in what.writable if folder != what.cwd],
        },
        "data_bytes": what.data_bytes,
        "file_bytes": what.file_bytes,
        "level": what.level,
    }
