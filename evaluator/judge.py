"""The judge: turns logits into validation bits per byte. A process of its own that never executes candidate code.

bits per byte = sum of -log2 p(target) over the targets that have bytes / sum of those bytes, with the cross-entropy in float32 over the
full width of the logits and the sums in float64. Targets with 0 bytes (special tokens, padding) count on neither side.

Causality: some of the very rows that are scored are sent a second time, to a second forwarder that shares nothing with the first, with
a foreign suffix from some position on, all in an order that only the judge knows. The predictions before the suffix must agree. So a
look at the future, at neighbouring rows, at statistics of the batch or at rows seen before shows as a disagreement: the first forwarder
cannot know which rows will come again, and the second never sees the true continuation. It begins with the start of one row, over and
over, so that what the first can have learned from many rows, such as which kind of text they are, it cannot know. twins.py has the rules.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import random
import shutil
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from evaluator import twins
from evaluator.checked import CheckedRows, File, Tampered, load
from evaluator.inside import wire
from evaluator.inside.devicememory import DeviceMemory
from evaluator.inside.hostmemory import on_its_way, pinned
from evaluator.nats import cross_entropy
from evaluator.outcome import Reason
from evaluator.task import PLACES, Task, Weights

_FIRST_TIMES = 5.0  # chunk times by which the first may take longer: caches are cold
_STARTS = 16  # the start of a row is a sixteenth of it
_UNCOUNTED_NATS = 100.0  # of each target that does not count: what is changed there costs nothing, so twins shall not see it
VERSION = 10  # part of the measurement key: raise it whenever a score could change, if only by rounding


class Refused(Exception):  # noqa: N818  a verdict, not an error of ours
    """The logits cannot be scored; the reason is the program's."""

    def __init__(self, reason: Reason, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.reason, self.trace = reason, trace


@dataclass
class Forwarder:
    """The judge's end of one forwarding process. Chunks are answered in the order in which they are sent."""

    channel: socket.socket
    weights: Weights
    descriptor: int  # descriptor of the host memory
    memory: Any  # host memory shared with it; a place in it holds a chunk's tokens, then their logits
    logits_memory: DeviceMemory | None  # GPU memory, where the logits come instead if it can map that
    task: Task
    deadline: float  # on the clock of time.monotonic
    built: bool  # whether it has said already that it has built
    pinned: bool = False  # whether its side of the host memory is pinned, as it reports
    given: float = 0.0  # when it was given the weights, on the same clock
    times: list[float] = field(default_factory=list)  # when its logits came, in seconds from then

    def ready(self) -> int:
        """Waits until it has built, gives it the weights, agrees with it on the memory; returns the number of parameters it reports."""
        if not self.built:
            self._reply()
        _give(self.weights)
        self.given = time.monotonic()
        self._tell({"op": "load"}, (self.descriptor,))
        message = self._reply()
        parameters = int(_number(message, "parameters"))
        handle = self.logits_memory.handle if self.logits_memory else ""
        self._tell({"op": "share", "handle": handle, "bytes": self.task.memory_bytes})
        message = self._reply()
        self.pinned = message.get("pinned") is True
        if message.get("mapped") is not True:
            self.logits_memory = None
        return parameters

    def send(self, tokens: Any, place: int) -> None:
        """Asks for the logits of (rows, T) tokens, in a place of the memory that nothing else uses until they are received."""
        import torch

        offset = place * self.task.place_bytes
        torch.frombuffer(self.memory, dtype=torch.int64, count=tokens.numel(), offset=offset).copy_(tokens.reshape(-1))
        self._tell({"op": "forward", "rows": len(tokens), "length": self.task.length, "offset": offset})

    def refuse_a_late_start(self, usual: float) -> None:
        """Refuses a program that trains on while it loads, or before it predicts. Only its first logits are late: any later, predictions
        would depend on how many rows came before, which differs in the other forwarder.

        Args:
            usual: seconds that the logits of a chunk take. The program sets them, by its pace, so what they allow is bounded.
        Raises:
            Refused: it is late.
        """
        most = self.task.first_seconds
        took, allowed = self.times[0], most + min(_FIRST_TIMES * usual, most)
        if took > allowed:
            said = f"took {took:.1f} s to load its weights and predict a first chunk, more than the {allowed:.1f} s allowed"
            raise Refused(Reason.OVERRAN, f"{said}: training ends with the budget")

    def _tell(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        try:
            wire.send(self.channel, message, fds)
        except ConnectionError:
            raise Refused(Reason.CRASH, "the process ended while it was being scored") from None

    def receive(self, rows: int, place: int) -> Any:
        """(rows, T, V) float32 logits of the chunk in that place, checked for shape: a view of memory that the program can change."""
        import torch

        task, reply = self.task, self._reply()
        self.times.append(time.monotonic() - self.given)
        if reply["op"] != "logits":
            raise Refused(Reason.BAD_LOGITS, str(reply.get("message", reply["op"]))[:500])
        shape = reply.get("shape")
        width = shape[2] if isinstance(shape, list) and len(shape) == 3 and isinstance(shape[2], int) else 0
        if shape != [rows, task.length, width] or width < task.vocab or rows * task.length * width > task.place_floats:
            raise Refused(Reason.BAD_LOGITS, f"logits have shape {shape}, expected {[rows, task.length, task.vocab]}"[:500])
        count, offset = rows * task.length * width, place * task.place_bytes
        if self.logits_memory is None:
            flat = torch.frombuffer(self.memory, dtype=torch.float32, count=count, offset=offset)
        else:
            flat = self.logits_memory.flat(torch.float32, count, offset)
        return flat.view(shape)

    def _reply(self) -> dict[str, Any]:
        try:
            received = wire.receive(self.channel, deadline=self.deadline)
        except TimeoutError:
            raise Refused(Reason.SCORE_TIMEOUT, f"not scored within {self.task.seconds:g} s") from None
        except (wire.WireError, ConnectionError) as error:
            raise Refused(Reason.BAD_LOGITS, f"the forwarding process broke the protocol: {error}") from error
        if received is None:
            raise Refused(Reason.CRASH, "the process ended while it was being scored")
        message = received[0]
        if message["op"] == "error":
            text = f"{message.get('type')}: {message.get('message')}"[:2000]
            memory = any(word in text.lower().replace(" ", "") for word in ("outofmemory", "memoryerror"))
            raise Refused(Reason.OUT_OF_MEMORY if memory else Reason.CRASH, text, str(message.get("trace", ""))[:8000])
        return message


def _give(weights: Weights) -> None:
    """
    Raises:
        Refused: something is there already, which only a program can have put there.
    """
    try:
        os.link(weights.file, weights.given)
    except FileExistsError:
        raise Refused(Reason.TAMPERED, f"{os.path.basename(weights.given)} was there before it was given") from None
    except OSError:  # a file system without hard links
        shutil.copyfile(weights.file, weights.given)


def _number(message: dict[str, Any], name: str) -> float:
    value = message.get(name)
    if not isinstance(value, int | float) or not 0 <= value < 2**63:  # nor is NaN
        raise Refused(Reason.BAD_LOGITS, f"{name} is {str(value)[:80]!r}, expected a number of at least 0 and below 2**63")
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
        try:
            self.data: CheckedRows = load(File(task.rows_file, task.rows_sha256), File(task.bytes_file, task.bytes_sha256), task.length)
        except Tampered as tampered:
            raise Refused(Reason.TAMPERED, str(tampered)) from None
        self._order = torch.tensor(self.rng.sample(range(task.rows), task.rows))
        self._nats = torch.empty(0)  # (rows, T) of the first pass, in its order
        self._usual = math.inf  # seconds that a chunk took in it, if known

    def score(self, forwarder: Forwarder) -> dict[str, Any]:
        """The first pass.

        Returns:
            The verdict: `val_bpb`.
        Raises:
            Refused: with the reason for which there is no score.
        """
        import torch

        self._nats = self._nats_of(forwarder, self._order, torch.full_like(self._order, self.task.length))
        gaps = [after - before for before, after in pairwise(forwarder.times)]
        self._usual = median(gaps) if gaps else math.inf
        forwarder.refuse_a_late_start(self._usual)
        counted = self.data.counted[self._order].to(self._nats.device)
        total = float(self._nats.where(counted, 0.0).sum(dtype=torch.float64))
        return {"op": "verdict", "val_bpb": total / math.log(2) / self.data.bytes}

    def check(self, forwarder: Forwarder) -> None:
        """The second pass. Position t is predicted from inputs 0..t, so with a foreign suffix from `cut` on the predictions before `cut`
        must stand. The last of them has lost the very token that it predicts, which is where a look one step ahead shows.

        Raises:
            Refused: they do not stand.
        """
        import torch

        rows = twins.choose_rows(self.task.rows, self.rng)
        alone = PLACES * self.task.chunk_rows  # all that a forwarder sees before it must answer
        rows = torch.cat([rows[:1].expand(alone), rows])
        before = self._nats[self._order.argsort()[rows].to(self._nats.device)]
        starts = torch.full((alone,), max(1, self.task.length // _STARTS))
        cuts = torch.cat([starts, twins.choose_cuts(before[alone:].cpu(), self.rng)])
        change = (self._nats_of(forwarder, rows, cuts, alone) - before).cpu()
        forwarder.refuse_a_late_start(self._usual)
        if found := twins.finding(change, cuts, alone):
            raise Refused(Reason.NOT_CAUSAL, found)

    def _nats_of(self, forwarder: Forwarder, rows: Any, cuts: Any, alone: int = 0) -> Any:
        """(n, T) nats of these jobs, 0 where their inputs are foreign. They are sent in chunks of one shape, each before the answer to the
        last is read.

        Args:
            rows: (n,), their numbers.
            cuts: (n,), positions from which on their inputs are foreign; T: nowhere.
            alone: how many of them, whole chunks at the beginning, show nothing of other rows.
        Raises:
            Refused: their logits cannot be scored.
        """
        import torch

        size, under_way = self.task.chunk_rows, deque[tuple[int, int, Any]]()
        nats = torch.empty(len(rows), self.task.length, device=self.task.device)
        counted = self.data.counted[rows].to(self.task.device)
        foreign = (torch.arange(self.task.length) >= cuts[:, None]).to(self.task.device)

        def read() -> None:
            place, begin, targets = under_way.popleft()
            part = nats[begin : begin + size]
            part.copy_(cross_entropy(forwarder.receive(size, place), targets)[: len(part)])
            part.masked_fill_(foreign[begin : begin + size], 0.0)  # a row's own tokens may have no chance after foreign ones
            _finish(self.task.device)  # only now may the place be used again
            if begin == 0:
                _refuse_infinite_loss(part, counted[: len(part)])  # a model that diverged is not worth a whole pass

        for number, begin in enumerate(range(0, len(rows), size)):
            if len(under_way) == PLACES:
                read()
            job, cut = rows[begin : begin + size], cuts[begin : begin + size]
            filled = torch.arange(size) % len(job)  # up to one shape, with no other row: a whole one would tell how it goes on
            inputs, targets = self._tokens(job[filled], cut[filled], begin < alone)
            forwarder.send(inputs, number % PLACES)
            under_way.append((number % PLACES, begin, on_its_way(targets.contiguous(), self.task.device)))
        while under_way:
            read()
        _refuse_infinite_loss(nats, counted)
        return nats.masked_fill_(~counted, _UNCOUNTED_NATS)

    def _tokens(self, rows: Any, cuts: Any, alone: bool = False) -> tuple[Any, Any]:
        """Inputs and targets, (n, T) each. From its cut on a row's inputs are those of another row, or its own beginning again if it is
        alone, and the first of them is changed."""
        import torch

        tokens, length, vocab = self.data.tokens(rows), self.task.length, self.task.vocab
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        if bool((cuts == length).all()):
            return inputs, targets
        if alone:
            foreign = inputs.gather(1, torch.arange(length) % cuts[:, None])
        else:
            foreign = self.data.tokens(torch.tensor([self.rng.randrange(self.task.rows) for _ in rows]))[:, :-1]
        mixed = torch.where(torch.arange(length) < cuts[:, None], inputs, foreign)
        row, cut = torch.arange(len(rows)), cuts.clamp(max=length - 1)
        other = (inputs[row, cut] + torch.tensor([1 + self.rng.randrange(vocab - 1) for _ in rows])) % vocab
        same = (mixed[row, cut] == inputs[row, cut]) & (cuts < length)
        mixed[row, cut] = torch.where(same, other, mixed[row, cut])
        return mixed, targets


def _finish(device: str) -> None:
    """Waits for what is queued on a GPU: only once for each chunk, since each wait turns the GPU from the forwarder to the judge."""
    import torch

    if device == "cuda":
        torch.cuda.current_stream().synchronize()


def _refuse_infinite_loss(nats: Any, counted: Any) -> None:
    if bool(nats.isnan().any()):
        raise Refused(Reason.NOT_FINITE, "logits hold NaN or infinity, or are -inf for all tokens")
    if bool((nats.isinf() & counted).any()):
        raise Refused(Reason.BAD_LOGITS, "logits give a token of the text no chance: -inf may only hide tokens that never come")


class _Judge:
    """What stays between two requests: the first pass's result, for the second, and the GPU memory that a forwarder may still have mapped.

    Each forwarder gets memory of its own, cleared: what the first left there could tell the second how rows go on.
    """

    def __init__(self) -> None:
        self._scoring: Scoring | None = None
        self._lent: DeviceMemory | None = None

    def answer(self, request: dict[str, Any], channel: socket.socket, descriptor: int) -> dict[str, Any]:
        """The reply to one request of the slot; nothing refers to the shared host memory afterwards."""
        op, task = request["op"], Task(**request["task"])
        memory, deadline = mmap.mmap(descriptor, task.memory_bytes), time.monotonic() + task.seconds
        weights = Weights(**request["weights"])
        forwarder = Forwarder(channel, weights, descriptor, memory, self._lend(task), task, deadline, request["built"])
        try:
            parameters = forwarder.ready()
            with pinned(memory, "" if forwarder.logits_memory else task.device) as is_pinned:
                verdict = self._judged(op, task, forwarder)
            through = _carrier(task, forwarder, is_pinned)
            return {**verdict, "parameters": parameters, "through": through}
        except Refused as refusal:
            self._scoring = None
            return {"op": "refused", "reason": refusal.reason.value, "message": str(refusal), "trace": refusal.trace}
        finally:
            os.close(descriptor)

    def _judged(self, op: str, task: Task, forwarder: Forwarder) -> dict[str, Any]:
        if op == "score":
            self._scoring = Scoring(task)
            return self._scoring.score(forwarder)
        scoring, self._scoring = self._scoring, None
        assert scoring is not None, "a second pass without a first"
        scoring.check(forwarder)
        return {"op": "sound"}

    def _lend(self, task: Task) -> DeviceMemory | None:
        import torch

        self._take_back()
        self._lent = DeviceMemory.allocate(task.memory_bytes) if task.device == "cuda" else None
        if self._lent is not None:
            self._lent.flat(torch.uint8, task.memory_bytes, 0).zero_()
            torch.cuda.synchronize()
        return self._lent

    def _take_back(self) -> None:
        """Frees what was lent. The forwarder that had it must be dead: memory that is mapped must not be freed."""
        if self._lent is not None:
            self._lent.close()
            self._lent = None

    def rest(self) -> None:
        """Gives back what the GPU holds for an evaluation. Its forwarders must be dead."""
        import torch

        self._scoring = None
        self._take_back()
        torch.cuda.empty_cache()


def _carrier(task: Task, forwarder: Forwarder, is_pinned: bool) -> str:
    """What the logits came through, as far as both sides know."""
    if task.device != "cuda":
        return "memory"
    if forwarder.logits_memory:
        return "GPU memory"
    return "pinned memory" if is_pinned and forwarder.pinned else "pageable memory"


def serve(control: socket.socket) -> None:
    """Answers the slot until it closes the control channel: `score` with a forwarder, `twins` with another when the first is dead, `rest`
    when both are."""
    import torch  # noqa: F401  imported before the first task, so that scoring starts at once

    wire.send(control, {"op": "ready"})
    judge = _Judge()
    while (received := wire.receive(control, max_fds=2)) is not None:
        message, descriptors = received
        if message["op"] == "rest":
            judge.rest()
            continue
        channel_fd, memory_fd = descriptors
        with socket.socket(fileno=channel_fd) as channel:
            reply = judge.answer(message, channel, memory_fd)
        wire.send(control, reply)


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    with contextlib.suppress(ConnectionError):  # a slot that is gone before it has read that this is ready resets the connection
        serve(socket.socket(fileno=arguments["control"]))
