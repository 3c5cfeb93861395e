"""Folders for what an evaluation needs on disk. A folder is removed when its owner closes it, or, if its owner was killed, when the next
one is made: it belongs to whoever holds the lock on its file, and a lock dies with its process. One kind stays: `Kept`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
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
        shutil.rmtree(self.path, ignore_errors=True)
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
        with tempfile.TemporaryDirectory(prefix="evaluation-", dir=self._scratch.path) as folder:
            yield Path(folder)

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
                shutil.rmtree(real, ignore_errors=True)
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
    """Removes the folders of owners that have died. A folder without a lock file is about to get one and stays."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:  # another user's, or gone meanwhile
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
        except BlockingIOError:  # its owner lives
            continue
        finally:
            os.close(descriptor)
