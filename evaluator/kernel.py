"""What confinement asks of the kernel, through ctypes: namespaces, mounts, privileges, refused system calls. Standard library only.

Only Linux has these; elsewhere nothing in here is called.
"""

from __future__ import annotations

import ctypes
import os

NEW_USER, NEW_PID = 0x10000000, 0x20000000
NEW_MOUNT = 0x00020000
NEW_OTHERS = NEW_MOUNT | 0x04000000 | 0x08000000 | 0x40000000  # mount, uts, ipc, network
BIND, REC, PRIVATE, DETACH = 0x1000, 0x4000, 0x40000, 2
NOSUID, NODEV, NOEXEC = 0x2, 0x4, 0x8
_READ_ONLY, _AT_RECURSIVE, _SYS_MOUNT_SETATTR = 1, 0x8000, 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = (
    1,
    15,
    22,
    24,
    36,
    38,
    47,
)
_CAPABILITIES, _CAPABILITY_VERSION = 64, 0x20080522  # the latter: _LINUX_CAPABILITY_VERSION_3

# Calls that no training program needs, and what each could be used for. They fail with EPERM, whatever the capabilities. Priorities are not
# among them: without capabilities the kernel lets nobody raise one, and threads of drivers and libraries set their own.
#            name                 x86_64 aarch64
_REFUSED = (
    ("sched_setaffinity", 203, 122),  # to take the cores of other slots
    ("add_key", 248, 217),  # kernel keyrings outlive a process and know no namespaces: notes for the next program
    ("request_key", 249, 218),
    ("keyctl", 250, 219),
    ("mknod", 133, 33),  # pipes with names let data through where nothing can be written
    ("mknodat", 259, 33),
    ("ptrace", 101, 117),  # to look into other processes
    ("process_vm_readv", 310, 270),
    ("process_vm_writev", 311, 271),
    ("open_by_handle_at", 304, 265),  # files by number, past the root that it was given
    ("shmget", 29, 194),  # memory that no process has mapped, and nobody counts
    ("unshare", 272, 97),  # privileges in namespaces of its own
    ("setns", 308, 268),
    ("mount", 165, 40),
    ("umount2", 166, 39),
    ("pivot_root", 155, 41),
    ("open_tree", 428, 428),
    ("move_mount", 429, 429),
    ("fsopen", 430, 430),
    ("fsmount", 432, 432),
    ("mount_setattr", 442, 442),
    ("bpf", 321, 280),
    ("perf_event_open", 298, 241),
    ("userfaultfd", 323, 282),
    ("io_uring_setup", 425, 425),  # system calls that no filter sees
    ("process_madvise", 440, 440),  # as madvise below
)
_EQUAL, _ANY_BIT = 0x15, 0x45  # BPF: jump if the two are equal, if they have a bit in common
# Calls that are refused where an argument is so, and what that could be used for. Whatever a program leaves on a file that all can read
# lasts, and the next program finds it: on the 120,000 files of a system, 29 KB of validation text.
#            name        x86_64 aarch64 argument, from 0
_REFUSED_IF = (
    ("clone", 56, 220, 0, _ANY_BIT, 0x7E020000),  # CLONE_NEW…: as unshare
    ("fcntl", 72, 25, 1, _EQUAL, 1036),  # F_SET_RW_HINT: two bits on each file
    ("fadvise64", 221, 223, 3, _EQUAL, 4),  # POSIX_FADV_DONTNEED: a bit on each page, whether it is in the machine's cache
    ("madvise", 28, 233, 2, _EQUAL, 21),  # MADV_PAGEOUT: likewise
    ("preadv2", 327, 286, 5, _ANY_BIT, 0x80),  # RWF_DONTCACHE: likewise
    ("socket", 41, 198, 0, _EQUAL, 40),  # AF_VSOCK: a virtual machine's way to its host, which knows no namespaces
)
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_OTHER_ABI = 0x40000000  # x86_64: numbers from here on are those of x32
_LOAD, _AT_LEAST, _RETURN = 0x20, 0x35, 0x06  # BPF: load a word, jump if, return
_OFFSET_CALL, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16  # in struct seccomp_data; the last: 8 bytes each, the lower half first
_CLONE3 = 435
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
_EPERM, _ENOSYS = 1, 38

