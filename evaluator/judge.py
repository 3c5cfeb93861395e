"""The judge: turns logits into validation bits per byte. A process of its own that never executes candidate code.

bits per byte = sum of -log2 p(target) over the targets that have bytes / sum of those bytes, with the cross-entropy in float32 over the
full width of the logits and the sums in float64. Targets with 0 bytes (special tokens, padding) count on neither side.

Causality: a share of the very rows that are scored is sent twice, the second time with a foreign suffix, all in an order that only the
judge knows. The predictions before the suffix must agree; so a look at the future, at neighbouring rows, at statistics of the batch or
at rows seen before shows as a disagreement.
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
from dataclasses import dataclass
from typing import Any

from evaluator.inside import wire
from evaluator.outcome import Reason

VERSION = 1  # part of the measurement key: raise it whenever a score could change
CHUNK_BYTES = {"cpu": 16 << 20}  # logits of one chunk in float32: what a core's cache digests best
CHUNK_BYTES_GPU = 1 << 30
TWIN_SHARE = 1 / 16  # of the rows, sent again with a foreign suffix
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
    seconds: float  # the forwarder may not be silent for longer

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


def _order(task: Task, rng: random.Random) -> list[tuple[int, int]]:
    """(row, cut) in random order, a twin being a row with the position at which its foreign suffix begins; cut 0 = as it is."""
    twins = rng.sample(range(task.rows), max(1, math.ceil(task.rows * TWIN_SHARE)))
    jobs = [(row, 0) for row in range(task.rows)] + [(row, rng.randint(task.length // 4, task.length - 1)) for row in twins]
    rng.shuffle(jobs)
    return jobs


def _logits(channel: socket.socket, memory: Any, task: Task, tokens: Any) -> Any:
    """(rows, T, V) float32 logits for (rows, T) tokens, checked for shape and finiteness."""
    import torch

    rows = len(tokens)
    torch.frombuffer(memory, dtype=torch.int64, count=tokens.numel()).copy_(tokens.reshape(-1))
    wire.send(channel, {"op": "forward", "rows": rows, "length": task.length})
    reply = _reply(channel, task)
    if reply["op"] != "logits":
        raise Refused(Reason.BAD_LOGITS, str(reply.get("message", reply["op"]))[:500])
    shape, dtype = list(reply["shape"]), {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[reply["dtype"]]
    if shape[:2] != [rows, task.length] or shape[2] < task.vocab or math.prod(shape) * dtype.itemsize > len(memory):
        raise Refused(Reason.BAD_LOGITS, f"logits have shape {tuple(shape)}, expected ({rows}, {task.length}, {task.vocab})")
    flat = torch.frombuffer(memory, dtype=dtype, count=math.prod(shape))
    logits = flat.view(shape).to(task.device, copy=True).float()  # a copy: the program cannot change it any more
    if not bool(torch.isfinite(logits).all()):
        raise Refused(Reason.NOT_FINITE, "logits hold NaN or infinity")
    return logits


def _reply(channel: socket.socket, task: Task) -> dict[str, Any]:
    try:
        received = wire.receive(channel)
    except TimeoutError:
        raise Refused(Reason.SCORE_TIMEOUT, f"no logits within {task.seconds:g} s") from None
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


def score(task: Task, channel: socket.socket, memory: Any) -> dict[str, Any]:
    """Scores one program through its forwarder.

    Returns:
        The verdict: `val_bpb` and the parameter count that the forwarder reports.
    Raises:
        Refused: with the reason for which there is no score.
    """
    import torch

    rows = torch.from_numpy(_load(task.rows_file, task.rows_sha256, "<u2").astype("int64")).view(task.rows, task.length + 1)
    token_bytes = torch.from_numpy(_load(task.bytes_file, task.bytes_sha256, "<i4").astype("int64")).to(task.device)
    parameters = int(_reply(channel, task).get("parameters", 0))
    rng = random.Random(int.from_bytes(os.urandom(16), "big"))
    jobs = _order(task, rng)
    nats, twins = torch.zeros(task.rows, task.length, device=task.device), []
    for begin in range(0, len(jobs), task.chunk_rows):
        chunk = jobs[begin : begin + task.chunk_rows]
        filler = [(rng.randrange(task.rows), 0) for _ in range(task.chunk_rows - len(chunk))]  # every chunk has one shape
        picked = [*chunk, *filler]
        tokens = torch.stack([_with_suffix(rows, row, cut, rng) for row, cut in picked])
        targets = rows[[row for row, _ in picked], 1:].to(task.device)
        loss = _cross_entropy(_logits(channel, memory, task, tokens), targets)  # (rows, T) nats
        for k, (row, cut) in enumerate(chunk):
            if cut:
                twins.append((row, cut, loss[k, :cut].clone()))
            else:
                nats[row] = loss[k]
    _check_twins(nats, twins)
    counted = token_bytes[rows[:, 1:].to(task.device)]  # (rows, T) bytes of each target
    total = float((nats.double() * (counted > 0)).sum())
    return {"op": "verdict", "val_bpb": total / math.log(2) / float(counted.sum()), "parameters": parameters}


def _with_suffix(rows: Any, row: int, cut: int, rng: random.Random) -> Any:
    """Inputs of a row, (T,), from `cut` on replaced by those of another row."""
    inputs = rows[row, :-1].clone()
    if cut:
        other = (row + rng.randrange(1, len(rows))) % len(rows) if len(rows) > 1 else row
        inputs[cut:] = rows[other, :-1][cut:] if other != row else inputs[cut:].flip(0)
    return inputs


def _cross_entropy(logits: Any, targets: Any) -> Any:
    """(rows, T) nats, float32. Rows one by one keep the memory at one row's width."""
    import torch

    return torch.stack(
        [torch.nn.functional.cross_entropy(row, target, reduction="none") for row, target in zip(logits, targets, strict=True)]
    )


def _check_twins(nats: Any, twins: list[tuple[int, int, Any]]) -> None:
    """Position t is predicted from inputs 0..t, so with a foreign suffix from `cut` on, the predictions before `cut` must stand. The last
    of them has lost the very token that it predicts, which is where a look one step ahead shows."""
    import torch

    for row, cut, loss in twins:
        difference = (loss - nats[row, :cut]).abs()
        mean, largest = float(difference.mean()), float(difference.max())
        if not (mean <= TWIN_MEAN_NATS and largest <= TWIN_MAX_NATS) or not bool(torch.isfinite(difference).all()):
            raise Refused(
                Reason.NOT_CAUSAL,
                f"predictions before position {cut} changed with what follows, the neighbours or the order of rows: "
                f"by {mean:.4f} nats in the mean, {largest:.3f} at most",
            )


def serve(control: socket.socket) -> None:
    """Answers one task after the other until the slot closes the control channel."""
    import torch  # noqa: F401  paid before the first task, so that scoring starts at once

    wire.send(control, {"op": "ready"})
    while (received := wire.receive(control, max_fds=2)) is not None:
        message, (channel_fd, memory_fd) = received
        task = Task(**message["task"])
        with socket.socket(fileno=channel_fd) as channel:
            channel.settimeout(task.seconds)
            memory = mmap.mmap(memory_fd, task.memory_bytes)
            os.close(memory_fd)
            try:
                reply = score(task, channel, memory)
            except Refused as refusal:
                reply = {"op": "refused", "reason": refusal.reason.value, "message": str(refusal), "trace": refusal.trace}
        wire.send(control, reply)


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    serve(socket.socket(fileno=arguments["control"]))
