"""Validation rows as the judge reads them: hash-checked against the manifest, since a program may have had a way to the files.

Checked rows are kept in memory, since the programs of one slot are scored on the same ones; a changed file is read and checked again.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_KEPT = 4  # tokenisations; 21 M tokens take 65 MB


@dataclass(frozen=True)
class File:
    """A file and the hash that the manifest gives it."""

    path: str
    sha256: str


@dataclass(frozen=True)
class CheckedRows:
    """Rows that are what the manifest says."""

    rows: Any  # (rows, T + 1) uint16, NumPy
    counted: Any  # (rows, T) bool: whether a target has bytes
    bytes: int  # raw bytes of all targets together

    def tokens(self, picked: Any) -> Any:
        """(n, T + 1) int64 tokens of (n,) rows."""
        import torch

        return torch.from_numpy(self.rows[picked.numpy()].astype("int64"))


class Tampered(Exception):  # noqa: N818  a finding about the data, not an error of ours
    """A file's content does not have its hash."""


def load(rows: File, token_bytes: File, length: int) -> CheckedRows:
    """The rows, each of `length` + 1 tokens, and which of their targets count.

    Args:
        rows: little-endian uint16.
        token_bytes: little-endian int32, the raw bytes of each token.
    Raises:
        Tampered: a file is not what the manifest says.
        OSError: there is no such file.
    """
    return _load(rows, state(rows.path), token_bytes, state(token_bytes.path), length)


def state(path: str) -> tuple[int, ...]:
    """Differs whenever the content may: a program can set the time of a change to the content, but not that of a change to the inode."""
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache(maxsize=_KEPT)
def _load(rows: File, _rows_state: tuple[int, ...], token_bytes: File, _bytes_state: tuple[int, ...], length: int) -> CheckedRows:
    import torch

    tokens = _read(rows, "<u2").reshape(-1, length + 1)
    bytes_of_targets = _read(token_bytes, "<i4")[tokens[:, 1:]]  # (rows, T)
    return CheckedRows(tokens, torch.from_numpy(bytes_of_targets > 0), int(bytes_of_targets.sum(dtype="int64")))


def _read(file: File, dtype: str) -> Any:
    import numpy as np

    with open(file.path, "rb") as opened:
        data = opened.read()
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise Tampered(f"{file.path} has hash {found[:12]}, the manifest says {file.sha256[:12]}: prepare the data again")
    return np.frombuffer(data, dtype=dtype)
