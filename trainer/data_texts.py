"""Where documents come from: installed packages, or files of yours. Part of the preparation: a genome never sees this module.

The default text is what every machine has: sources and documentation of installed Python packages that a training process never
imports, so that a sandbox can hide them. It suits small models.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Packages whose text is used when there is no --from, in order of preference; the last training packages move when a slice is too small.
# A training process imports none of them. Never add what torch needs: numpy, sympy, networkx, jinja2, filelock, mpmath, setuptools, …
TRAIN_PACKAGES = ("test", "ray", "openai", "sqlalchemy", "pip", "pyarrow", "libcst", "pydantic", "rich", "alembic", "google")
VAL_PACKAGES = ("idlelib", "tkinter", "turtledemo", "pydoc_data")
HELDOUT_PACKAGES = ("optuna", "optuna_dashboard", "hypothesis")

LONGEST_BLANK = (
    500_000  # characters of white space in a row: documents with more are cut, since the tokeniser's stack ends at twice as many
)
HELD_BACK = 0.1  # of the text, at most: files that hold more are not given up for validation as a whole

Documents = Callable[[], Iterator[str]]  # may be read again and again
Slices = tuple[list[str], list[str], Documents]  # validation, held-out, and training documents


class DataError(Exception):
    """The data cannot be built or read; the message is one line that says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """The constants of prepare.py that the data depend on; what each means is said there."""

    sequence_length: int
    eval_tokens: int
    vocab_sizes: tuple[int, ...]
    ready_sizes: tuple[int, ...]
    default_vocab: int
    train_bytes: int
    merge_bytes: int
    slice_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Source:
    """Text, and what is known of it without reading it."""

    name: str
    paths: tuple[str, ...]  # absolute; none for the installed packages
    identity: str  # changes when the text may have changed
    masked: tuple[str, ...]  # what a sandbox must hide
    read: Callable[[], Slices]


def digest(value: object) -> str:
    """Of anything whose repr says all."""
    return hashlib.sha256(repr(value).encode(errors="surrogatepass")).hexdigest()


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def limited(texts: Iterable[str], limit: int) -> Iterator[str]:
    """Documents until `limit` bytes are reached."""
    for text in texts:
        if limit <= 0:
            return
        limit -= len(text.encode())
        yield text


# ---- installed packages

Files = dict[Path, list[tuple[str, int]]]  # package folder -> (relative path, bytes)


def embedded_source(settings: Settings) -> Source:
    """Text of installed packages. Whole packages move from train to a slice that is too small, the last ones first."""
    roots = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")]
    packages = {"val": VAL_PACKAGES, "heldout": HELDOUT_PACKAGES, "train": TRAIN_PACKAGES}
    parts: dict[str, Files] = {}
    for part, names in packages.items():
        folders = (next((root / name for root in roots if (root / name).is_dir()), None) for name in names)
        parts[part] = {folder: files for folder in folders if folder and (files := _text_files(folder))}

    def size(part: str) -> int:
        return sum(n for files in parts[part].values() for _, n in files)

    if sum(map(size, parts)) < settings.total_bytes:
        raise DataError(f"less than {settings.total_bytes / 1e6:g} MB of text in the installed packages; give some with --from PATH")
    for part in ("val", "heldout"):
        while size(part) < settings.slice_bytes and len(parts["train"]) > 1:
            folder, files = parts["train"].popitem()
            parts[part][folder] = files
    listing = [(part, str(folder), files) for part, folders in parts.items() for folder, files in folders.items()]
    masked = tuple(sorted(folder for _, folder, _ in listing))
    return Source("embedded", (), digest(listing), masked, lambda: _read_packages(parts, settings.train_bytes))


def _text_files(folder: Path) -> list[tuple[str, int]]:
    """(relative path, bytes) of the source and documentation files of a package, 1 to 200 KB each, sorted."""
    paths = (os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)
    sizes = ((path, os.path.getsize(path)) for path in paths if path.endswith((".py", ".rst", ".md", ".txt")))
    return sorted((os.path.relpath(path, folder), size) for path, size in sizes if 1_000 <= size <= 200_000)


def _read_packages(parts: dict[str, Files], train_bytes: int) -> Slices:
    seen: set[bytes] = set()  # a text is used once: validation text never occurs in the training text

    def read(part: str, limit: float = math.inf) -> list[str]:
        documents = {}
        for folder, files in parts[part].items():
            for path, _ in files:
                content = (folder / path).read_bytes()
                key = hashlib.sha256(content).digest()
                with contextlib.suppress(UnicodeDecodeError):  # test data in other encodings
                    if key not in seen:
                        documents[key] = content.decode()
                seen.add(key)
        total = itertools.accumulate((len(documents[key].encode()) for key in sorted(documents)), initial=0)
        return [documents[key] for key, before in zip(sorted(documents), total, strict=False) if before < limit]

    val, heldout, train = read("val"), read("heldout"), read("train", train_bytes)
    return val, heldout, lambda: iter(train)


# ---- files