_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


class _Instruction(ctypes.Structure):
    """struct sock_filter of seccomp(2)."""

    _fields_ = (("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8), ("if_false", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Filter(ctypes.Structure):
    """struct sock_fprog of seccomp(2)."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def check(result: int, what: str) -> None:
    """
    Raises:
        OSError: the call failed.
    """
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def unshare(flags: int) -> None:
    """Leaves those namespaces for new ones."""
    check(_libc.unshare(flags), "unshare")


def enter_own_user() -> None:
    """Without root: maps this user and group to themselves in the user namespace just made."""
    uid, gid = os.getuid(), os.getgid()
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode())
    check(result, f"mount {source} on {target}")


def set_read_only(path: str, on: bool, recursive: bool = False) -> None:
    """Makes a mount read-only or writable, with all below it if recursive."""
    attributes = _Attributes(set=_READ_ONLY if on else 0, clear=0 if on else _READ_ONLY)
    flags = _AT_RECURSIVE if recursive else 0
    result = _libc.syscall(_SYS_MOUNT_SETATTR, -100, path.encode(), flags, ctypes.byref(attributes), ctypes.sizeof(attributes))
    check(result, f"mount_setattr {path}")


def enter_mounts(pid: int) -> None:
    """Joins the mount namespace of a process; paths are its own from here on."""
    descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    try:
        check(_libc.setns(descriptor, NEW_MOUNT), "setns")
    finally:
        os.close(descriptor)


def move_into_root() -> None:
    """Makes the current folder, a mount, the root; nothing of the old one can be reached."""
    check(_libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(_libc.umount2(b".", DETACH), "umount the old root")


def set_name(name: str) -> None:
    """Sets the name of this process in process tables, cut to 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def adopt_orphans() -> None:
    """Makes descendants whose parents end children of this process."""
    check(_libc.prctl(_PR_SET_SUBREAPER, 1, 0, 0, 0), "subreaper")


def die_with_parent(signum: int) -> None:
    """Asks for that signal when the parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)


class _CapabilityHeader(ctypes.Structure):
    """struct __user_cap_header_struct of capset(2)."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def give_up_privileges() -> None:
    """Drops all capabilities, with no way to regain any."""
    for capability in range(_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for numbers the kernel does not know
    _libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)
    none = (ctypes.c_uint32 * 6)()  # two words each of effective, permitted, inheritable
    check(_libc.capset(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION, 0)), ctypes.byref(none)), "capset")
    check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def refuse_calls() -> None:
    """Makes the calls in `_REFUSED` and `_REFUSED_IF` fail from here on, for all descendants too (seccomp(2)). Privileges must have been
    given up.

    Raises:
        OSError: this kernel or machine has no such filter.
    """
    machine = os.uname().machine
    if machine not in _AUDIT_ARCH:
        raise OSError(f"seccomp: the numbers of system calls on {machine} are not known here")
    numbers = [on_x86 if machine == "x86_64" else on_arm for _, on_x86, on_arm in _REFUSED]
    code = [(_LOAD, 0, 0, _OFFSET_ARCH), (_EQUAL, 1, 0, _AUDIT_ARCH[machine]), (_RETURN, 0, 0, _FAIL | _ENOSYS)]
    code += [(_LOAD, 0, 0, _OFFSET_CALL), (_AT_LEAST, 0, 1, _OTHER_ABI), (_RETURN, 0, 0, _FAIL | _ENOSYS)]
    # No filter can see what clone3 is asked to do; without it the C library uses clone.
    code += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _FAIL | _ENOSYS)]
    for _, on_x86, on_arm, argument, test, value in _REFUSED_IF:
        code += [(_EQUAL, 0, 4, on_x86 if machine == "x86_64" else on_arm), (_LOAD, 0, 0, _OFFSET_ARGUMENTS + 8 * argument)]
        code += [(test, 0, 1, value), (_RETURN, 0, 0, _FAIL | _EPERM), (_RETURN, 0, 0, _ALLOW)]
    code += [(_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]  # to the last line
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _FAIL | _EPERM)]
    instructions = (_Instruction * len(code))(*(_Instruction(*line) for line in code))
    program = _Filter(len(code), instructions)
    check(_libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0), "seccomp")
