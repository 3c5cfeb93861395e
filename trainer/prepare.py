"""The constitution of the lab: constants, data, batches, the clock, and saving a model. The search never edits this file.

    python prepare.py                       builds the data folder once, checks it by hash afterwards
    python prepare.py --from PATH ...       the same from your text: Parquet (column `text`), JSONL ({"text": …}), .txt, .md, or folders
    python prepare.py --json                prints {"data": folder, "manifest": …} as the last line

The default text is what every machine has: sources and documentation of installed Python packages that a training process never
imports, so that a sandbox can hide them. It suits small models. For GPUs use shards of karpathy/climbmix-400b-shuffle: download
shard_00000.parquet … into one folder (each is an independent sample; ten last a five-minute run) and say `--from FOLDER`: the last
shard becomes the validation text.

What a genome may use: the constants, `device`, `seed`, `warmup_batches`, `batches`, `progress`, `report`, `save`. Under the harness
(EVO_CHANNEL is set) the training rows arrive with the first real batch and the harness keeps the clock and the score; alone, this file
opens the data folder, keeps its own clock and prints a summary whose `val_bpb:` is only the program's own word.

Descends from karpathy/autoresearch and karpathy/nanochat (MIT).
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import fcntl
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import socket
import struct
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

MAX_SEQ_LEN = 2048  # tokens of context, and targets per row
TIME_BUDGET = 300  # seconds of training, first real batch to saved weights
EVAL_TOKENS = 40 * 524288  # targets of the validation text at DEFAULT_VOCAB, or all there is
VOCAB_SIZES = (8192,)  # vocabularies that are prepared, special token included; 256 means raw bytes
DEFAULT_VOCAB = 8192  # the one whose tokens EVAL_TOKENS counts
TRAIN_BYTES = 2_500_000_000  # most text that is packed for training
MERGE_BYTES = 200_000_000  # most text that the merges are learnt from
SLICE_BYTES = 500_000  # least embedded text for validation and for the held-out slice
TOTAL_BYTES = 2_000_000  # least embedded text overall

# Packages whose text is used when there is no --from, in order of preference; the last training packages move when a slice is too small.
# A training process imports none of them. Never add what torch needs: numpy, sympy, networkx, jinja2, filelock, mpmath, setuptools, …
TRAIN_PACKAGES = ("test", "ray", "openai", "sqlalchemy", "pip", "pyarrow", "libcst", "pydantic", "rich", "alembic", "google")
VAL_PACKAGES = ("idlelib", "tkinter", "turtledemo", "pydoc_data")
HELDOUT_PACKAGES = ("optuna", "optuna_dashboard", "hypothesis")
# GPT-4's split pattern with numbers cut after two digits, which suits small vocabularies (as in nanochat).
SPLIT_PATTERN = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
FORMAT = 1  # of the data folder
_LOADED_AT = time.monotonic()


class DataError(Exception):
    """The data cannot be built or read; the message is one line that says why and what to do."""


# ---- Text: where documents come from ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    name: str
    identity: str  # changes when the text may have changed
    masked: tuple[str, ...]  # what a sandbox must hide
    read: Callable[[], tuple[list[str], list[str], Callable[[], Iterator[str]]]]  # val, held-out, and training documents (re-readable)


def embedded_source() -> Source:
    """Text of installed packages. Whole packages move from train to a slice that is too small, the last ones first."""
    roots = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")]
    packages = {"val": VAL_PACKAGES, "heldout": HELDOUT_PACKAGES, "train": TRAIN_PACKAGES}
    parts: dict[str, dict[Path, list[tuple[str, int]]]] = {}
    for part, names in packages.items():
        folders = (next((root / name for root in roots if (root / name).is_dir()), None) for name in names)
        parts[part] = {folder: files for folder in folders if folder and (files := _text_files(folder))}

    def size(part: str) -> int:
        return sum(n for files in parts[part].values() for _, n in files)

    if sum(map(size, parts)) < TOTAL_BYTES:
        raise DataError(f"less than {TOTAL_BYTES / 1e6:g} MB of text in the installed packages; give some with --from PATH")
    for part in ("val", "heldout"):
        while size(part) < SLICE_BYTES and len(parts["train"]) > 1:
            folder, files = parts["train"].popitem()
            parts[part][folder] = files
    listing = [(part, str(folder), files) for part, folders in parts.items() for folder, files in folders.items()]
    masked = tuple(sorted(folder for _, folder, _ in listing))
    return Source("embedded", _digest(listing), masked, lambda: _read_packages(parts))


def _text_files(folder: Path) -> list[tuple[str, int]]:
    """(relative path, bytes) of the source and documentation files of a package, 1 to 200 KB each, sorted."""
    paths = (os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)
    sizes = ((path, os.path.getsize(path)) for path in paths if path.endswith((".py", ".rst", ".md", ".txt")))
    return sorted((os.path.relpath(path, folder), size) for path, size in sizes if 1_000 <= size <= 200_000)


def _read_packages(parts: dict[str, dict[Path, list[tuple[str, int]]]]) -> tuple[list[str], list[str], Callable[[], Iterator[str]]]:
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

    val, heldout, train = read("val"), read("heldout"), read("train", TRAIN_BYTES)
    return val, heldout, lambda: iter(train)


def path_source(paths: list[Path]) -> Source:
    """Text of files. Validation: the last 2 % of the files, at least one; of a single file, every 33rd document."""
    files = []
    for path in paths:
        if not path.exists():
            raise DataError(f"--from {path}: no such file or folder")
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        chosen = [p.resolve() for p in inside if p.suffix in _READERS]
        if not chosen:
            raise DataError(f"--from {path}: no file ends in {', '.join(_READERS)}")
        files += chosen
    identity = _digest([(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files])
    masked = tuple(str(path.resolve()) for path in paths)
    return Source(" ".join(map(str, paths)), identity, masked, lambda: _read_files(files))


def _read_files(files: list[Path]) -> tuple[list[str], list[str], Callable[[], Iterator[str]]]:
    cut, slices = len(files) - len(files) // 50, []
    while len(slices) < 3 and cut > 1:
        cut -= 1
        slices = list(_limited(itertools.chain.from_iterable(map(_documents, files[cut:])), 16 * EVAL_TOKENS))
    if len(files) == 1:
        slices = list(_limited(itertools.islice(_documents(files[0]), 32, None, 33), 16 * EVAL_TOKENS))
    if len(slices) < 3:
        raise DataError(f"{files[-1]}: too few documents for a validation text: 99 in a single file, or 3 in the last of several")
    known = {_digest(text) for text in slices}

    def train() -> Iterator[str]:
        texts = itertools.chain.from_iterable(map(_documents, files[:cut]))
        return _limited((text for text in texts if _digest(text) not in known), TRAIN_BYTES)

    heldout = slices[2::3]
    return [text for i, text in enumerate(slices) if i % 3 != 2], heldout, train


def _limited(texts: Iterable[str], limit: int) -> Iterator[str]:
    """Documents until `limit` bytes are reached."""
    for text in texts:
        if limit <= 0:
            return
        limit -= len(text.encode())
        yield text


def _documents(path: Path) -> Iterator[str]:
    try:
        yield from (text for text in _READERS[path.suffix](path) if text)
    except (OSError, ValueError, KeyError) as error:  # unreadable, not UTF-8, not JSON, not Parquet, no column or key "text"
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]} with a text in each row: {str(error).splitlines()[0]}") from error


def _read_parquet(path: Path) -> Iterator[str]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as table:
        if "text" not in table.schema_arrow.names:
            raise ValueError("no column `text`")
        for batch in table.iter_batches(columns=["text"]):
            yield from batch.column(0).to_pylist()


def _read_jsonl(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line) if line.strip() else {"text": ""}
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise ValueError(f'line {number} is not {{"text": …}}')
            yield row["text"]


def _read_text(path: Path) -> Iterator[str]:
    """Pieces of about 4 KB that end with a line, so that one long file makes many documents."""
    piece = ""
    with path.open(encoding="utf-8", newline="") as lines:
        for line in lines:
            piece += line
            if len(piece) >= 4096:
                yield piece
                piece = ""
    yield piece


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".parquet": _read_parquet, ".jsonl": _read_jsonl, ".txt": _read_text, ".md": _read_text,
}  # fmt: skip


# ---- Tokens ----------------------------------------------------------------------------------------------------------------------------


class Tokeniser:
    """Text to tokens; the last one is BOS.

    With 256 tokens each byte is its own token and BOS takes the place of byte 0xFF, which no UTF-8 text contains.
    """

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens  # raw bytes of each token; b"" for BOS and for places that a small text left unused
        self.bos = len(tokens) - 1
        self.token_bytes = np.array(
            [len(token) for token in tokens], "<i4"
        )  # raw, as decoding would change broken UTF-8 (autoresearch #384)
        self.encoding = None
        if len(tokens) > 256:
            import tiktoken

            ranks = {token: rank for rank, token in enumerate(tokens) if token}
            self.encoding = tiktoken.Encoding("evo", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> np.ndarray:
        """Tokens of a text without BOS; uint16."""
        if self.encoding is None:
            return np.frombuffer(text.encode(), np.uint8).astype("<u2")
        return np.array(self.encoding.encode_ordinary(text), "<u2")

    def stream(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """BOS and tokens of each document, encoded on all cores."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            texts = iter(texts)
            while chunk := list(itertools.islice(texts, 1024)):
                for tokens in pool.map(self.encode, chunk):
                    yield np.concatenate([np.array([self.bos], "<u2"), tokens])


