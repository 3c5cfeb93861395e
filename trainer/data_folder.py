"""The data folder: built once, checked afterwards, completed by a vocabulary when one is first asked for. A genome never sees this module.

    manifest.json          what is here, with sizes and hashes (docs/design.md has the format)
    merges.json            the tokens of the largest vocabulary, in the order in which they were learnt
    slices.json            the texts of validation and of the held-out slice, equal for every vocabulary
    v8192/                 rows and byte counts of one vocabulary

A folder appears under its name when it is complete, and a vocabulary in the manifest when all its files are on the disk, so that an
interrupted process leaves nothing that looks whole. One process builds at a time; others wait and find the work done.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import data_shards
import data_tokens as tokens
from data_texts import DataError, Documents, Settings, Source, digest, embedded_source, limited, path_source, sync

FORMAT = 2  # of the folder: 1 had rows that ran on from document to document, and one tokeniser file for each vocabulary
Manifest = dict[str, Any]


def data_root() -> Path:
    """Where data folders live."""
    return Path(os.environ.get("EVO_DATA_DIR") or Path.home() / ".cache" / "evo")


def settings_digest(settings: Settings) -> str:
    """Of what the data depend on: which vocabularies are ready is not part of it."""
    largest = replace(settings, vocab_sizes=(max(settings.vocab_sizes),), ready_sizes=())
    return digest([FORMAT, astuple(largest), tokens.SPLIT_PATTERN])[:8]


def newest(settings: Settings, root: Path) -> Path:
    """The folder for these settings that was built last.

    Raises:
        DataError: there is none.
    """
    found = sorted(root.glob(f"data-{settings_digest(settings)}-*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise DataError(f"no data for these constants in {root}: run `python prepare.py` first")
    return found[-1].parent


def outdated(root: Path) -> list[str]:
    """A line for each folder of another format, which nothing reads any more."""
    lines = []
    for path in sorted(root.glob("data-*/manifest.json")):
        version = json.loads(path.read_text()).get("version")
        if version != FORMAT:
            lines.append(f"{path.parent} has format {version}, this prepare.py writes and reads format {FORMAT}: it is not used, delete it")
    return lines


def prepare_data(paths: list[Path], root: Path, settings: Settings, thorough: bool = False) -> tuple[Path, Manifest]:
    """Builds the data folder, or checks the one that is there; returns it with its manifest.

    Args:
        thorough: hash every file, also where size and time of change are those of the manifest.
    Raises:
        DataError: unreadable or too little text, or a file that differs from its manifest.
    """
    _check(settings)
    source = path_source(paths, settings) if paths else embedded_source(settings)
    folder = root / f"data-{settings_digest(settings)}-{source.identity[:8]}"
    root.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        manifest = verify(folder, thorough) if folder.exists() else _build(source, folder, settings)
        missing = [size for size in settings.ready_sizes if str(size) not in manifest["vocabularies"]]
        return folder, _complete(folder, manifest, source.read()[2], missing) if missing else manifest


def prepared(options: argparse.Namespace, settings: Settings) -> tuple[Path, Manifest]:
    """What the command line asks for; `options` are those of prepare.py."""
    if options.folder:
        folder: Path = options.folder.resolve()
        manifest = verify(folder, options.check)
    else:
        paths: list[Path] = options.paths
        if options.download is not None:
            paths = [*paths, *data_shards.fetch(options.download, options.out.absolute() / "climbmix", options.url)]
        folder, manifest = prepare_data(paths, options.out, settings, options.check)
    return folder, add_vocabulary(folder, options.vocabulary, settings) if options.vocabulary else manifest


def add_vocabulary(folder: Path, size: int, settings: Settings) -> Manifest:
    """Packs one more vocabulary of a folder, unless it is there; the new manifest.

    Raises:
        DataError: the folder cannot have it, or its text is not what it was.
    """
    with _alone(folder):
        manifest = verify(folder)
        if str(size) in manifest["vocabularies"]:
            return manifest
        if size not in settings.vocab_sizes:
            raise DataError(f"vocabulary {size} is none of VOCAB_SIZES: {', '.join(map(str, settings.vocab_sizes))}")
        paths = [Path(path) for path in manifest["paths"]]
        source = path_source(paths, settings) if paths else embedded_source(settings)
        if source.identity != manifest["source_identity"]:
            raise DataError(f"the text of {manifest['source']} has changed since {folder} was built: run `python prepare.py` again")
        return _complete(folder, manifest, source.read()[2], [size])


def verify(folder: Path, thorough: bool = False) -> Manifest:
    """The manifest of a folder whose files are all as they were written. A file that has its size and its time of change is believed.

    Raises:
        DataError: one differs, or the folder is of another format.
    """
    manifest: Manifest = json.loads((folder / "manifest.json").read_text())
    if manifest.get("version") != FORMAT:
        formats = f"format {manifest.get('version')}, this prepare.py writes format {FORMAT}"
        raise DataError(f"{folder} has {formats}: delete it and run `python prepare.py` again")
    files = [manifest["merges"], manifest["slices"]]
    files += [entry for entries in manifest["vocabularies"].values() for entry in entries.values()]
    for entry in files:
        path = folder / entry["file"]
        stat = path.stat() if path.is_file() else None
        same = stat is not None and (stat.st_size, stat.st_mtime_ns) == (entry["bytes"], entry["mtime_ns"])
        if (not same or thorough) and (stat is None or _sha256(path) != entry["sha256"]):
            raise DataError(f"{path} is not what was written; delete {folder} and run `python prepare.py` again")
    return manifest


def summary(manifest: Manifest) -> Iterator[str]:
    """What people should know about a folder, in lines."""
    length, scored = manifest["sequence_length"], manifest["scored"]
    for size, entry in sorted(manifest["vocabularies"].items(), key=lambda item: int(item[0])):
        rows, cropped = entry["train"]["rows"], entry["train"]["cropped"]
        lost = f"{100 * cropped / (cropped + rows * (length + 1)):.1f} % of the tokens cropped"
        yield f"vocabulary {size}: {rows} training rows of {length} ({lost}), {entry['val']['rows']} validation rows"
    said = f"validation: {scored['val_targets']} tokens at vocabulary {manifest['default_vocab']}, {scored['val_bytes']} bytes"
    yield f"{said}; fewer than EVAL_TOKENS = {scored['wanted']}: scored once, whole" if scored["val_whole"] else said


# ---- building


def _check(settings: Settings) -> None:
    sizes, least, most = settings.vocab_sizes, tokens.SMALLEST, tokens.LARGEST
    if not sizes or not all(least <= size <= most for size in sizes):
        raise DataError(f"VOCAB_SIZES {sizes} must lie in {least} … {most}")
    if not settings.ready_sizes or not {settings.default_vocab, *settings.ready_sizes} <= set(sizes):
        raise DataError(f"DEFAULT_VOCAB {settings.default_vocab} and READY_SIZES {settings.ready_sizes} must be among VOCAB_SIZES {sizes}")


def _build(source: Source, folder: Path, settings: Settings) -> Manifest:
    """The whole folder with its ready vocabularies, under its name when it is complete."""
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # left by a build that was killed
    building.mkdir()
    try:
        val, heldout, train = source.read()
        merges = tokens.learn_merges(limited(train(), settings.merge_bytes), max(settings.vocab_sizes))
        tokens.write_merges(building / "merges.json", merges)
        default = tokens.tokeniser(merges, settings.default_vocab)
        kept, targets = tokens.trim(val, default, settings.eval_tokens)
        slices = {"val": kept, "heldout": tokens.trim(heldout, default, settings.eval_tokens)[0]}
        (building / "slices.json").write_text(json.dumps(slices))
        scored = {
            "wanted": settings.eval_tokens, "val_targets": targets, "val_bytes": len("".join(kept).encode()), "val_whole": kept == val,
        }  # fmt: skip
        manifest: Manifest = {
            "version": FORMAT, "source": source.name, "paths": list(source.paths), "source_identity": source.identity,
            "masked": list(source.masked), "sequence_length": settings.sequence_length, "default_vocab": settings.default_vocab,
            "vocab_sizes": list(settings.vocab_sizes), "scored": scored, "merges": _entry(building, "merges.json"),
            "slices": _entry(building, "slices.json"), "train_sha256": "", "data_sha256": "", "vocabularies": {},
        }  # fmt: skip
        manifest = _complete(building, manifest, train, settings.ready_sizes)
        building.rename(folder)
        sync(folder.parent)
        return manifest
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _complete(folder: Path, manifest: Manifest, train: Documents, sizes: Iterable[int]) -> Manifest:
    """Packs vocabularies, and writes the manifest after each; the new one."""
    merges, slices = tokens.read_merges(folder / "merges.json"), json.loads((folder / "slices.json").read_text())
    for size in sizes:
        inside = folder / f"v{size}"
        shutil.rmtree(inside, ignore_errors=True)  # left by a process that was killed: the manifest does not know it
        inside.mkdir()
        entries, train_sha256 = _pack(inside, tokens.tokeniser(merges, size), train, slices, manifest["sequence_length"])
        if manifest["train_sha256"] not in ("", train_sha256):
            raise DataError(f"the text of {manifest['source']} has changed since {folder} was built: run `python prepare.py` again")
        data_sha256 = digest([FORMAT, manifest["sequence_length"], train_sha256, manifest["slices"]["sha256"], tokens.WAITING])
        vocabularies = {**manifest["vocabularies"], str(size): entries}
        manifest = {**manifest, "train_sha256": train_sha256, "data_sha256": data_sha256, "vocabularies": vocabularies}
        _write_manifest(folder, manifest)
    return manifest


def _pack(
    inside: Path, tokeniser: tokens.Tokeniser, train: Documents, slices: dict[str, list[str]], length: int
) -> tuple[dict[str, Any], str]:
    """Writes one vocabulary; its entries in the manifest, and the hash of the training text."""
    seen = hashlib.sha256()
    packing = tokens.write_train_rows(inside / "train.bin", tokeniser.stream(_hashed(train(), seen)), tokeniser.bos, length)
    if not packing.rows:
        raise DataError(f"too little training text: less than one row of {length + 1} tokens")
    facts: dict[str, dict[str, int]] = {"train": {"rows": packing.rows, "cropped": packing.cropped}, "token_bytes": {}}
    for name, documents in slices.items():
        rows = tokens.write_scored_rows(inside / f"{name}.bin", tokeniser.stream(documents), tokeniser.bos, length)
        facts[name] = {"rows": rows}
    (inside / "token_bytes.bin").write_bytes(tokeniser.token_bytes.tobytes())
    return {name: {**_entry(inside.parent, f"{inside.name}/{name}.bin"), **more} for name, more in facts.items()}, seen.hexdigest()


def _hashed(texts: Iterable[str], into: hashlib._Hash) -> Iterator[str]:
    for text in texts:
        encoded = text.encode()
        into.update(struct.pack(">Q", len(encoded)) + encoded)
        yield text


def _entry(folder: Path, name: str) -> dict[str, Any]:
    """What the manifest says of a file, which is on the disk from here on."""
    path = folder / name
    sync(path)
    stat = path.stat()
    return {"file": name, "sha256": _sha256(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    new = folder / ".manifest.json.new"
    new.write_text(json.dumps(manifest, indent=1))
    sync(new)
    new.rename(folder / "manifest.json")
    sync(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: a second one waits here and then finds the work done."""
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
