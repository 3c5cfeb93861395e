"""The slot's side of the forwarders: two processes for each evaluation, which share nothing, started, told to load and ended here.

On a GPU they are started early, beside the training: they import libraries, which takes longer than anything else about their start, and
lie still before the clock runs, without a CUDA context and without a look at the program. When the training process is dead both are told
to load, so that the second compiles while the first is scored. On a CPU this would take cores from a timed phase: there they come one
after the other, when they are needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from evaluator import sandbox
from evaluator.inside import wire
from evaluator.task import Task

_START_SECONDS = 60.0


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


class Forwarder:
    """One forwarding process, the slot's end of the channel to it, and the memory shared with it once it loads."""

    def __init__(self, what: sandbox.Confined, log: Path) -> None:
        """Starts it; what it prints goes to `log`."""
        self.channel, theirs = socket.socketpair()
        self.memory = -1  # descriptor, once it loads
        self._settled = False
        with theirs, open(log, "wb") as output:
            told = replace(what, env=(*what.env, ("EVO_CHANNEL", str(theirs.fileno()))))
            self._process = sandbox.Process(told, (theirs.fileno(),), output.fileno())

    def settle(self) -> None:
        """Waits until it lies still. One that has died or hangs is left to the judge, who finds out when it asks."""
        if not self._settled:
            with contextlib.suppress(OSError, wire.WireError):
                wire.receive(self.channel, deadline=time.monotonic() + _START_SECONDS)
            self.channel.settimeout(None)
            self._settled = True

    def load(self, task: Task, rehearse: bool) -> None:
        """Lets it load the weights and, if it is to rehearse, run once on random tokens. Returns at once."""
        self.settle()
        self.memory = shared_memory(task.memory_bytes)
        message = {"op": "load", "rehearse": rehearse, "rows": task.chunk_rows, "length": task.length, "vocab": task.vocab}
        with contextlib.suppress(ConnectionError):  # dead: see `settle`
            wire.send(self.channel, message, (self.memory,))

    def stop(self) -> None:
        """Begins to end it."""
        self._process.stop()

    def end(self) -> None:
        """Ends it and waits until nothing of it is left. Called once."""
        self._process.end()
        self.channel.close()
        if self.memory >= 0:
            os.close(self.memory)


class Forwarders:
    """The two of one evaluation. The second must not know what the first has seen."""

    def __init__(self, start: Callable[[str], Forwarder], early: bool) -> None:
        """
        Args:
            start: starts the forwarder of that name.
            early: whether both are started by `start_early`.
        """
        self._start, self._early = start, early
        self._running: dict[str, Forwarder] = {}

    def start_early(self) -> None:
        """Starts both if they are to be early."""
        if self._early:
            for name in ("first", "second"):
                self._running[name] = self._start(name)

    def settle(self) -> None:
        """Waits until those that run lie still."""
        for forwarder in self._running.values():
            forwarder.settle()

    def first(self, task: Task) -> Forwarder:
        """The first, loading. The training process must be dead."""
        if not self._early:
            self._running["first"] = self._start("first")
        for forwarder in self._running.values():
            forwarder.load(task, rehearse=self._early)
        return self._running["first"]

    def second(self, task: Task) -> Forwarder:
        """The second, when the first has been scored."""
        if not self._early:
            self._running.pop("first").end()
            self._running["second"] = self._start("second")
            self._running["second"].load(task, rehearse=False)
        return self._running["second"]

    def close(self) -> None:
        """Ends those that run. Idempotent."""
        for forwarder in self._running.values():
            forwarder.stop()  # all at once: to give back a GPU's memory takes a while
        while self._running:
            self._running.popitem()[1].end()
