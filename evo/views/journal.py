"""A file of JSON lines for one writer: what Optuna's journal asks of a backend, without its lock file and without a sync.

Lines are collected and appended in bulk. The storage above gets what it needs to keep count and no more, so the driver holds no texts and
no curves. A kill may tear the last line: it is cut off when the file is opened again. Writing by others is noticed (`untouched`), not
prevented. Knows the names of Optuna's operations only to leave bulk out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BULK = ("distributions", "params", "intermediate_values")  # bulky fields of a trial
TRIAL_NOTE = re.compile(r"dashboard:\d+:note_str")
BLOCK = 65536


class Journal:
    """The file, opened; made if there is none. Serves one storage, which reads in order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []  # to be written
        self._untold: Iterable[dict[str, Any]] = self._stored()
        self._mark: tuple[int, int] | None = None  # inode and size as this writer left them

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The operations that the storage has not been given yet.

        Raises:
            ValueError: the file is no journal.
        """
        untold, self._untold = self._untold, []
        return untold

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Collects operations; `write` writes them."""
        self._lines += [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        self._untold = [*self._untold, *map(_lean, logs)]

    def write(self) -> None:
        """Appends what was collected."""
        if not self._lines:
            return
        data = "".join(self._lines).encode()
        self._lines = []
        with self._path.open("ab") as file:
            before = os.fstat(file.fileno())
            file.write(data)
            file.flush()
            alone = self._mark == (before.st_ino, before.st_size)
            self._mark = (before.st_ino, before.st_size + len(data)) if alone else None

    def untouched(self) -> bool:
        """Whether the file is as this writer left it."""
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        return self._mark == (now.st_ino, now.st_size)

    def _stored(self) -> Iterator[dict[str, Any]]:
        with self._path.open("a+b") as file:
            whole = _whole_lines(self._path)
            file.truncate(whole)
            file.seek(0)
            for line in file:
                yield _lean(json.loads(line))
            self._mark = (os.fstat(file.fileno()).st_ino, whole)


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last complete line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def _lean(log: dict[str, Any]) -> dict[str, Any]:
    """An operation without its bulk; of a trial's attributes the index alone."""
    lean = {name: value for name, value in log.items() if name not in BULK}
    if isinstance(said := lean.get("user_attrs"), dict):
        lean["user_attrs"] = {"index": said.get("index")}
    if isinstance(said := lean.get("system_attr"), dict):
        lean["system_attr"] = {key: "" if TRIAL_NOTE.match(key) else value for key, value in said.items()}
    return lean
