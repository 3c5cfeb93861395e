"""The judge: turns logits into validation bits per byte. A process of its own that never executes candidate code.

bits per byte = sum of -log2 p(target) over the targets that have bytes / sum of those bytes, with the cross-entropy in float32 over the
full width of the logits and the sums in float64. Targets with 0 bytes (special tokens, padding) count on neither side.

Causality: some of the very rows that are scored are sent a second time, to a second forwarder that shares nothing with the first, with
a foreign suffix from a random position on, all in an order that only the judge knows. The predictions before the suffix must agree. So a
look at the future, at neighbouring rows, at statistics of the batch or at rows seen before shows as a disagreement: the first forwarder
cannot know which rows will come again, and the second never sees the true continuation.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import random
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evaluator.inside import wire
from evaluator.outcome import Reason

VERSION = 2  # part of the measurement key: raise it whenever a score could change
CHUNK_BYTES = {"cpu": 16 << 20}  # logits of one chunk in float32: what a core's cache digests best
CHUNK_BYTES_GPU = 1 << 30
TWIN_SHARE, TWINS_LEAST = 1 / 16, 64  # rows sent again: a look ahead at 5 % of the positions is found with 96 %
TWIN_MEAN_NATS, TWIN_MAX_NATS = 0.01, 0.25  # disagreement that rounding in bfloat16 explains


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
    seconds: float  # that one forwarder may take, its start included

    @property
    def chunk_rows(self) -> int:
        allowed = CHUNK_BYTES.get(self.device, CHUNK_BYTES_GPU)
        return max(1, min(self.rows, allowed // (self.length * self.vocab * 4)))

    @property
    def memory_bytes(self) -> int:
        """Shared memory that a chunk needs: float32 logits with an eighth to spare for a padded vocabulary."""
        return max(self.chunk_rows * self.length * self.vocab * 4 * 9 // 8, self.chunk_rows * self.length * 8)


class Refused(Exception):  # noqa: N818  a verdict, not an error of ours
    """The logits cannot be scored; the reason is the program's."""

    def __init__(self, reason: Reason, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.reason, self.trace = reason, trace


def _load(path: str, sha256: str, dtype: str) -> Any:
    import numpy as np

    with open(path, "rb") as file:
        data = file.read()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise Refused(Reason.TAMPERED, f"{path} has hash {found[:12]}, the manifest says {sha256[:12]}: prepare the data again")
    return np.frombuffer(data, dtype=dtype)


@dataclass
class Forwarder:
    """The judge's end of one forwarding process."""

    channel: socket.socket
    memory: Any  # shared with it; holds tokens, then their logits
    task: Task
    deadline: float  # on the clock of time.monotonic

    def ready(self) -> int:
        """Waits until it has loaded the weights; the number of parameters, as it reports it."""
        return int(_number(self._reply(), "parameters"))

    def logits(self, tokens: Any) -> Any:
        """(rows, T, V) float32 logits for (rows, T) tokens, checked for shape and finiteness."""
        import torch

        task, rows = self.task, len(tokens)
        torch.frombuffer(self.memory, dtype=torch.int64, count=tokens.numel()).copy_(tokens.reshape(-1))
        try:
            wire.send(self.channel, {"op": "forward", "rows": rows, "length": task.length})
        except ConnectionError:
            raise Refused(Reason.CRASH, "the process ended while it was scored") from None
        reply = self._reply()
        shape, dtype = reply.get("shape"), {n: getattr(torch, n) for n in ("float32", "bfloat16", "float16")}.get(str(reply.get("dtype")))
        if reply["op"] != "logits" or dtype is None:
            raise Refused(Reason.BAD_LOGITS, str(reply.get("message", reply["op"]))[:500])
        width = shape[2] if isinstance(shape, list) and len(shape) == 3 and isinstance(shape[2], int) else 0
        if shape != [rows, task.length, width] or width < task.vocab or rows * task.length * width * dtype.itemsize > len(self.memory):
            raise Refused(Reason.BAD_LOGITS, f"logits have shape {shape}, expected {[rows, task.length, task.vocab]}"[:500])
        flat = torch.frombuffer(self.memory, dtype=dtype, count=rows * task.length * width)
        logits = flat.view(shape).to(task.device, copy=True).float()  # a copy: the program cannot change it any more
        if not bool(torch.isfinite(logits).all()):
            raise Refused(Reason.NOT_FINITE, "logits hold NaN or infinity")
        return logits

    def _reply(self) -> dict[str, Any]:
        try:
            received = wire.receive(self.channel, deadline=self.deadline)
        except TimeoutError:
            raise Refused(Reason.SCORE_TIMEOUT, f"not scored within {self.task.seconds:g} s") from None
        except (wire.WireError, ConnectionError) as error:
            raise Refused(Reason.BAD_LOGITS, f"the forwarding process broke the protocol: {error}") from error
        if received is None:
            raise Refused(Reason.CRASH, "the process ended while it was scored")
        message = received[0]
        if message["op"] == "error":
            text = f"{message.get('type')}: {message.get('message')}"[:2000]
            memory = "outofmemory" in text.lower().replace(" ", "")
            raise Refused(Reason.OUT_OF_MEMORY if memory else Reason.CRASH, text, str(message.get("trace", ""))[:8000])
        return message


def _number(message: dict[str, Any], name: str) -> float:
    value = message.get(name)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(Reason.BAD_LOGITS, f"{name} is {str(value)[:80]!r}, expected a number")
    return value


class Scoring:
    """One program's scoring, in two passes over two forwarders: `nats` of the rows, then `check` of their twins."""

    def __init__(self, task: Task) -> None:
        """
        Raises:
            Refused: the data are not what the manifest says.
        """
        import torch

        self.task = task
        self.rng = random.Random(int.from_bytes(os.urandom(16), "big"))
        rows = _load(task.rows_file, task.rows_sha256, "<u2").astype("int64")
        self.rows = torch.from_numpy(rows).view(task.rows, task.length + 1)
        self.token_bytes = torch.from_numpy(_load(task.bytes_file, task.bytes_sha256, "<i4").astype("int64"))
        self.nats = torch.zeros(task.rows, task.length, device=task.device)

    def score(self, forwarder: Forwarder) -> dict[str, Any]:
        """The first pass.

        Returns:
            The verdict: `val_bpb` and the parameter count that the forwarder reports.
        Raises:
            Refused: with the reason for which there is no score.
        """
        parameters = forwarder.ready()
        order = self.rng.sample(range(self.task.rows), self.task.rows)
        for picked, loss in self._chunks(forwarder, [(row, 0) for row in order]):
            for k, (row, _) in enumerate(picked):
                self.nats[row] = loss[k]
        counted = self.token_bytes[self.rows[:, 1:]]  # (rows, T) bytes of each target
        total = float((self.nats.double() * (counted > 0).to(self.nats.device)).sum())
        if not math.isfinite(total):
            raise Refused(Reason.NOT_FINITE, "the cross-entropy of the logits overflows")
        return {"op": "verdict", "val_bpb": total / math.log(2) / float(counted.sum()), "parameters": parameters}

    def check(self, forwarder: Forwarder) -> None:
        """The second pass. Position t is predicted from inputs 0..t, so with a foreign suffix from `cut` on the predictions before `cut`
        must stand. The last of them has lost the very token that it predicts, which is where a look one step ahead shows.

        Raises:
            Refused: they do not stand.
        """
        import torch

        forwarder.ready()
        count = max(TWINS_LEAST, math.ceil(self.task.rows * TWIN_SHARE))
        twins = [(self.rng.randrange(self.task.rows), self.rng.randint(1, self.task.length - 1)) for _ in range(count)]
        for picked, loss in self._chunks(forwarder, twins):
            for k, (row, cut) in enumerate(picked):
                difference = (loss[k, :cut] - self.nats[row, :cut]).abs()
                mean, largest = float(difference.mean()), float(difference.max())
                if not (mean <= TWIN_MEAN_NATS and largest <= TWIN_MAX_NATS) or not bool(torch.isfinite(difference).all()):
                    raise Refused(
                        Reason.NOT_CAUSAL,
                        f"predictions before position {cut} changed with what follows, the neighbours or the order of rows: "
                        f"by {mean:.4f} nats in the mean, {largest:.3f} at most",
                    )

    def _chunks(self, forwarder: Forwarder, jobs: list[tuple[int, int]]) -> Iterator[tuple[list[tuple[int, int]], Any]]:
        """The jobs (row, cut) in chunks of one shape, each with its (rows, T) nats."""
        import torch

        size = self.task.chunk_rows
        for begin in range(0, len(jobs), size):
            chunk = jobs[begin : begin + size]
            filled = [*chunk, *((self.rng.randrange(self.task.rows), 0) for _ in range(size - len(chunk)))]
            tokens = torch.stack([self._inputs(row, cut) for row, cut in filled])
            targets = self.rows[[row for row, _ in filled], 1:].to(self.task.device)
            yield chunk, _cross_entropy(forwarder.logits(tokens), targets)

    def _inputs(self, row: int, cut: int) -> Any:
        """Inputs of a row, (T,), replaced by those of another one from `cut` on; 0: as they are."""
        inputs = self.rows[row, :-1].clone()
        if cut:
            other = self.rows[self.rng.randrange(self.task.rows), :-1]
            inputs[cut:] = other[cut:]
            if inputs[cut] == self.rows[row, cut]:
                inputs[cut] = (inputs[cut] + 1 + self.rng.randrange(self.task.vocab - 1)) % self.task.vocab
        return inputs


def _cross_entropy(logits: Any, targets: Any) -> Any:
    """(rows, T) nats, float32. Rows one by one keep the memory at one row's width."""
    import torch

    return torch.stack(
        [torch.nn.functional.cross_entropy(row, target, reduction="none") for row, target in zip(logits, targets, strict=True)]
    )


def serve(control: socket.socket) -> None:
    """Answers the slot until it closes the control channel: `task` with a forwarder is scored, then `twins` with another is checked."""
    import torch  # noqa: F401  paid before the first task, so that scoring starts at once

    wire.send(control, {"op": "ready"})
    scoring: Scoring | None = None
    while (received := wire.receive(control, max_fds=2)) is not None:
        message, (channel_fd, memory_fd) = received
        task = Task(**message["task"])
        memory = mmap.mmap(memory_fd, task.memory_bytes)
        os.close(memory_fd)
        with socket.socket(fileno=channel_fd) as channel:
            forwarder = Forwarder(channel, memory, task, time.monotonic() + task.seconds)
            try:
                if message["op"] == "score":
                    scoring = Scoring(task)
                    reply = scoring.score(forwarder)
                elif scoring is not None:
                    scoring.check(forwarder)
                    reply = {"op": "sound"}
            except Refused as refusal:
                reply = {"op": "refused", "reason": refusal.reason.value, "message": str(refusal), "trace": refusal.trace}
        wire.send(control, reply)


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    serve(socket.socket(fileno=arguments["control"]))