def train_tokenisers(texts: Callable[[], Iterator[str]]) -> dict[int, Tokeniser]:
    """One per vocabulary. Merges are learnt greedily, so a smaller vocabulary's are the first of the largest's."""
    tokens = [bytes([i]) for i in range(256)]
    if max(VOCAB_SIZES) > 256:
        import rustbpe

        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(_limited(texts(), MERGE_BYTES), max(VOCAB_SIZES) - 1, pattern=SPLIT_PATTERN)
        tokens = [bytes(token) for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])]
    return {size: Tokeniser([*(tokens + [b""] * size)[: size - 1], b""]) for size in VOCAB_SIZES}


def trim(texts: list[str], tokeniser: Tokeniser, targets: int) -> list[str]:
    """The first documents that make `targets` targets, the last one cut to fit; all when there are fewer."""
    kept, left = [], targets + 1  # the stream's first BOS is nobody's target
    for text in texts:
        left -= 1
        tokens = tokeniser.encode(text)
        if len(tokens) >= left:
            text = text.encode()[: int(tokeniser.token_bytes[tokens[:left]].sum())].decode(errors="ignore")
            while len(tokeniser.encode(text)) > left:  # a cut text may end in other, shorter tokens
                text = text[:-1]
            return [*kept, text] if text else kept
        kept.append(text)
        left -= len(tokens)
    return kept


