"""Lends the training rows to programs, by descriptors that can read them and can in no way change them.

A descriptor that is open for reading is not enough: its holder can open the same file for writing through /proc/self/fd, or change its
mode, as far as the mount allows; the slot's next program would then train on what this one wrote. So the file is opened on a read-only
mount of its own, made in a short-lived process, of which only the descriptor is left: the machine's cache holds the rows only once. Where
there are no namespaces programs reach files anyway; there a change is found afterwards.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from evaluator import bare, kernel
from evaluator.checked import state
from evaluator.evaluate import HarnessError


class Library:
    """The files that a slot lends."""

    def __init__(self, read_only: bool) -> None:
        """
        Args:
            read_only: whether namespaces work here, so that mounts can be made.
        """
        self._read_only = read_only
        self._kept: dict[str, int] = {}  # path -> descriptor
        self._states: dict[str, tuple[int, ...]] = {}

    def lend(self, path: str) -> int:
        """A descriptor to give away and to close. Each has a position of its own: a shared one would be a note to the next program.

        Raises:
            HarnessError: the file was changed since it was lent first, or cannot be opened.
        """
        if changed := self.changed():
            raise HarnessError(f"{changed} was changed by a program: delete its folder and prepare the data again")
        try:
            self._states.setdefault(path, state(path))
            if not self._read_only:
                return os.open(path, os.O_RDONLY)
            if path not in self._kept:
                self._kept[path] = _on_read_only_mount(path)
            return os.open(f"/proc/self/fd/{self._kept[path]}", os.O_RDONLY)
        except OSError as error:
            raise HarnessError(f"cannot open the training rows {path}: {error}") from error

    def changed(self) -> str:
        """A file that is not as it was when it was lent first, or ""."""
        return next((path for path, before in self._states.items() if not os.path.exists(path) or state(path) != before), "")

    def close(self) -> None:
        """Closes all descriptors that are kept. Idempotent."""
        while self._kept:
            os.close(self._kept.popitem()[1])


def _on_read_only_mount(path: str) -> int:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = bare.command("lending", str(theirs.fileno()), path)
        made = subprocess.run(command, pass_fds=(theirs.fileno(),), capture_output=True, text=True, check=False)
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise OSError(f"no read-only mount: {made.stderr.strip().splitlines()[-1:]}")
    return descriptors[0]


def main() -> None:
    """`CHANNEL PATH`: sends a descriptor of the file, on a mount that nobody can write to."""
    channel, path = int(sys.argv[1]), sys.argv[2]
    root = os.getuid() == 0
    kernel.unshare(kernel.NEW_MOUNT | (0 if root else kernel.NEW_USER))
    if not root:
        kernel.enter_own_user()
    kernel.mount("none", "/", None, kernel.REC | kernel.PRIVATE)
    kernel.mount(path, path, None, kernel.BIND)
    kernel.set_read_only(path, on=True)
    descriptor = os.open(path, os.O_RDONLY)
    with socket.socket(fileno=channel) as other:
        socket.send_fds(other, [b"."], [descriptor])
