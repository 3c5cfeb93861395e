"""Starts one confined process and watches it: `python launch.py SPEC_JSON`. Standard library only, so that it starts in milliseconds.

It stands between a slot and untrusted code. What it promises: when it ends, every process that descends from the program has ended,
also those that made sessions of their own; it ends when the program does, when the slot closes the lifeline (or dies, however), or when
the descendants together hold more host memory than allowed. Its last word, on the report descriptor, is one JSON object.

At level "namespaces" the program lives in mount, pid, network, ipc and uts namespaces of its own, on a root that holds only what it was
given, read-only but for its work folder, without capabilities. At level "process" it has its own session, a scrubbed environment and
resource limits, and nothing more: the files and the network of the user are open to it.

Where there is no /proc (macOS), descendants in sessions of their own are not found and memory is not watched.
Not defended against: kernel exploits; side channels such as timing; a GPU's memory left by an earlier process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

_NEW_USER, _NEW_PID = 0x10000000, 0x20000000
_NEW_OTHERS = 0x00020000 | 0x04000000 | 0x08000000 | 0x40000000  # mount, uts, ipc, network
_BIND, _REC, _PRIVATE, _DETACH = 0x1000, 0x4000, 0x40000, 2
_NOSUID_NODEV_NOEXEC = 0x2 | 0x4 | 0x8
_READ_ONLY, _AT_RECURSIVE, _SYS_MOUNT_SETATTR, _SYS_PIVOT_ROOT = 1, 0x8000, 442, {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 24, 36, 38, 47
_CAPABILITIES = 64
# CUDA names its threads by writing to /proc/self/task/*/comm, so /proc is writable but for what container runtimes close too (runc).
_PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_PROC_HIDDEN = ("kcore", "keys", "timer_list", "kmsg", "sched_debug")
_MEMORY_CHECK_SECONDS = 1.0
_MAXRSS_UNIT = 1024 if sys.platform == "linux" else 1  # bytes

_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode())
    _check(result, f"mount {source} on {target}")


def _set_read_only(path: str, on: bool, recursive: bool = False) -> None:
    attributes = _Attributes(set=_READ_ONLY if on else 0, clear=0 if on else _READ_ONLY)
    flags = _AT_RECURSIVE if recursive else 0
    result = _libc.syscall(_SYS_MOUNT_SETATTR, -100, path.encode(), flags, ctypes.byref(attributes), ctypes.sizeof(attributes))
    _check(result, f"mount_setattr {path}")


def enter_pid_namespace() -> None:
    """The next child is process 1 of a new pid namespace. Without root that needs a user namespace too. The launcher keeps its
    mount namespace, since it goes on reading the machine's /proc."""
    uid, gid = os.getuid(), os.getgid()
    _check(_libc.unshare(_NEW_PID | (0 if uid == 0 else _NEW_USER)), "unshare")
    if uid != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _bind(root: str, path: str) -> None:
    """Shows `path` at the same place under the new root."""
    target = root + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.exists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    _mount(path, target, None, _BIND | _REC)


def _make_devices(root: str, devices: list[str]) -> None:
    os.makedirs(f"{root}/dev/shm")
    _mount("tmpfs", f"{root}/dev/shm", "tmpfs", _NOSUID_NODEV_NOEXEC, "size=1g")
    for device in devices:
        _bind(root, device)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{root}/dev/{name}")


def _make_proc(root: str) -> None:
    os.makedirs(f"{root}/proc")
    _mount("proc", f"{root}/proc", "proc", _NOSUID_NODEV_NOEXEC)
    for name in _PROC_READ_ONLY:
        if os.path.exists(f"{root}/proc/{name}"):
            _mount(f"{root}/proc/{name}", f"{root}/proc/{name}", None, _BIND)
    for name in _PROC_HIDDEN:
        if os.path.exists(f"{root}/proc/{name}"):
            _mount("/dev/null", f"{root}/proc/{name}", None, _BIND)


