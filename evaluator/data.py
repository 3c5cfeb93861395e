"""The prepared data folder as the evaluator reads it: a manifest and files with their hashes (docs/design.md has the format)."""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluator.evaluate import HarnessError

_VERSION = 2


@dataclass(frozen=True)
class Rows:
    """A file of token rows, (rows, T + 1) little-endian uint16."""

    file: str  # absolute
    rows: int
    sha256: str


@dataclass(frozen=True)
class Vocabulary:
    """One tokenisation of the data."""

    size: int
    train: Rows
    val: Rows
    heldout: Rows
    bytes_file: str  # absolute; (size,) little-endian int32, raw bytes of each token, 0 for special tokens
    bytes_sha256: str


@dataclass(frozen=True)
class Data:
    """A data folder."""

    folder: str
    length: int  # T
    sha256: str  # hash of the texts
    masked: tuple[str, ...]  # where the texts came from: hidden from programs
    vocabularies: tuple[Vocabulary, ...]  # those that are packed
    tokeniser_sha256: str = ""  # hash of the merges, which determine every tokeniser
    offered: tuple[int, ...] = ()  # sizes that can be packed

    def vocabulary(self, size: Any) -> Vocabulary | None:
        """The tokenisation with `size` tokens, or None."""
        return next((v for v in self.vocabularies if v.size == size), None)


def load(folder: str) -> Data:
    """Reads the manifest.

    Raises:
        HarnessError: no manifest, or one of another version.
    """
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HarnessError(f"no readable data in {folder}: {error}; run `python prepare.py` of the lab") from error
    if manifest.get("version") != _VERSION:
        found = f"{folder} has format {manifest.get('version')}, expected {_VERSION}"
        raise HarnessError(f"{found}: delete it and run `python prepare.py` of the lab")
    vocabularies = tuple(_vocabulary(Path(folder), int(size), entry) for size, entry in manifest["vocabularies"].items())
    masked = tuple(sorted({form for path in manifest["masked"] for form in (path, os.path.realpath(path))}))
    merges, offered = manifest["merges"]["sha256"], tuple(manifest["vocab_sizes"])
    return Data(str(folder), manifest["sequence_length"], manifest["data_sha256"], masked, vocabularies, merges, offered)


def prefault(descriptor: int) -> None:
    """Reads a file into the kernel's cache, so that a timed program waits for no disk. Takes 0.1 s per GB that is there already."""
    if size := os.fstat(descriptor).st_size:
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)  # Linux
        mmap.mmap(descriptor, size, flags=flags, prot=mmap.PROT_READ).close()


def _vocabulary(folder: Path, size: int, entry: dict[str, Any]) -> Vocabulary:
    train, val, heldout = (Rows(str(folder / e["file"]), e["rows"], e["sha256"]) for e in (entry["train"], entry["val"], entry["heldout"]))
    bytes_entry = entry["token_bytes"]
    return Vocabulary(size, train, val, heldout, str(folder / bytes_entry["file"]), bytes_entry["sha256"])
