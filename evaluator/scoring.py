"""The slot's side of scoring: keeps a judge process ready, starts a forwarder per program, and lets the two talk to each other."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluator.data import Rows, Vocabulary
from evaluator.evaluate import HarnessError
from evaluator.forwarding import Forwarder
from evaluator.inside import wire
from evaluator.task import Task

_START_SECONDS = 120.0
_MARGIN_SECONDS = 60.0  # beyond a forwarder's time, for the judge's own work on what it got


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one program: a score, or a refusal with its reason."""

    val_bpb: float | None
    parameters: int
    reason: str
    message: str
    trace: str
    heldout_bpb: float | None = None
    through: str = ""  # what carried the logits, see Scored.logits_through


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
    """The judge's process, used for many programs. `wait` for it before a training clock runs, so that its start disturbs none."""

    def __init__(self, threads: int, cpus: tuple[int, ...], env: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        with theirs:
            command = [sys.executable, "-m", "evaluator.judge", json.dumps({"control": theirs.fileno()})]
            project = str(Path(__file__).resolve().parent.parent)
            path = os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH", "")]))
            full_env = {**os.environ, **env, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
            self._process = subprocess.Popen(
                command, env=full_env, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True, cwd=project
            )
        if cpus and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, cpus)
        self._started = False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Waits until it is ready.

        Raises:
            HarnessError: it does not start.
        """
        if not self._started:
            self._receive(_START_SECONDS)
            self._started = True

    def score(self, task: Task, forwarder: Forwarder) -> Verdict:
        """First pass."""
        return self._ask("score", task, forwarder)

    def check(self, task: Task, forwarder: Forwarder) -> Verdict:
        """Second pass, with another forwarder: a verdict without a score, and with a reason if the program is refused."""
        return self._ask("twins", task, forwarder)

    def rest(self) -> None:
        """Tells it that the forwarders of an evaluation are dead, so that it gives back the GPU's memory. Returns at once."""
        with contextlib.suppress(OSError):
            wire.send(self._control, {"op": "rest"})

    def _ask(self, what: str, task: Task, forwarder: Forwarder) -> Verdict:
        self.wait()
        request = {"op": what, "task": asdict(task), "weights": asdict(forwarder.weights), "built": forwarder.built}
        wire.send(self._control, request, (forwarder.channel.fileno(), forwarder.memory))
        reply = self._receive(task.seconds + _MARGIN_SECONDS)
        if reply["op"] == "refused":
            return Verdict(None, 0, reply["reason"], reply["message"], reply["trace"])
        return Verdict(reply.get("val_bpb"), reply["parameters"], "", "", "", through=reply["through"])

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