# ---- The data folder -------------------------------------------------------------------------------------------------------------------


def prepare_data(paths: list[Path], root: Path) -> tuple[Path, dict[str, Any]]:
    """Builds the data folder, or checks the one that is there; returns it with its manifest.

    Raises:
        DataError: unreadable or too little text, or a file that differs from its manifest.
    """
    if DEFAULT_VOCAB not in VOCAB_SIZES or not all(256 <= size <= 65536 for size in VOCAB_SIZES):
        raise DataError(f"VOCAB_SIZES {VOCAB_SIZES} must lie in 256 … 65536 and hold DEFAULT_VOCAB {DEFAULT_VOCAB}")
    source = path_source(paths) if paths else embedded_source()
    folder = root / f"data-{_constants_digest()}-{source.identity[:8]}"
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits and then finds the work done
        if folder.exists():
            return folder, verify(folder)
        building = root / f".{folder.name}.building"
        shutil.rmtree(building, ignore_errors=True)  # left by a build that was killed
        try:
            manifest = build(source, building)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder, manifest


def build(source: Source, folder: Path) -> dict[str, Any]:
    """Writes everything into `folder`, the manifest last."""
    val, heldout, train = source.read()
    tokenisers = train_tokenisers(train)
    default = tokenisers[DEFAULT_VOCAB]
    slices = {"val": trim(val, default, EVAL_TOKENS), "heldout": trim(heldout, default, EVAL_TOKENS)}
    texts = hashlib.sha256()
    for text in itertools.chain(train(), ["\0val"], slices["val"], ["\0heldout"], slices["heldout"]):
        texts.update(struct.pack(">Q", len(text)) + text.encode())
    vocabularies = {}
    for size, tokeniser in tokenisers.items():
        inside = folder / f"v{size}"
        inside.mkdir(parents=True)
        saved = {"bos": tokeniser.bos, "pattern": SPLIT_PATTERN, "tokens": [base64.b64encode(t).decode() for t in tokeniser.tokens]}
        (inside / "tokenizer.json").write_text(json.dumps(saved))
        (inside / "token_bytes.bin").write_bytes(tokeniser.token_bytes.tobytes())
        rows = {"train": write_train_rows(inside / "train.bin", tokeniser.stream(train()))}
        for name, documents in slices.items():
            rows[name] = write_scored_rows(inside / f"{name}.bin", tokeniser.stream(documents), tokeniser.bos)
        entries = {n: {"file": f"v{size}/{n}.bin", "rows": count, "sha256": _sha256(inside / f"{n}.bin")} for n, count in rows.items()}
        entries["token_bytes"] = {"file": f"v{size}/token_bytes.bin", "sha256": _sha256(inside / "token_bytes.bin")}
        vocabularies[str(size)] = {"tokenizer_sha256": _sha256(inside / "tokenizer.json"), **entries}
    manifest = {
        "version": FORMAT, "source": source.name, "sequence_length": MAX_SEQ_LEN, "default_vocab": DEFAULT_VOCAB,
        "data_sha256": texts.hexdigest(), "masked": list(source.masked), "vocabularies": vocabularies,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return manifest


def write_train_rows(path: Path, stream: Iterator[np.ndarray]) -> int:
    """Rows of T + 1 tokens that do not overlap; what does not fill the last row is dropped. Returns their number."""
    width, rows, rest = MAX_SEQ_LEN + 1, 0, np.empty(0, "<u2")
    with path.open("wb") as file:
        while chunk := list(itertools.islice(stream, 256)):
            tokens = np.concatenate([rest, *chunk])
            whole = len(tokens) // width
            file.write(tokens[: whole * width].tobytes())
            rows, rest = rows + whole, tokens[whole * width :]
    if not rows:
        raise DataError(f"too little training text: less than one row of {width} tokens")
    return rows


def write_scored_rows(path: Path, stream: Iterator[np.ndarray], bos: int) -> int:
    """Rows that overlap by one token, so that every token but the first is a target exactly once; the last is padded with BOS."""
    tokens = np.concatenate(list(stream))
    rows = max(1, -(-(len(tokens) - 1) // MAX_SEQ_LEN))
    padded = np.full(rows * MAX_SEQ_LEN + 1, bos, "<u2")
    padded[: len(tokens)] = tokens
    path.write_bytes(np.lib.stride_tricks.sliding_window_view(padded, MAX_SEQ_LEN + 1)[::MAX_SEQ_LEN].tobytes())
    return rows


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a folder whose files are all as they were written."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    for size, entries in manifest["vocabularies"].items():
        expected = {f"v{size}/tokenizer.json": entries["tokenizer_sha256"]}
        expected |= {entry["file"]: entry["sha256"] for entry in entries.values() if isinstance(entry, dict)}
        for name, digest in expected.items():
            if not (folder / name).is_file() or _sha256(folder / name) != digest:
                raise DataError(f"{folder / name} is not what was written; delete {folder} and run `python prepare.py` again")
    return manifest


def data_root() -> Path:
    return Path(os.environ.get("EVO_DATA_DIR") or Path.home() / ".cache" / "evo")


def _constants_digest() -> str:
    return _digest([FORMAT, MAX_SEQ_LEN, EVAL_TOKENS, VOCAB_SIZES, DEFAULT_VOCAB, TRAIN_BYTES, MERGE_BYTES, SPLIT_PATTERN])[:8]


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode(errors="surrogatepass")).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- What a genome may use -------------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """The one training run of this process."""

    asked: bool = False  # batches() was called
    saved: bool = False
    vocab_size: int = 0
    budget: float = TIME_BUDGET
    started: float | None = None  # monotonic seconds at the first real batch
    channel: _Channel | None = None
    batches: int = 0
    tokens: int = 0
    reports: int = 0
    reporting: bool = False  # report() was called, in the rehearsal at the latest: steps are reports, else batches
    newest: _Point | None = None
    announced: int = 0  # last step that was sent or printed
    announced_at: float = 0.0
    loss: float | None = None  # newest one that was read
    data: Path = field(default_factory=Path)


@dataclass
class _Point:
    step: int
    tokens: int
    loss: torch.Tensor | float | None
    ready: Any = None  # CUDA event after which the copy of the loss on the host is whole


_run = _Run()


def device() -> torch.device:
    """EVO_DEVICE, or the best there is."""
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(os.environ.get("EVO_DEVICE") or best)


def seed() -> int:
    """The harness owns it."""
    return int(os.environ.get("EVO_SEED") or 42)


def progress() -> float:
    """Share of the budget that is spent, 0 to 1; 0 before the first real batch."""
    return 0.0 if _run.started is None else min(1.0, (time.monotonic() - _run.started) / _run.budget)


def warmup_batches(batch_size: int, vocab_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless pairs of random tokens, shaped and placed like the real ones; touches no global random state."""
    _check_sizes(batch_size, vocab_size)
    rng = np.random.default_rng(seed())
    blocks = (torch.from_numpy(rng.integers(0, vocab_size, (batch_size, MAX_SEQ_LEN + 1))) for _ in itertools.count())
    return (_pair(block.to(device())) for block in blocks)


def batches(batch_size: int, vocab_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs (x, y) of real text, each (batch_size, MAX_SEQ_LEN) int64, until the budget is spent; the clock starts with the first."""
    _check_sizes(batch_size, vocab_size)
    if _run.asked:
        raise RuntimeError("batches() may be called once: a run has one budget")
    _run.asked, _run.vocab_size = True, vocab_size
    return _real_batches(batch_size)


def report(loss: torch.Tensor | float | None = None) -> float | None:
    """Marks the end of an optimiser step. Optional; without it each batch counts as a step.

    Returns the newest loss that has been read, some steps old, or None: reading the current one would stall the device.
    """
    if not _run.reporting:
        _run.reporting, _run.newest, _run.announced = True, None, 0
    if _run.started is None:  # rehearsing
        return None
    _run.reports += 1
    previous, _run.newest = _run.newest, _point(_run.reports, loss)
    _announce(previous)
    return _run.loss


def save(model: torch.nn.Module) -> None:
    """Hands the trained model over and ends the run; the clock stops when its last byte has arrived."""
    if _run.started is None or _run.saved:
        raise RuntimeError("save() takes one model, after the first batch of batches()")
    _run.saved = True
    _announce(_run.newest, last=True)
    model = getattr(model, "_orig_mod", model)  # a compiled module wraps the one that has the names
    content = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, content)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": _run.reports if _run.reporting else _run.batches,
        "tokens": _run.tokens,
    }
    if _run.channel:
        header = {"op": "weights", "bytes": content.getbuffer().nbytes, **facts, "peak_memory_gib": _peak_memory_gib()}
        _run.channel.send(header, content.getbuffer())
        _run.channel.receive("done")
    else:
        trained = time.monotonic() - _run.started
        Path("model.pt").write_bytes(content.getbuffer())
        _print_summary(model, trained, facts)


def _real_batches(batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    place = device()
    pinned = [torch.empty((batch_size, MAX_SEQ_LEN + 1), dtype=torch.int64, pin_memory=True) for _ in range(3 * (place.type == "cuda"))]
    new_event = {"cuda": torch.cuda.Event, "mps": torch.mps.event.Event}.get(place.type)
    in_flight: collections.deque[Any] = collections.deque()  # an event behind the work on each batch that may still run
    rows = _start(batch_size)
    for chosen in row_order(len(rows), batch_size, seed()):
        block = torch.from_numpy(rows[chosen].astype(np.int64))  # (B, T + 1)
        if pinned:  # one buffer per batch in flight, and one to fill while two are
            block = pinned[_run.batches % len(pinned)].copy_(block)
        if new_event and _run.batches:
            in_flight.append(new_event())
            in_flight[-1].record()
            if len(in_flight) == 2:  # so at most two steps are in flight, and the clock below is not far ahead of the device
                in_flight.popleft().synchronize()
        if not _run.reporting and _run.batches:
            previous, _run.newest = _run.newest, _point(_run.batches, None)
            _announce(previous)
        if time.monotonic() - _run.started >= _run.budget:
            break
        _run.batches += 1
        _run.tokens += batch_size * MAX_SEQ_LEN
        yield _pair(block.to(place, non_blocking=bool(pinned)))
    _announce(_run.newest, last=True)


def row_order(rows: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Indices of each batch's rows: a permutation by seed, another one in each epoch."""
    order = np.empty(0, np.int64)
    for epoch in itertools.count():
        order = np.concatenate([order, np.random.default_rng((seed, epoch)).permutation(rows)])
        while len(order) >= batch_size:
            yield order[:batch_size]
            order = order[batch_size:]


def _start(batch_size: int) -> np.ndarray:
    """The training rows, (N, T + 1) uint16, memory-mapped; from here on the clock runs."""
    if "EVO_CHANNEL" in os.environ:
        _run.channel = _Channel(int(os.environ["EVO_CHANNEL"]))
        _run.channel.send({"op": "start", "batch_size": batch_size, "vocab_size": _run.vocab_size})
        answer = _run.channel.receive("go")
        _run.budget, shape = float(answer["budget_seconds"]), (answer["rows"], answer["row_tokens"])
        file: Any = os.fdopen(_run.channel.descriptors.pop(), "rb")
    else:
        _run.data, manifest = _newest_data()
        entry = manifest["vocabularies"][str(_run.vocab_size)]["train"]
        file, shape = _run.data / entry["file"], (entry["rows"], MAX_SEQ_LEN + 1)
    _run.started = _run.announced_at = time.monotonic()
    if shape[1] != MAX_SEQ_LEN + 1:
        raise RuntimeError(f"the harness offers rows of {shape[1]} tokens, this prepare.py wants {MAX_SEQ_LEN + 1}")
    return np.memmap(file, "<u2", mode="r", shape=shape)


def _check_sizes(batch_size: int, vocab_size: int) -> None:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive int, got {batch_size!r}")
    if vocab_size not in VOCAB_SIZES:
        raise ValueError(f"vocab_size {vocab_size!r} is not prepared; prepared are {', '.join(map(str, VOCAB_SIZES))}")


def _pair(block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return block[:, :-1].contiguous(), block[:, 1:].contiguous()


def _point(step: int, loss: torch.Tensor | float | None) -> _Point:
    """Keeps a loss without waiting for it."""
    if not isinstance(loss, torch.Tensor) or loss.device.type != "cuda":
        return _Point(step, _run.tokens, loss.detach().clone() if isinstance(loss, torch.Tensor) else loss)
    host, copied = loss.detach().to("cpu", non_blocking=True), torch.cuda.Event()
    copied.record()
    return _Point(step, _run.tokens, host, copied)


def _announce(point: _Point | None, last: bool = False) -> None:
    """Sends a step, at most five a second (alone: prints it, more rarely); the last always, waiting for its loss."""
    now, interval = time.monotonic(), 0.2 if _run.channel else min(1.0, _run.budget / 20)
    if point is None or point.step <= _run.announced or (not last and now - _run.announced_at < interval):
        return
    if point.ready is not None:
        if not last and not point.ready.query():
            return
        point.ready.synchronize()
    _run.announced, _run.announced_at = point.step, now
    _run.loss = None if point.loss is None else float(point.loss)
    if _run.channel:
        finite = _run.loss if _run.loss is not None and math.isfinite(_run.loss) else None  # JSON has no NaN
        _run.channel.send({"op": "step", "step": point.step, "tokens": point.tokens, "loss": finite})
    else:
        print(f"step {point.step:5d}  {100 * progress():5.1f} %  loss {_run.loss}", flush=True)


def _peak_memory_gib() -> float:
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, KiB on Linux


class _Channel:
    """Messages to and from the harness: a 4-byte big-endian length and JSON, then raw bytes where the message says so."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.descriptors: list[int] = []  # received and not yet used

    def send(self, message: dict[str, Any], payload: bytes | memoryview = b"") -> None:
        text = json.dumps(message).encode()
        self.socket.sendall(struct.pack(">I", len(text)) + text)
        self.socket.sendall(payload)

    def receive(self, op: str) -> dict[str, Any]:
        """The next message, which must be `op`; a refusal is raised with its words."""
        message: dict[str, Any] = json.loads(self._exactly(struct.unpack(">I", self._exactly(4))[0]))
        if message.get("op") != op:
            raise RuntimeError(f"the harness answers: {message.get('message', message)}")
        return message

    def _exactly(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            part, descriptors, _, _ = socket.recv_fds(self.socket, count - len(content), 1)
            self.descriptors += descriptors
            if not part:
                raise ConnectionError("the harness closed the channel")
            content += part
        return content


# ---- Alone, without the harness --------------------------------------------------------------------------------------------------------


def _newest_data() -> tuple[Path, dict[str, Any]]:
    found = sorted(data_root().glob(f"data-{_constants_digest()}-*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SystemExit(f"no data for these constants in {data_root()}: run `python {Path(__file__).name}` first")
    return found[-1].parent, json.loads(found[-1].read_text())


@torch.no_grad()
def evaluate(model: torch.nn.Module, folder: Path, vocab_size: int) -> float:
    """Bits per byte on the validation text: the nats of all tokens that stand for bytes, over those bytes."""
    entry = json.loads((folder / "manifest.json").read_text())["vocabularies"][str(vocab_size)]
    rows = np.fromfile(folder / entry["val"]["file"], "<u2").reshape(-1, MAX_SEQ_LEN + 1)
    token_bytes = torch.from_numpy(np.fromfile(folder / entry["token_bytes"]["file"], "<i4")).to(device())
    nats, total = 0.0, 0
    chunk = max(1, (2**27 if device().type == "cuda" else 2**22) // (MAX_SEQ_LEN * vocab_size))  # 512 or 16 MiB of float32 logits
    for start in range(0, len(rows), chunk):
        x, y = _pair(torch.from_numpy(rows[start : start + chunk].astype(np.int64)).to(device()))
        losses = F.cross_entropy(model(x).float().flatten(0, 1), y.flatten(), reduction="none")
        sizes = token_bytes[y.flatten()]
        nats += float(losses[sizes > 0].cpu().double().sum())
        total += int(sizes.sum())
    return nats / (math.log(2) * total)


def _print_summary(model: torch.nn.Module, trained: float, facts: dict[str, int]) -> None:
    """Upstream's block of `name: value` lines."""
    lines = {
        "val_bpb": f"{evaluate(model.eval(), _run.data, _run.vocab_size):.6f}",
        "training_seconds": f"{trained:.1f}",
        "total_seconds": f"{time.monotonic() - _LOADED_AT:.1f}",
        "peak_vram_mb": f"{1024 * _peak_memory_gib():.1f}",
        "total_tokens_M": f"{facts['tokens'] / 1e6:.1f}",
        "num_steps": str(facts["steps"]),
        "num_params_M": f"{facts['parameters'] / 1e6:.1f}",
    }
    print("---\n(measured by the program itself; `python -m evo.evaluate` gives a number to trust)")
    print("\n".join(f"{name + ':':17s} {value}" for name, value in lines.items()))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Builds the data folder once and checks it afterwards.")
    parser.add_argument("--from", dest="paths", type=Path, nargs="+", default=[], metavar="PATH", help="your text instead of the embedded")
    parser.add_argument("--out", type=Path, default=data_root(), metavar="DIR", help="where data folders live (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print folder and manifest as the last line")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        folder, manifest = prepare_data(options.paths, options.out)
    except (DataError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    for size, entry in manifest["vocabularies"].items():
        print(f"vocabulary {size}: {entry['train']['rows']} training rows of {MAX_SEQ_LEN}, {entry['val']['rows']} validation rows")
    print(f"data: {folder} ({time.monotonic() - started:.1f} s)")
    if options.json:
        print(json.dumps({"data": str(folder.resolve()), "manifest": manifest}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
