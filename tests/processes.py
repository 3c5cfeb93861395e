"""Processes that a process started, by number and start time."""

from __future__ import annotations

import contextlib
from pathlib import Path

from evo.watchdog import mark


def descendants(pid: int) -> dict[int, str]:
    """Process -> when it was started, of all that a process and its children started and that live."""
    found: dict[int, str] = {}
    with contextlib.suppress(OSError):  # it may end while it is looked at
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found |= {int(child): mark(int(child)), **descendants(int(child))}
    return found
