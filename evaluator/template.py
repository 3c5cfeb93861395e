"""A process that has imported what most programs need, and turns a copy of itself into each confined process: importing torch takes two
seconds of a core, a fork a few milliseconds (Android's zygote and multiprocessing's forkserver do the same).

It holds nothing but libraries and the launcher, sees no program, and keeps nothing of what it starts. A copy does what launch.py does
elsewhere, except that its last step is not an exec: capabilities are dropped by hand. Programs of one template share the layout of their
memory. It is not used at level "process", where a program could reach into the next one's template. A GPU's driver does not survive a fork:
where an import has started the driver, a process or a Python thread, there are no copies, and each process imports for itself.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluator import kernel, launch
from evaluator.evaluate import HarnessError
from evaluator.inside import wire
from evaluator.meter import descendants

_PROJECT = str(Path(__file__).resolve().parent.parent)
_START_SECONDS = 120.0
_FDS_MOST = 4  # lifeline, report, log, channel
_CARDS = ("/dev/nvidia", "/dev/dri", "/dev/kfd")
_FAILED = 125  # exit code of a launcher that left no report


class Copy:
    """A launcher that a template has forked, with as much of subprocess.Popen's interface as is needed."""

    returncode = _FAILED

    def __init__(self, pid: int, descriptor: int) -> None:
        """
        Args:
            descriptor: a pidfd, which becomes readable at its end (pidfd_open(2)); ours to close.
        """
        self.pid, self._descriptor, self._lock = pid, descriptor, threading.Lock()

    def poll(self, milliseconds: float = 0.0) -> int | None:
        """Its exit code; None while it runs."""
        with self._lock:
            if self._descriptor >= 0:
                ends = select.poll()
                ends.register(self._descriptor, select.POLLIN)
                if not ends.poll(milliseconds):
                    return None
                os.close(self._descriptor)
                self._descriptor = -1
        return self.returncode

    def wait(self) -> int:
        """Waits for its end."""
        while self.poll(1000.0) is None:
            pass
        return self.returncode


class Template:
    """The harness's end of a template, which is started at its first use, or earlier by `warm`, and again if it has died."""

    def __init__(self, env: tuple[tuple[str, str], ...]) -> None:
        """
        Args:
            env: its environment, which is what libraries see while they are imported. Copies get their own later.
        """
        self._env, self._lock = dict(env), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._closed = False

    def warm(self) -> None:
        """Starts it. Returns at once."""
        with self._lock:
            self._started()

    def fork(self, spec: dict[str, Any], lifeline: int, report: int, log: int, channel: int | None) -> Copy | None:
        """A copy that runs launch.py's `run(spec)`; it gets copies of the descriptors. None: this template cannot be copied.

        Raises:
            HarnessError: no copy can be had.
        """
        fds = (lifeline, report, log) + (() if channel is None else (channel,))
        with self._lock:
            for _ in range(2):  # it may have died since the last time
                with contextlib.suppress(OSError, wire.WireError):
                    self._started()
                    assert self._channel is not None
                    wire.send(self._channel, {"op": "fork", "spec": spec}, fds)
                    deadline = time.monotonic() + _START_SECONDS
                    received = wire.receive(self._channel, 1, deadline)
                    while received is not None and received[0]["op"] == "ready":
                        received = wire.receive(self._channel, 1, deadline)
                    if received is not None:
                        return Copy(received[0]["pid"], received[1][0]) if received[0]["op"] == "forked" else None
                self._end()
        raise HarnessError("no process can be forked; the reason is on standard error")

    def _started(self) -> None:
        if self._closed:
            raise HarnessError("this template has been closed: nobody holds it any more")
        if self._process is not None:
            return
        self._channel, theirs = socket.socketpair()
        with theirs:
            code = f"import sys; sys.path.insert(0, {_PROJECT!r}); from evaluator import template; template.main()"
            command = [os.path.realpath(sys.executable), "-S", "-P", "-c", code, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, env=self._env, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True, cwd="/"
            )

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._channel = self._process = None

    def close(self) -> None:
        """Ends it for good; its copies go on. Idempotent."""
        with self._lock:
            self._closed = True
            self._end()


