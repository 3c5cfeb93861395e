"""What programs print, safe to show: on a terminal, on a page, or to a model."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]"  # terminal escapes
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles of windows, links, and what else a terminal takes as a command
    r"|[^\n\t\x20-\x7e\xa0-\U0010ffff]"  # control characters
    r"|[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"  # invisible, direction-changing or broken ones
)


def printable(text: str) -> str:
    """The text without terminal escapes and control characters: a program's own words may reach a terminal, a page or a model."""
    return _CONTROL.sub("", text)


def read_log(path: Path, limit: int) -> str:
    """Last `limit` bytes of what a process printed, made printable; lines that overwrite each other come one below the other."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - limit))
        return printable(one_below_the_other(file.read().decode("utf-8", errors="replace")))


def one_below_the_other(text: str) -> str:
    """A progress line that returns to its start to be overwritten becomes a line of its own."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