def build_root(spec: dict[str, Any]) -> None:
    """Makes a root of only what the spec gives, and moves into it. Runs as process 1 of the new namespaces."""
    root = spec["root"]  # an empty folder of the slot's, hidden by the new root itself
    _check(_libc.unshare(_NEW_OTHERS), "unshare")
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", 0x2 | 0x4, "size=16m,mode=755")
    os.makedirs(f"{root}/tmp")
    _mount("tmpfs", f"{root}/tmp", "tmpfs", 0x2 | 0x4, "size=256m,mode=1777")
    _make_proc(root)
    _make_devices(root, spec["devices"])
    for link, target in spec["links"]:
        os.symlink(target, root + link)
    for path in sorted(set(spec["readable"])):  # a parent comes before what lies in it
        _bind(root, path)
    for path in spec["masked"]:
        target = root + path
        if os.path.isdir(target):
            _mount("tmpfs", target, "tmpfs", _NOSUID_NODEV_NOEXEC, "size=4k,mode=555")
        elif os.path.exists(target):
            _mount("/dev/null", target, None, _BIND)
    for path in spec["writable"]:
        _bind(root, path)
    _set_read_only(root, on=True, recursive=True)
    for path in [*spec["writable"], "/tmp", "/dev/shm", "/proc"]:
        _set_read_only(root + path, on=False)
    os.chdir(root)
    _check(_libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _DETACH), "umount the old root")
    os.chdir("/")


def _give_up_privileges() -> None:
    for capability in range(_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for numbers the kernel does not know
    _libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def _limit_resources(spec: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (spec["file_bytes"], spec["file_bytes"]))


def _become(spec: dict[str, Any]) -> None:
    """Turns this process into the program. Never returns."""
    try:
        _limit_resources(spec)
        if sys.platform == "linux":
            _give_up_privileges()
        os.chdir(spec["cwd"])
        os.execve(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        print(f"launch: {error}", file=sys.stderr, flush=True)
        os._exit(126)


def _run_as_init(spec: dict[str, Any]) -> None:
    """Process 1 of the namespaces: builds the root, starts the program, ends with it, and so ends all others. Never returns."""
    try:
        build_root(spec)
    except OSError as error:
        print(f"launch: {error}", file=sys.stderr, flush=True)
        os._exit(125)
    program = os.fork()
    if program == 0:
        _become(spec)
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _descendants(pid: int) -> list[int]:
    """All that descend from `pid`, by one look through the process table; nothing where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:  # it may have ended meanwhile
                parent = int(file.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found, open_ = [], [pid]
    while open_:
        found += children.get(open_[-1], [])
        open_ += children.get(open_.pop(), [])
    return found


def _resident_bytes(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm") as file:  # it may have ended meanwhile
            total += int(file.read().split()[1]) * resource.getpagesize()
    return total


def _watch(child: int, spec: dict[str, Any]) -> dict[str, Any]:
    """Waits for the program's end, the lifeline's, or too much memory."""
    lifeline, killed = spec["lifeline"], None
    wakers = [lifeline] + ([os.pidfd_open(child)] if sys.platform == "linux" else [])
    patience = _MEMORY_CHECK_SECONDS if sys.platform == "linux" else 0.05
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return {"code": code, "killed": killed, "peak_memory_bytes": usage.ru_maxrss * _MAXRSS_UNIT}
        if killed is None:
            ready = select.select(wakers, [], [], patience)[0]
            if lifeline in ready:
                killed = "slot"
            elif not ready and _resident_bytes(_descendants(os.getpid())) > spec["memory_bytes"]:
                killed = "memory"
        else:
            os.kill(child, signal.SIGKILL)
            time.sleep(0.005)


def _end_all(group: int) -> None:
    """Kills what is left. Orphans have become our children (subreaper), so none escapes by a session of its own."""
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        for pid in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def main() -> None:
    """Runs the spec in argv[1]; the exit status is 0 whatever became of the program, which the report tells."""
    spec = json.loads(sys.argv[1])
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the slot decides when it is over, by the lifeline
        signal.signal(signum, signal.SIG_IGN)
    if sys.platform == "linux":
        _check(_libc.prctl(_PR_SET_SUBREAPER, 1, 0, 0, 0), "subreaper")
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
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if confined:
            _run_as_init(spec)
        _become(spec)
    report = _watch(child, spec)
    _end_all(child)
    os.write(spec["report"], json.dumps(report).encode())


if __name__ == "__main__":
    main()
