"""Starts one confined process and watches it. Standard library only, so that it starts in milliseconds.

It stands between a slot and untrusted code. Its promise: when it ends, every descendant of the program has ended, even those in sessions
of their own. It ends when the program does, when the slot closes the lifeline (or dies, however), or when the descendants together hold
more host memory, processes or disk than allowed. Its last word, on the report descriptor, is one JSON object. When asked on the lifeline,
it makes all folders but the working folder read-only to the program ("sealed").

At level "namespaces" the program lives in mount, pid, network, ipc and uts namespaces of its own, on a root that holds only what it was
given, read-only except for its work folder, without capabilities. At level "process" it has its own session, a scrubbed environment and
resource limits, and nothing more: the files and the network of the user are open to it. At both levels, system calls that no training
needs are refused (kernel.py), so that it keeps to the cores that it was given.

Where there is no /proc (macOS), descendants in sessions of their own are not found, and memory and processes are not watched.
Not defended against: kernel exploits; side channels such as timing; GPU memory left by an earlier process; pinned host memory, which a
GPU driver counts for nobody; whatever is allocated within a fifth of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from evaluator import kernel
from evaluator.meter import Allowance, Meter, descendants

# CUDA names its threads by writing to /proc/self/task/*/comm, so /proc is writable except for what container runtimes (runc) close too.
_PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_PROC_HIDDEN = ("kcore", "keys", "timer_list", "kmsg", "sched_debug")
_MEASURE_SECONDS, _GLANCE_SECONDS = 1.0, 0.2  # a full measurement takes milliseconds, a glance microseconds
_PLAIN = kernel.NOSUID | kernel.NODEV | kernel.NOEXEC  # mount flags for what holds only data
_SEAL_SECONDS = 2.0
SEALED, NOT_SEALED = b"s", b"-"  # on the report descriptor, before the last word
_MAXRSS_UNIT = 1024 if sys.platform == "linux" else 1  # bytes
_DESCRIPTORS = 4096  # per process: buffers of sockets and pipes are the kernel's memory


def enter_pid_namespace() -> None:
    """Makes the next child process 1 of a new pid namespace. Without root that needs a user namespace too. The launcher keeps its
    mount namespace, since it goes on reading the machine's /proc."""
    root = os.getuid() == 0
    kernel.unshare(kernel.NEW_PID | (0 if root else kernel.NEW_USER))
    if not root:
        kernel.enter_own_user()


def _bind(root: str, path: str) -> None:
    """Shows `path` at the same place under the new root."""
    target = root + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.exists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    kernel.mount(path, target, None, kernel.BIND | kernel.REC)


def _make_devices(root: str, devices: list[str]) -> None:
    os.makedirs(f"{root}/dev/shm")
    kernel.mount("tmpfs", f"{root}/dev/shm", "tmpfs", _PLAIN, "size=1g")
    for device in devices:
        _bind(root, device)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{root}/dev/{name}")


def _make_proc(root: str) -> None:
    os.makedirs(f"{root}/proc")
    kernel.mount("proc", f"{root}/proc", "proc", _PLAIN)
    for name in _PROC_READ_ONLY:
        if os.path.exists(f"{root}/proc/{name}"):
            kernel.mount(f"{root}/proc/{name}", f"{root}/proc/{name}", None, kernel.BIND)
    for name in _PROC_HIDDEN:
        if os.path.exists(f"{root}/proc/{name}"):
            kernel.mount("/dev/null", f"{root}/proc/{name}", None, kernel.BIND)


