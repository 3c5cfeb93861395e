"""The prepared data folder as the evaluator reads it: a manifest and files with their hashes (docs/design.md has the format)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluator.evaluate import HarnessError

_VERSION = 1


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
    tokenizer_sha256: str
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
    sha256: str  # of the texts
    masked: tuple[str, ...]  # where the texts came from: hidden from programs
    vocabularies: tuple[Vocabulary, ...]

    def vocabulary(self, size: Any) -> Vocabulary | None:
        """The tokenisation with `size` tokens, or None."""
        return next((v for v in self.vocabularies if v.size == size), None)

    @property
    def tokenizers_sha256(self) -> str:
        """One hash over all tokenisers."""
        return hashlib.sha256("".join(v.tokenizer_sha256 for v in self.vocabularies).encode()).hexdigest()


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
        raise HarnessError(f"{path} has version {manifest.get('version')}, expected {_VERSION}; prepare the data again")
    vocabularies = tuple(_vocabulary(Path(folder), int(size), entry) for size, entry in manifest["vocabularies"].items())
    masked = tuple(sorted({form for path in manifest["masked"] for form in (path, os.path.realpath(path))}))
    return Data(str(folder), manifest["sequence_length"], manifest["data_sha256"], masked, vocabularies)


def _vocabulary(folder: Path, size: int, entry: dict[str, Any]) -> Vocabulary:
    train, val, heldout = (Rows(str(folder / e["file"]), e["rows"], e["sha256"]) for e in (entry["train"], entry["val"], entry["heldout"]))
    bytes_entry = entry["token_bytes"]
    return Vocabulary(size, entry["tokenizer_sha256"], train, val, heldout, str(folder / bytes_entry["file"]), bytes_entry["sha256"])
