"""The slot's side of the forwarders: two processes for each evaluation, which share nothing, started, told to load and ended here.

On a GPU they are started early, long before there are weights, and wait (waiting.py). When the training process is dead both are told to
load, so that the second compiles while the first is scored. On a CPU this would take cores from a timed phase: there they come one after
the other, when they are needed. What dies before it has been told to load has seen nothing of the program, and is replaced.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable

from evaluator.task import Task
from evaluator.waiting import Waiting


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


class Forwarder(Waiting):
    """One forwarding process, and the memory shared with it once it loads."""

    memory: int = -1  # descriptor, once it loads

    def load(self, task: Task, seed: int, rehearse: bool) -> None:
        """Lets it load the weights and, if it is to rehearse, run once on random tokens. It must have settled. Returns at once."""
        self.memory = shared_memory(task.memory_bytes)
        message = {"op": "load", "seed": seed, "rehearse": rehearse, "rows": task.chunk_rows, "length": task.length, "vocab": task.vocab}
        self.tell(message, (self.memory,))

    def end(self) -> None:
        """Ends it and waits until nothing of it is left. Idempotent."""
        super().end()
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1


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
        """Waits until those that run lie still, and replaces those that have died. Before they load. Idempotent."""
        for name, forwarder in self._running.items():
            if not forwarder.settle():
                forwarder.end()
                self._running[name] = self._start(name)
                self._running[name].settle()  # one that dies again is left to the judge, who finds out when it asks

    def first(self, task: Task, seed: int) -> Forwarder:
        """The first, loading. The training process must be dead."""
        if not self._early:
            self._running["first"] = self._start("first")
        self._load(task, seed)
        return self._running["first"]

    def second(self, task: Task, seed: int) -> Forwarder:
        """The second, when the first has been scored."""
        if not self._early:
            self.close()
            self._running["second"] = self._start("second")
            self._load(task, seed)
        return self._running["second"]

    def third(self, task: Task, seed: int) -> Forwarder:
        """One more, for other rows, when the second has been scored. It is never early: few programs need one."""
        self.close()
        self._running["third"] = self._start("third")
        self._load(task, seed)
        return self._running["third"]

    def _load(self, task: Task, seed: int) -> None:
        self.settle()
        for forwarder in self._running.values():
            forwarder.load(task, seed, rehearse=self._early)

    def close(self) -> None:
        """Ends those that run. Idempotent."""
        for forwarder in self._running.values():
            forwarder.process.stop()  # all at once: to give back a GPU's memory takes a while
        while self._running:
            self._running.popitem()[1].end()