def path_source(paths: Iterable[Path], settings: Settings) -> Source:
    """Text of files. Validation: the last 2 % of the files, at least one. Of a single file, and where these hold more than a tenth of the
    text and are no Parquet shards: every 33rd document of all files."""
    files, paths = [], tuple(paths)
    for path in paths:
        if not path.exists():
            raise DataError(f"--from {path}: no such file or folder")
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        chosen = [p.resolve() for p in inside if _kind(p)]
        if not chosen and (path / "manifest.json").is_file():
            raise DataError(f"--from {path}: a folder of prepared data; name the texts that it was made of, and it is found again")
        if not chosen:
            raise DataError(f"--from {path}: no file ends in {', '.join(READERS)}")
        files += chosen
    rule = ["every 33rd"] if len(files) > 1 and not _held_back(files) else []
    identity = digest([(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files] + rule)
    absolute = tuple(str(path.resolve()) for path in paths)
    return Source(" ".join(map(str, paths)), absolute, identity, absolute, lambda: _read_files(files, settings))


def _held_back(files: list[Path]) -> int:
    """How many files, the last ones, are for validation; 0: every 33rd document is."""
    count, sizes = len(files) // 50 + 1, [path.stat().st_size for path in files]
    shards = all(_kind(path) == ".parquet" for path in files)
    return count if len(files) > 1 and (shards or sum(sizes[-count:]) <= HELD_BACK * sum(sizes)) else 0


def _read_files(files: list[Path], settings: Settings) -> Slices:
    held, cut, most = _held_back(files), len(files), 16 * settings.eval_tokens
    slices = [] if held else list(_spread(files, most, settings.train_bytes))
    if len(slices) < 3 and len(files) > 1:  # or too little text to spread
        cut = len(files) - max(held, 1) + 1
        while len(slices) < 3 and cut > 1:
            cut -= 1
            slices = list(limited(itertools.chain.from_iterable(map(_documents, files[cut:])), most))
    if len(slices) < 3:
        raise DataError(_too_few(files, len(slices)))
    known = {digest(text) for text in slices}

    def train() -> Iterator[str]:
        texts = itertools.chain.from_iterable(map(_documents, files[:cut]))
        return limited((text for text in texts if digest(text) not in known), settings.train_bytes)

    return [text for i, text in enumerate(slices) if i % 3 != 2], slices[2::3], train


def _too_few(files: list[Path], held_back: int) -> str:
    found, needed = (held_back, 3) if len(files) > 1 else (sum(1 for _ in _documents(files[0])), 3 * 33)
    where = f"in the last of {len(files)} files" if len(files) > 1 else "in a single file"
    return (
        f"{files[-1]}: too few documents for a validation text: {found} found, {needed} needed {where}; a document is a row of Parquet or "
        "JSONL, or 4 KB of a text file: give more text"
    )


def _spread(files: list[Path], most: int, used: int) -> Iterator[str]:
    """At most `most` bytes of a single file's every 33rd document; of several files' every 33rd, or fewer where that is enough to be spread
    over all that is used for training, `used` bytes from the first file on."""
    documents, stride = itertools.chain.from_iterable(map(_documents, files)), 33
    if len(files) > 1:
        stride = max(stride, math.ceil(min(used, sum(path.stat().st_size for path in files)) / most))
        documents = limited(documents, used + most)
    return limited(itertools.islice(documents, stride - 1, None, stride), most)


def _kind(path: Path) -> str:
    """The ending by which the file is read, or ""."""
    return next((ending for ending in READERS if path.name.endswith(ending)), "")


def _documents(path: Path) -> Iterator[str]:
    kind = _kind(path)
    try:
        for text in READERS[kind](path):
            if text:
                yield from _cut(text.encode("utf-8", "replace").decode())  # JSON can spell halves of characters, which no file can hold
    except (OSError, EOFError, ValueError, KeyError) as error:  # unreadable, cut short, not UTF-8, JSON or Parquet, no column or key "text"
        raise DataError(f"{path}: cannot be read as {kind[1:]} with a text in each row: {str(error).splitlines()[0]}") from error


def _cut(text: str) -> list[str]:
    """The document, in pieces where it has endless white space."""
    if len(text) <= LONGEST_BLANK or max(map(len, re.findall(r"\s+", text)), default=0) <= LONGEST_BLANK:
        return [text]
    return [text[start : start + LONGEST_BLANK] for start in range(0, len(text), LONGEST_BLANK)]


def _read_parquet(path: Path) -> Iterator[str]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as table:
        if "text" not in table.schema_arrow.names:
            raise ValueError("no column `text`")
        kind = str(table.schema_arrow.field("text").type)
        if kind not in ("string", "large_string", "string_view"):
            raise ValueError(f"its column `text` holds {kind}, not strings")
        for batch in table.iter_batches(columns=["text"]):
            yield from batch.column(0).to_pylist()


def _read_jsonl(path: Path) -> Iterator[str]:
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line) if line.strip() else {"text": ""}
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise ValueError(f'line {number} is not {{"text": …}}')
            yield row["text"]


def _read_text(path: Path) -> Iterator[str]:
    """Pieces of about 4 KB that end with a line, so that one long file makes many documents."""
    piece = ""
    with _opened(path) as lines:
        for line in lines:
            piece += line
            if len(piece) >= 4096:
                yield piece
                piece = ""
    yield piece


def _opened(path: Path) -> io.TextIOBase:
    """UTF-8 text, unpacked on the way; the ends of lines stay as they are."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    if path.suffix == ".zst":
        import pyarrow

        return io.TextIOWrapper(pyarrow.input_stream(str(path), compression="zstd"), encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".parquet": _read_parquet, ".jsonl": _read_jsonl, ".jsonl.gz": _read_jsonl, ".jsonl.zst": _read_jsonl,
    ".txt": _read_text, ".txt.gz": _read_text, ".md": _read_text,
}  # fmt: skip
