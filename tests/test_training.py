"""The conversation with a training process: whatever it says, it comes to an outcome, and only what a program can do is believed of it."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SmallLab

from evaluator import data as datafolder
from evaluator import sandbox
from evaluator.inside import wire
from evaluator.meter import Worked
from evaluator.outcome import Failed, Phase, Reason
from evaluator.training import Limits, Trained, TrainingRun

START = {"op": "start", "batch_size": 1, "vocab_size": 256}
STEP = {"op": "step", "step": 1, "tokens": 64, "loss": 5.5}
WEIGHTS = {"op": "weights", "bytes": 4, "parameters": 8, "steps": 1, "tokens": 64, "peak_memory_gib": 0.5}


def framed(message: dict[str, Any] | bytes) -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body


Told = Callable[..., Trained | Failed]


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The harness's end and the program's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def told(channel: tuple[socket.socket, socket.socket], small_lab: SmallLab, tmp_path: Path) -> Told:
    """How it ends with a process that has said all of this, and four bytes of weights, and has ended."""
    ours, theirs = channel
    (tmp_path / "root").mkdir()
    here, env = str(tmp_path), sandbox.environment(1)
    what = sandbox.Confined("probe.py", here, (), (here,), (), env, (), 1 << 30, 1 << 30, 256, 1 << 20, "process", f"{here}/root")

    def run(*said: dict[str, Any] | bytes, before_clock: Callable[[], None] = lambda: None) -> Trained | Failed:
        theirs.sendall(b"".join(map(framed, said)) + b"1234")
        theirs.shutdown(socket.SHUT_WR)
        with open(tmp_path / "log", "wb") as log:
            process, data = sandbox.Process(what, log.fileno()), datafolder.load(small_lab.data)
        ended = TrainingRun(process, ours, data, Limits(), 1.0, tmp_path / "weights.pt", before_clock=before_clock).run()
        assert isinstance(ended, Trained | Failed)
        return ended

    return run


def test_the_clock_starts_after_what_would_disturb_it(told: Told, channel: tuple[socket.socket, socket.socket]) -> None:
    theirs, waits = channel[1], list[bool]()

    def before_clock() -> None:
        time.sleep(0.2)
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        theirs.setblocking(True)
        waits.append(True)

    ended = told(START, STEP, before_clock=before_clock)
    answer = wire.receive(theirs, max_fds=1)
    assert waits == [True]
    assert answer is not None
    assert answer[0]["op"] == "go"
    os.close(answer[1][0])
    assert isinstance(ended, Failed)
    assert ended.curve[0].seconds < 0.2  # on a clock that did not run meanwhile


class Busy:
    """A process that spends time on a core when it is told to."""

    seconds = 0.0

    def note_work(self, worked: Worked) -> None:
        worked.seconds = self.seconds

    def spend(self) -> None:
        self.seconds += 0.6

    def end(self) -> sandbox.Exit:
        return sandbox.Exit(0, None, 0)


@pytest.mark.parametrize(("share", "refused"), [(0.5, True), (0.7, False), (0.0, False)])
def test_what_works_on_while_it_waits_for_the_clock_has_worked_before_it(
    channel: tuple[socket.socket, socket.socket], small_lab: SmallLab, tmp_path: Path, share: float, refused: bool
) -> None:
    """Packing a vocabulary and scoring the program before it can take a minute."""
    (ours, theirs), busy, limits = channel, Busy(), Limits(setup_work_share=share, setup_work_seconds=0.0)
    theirs.sendall(b"".join(map(framed, ({"op": "phase", "phase": "import"}, START))))
    theirs.shutdown(socket.SHUT_WR)
    data = datafolder.load(small_lab.data)
    ended = TrainingRun(busy, ours, data, limits, 1.0, tmp_path / "weights.pt", before_clock=busy.spend).run()  # type: ignore[arg-type]
    assert isinstance(ended, Failed)
    assert (ended.phase is Phase.IMPORT) == refused
    assert ("worked for 0.6 s on a core before its first real batch" in ended.message) == refused


def test_who_says_what_prepare_says_has_trained(told: Told) -> None:
    ended = told(START, STEP, WEIGHTS)
    assert isinstance(ended, Trained), ended
    assert (ended.steps, ended.tokens, ended.parameters, ended.peak_memory_gib) == (1, 64, 8, 0.5)
    assert [(point.step, point.tokens, point.loss) for point in ended.curve] == [(1, 64, 5.5)]


@pytest.mark.parametrize(
    "said",
    [
        b'{"op": "step", "step": Infinity, "tokens": 1}',
        b'{"op": "step", "step": 1, "tokens": 1, "loss": ' + b"9" * 400 + b"}",
        b'{"op": "step", "step": 1, "tokens": ' + b"9" * 400 + b"}",
        b'{"op": "step", "step": -1, "tokens": 1}',
        b'{"op": "step"}',
        b'{"op": "phase", "phase": "heaven"}',
        b'{"op": "phase", "phase": []}',
        b'{"op": "go"}',
        b'{"op": "start", "vocab_size": ' + b"[" * 900 + b"]" * 900 + b"}",
        b"[" * 200_000,
        b"not json",
        json.dumps({**WEIGHTS, "bytes": -1}).encode(),
    ],
    ids=lambda said: said[:40].decode(),
)
@pytest.mark.parametrize("before", [(), (START,)], ids=["before the clock", "on the clock"])
def test_a_hostile_message_is_the_program_s_failure(told: Told, before: tuple[dict[str, Any], ...], said: bytes) -> None:
    ended = told(*before, said)
    assert isinstance(ended, Failed)
    assert ended.reason is Reason.CONTRACT, ended


@pytest.mark.parametrize("message", [STEP, WEIGHTS], ids=lambda message: message["op"])
def test_what_belongs_to_a_training_is_not_believed_before_one(told: Told, message: dict[str, Any]) -> None:
    """Its time on a clock that has not started would be without end."""
    ended = told(message, START)
    assert isinstance(ended, Failed)
    assert (ended.reason, ended.curve) == (Reason.CONTRACT, ())


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("steps", 10**400, "steps must be a count below 2**63"),
        ("tokens", 10**400, "tokens must be a count below 2**63"),
        ("parameters", -1, "parameters must be a count below 2**63"),
        ("peak_memory_gib", -1, "peak_memory_gib is -1, must be at least 0"),
        ("peak_memory_gib", 1e308, "peak_memory_gib is 1e+308, must be at least 0 and below 1e+06"),
    ],
)
def test_a_number_that_no_run_can_reach_is_the_program_s_failure(told: Told, name: str, value: float, why: str) -> None:
    """10**400 tokens a second are more than a float holds: whoever divided by the seconds would end the whole run."""
    ended = told(START, {**WEIGHTS, name: value})
    assert isinstance(ended, Failed)
    assert ended.reason is Reason.CONTRACT
    assert why in ended.message
