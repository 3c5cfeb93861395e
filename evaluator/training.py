"""The harness's side of one training run: keeps the clock, hands out the data when it starts, takes the weights in, ends the process.

The clock starts when the training rows are sent, which is the program's first sight of real text, and stops when the last byte of the
weights has arrived. The program is told the time only to plan its schedule; nothing it says about time is believed.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluator.data import Data, Vocabulary, prefault
from evaluator.evaluate import Watch
from evaluator.inside import wire
from evaluator.meter import Looks
from evaluator.outcome import MOST_LOSS, CurvePoint, Failed, Phase, Reason, Stopped
from evaluator.printed import printable
from evaluator.sandbox import Exit, Process

_CURVE_POINTS_MAX = 400
_MESSAGES, _MESSAGES_A_SECOND = 100, 20  # most messages of a program; prepare.py sends five a second of the budget, and few more
_LOOK_SECONDS = 0.05  # between two looks at what a program does before the clock or in its grace
_LOSSES_TOLD = 3  # last losses kept with a failure, beside its curve
_CURVE_BEGINNING = 16  # first points, never thinned out: two runs are compared by them
_PEAK_GIB_MAX = 1e6  # most that a process can report of its memory: more than any machine has
_REASONS = {
    "SyntaxError": Reason.SYNTAX,
    "IndentationError": Reason.SYNTAX,
    "ContractError": Reason.CONTRACT,
    "FloatingPointError": Reason.NOT_FINITE,
}
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


@dataclass(frozen=True)
class Limits:
    """What a program may use. A device profile sets them."""

    setup_seconds: float = 120.0  # process start to first real batch
    setup_work_share: float = 0.0  # share of the budget that may be spent on a core before that batch; 0: any, for who compiles works there
    setup_work_seconds: float = 1.0  # allowed there in any case: to build a model and try it
    grace_seconds: float = 2.0  # after the budget, for steps in flight and for handing over the weights
    late_share: float = 0.05  # share of the budget that may be spent on a core after it, whatever the grace
    late_seconds: float = 0.5  # allowed there in any case: for steps in flight, which a core may spin for, and for saving
    score_seconds: float = 120.0  # longest silence while scoring
    pack_seconds: float = 120.0  # to pack a vocabulary that no program has asked for before
    host_memory_gib: float = 8.0
    weights_gib: float = 4.0
    file_gib: float = 4.0  # limit for any one file, and for all that a program leaves in its folder
    tasks: int = 4096  # processes and threads
    gpu_spare_gib: float = 0.0  # memory of the card that a program may not use, even when alone; 0: it may use all
    log_bytes: int = 16_384  # how much of what the program prints is kept


@dataclass(frozen=True)
class Trained:
    """The weights are in `weights_file`; everything else is for people."""

    vocabulary: Vocabulary
    seconds: float
    setup_seconds: float  # process start to the first request for a real batch
    steps: int
    tokens: int
    parameters: int
    peak_memory_gib: float  # as the program reports it; 0 when it does not
    curve: tuple[CurvePoint, ...]
    waited_share: float = 0.0  # how much of the time in which its main thread could have run it waited for a core


@dataclass
class TrainingRun:
    """One training process and the state of its conversation. `run()` is called once."""

    process: Process
    channel: socket.socket
    data: Data
    limits: Limits
    budget_seconds: float
    weights_file: Path
    watch: Watch | None = None
    lend: Callable[[str], int] = lambda path: os.open(path, os.O_RDONLY)  # a descriptor of the training rows, to be given away
    pack: Callable[[int], Data] | None = None  # gives the data with one more of the vocabularies on offer
    before_clock: Callable[[], None] = lambda: None  # returns when nothing that the harness has started would disturb the timed phase
    phase: Phase = Phase.START
    _born: float = field(default_factory=time.monotonic)
    _asked: float = math.inf  # when the first real batch was asked for
    _clock_start: float = math.inf
    _vocabulary: Vocabulary | None = None
    _curve: list[CurvePoint] = field(default_factory=list)
    _before: Looks | None = None  # at time on a core before the clock, where it is limited,
    _after: Looks | None = None  # and after the budget

    def run(self) -> Trained | Stopped | Failed:
        """Holds the conversation to its end; the process and all it started are gone afterwards."""
        try:
            ended = self._converse()
        except ConnectionError:  # it ended while it was spoken to
            ended = None
        except (wire.WireError, KeyError, TypeError, ValueError, ArithmeticError) as error:
            ended = self._fail(Reason.CONTRACT, f"the process broke the protocol of prepare.py: {error}")
        finally:
            for looks in filter(None, (self._before, self._after)):
                looks.end()
            exit_ = self.process.end()
        ended = self._explain(exit_) if ended is None else ended
        if isinstance(ended, Stopped):
            return ended
        if isinstance(ended, Trained):
            return replace(ended, waited_share=exit_.waited_share)
        return replace(ended, peak_memory_gib=exit_.peak_memory_bytes / 2**30)

    def _converse(self) -> Trained | Stopped | Failed | None:
        """How it ended; None where the process ended without saying why."""
        most = int(_MESSAGES + _MESSAGES_A_SECOND * self.budget_seconds)
        for _ in range(most):
            try:
                received = wire.receive(self.channel, deadline=self._deadline())
            except TimeoutError:
                return self._late()
            if received is None:
                return None
            ended = self._handle(received[0])
            if ended is not None:
                return ended
        return self._fail(Reason.CONTRACT, f"sent more than {most} messages: listening to them would take cores from other programs")

    def _handle(self, message: dict[str, Any]) -> Trained | Stopped | Failed | None:
        match message["op"]:
            case "waiting":  # for the word to begin, which has been sent
                pass
            case "phase":
                self.phase = Phase(message["phase"])
                if self._before is None and self.limits.setup_work_share:  # the first comes before the program's own text is run
                    self._before = Looks(self.process.note_work, 0.0, _LOOK_SECONDS)
            case "start":
                return self._start_clock(message)
            case "step":
                return self._note_step(message)
            case "weights":
                return self._take_weights(message)
            case "error":
                return self._program_error(message)
            case "returned":
                return self._fail(Reason.NO_MODEL, "main() returned without prepare.save(model)")
            case other:
                raise wire.WireError(f"unknown message {other!r}")
        return None

    def _start_clock(self, message: dict[str, Any]) -> Failed | None:
        if self._vocabulary is not None:
            return self._fail(Reason.CONTRACT, "batches() was started twice")
        self._asked = time.monotonic()
        try:
            vocabulary = self._packed(message["vocab_size"])
        except LookupError as error:
            sizes = ", ".join(str(v.size) for v in self.data.vocabularies)
            return self._fail(Reason.CONTRACT, f"no tokeniser of size {message['vocab_size']}; prepared are {sizes}: {error.args[0]}")
        self.before_clock()
        rows = self.lend(vocabulary.train.file)
        try:
            prefault(rows)
            if (early := self._early_work()) is not None:  # not sooner: what it has started may go on while it waits for all this
                return early
            self.phase, self._vocabulary = Phase.TRAIN, vocabulary
            self._clock_start = time.monotonic()
            go = {"op": "go", "budget_seconds": self.budget_seconds, "rows": vocabulary.train.rows, "row_tokens": self.data.length + 1}
            wire.send(self.channel, go, (rows,))
            self._after = Looks(self.process.note_work, self.budget_seconds, _LOOK_SECONDS)
        finally:
            os.close(rows)
        return None

    def _packed(self, size: Any) -> Vocabulary:
        """The rows of a vocabulary, packed now if they were not: the program waits, and no clock runs.

        Raises:
            LookupError: there is none of that size; the message says which there are.
            PackingError: it cannot be packed here now, whatever the program.
        """
        found = self.data.vocabulary(size)
        if found is None and self.pack is not None and size in self.data.offered:
            self.data = self.pack(size)
            found = self.data.vocabulary(size)
        if found is None:
            raise LookupError("no other can be packed" if self.pack is None else f"offered are {', '.join(map(str, self.data.offered))}")
        return found

    def _note_step(self, message: dict[str, Any]) -> Stopped | None:
        if self._vocabulary is None:
            raise wire.WireError("a step before the first real batch")
        loss = message.get("loss")
        loss = float(loss) if isinstance(loss, int | float) else None
        loss = loss if loss is not None and abs(loss) < MOST_LOSS else None  # nor is NaN
        point = CurvePoint(self._elapsed(), _counted(message, "step"), _counted(message, "tokens"), loss)
        add_point(self._curve, point)
        note = self.watch(point) if self.watch else None
        return None if note is None else Stopped(note, self._elapsed(), tuple(self._curve))

    def _take_weights(self, message: dict[str, Any]) -> Trained | Failed:
        """Receives the bytes; the clock stops with the last one."""
        if self._vocabulary is None:
            return self._fail(Reason.CONTRACT, "save() came before the first real batch")
        self.phase = Phase.SAVE
        expected, limit = _counted(message, "bytes"), int(self.limits.weights_gib * 2**30)
        if expected > limit:
            return self._fail(Reason.TOO_BIG, f"weights of {expected} bytes, more than the {limit} allowed")
        with open(self.weights_file, "wb") as file:  # the same inode: a sandbox that is up already shows it
            left = expected
            while left:
                try:
                    wire.arm(self.channel, self._deadline())
                    piece = self.channel.recv(min(left, 1 << 20))
                except TimeoutError:
                    return self._late()
                if not piece:
                    return self._fail(Reason.CRASH, f"the process ended with {left} bytes of its weights to send")
                file.write(piece)
                left -= len(piece)
        seconds = self._elapsed()
        wire.send(self.channel, {"op": "done"})
        if seconds > self.budget_seconds + self.limits.grace_seconds:
            return self._late()
        if (late := self._late_work()) is not None:
            return late
        steps, tokens, parameters = (_counted(message, name) for name in ("steps", "tokens", "parameters"))
        peak = float(message["peak_memory_gib"])
        if not 0 <= peak < _PEAK_GIB_MAX:
            raise ValueError(f"peak_memory_gib is {peak:g}, must be at least 0 and below {_PEAK_GIB_MAX:g}")
        setup = self._asked - self._born
        return Trained(self._vocabulary, seconds, setup, steps, tokens, parameters, peak, tuple(self._curve))

    def _early_work(self) -> Failed | None:
        """A failure if it worked too long before the clock, where it could learn from whatever text it finds."""
        worked = self._before.seconds() if self._before is not None else 0.0
        allowed = max(self.limits.setup_work_seconds, self.limits.setup_work_share * self.budget_seconds)
        if worked <= allowed:
            return None
        spent = f"worked for {worked:.1f} s on a core before its first real batch, more than the {allowed:.1f} s allowed"
        return self._fail(Reason.SETUP_TIMEOUT, f"{spent}: what is learned there is not within the budget")

    def _late_work(self) -> Failed | None:
        """A failure if it worked too long after its budget. The grace is for a busy machine, not for training: time on a core counts."""
        worked = self._after.seconds() if self._after is not None else 0.0
        allowed = max(self.limits.late_seconds, self.limits.late_share * self.budget_seconds)
        if worked <= allowed:
            return None
        return self._fail(Reason.OVERRAN, f"worked for {worked:.1f} s on a core after its budget, more than the {allowed:.1f} s allowed")

    def _elapsed(self) -> float:
        return time.monotonic() - self._clock_start

    def _deadline(self) -> float:
        if self._vocabulary is None:
            return self._born + self.limits.setup_seconds
        return self._clock_start + self.budget_seconds + self.limits.grace_seconds

    def _late(self) -> Failed:
        if self._vocabulary is None:
            return self._fail(Reason.SETUP_TIMEOUT, f"no real batch asked for within {self.limits.setup_seconds:g} s")
        allowed = f"{self.budget_seconds:g} s budget and {self.limits.grace_seconds:g} s of grace"
        return self._fail(Reason.OVERRAN, f"the weights had not arrived after the {allowed}")

    def _program_error(self, message: dict[str, Any]) -> Failed:
        reason, text = what_was_raised(message, self.limits)
        failed = self._fail(reason, text, str(message.get("trace", "")))
        return replace(failed, error=printable(str(message.get("type")))[:100])

    def _explain(self, exit_: Exit) -> Failed:
        """Why a process ended that did not say so."""
        return self._fail(*how_it_ended(exit_, self.limits))

    def _fail(self, reason: Reason, message: str, trace: str = "") -> Failed:
        return failure(reason, self.phase, message, trace, time.monotonic() - self._born, tuple(self._curve))


def _counted(message: dict[str, Any], name: str) -> int:
    """A count that the process reports of itself: a whole number that a database can hold."""
    value = int(message[name])
    if not 0 <= value < 2**63:
        raise ValueError(f"{name} must be a count below 2**63")
    return value


# ---- shared with other ways to watch a program (compat.py)


def add_point(curve: list[CurvePoint], point: CurvePoint) -> None:
    """Adds a point to a curve of bounded length: its points stay about evenly spaced, each with the mean loss since the one before."""
    if len(curve) >= _CURVE_POINTS_MAX:
        k = min(range(_CURVE_BEGINNING, len(curve) - 1), key=lambda k: curve[k + 1].seconds - curve[k - 1].seconds)
        curve[k : k + 2] = [replace(curve[k + 1], loss=_mean_loss(*curve[k - 1 : k + 2]))]
    curve.append(point)


def _mean_loss(before: CurvePoint, a: CurvePoint, b: CurvePoint) -> float | None:
    """Mean loss over the time from `before` to `b`."""
    told = [(p.loss, p.seconds - q.seconds) for p, q in ((a, before), (b, a)) if p.loss is not None]
    seconds = sum(s for _, s in told)
    return sum(loss * s for loss, s in told) / seconds if seconds > 0 else b.loss


def what_was_raised(message: dict[str, Any], limits: Limits | None = None) -> tuple[Reason, str]:
    """Reason and text of an exception as `inside/trainee.py` explains it.

    Args:
        limits: what it ran under, where a limit may be the reason.
    """
    kind, text = str(message.get("type")), str(message.get("message"))
    reason = _REASONS.get(kind, Reason.CRASH)
    if limits is not None and (kind == "MemoryError" or "allocate memory" in text.lower()):
        return Reason.OUT_OF_MEMORY, f"{kind}: {text[:300]} ({limits.host_memory_gib:g} GiB allowed)"
    if kind in ("OutOfMemoryError", "MemoryError") or any(words in text.lower() for words in _NO_MEMORY):
        reason = Reason.OUT_OF_MEMORY
    elif kind == "OSError" and os.strerror(errno.EFBIG) in text:
        reason = Reason.TOO_BIG
    return reason, f"{kind}: {text}"


def how_it_ended(exit_: Exit, limits: Limits) -> tuple[Reason, str]:
    """Reason and text of an end that the program did not explain."""
    match exit_.killed:
        case "memory":
            held = f"{exit_.peak_memory_bytes / 2**30:.1f} GiB"
            return Reason.OUT_OF_MEMORY, f"more host memory than the {limits.host_memory_gib:g} GiB allowed: {held} at its peak"
        case "GPU memory":
            return Reason.OUT_OF_MEMORY, f"more GPU memory than the card's total less {limits.gpu_spare_gib:g} GiB"
        case "tasks":
            return Reason.TOO_MANY, f"more processes and threads than the {limits.tasks} allowed"
        case "disk":
            return Reason.TOO_BIG, f"more on disk than the {limits.file_gib:g} GiB allowed"
    if exit_.code == 128 + signal.SIGXFSZ:
        return Reason.TOO_BIG, f"a file larger than the {limits.file_gib:g} GiB allowed"
    how = f"signal {exit_.code - 128}" if exit_.code > 128 else f"exit status {exit_.code}"
    return Reason.CRASH, f"the process ended with {how}"


def failure(reason: Reason, phase: Phase, message: str, trace: str, seconds: float, curve: tuple[CurvePoint, ...]) -> Failed:
    """A failure whose words, which may be the program's, are safe to print."""
    line = printable(message).strip().split("\n")[0][:500]
    losses = tuple(point.loss for point in curve if point.loss is not None)[-_LOSSES_TOLD:]
    steps = curve[-1].step if curve else 0
    return Failed(reason, phase, line, printable(trace)[-6000:], seconds, curve, steps=steps, losses=losses)
