"""What the judge is asked to score, and the sizes that follow from it: slot, judge and forwarder must agree on them."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

CHUNK_BYTES = {"cpu": 16 << 20}  # logits of one chunk in float32: what a core's cache digests best
CHUNK_BYTES_GPU = 896 << 20  # enough to keep a GPU busy: both places, with their spare, take less than 2 GiB of it
PLACES = 2  # chunks in the shared memory: the forwarder works on one while the judge reads the other


@dataclass(frozen=True)
class Task:
    """What to score. Files are given with their hashes, which are checked, since a program may have had a way to them."""

    rows_file: str  # (rows, length + 1) little-endian uint16
    rows_sha256: str
    rows: int
    length: int  # T
    bytes_file: str  # (vocab,) little-endian int32
    bytes_sha256: str
    vocab: int
    device: str
    seconds: float  # limit of one forwarder once it is asked, for loading and for its share of the rows
    first_seconds: float = 1e9  # limit from the word to load to the first logits, beyond a usual chunk's time; JSON has no infinity

    @property
    def chunk_rows(self) -> int:
        allowed = CHUNK_BYTES.get(self.device, CHUNK_BYTES_GPU)
        return max(1, min(self.rows, allowed // (self.length * self.vocab * 4)))

    @property
    def place_bytes(self) -> int:
        """Memory for one chunk, in whole pages: float32 logits with an eighth to spare for a padded vocabulary, or tokens in int64."""
        needed = max(self.chunk_rows * self.length * self.vocab * 4 * 9 // 8, self.chunk_rows * self.length * 8)
        return -(-needed // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def place_floats(self) -> int:
        """The most logits that a chunk can have."""
        return self.place_bytes // 4

    @property
    def memory_bytes(self) -> int:
        """Memory that judge and forwarder share: so much of the host, and as much again of a GPU."""
        return PLACES * self.place_bytes


@dataclass(frozen=True)
class Weights:
    """The file that a training leaves, and the path at which a forwarder finds it once it is given: a second name, in an empty folder."""

    file: str
    given: str