class _Shared:
    """One template for all who ask for the same environment, as long as one of them uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lent: dict[tuple[tuple[str, str], ...], tuple[Template, int]] = {}

    @contextlib.contextmanager
    def __call__(self, env: tuple[tuple[str, str], ...]) -> Iterator[Template]:
        with self._lock:
            template, users = self._lent.get(env, (None, 0))
            template = template or Template(env)
            self._lent[env] = template, users + 1
        try:
            template.warm()
            yield template
        finally:
            with self._lock:
                users = self._lent[env][1] - 1
                self._lent[env] = template, users
                if users == 0:
                    del self._lent[env]
                    template.close()


shared = _Shared()


def main() -> None:
    """The process itself: imports, then forks whenever it is asked to, until the harness closes the channel or dies."""
    sys.path.remove(_PROJECT)
    channel = socket.socket(fileno=int(sys.argv[1]))
    import trainee

    kernel.set_name("template")
    trainee.import_libraries(os.environ["EVO_DEVICE"])
    if unfit := shared_by_copies():
        print(f"programs start from scratch, since what their libraries import {unfit}", file=sys.stderr, flush=True)
    try:
        wire.send(channel, {"op": "ready"})
    except ConnectionError:  # the slot ended meanwhile
        os._exit(0)
    copies: dict[int, int] = {}  # pidfd -> pid
    while True:
        watched: list[Any] = [channel, *copies]
        ready = select.select(watched, [], [])[0]
        for descriptor in [each for each in ready if each in copies]:
            os.waitpid(copies.pop(descriptor), 0)
            os.close(descriptor)
        if channel in ready:
            try:
                received = wire.receive(channel, _FDS_MOST)
            except ConnectionError:  # it ended without having read "ready"
                received = None
            if received is None:
                os._exit(0)
            if unfit:
                for descriptor in received[1]:
                    os.close(descriptor)
                wire.send(channel, {"op": "unfit"})
                continue
            pid = os.fork()
            if pid == 0:
                channel.detach()
                _launch(received[0]["spec"], received[1])
            for descriptor in received[1]:
                os.close(descriptor)
            end = os.pidfd_open(pid)
            wire.send(channel, {"op": "forked", "pid": pid}, (end,))
            copies[end] = pid


def shared_by_copies() -> str:
    """What this process has that its copies would share, or miss, in words; "" where there is nothing."""
    opened = (os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
    device = next((path for path in opened if path.startswith(_CARDS)), "")
    if device:
        return f"opens {device}"
    if descendants(os.getpid()):
        return "starts a process"
    return "starts a thread" if threading.active_count() > 1 else ""


def _launch(spec: dict[str, Any], fds: list[int]) -> None:
    """The life of a copy. Never returns: the launcher exits, and the program's own process ends as an interpreter does."""
    os.setsid()
    kernel.set_name("launch")
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (fds[2], 1), (fds[2], 2)):
        os.dup2(source, target)
    kept = {fds[0], fds[1], *fds[3:]}
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
    spec |= {"lifeline": fds[0], "report": fds[1]}
    if fds[3:]:
        spec["env"]["EVO_CHANNEL"] = str(fds[3])
    launch.run(spec, _run_script)
    os._exit(0)


def _run_script(spec: dict[str, Any]) -> None:
    """Runs the script in the program's own process, confined by now, as if an interpreter had been started with it."""
    os.environ.clear()
    os.environ.update(spec["env"])
    sys.argv[:] = [spec["argv"][-1]]
    kernel.set_name(os.path.basename(sys.argv[0]))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in an interpreter that has just started
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluator"]:
        del sys.modules[name]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()