def build_root(spec: dict[str, Any]) -> None:
    """Makes a root of only what the spec gives, and moves into it. Runs as process 1 of the new namespaces."""
    root = spec["root"]  # an empty folder of the slot's, hidden by the new root itself
    kernel.unshare(kernel.NEW_OTHERS)
    kernel.mount("none", "/", None, kernel.REC | kernel.PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", kernel.NOSUID | kernel.NODEV, "size=16m,mode=755")
    os.makedirs(f"{root}/tmp")
    kernel.mount("tmpfs", f"{root}/tmp", "tmpfs", kernel.NOSUID | kernel.NODEV, "size=256m,mode=1777")
    _make_proc(root)
    _make_devices(root, spec["devices"])
    for link, target in spec["links"]:
        os.symlink(target, root + link)
    for path in sorted(set(spec["readable"])):  # a parent comes before what lies in it
        _bind(root, path)
    for path in spec["masked"]:
        target = root + path
        if os.path.isdir(target):
            kernel.mount("tmpfs", target, "tmpfs", _PLAIN, "size=4k,mode=555")
        elif os.path.exists(target):
            kernel.mount("/dev/null", target, None, kernel.BIND)
    for path in spec["writable"]:
        _bind(root, path)
    kernel.set_read_only(root, on=True, recursive=True)
    for path in [*spec["writable"], "/tmp", "/dev/shm", "/proc"]:
        kernel.set_read_only(root + path, on=False)
    os.chdir(root)
    kernel.move_into_root()
    os.chdir("/")


def _limit_resources(spec: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (spec["file_bytes"], spec["file_bytes"]))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(_DESCRIPTORS, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    if spec["data_bytes"] and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (spec["data_bytes"], spec["data_bytes"]))


Begin = Callable[[dict[str, Any]], None]
"""Turns this process, which is confined, into the program. Never returns."""


def _execute(spec: dict[str, Any]) -> None:
    try:
        os.execve(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        print(f"launch: {error}", file=sys.stderr, flush=True)
        os._exit(126)


def _become(spec: dict[str, Any], begin: Begin) -> None:
    """Confines this process further, and begins. Never returns."""
    try:
        _limit_resources(spec)
        if sys.platform == "linux":
            kernel.give_up_privileges()
            with contextlib.suppress(OSError) if spec["level"] == "process" else contextlib.nullcontext():
                kernel.refuse_calls()
        os.chdir(spec["cwd"])
    except OSError as error:
        print(f"launch: {error}", file=sys.stderr, flush=True)
        os._exit(126)
    begin(spec)


def _run_as_init(spec: dict[str, Any], begin: Begin) -> None:
    """Process 1 of the namespaces: builds the root, starts the program, ends with it, and so ends all others. Never returns."""
    try:
        build_root(spec)
    except OSError as error:
        print(f"launch: {error}", file=sys.stderr, flush=True)
        os._exit(125)
    program = os.fork()
    if program == 0:
        _become(spec, begin)
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _seal(child: int, spec: dict[str, Any]) -> bool:
    """Lets the program write to nothing but its working folder; False where that fails, say because it has a file open for writing."""
    helper = os.fork()
    if helper == 0:
        try:
            if spec["level"] == "namespaces":
                kernel.enter_mounts(child)
                for path in spec["writable"]:
                    if path != spec["cwd"]:
                        kernel.set_read_only(path, on=True)
            os._exit(0 if spec["level"] == "namespaces" else 1)
        except OSError as error:
            print(f"launch: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    deadline = time.monotonic() + _SEAL_SECONDS
    while (ended := os.waitpid(helper, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:  # it lives in the program's pid namespace, and may have been stopped
            os.kill(helper, signal.SIGKILL)
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1]) == 0


def _watch(child: int, spec: dict[str, Any]) -> dict[str, Any]:
    """Waits for the program's end, the lifeline's, or too much of something."""
    lifeline, killed = spec["lifeline"], None
    wakers = [lifeline] + ([os.pidfd_open(child)] if sys.platform == "linux" else [])
    patience = _GLANCE_SECONDS if sys.platform == "linux" else 0.05
    init = child if spec["level"] == "namespaces" else None
    meter, measured = Meter(os.getpid(), Allowance(**spec["allowance"]), init), time.monotonic()
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code
            peak = max(usage.ru_maxrss * _MAXRSS_UNIT, meter.peak_memory_bytes)
            return {"code": code, "killed": killed, "peak_memory_bytes": peak, "waited_share": meter.waited_share}
        if killed is None:
            ready = select.select(wakers, [], [], patience)[0]
            if lifeline in ready and os.read(lifeline, 1):
                os.write(spec["report"], SEALED if _seal(child, spec) else NOT_SEALED)
            elif lifeline in ready:
                killed = "slot"
                meter.exceeded()  # a last look, for the report
            elif not ready and (time.monotonic() - measured > _MEASURE_SECONDS or meter.sign()):
                killed, measured = meter.exceeded(), time.monotonic()
        else:
            os.kill(child, signal.SIGKILL)
            time.sleep(0.005)


def _end_all(group: int) -> None:
    """Kills what is left. Orphans have become our children (subreaper), so none escapes by a session of its own."""
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def main() -> None:
    """Runs the spec in argv[1]; the exit status is 0 whatever became of the program: that is in the report."""
    run(json.loads(sys.argv[1]), _execute)


def run(spec: dict[str, Any], begin: Begin) -> None:
    """Starts the program and watches it to its end. In the program's own process it never returns."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the slot decides when it is over, by the lifeline
        signal.signal(signum, signal.SIG_IGN)
    if sys.platform == "linux":
        kernel.adopt_orphans()
        if spec["cpus"]:
            os.sched_setaffinity(0, spec["cpus"])
    confined = spec["level"] == "namespaces"
    if confined:
        enter_pid_namespace()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        os.close(spec["lifeline"])
        os.close(spec["report"])
        if sys.platform == "linux":
            kernel.die_with_parent(signal.SIGKILL)
        if confined:
            _run_as_init(spec, begin)
        _become(spec, begin)
    report = _watch(child, spec)
    _end_all(child)
    os.write(spec["report"], json.dumps(report).encode())
