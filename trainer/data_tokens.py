"""Tokens and rows: merges, the tokenisers that follow from them, and how documents fill rows. A genome never sees this module.

Merges are learnt greedily, so those of a smaller vocabulary are the first of the largest's: one list makes every tokeniser.
"""

from __future__ import annotations

import base64
import bisect
import collections
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# GPT-4's split pattern with numbers cut after two digits, which suits small vocabularies (as in nanochat).
SPLIT_PATTERN = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
SMALLEST, LARGEST = 256, 32768  # vocabularies: bytes, and what an int16 holds, as which prepare.py moves tokens
WAITING = 1000  # pieces among which the best fit is looked for, as many as in nanochat


class Tokeniser:
    """Text to tokens; the last one is BOS.

    With 256 tokens each byte is its own token and BOS takes the place of byte 0xFF, which no UTF-8 text contains.
    """

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens  # raw bytes of each token; b"" for BOS and for places that a small text left unused
        self.bos = len(tokens) - 1
        # Raw bytes are counted: decoding a token that is part of a character would change it (autoresearch #384).
        self.token_bytes = np.array([len(token) for token in tokens], "<i4")
        self.encoding = None
        if len(tokens) > SMALLEST:
            import tiktoken

            ranks = {token: rank for rank, token in enumerate(tokens) if token}
            self.encoding = tiktoken.Encoding("evo", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> np.ndarray:
        """Tokens of a text without BOS; uint16."""
        if self.encoding is None:
            return np.frombuffer(text.encode(), np.uint8).astype("<u2")
        return np.array(self.encoding.encode_ordinary(text), "<u2")

    def stream(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Tokens of each document, in order, encoded on all cores that this process may use."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with ThreadPoolExecutor(cores) as pool:
            texts = iter(texts)
            while chunk := list(itertools.islice(texts, 1024)):
                yield from pool.map(self.encode, chunk)


def learn_merges(texts: Iterable[str], vocabulary: int) -> list[bytes]:
    """All tokens of a vocabulary but BOS, in the order in which they were learnt; fewer where a small text has no more pairs."""
    tokens = [bytes([i]) for i in range(SMALLEST)]
    if vocabulary > SMALLEST:
        import rustbpe

        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(iter(texts), vocabulary - 1, pattern=SPLIT_PATTERN)
        tokens = [bytes(token) for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])]
    return tokens


def tokeniser(merges: list[bytes], vocabulary: int) -> Tokeniser:
    """The one with that many tokens, BOS included."""
    return Tokeniser([*(merges + [b""] * vocabulary)[: vocabulary - 1], b""])


def write_merges(path: Path, merges: list[bytes]) -> None:
    path.write_text(json.dumps({"pattern": SPLIT_PATTERN, "tokens": [base64.b64encode(token).decode() for token in merges]}))


def read_merges(path: Path) -> list[bytes]:
    return [base64.b64decode(token) for token in json.loads(path.read_text())["tokens"]]


def trim(texts: list[str], tokeniser: Tokeniser, targets: int) -> tuple[list[str], int]:
    """The first documents that make `targets` targets, the last one cut to fit; all when there are fewer. And how many they make."""
    kept, left = list[str](), targets + 1  # the stream's first BOS is nobody's target
    for text in texts:
        left -= 1
        tokens = tokeniser.encode(text)
        if len(tokens) >= left:
            text = text.encode()[: int(tokeniser.token_bytes[tokens[:left]].sum())].decode(errors="ignore")
            while len(tokeniser.encode(text)) > left:  # a cut text may end in other, shorter tokens
                text = text[:-1]
            return ([*kept, text], targets - left + len(tokeniser.encode(text))) if text else (kept, targets - left - 1)
        kept.append(text)
        left -= len(tokens)
    return kept, targets - left


# ---- rows


@dataclass
class Packing:
    """What became of the training tokens."""

    rows: int = 0
    cropped: int = 0  # tokens that are in no row


class _Shelf:
    """Pieces by length, the oldest of a length first."""

    def __init__(self) -> None:
        self.count = 0
        self._pieces: dict[int, collections.deque[np.ndarray]] = {}
        self._lengths: list[int] = []  # sorted; those with a piece

    def put(self, piece: np.ndarray) -> None:
        length = len(piece)
        if not self._pieces.setdefault(length, collections.deque()):
            bisect.insort(self._lengths, length)
        self._pieces[length].append(piece)
        self.count += 1

    def longest_within(self, room: int) -> np.ndarray | None:
        place = bisect.bisect_right(self._lengths, room)
        return self._take(place - 1) if place else None

    def shortest(self) -> np.ndarray:
        return self._take(0)

    def _take(self, place: int) -> np.ndarray:
        length = self._lengths[place]
        piece = self._pieces[length].popleft()
        if not self._pieces[length]:
            del self._lengths[place]
        self.count -= 1
        return piece


def pieces(documents: Iterable[np.ndarray], bos: int, width: int) -> Iterator[np.ndarray]:
    """Documents with BOS in front. What is longer than a row goes on in a further piece, which starts with BOS too."""
    first = np.array([bos], "<u2")
    for tokens in documents:
        for begin in range(0, len(tokens), width - 1):
            yield np.concatenate([first, tokens[begin : begin + width - 1]])


def packed(waiting: Iterator[np.ndarray], width: int, packing: Packing) -> Iterator[np.ndarray]:
    """Full rows (width,) that start with BOS, best fit as in nanochat's loader: the longest piece that fits comes next; where none does,
    the shortest is cropped."""
    shelf, row, room, more = _Shelf(), list[np.ndarray](), width, True
    while True:
        while more and shelf.count < WAITING:
            piece = next(waiting, None)
            more = piece is not None
            if piece is not None:
                shelf.put(piece)
        if not shelf.count:
            break
        piece = shelf.longest_within(room)
        if piece is None:
            whole = shelf.shortest()
            piece = whole[:room]
            packing.cropped += len(whole) - room
        row.append(piece)
        room -= len(piece)
        if not room:
            packing.rows += 1
            yield np.concatenate(row)
            row, room = [], width
    packing.cropped += width - room  # of a row that was begun


def write_train_rows(path: Path, documents: Iterable[np.ndarray], bos: int, length: int) -> Packing:
    """Packed rows of T + 1 tokens, little-endian uint16."""
    packing = Packing()
    rows = packed(pieces(documents, bos, length + 1), length + 1, packing)
    with path.open("wb") as file:
        while chunk := list(itertools.islice(rows, 512)):
            file.write(np.stack(chunk).tobytes())
    return packing


def write_scored_rows(path: Path, documents: Iterable[np.ndarray], bos: int, length: int) -> int:
    """Rows of T + 1 tokens whose targets are the stream `d₁ BOS d₂ BOS d₃ …`, each token once; returns their number.

    Every row starts with BOS, as in training; the last is padded with BOS, whose 0 bytes exclude it.
    """
    first = np.array([bos], "<u2")
    stream = np.concatenate([part for tokens in documents for part in (first, tokens)])[1:]
    rows = np.full((max(1, -(-len(stream) // length)), length + 1), bos, "<u2")
    targets = np.full(len(rows) * length, bos, "<u2")
    targets[: len(stream)] = stream
    rows[:, 1:] = targets.reshape(-1, length)
    path.write_bytes(rows.tobytes())
    return len(rows)
