"""Folders for what an evaluation needs on disk. A folder is removed when its owner closes it, or, if its owner was killed, when the next
one is made: it belongs to whoever holds the lock on its file, and a lock dies with its process. One kind stays: `Kept`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from evaluator.meter import folder_bytes

_PREFIX = "evo-slot-"
_LOCK = "lock"
KERNELS_BYTES = 16 * 2**30  # compiled kernels kept for the next run: those of hundreds of programs


class Scratch:
    """A folder of one's own under the machine's temporary folder."""

    def __init__(self) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        unheld = self.path / f"{_LOCK}.new"
        self._lock = os.open(unheld, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unheld.rename(self.path / _LOCK)  # held from the moment it has its name, so a sweep never finds it unheld

    def close(self) -> None:
        """Removes the folder."""
        remove(self.path)
        os.close(self._lock)


class Evaluations:
    """A folder for each evaluation of an evaluator, in a scratch folder that is made when it is first wanted."""

    def __init__(self) -> None:
        self._scratch: Scratch | None = None

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder, removed on the way out."""
        if self._scratch is None:
            self._scratch = Scratch()
        folder = Path(tempfile.mkdtemp(prefix="evaluation-", dir=self._scratch.path))
        try:
            yield folder
        finally:
            remove(folder)

    def close(self) -> None:
        """Leaves nothing behind. Idempotent."""
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None


class Kept:
    """A folder that outlives its users, who may be several at once. The first of them empties it if it has grown too large."""

    def __init__(self, path: str, most_bytes: int) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        self._lock, real = -1, os.path.realpath(path)
        with contextlib.suppress(OSError):  # others are using it; or no lock can be had here, and it goes on growing
            self._lock = os.open(f"{real}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder_bytes(real) > most_bytes:
                remove(Path(real))
        Path(real).mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            if self._lock >= 0:
                fcntl.flock(self._lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """Releases the folder. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def sweep() -> None:
    """Removes this user's folders whose owners have died. A folder without a lock file is about to get one and stays."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            if path.parent.lstat().st_uid != os.getuid():
                continue
            descriptor = os.open(path, os.O_RDWR)
        except OSError:  # gone meanwhile
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path.parent)
        except BlockingIOError:  # its owner lives
            continue
        finally:
            os.close(descriptor)


def remove(folder: Path) -> None:
    """Removes a folder with whatever a program has left in it, as far as it can be removed; links, also in its own place, are not followed.

    shutil.rmtree takes a call and a descriptor for each level, and so fails where there are thousands. Here folders come to the top first.
    """
    open_ = [] if folder.is_symlink() else [str(folder)]
    while open_:
        path = open_.pop()
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)
            for entry in list(os.scandir(path)):
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        os.chmod(entry.path, 0o700)  # else it could not be moved
                        open_.append(f"{folder}/{uuid.uuid4()}")
                        os.rename(entry.path, open_[-1])
                    else:
                        os.unlink(entry.path)
            os.rmdir(path)
    with contextlib.suppress(OSError):
        folder.rmdir()
