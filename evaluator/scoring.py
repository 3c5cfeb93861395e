"""The slot's side of scoring: keeps a judge process ready, starts a forwarder per program, and lets the two talk to each other."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluator.data import Rows, Vocabulary
from evaluator.evaluate import HarnessError
from evaluator.inside import wire
from evaluator.judge import Task

_START_SECONDS = 120.0
_MARGIN_SECONDS = 60.0  # beyond a forwarder's time, for the judge's own work on what it got


def shared_memory(size: int) -> int:
    """Descriptor of anonymous memory that two processes can map; gone with its last user."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size)
        return descriptor
    descriptor = os.memfd_create("evo-logits", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    # A program that could shrink it would kill the judge by a bus error.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one program: a score, or a refusal with its reason."""

    val_bpb: float | None
    parameters: int
    reason: str
    message: str
    trace: str


def task_for(vocabulary: Vocabulary, rows: Rows, length: int, device: str, seconds: float) -> Task:
    """The task of scoring on `rows`, which belong to `vocabulary`."""
    return Task(
        rows_file=rows.file,
        rows_sha256=rows.sha256,
        rows=rows.rows,
        length=length,
        bytes_file=vocabulary.bytes_file,
        bytes_sha256=vocabulary.bytes_sha256,
        vocab=vocabulary.size,
        device=device,
        seconds=seconds,
    )


class Judge:
    """The judge's process. Started before a training clock runs, so that its start disturbs none, and used for many programs."""

    def __init__(self, threads: int, cpus: tuple[int, ...], env: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        with theirs:
            command = [sys.executable, "-m", "evaluator.judge", json.dumps({"control": theirs.fileno()})]
            project = str(Path(__file__).resolve().parent.parent)
            path = os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH", "")]))
            full_env = {**os.environ, **env, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
            self._process = subprocess.Popen(command, env=full_env, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, cwd=project)
        if cpus and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, cpus)
        self._receive(_START_SECONDS)  # its word that it is ready

    def score(self, task: Task, channel: socket.socket, memory: int) -> Verdict:
        """First pass: has a program scored whose forwarder is at the other end of `channel`."""
        return self._ask("score", task, channel, memory)

    def check(self, task: Task, channel: socket.socket, memory: int) -> Verdict:
        """Second pass, with a fresh forwarder: a verdict without a score, and with a reason if the program is refused."""
        return self._ask("twins", task, channel, memory)

    def _ask(self, what: str, task: Task, channel: socket.socket, memory: int) -> Verdict:
        wire.send(self._control, {"op": what, "task": asdict(task)}, (channel.fileno(), memory))
        reply = self._receive(task.seconds + _MARGIN_SECONDS)
        if reply["op"] == "refused":
            return Verdict(None, 0, reply["reason"], reply["message"], reply["trace"])
        return Verdict(reply.get("val_bpb"), reply.get("parameters", 0), "", "", "")

    def _receive(self, seconds: float) -> dict[str, Any]:
        try:
            received = wire.receive(self._control, deadline=time.monotonic() + seconds)
        except (OSError, wire.WireError) as error:
            self.close()
            raise HarnessError(f"the judge does not answer: {type(error).__name__} {error}") from error
        if received is None:
            self.close()
            raise HarnessError("the judge ended unexpectedly; its last words are on standard error")
        return received[0]

    def close(self) -> None:
        """Ends the process. Idempotent."""
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.5)
        self._process.kill()
        self._process.wait()
