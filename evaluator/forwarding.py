"""The slot's side of the forwarders: two processes for each evaluation, which share nothing, started, told what to do and ended here.

On a GPU they are started early, even before there is a program, and build and compile its model while the program itself is set up. While
it is timed they are frozen: not one of their threads runs. When the training process is dead they load its weights, the second when the
first has been scored and is dead. On a CPU they are started only then: earlier they would take cores from a set-up. What dies before it
has seen weights is replaced.

No forwarder finds the weights before it has built its model and tried it on random tokens. Then the judge hands them over and counts the
time to the first logits: all that takes long is done by then, except for what only further training would take.

The folder of compiled kernels that programs share is open to forwarders that build early, and read-only before they load: whoever has
seen a validation row can leave no file there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from evaluator import sandbox
from evaluator.task import Task, Weights
from evaluator.waiting import Waiting

_NAMES = ("first", "second")
_WORD_SECONDS = 0.5  # to hear a word said already: the deadline may have passed while the one before was scored
_STILL_SECONDS = 0.03  # time on cores that still counts as lying still: the kernel counts in hundredths


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
    told_to_build, built = False, False
    _spent: float = 0.0  # seconds on cores by the time it was frozen

    def __init__(self, what: sandbox.Confined, log: Path, weights: Weights) -> None:
        super().__init__(what, log)
        self.weights = weights

    def build(self, task: Task, seed: int, rehearse: bool) -> None:
        """Lets it build the model and try it on a chunk of this task, compiled as a whole if it is to rehearse. Returns at once."""
        self.told_to_build = True
        chunk = {"rows": task.chunk_rows, "length": task.length, "floats": task.place_floats}
        self.tell({"op": "build", "seed": seed, "rehearse": rehearse, **chunk})

    def load(self, task: Task) -> None:
        """Makes it ready for the judge, who gives it the weights. It must have been told to build."""
        if self.built:
            self.process.thaw()
        self.memory = shared_memory(task.memory_bytes)

    def lie_still(self, seconds: float) -> bool:
        """Waits until it has built, if it was told to, and freezes it. False if that fails, or if it has run since. Only before it loads.
        Idempotent."""
        if not self.settle():
            return False
        if self.told_to_build and not self.built:
            self.built = self.hear("built", seconds) and self.process.freeze()
            self._spent = self.process.cpu_seconds()
            return self.built
        return not self.built or self.process.cpu_seconds() - self._spent < _STILL_SECONDS

    def end(self) -> None:
        """Ends it and waits until nothing of it is left. Idempotent."""
        super().end()
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1


class Forwarders:
    """The two forwarders of one evaluation. The second must not know what the first has seen."""

    def __init__(self, start: Callable[[str, bool], Forwarder], early: bool) -> None:
        """
        Args:
            start: starts a forwarder, given its name and whether it may write to the compile cache.
            early: start both now.
        """
        self._start, self._early = start, early
        self._running = dict[str, Forwarder]()
        with contextlib.ExitStack() as unless_all_start:
            unless_all_start.callback(self.close)
            for name in _NAMES if early else ():
                self._running[name] = start(name, True)
            unless_all_start.pop_all()

    def build(self, task: Task, seed: int) -> None:
        """Lets both build the program's model, if they are early. Returns at once."""
        for forwarder in self._running.values():
            forwarder.build(task, seed, rehearse=True)

    def lie_still(self, deadline: float) -> None:
        """Waits until all that run lie still, and replaces those that have died or not built in time. Idempotent.

        Args:
            deadline: on the clock of time.monotonic.
        """
        for name, forwarder in list(self._running.items()):
            if not forwarder.lie_still(max(_WORD_SECONDS, deadline - time.monotonic())):
                self._replaced(name)

    def first(self, task: Task, seed: int) -> Forwarder:
        """The first forwarder, loading. The training process must be dead."""
        return self._loading("first", task, seed)

    def second(self, task: Task, seed: int) -> Forwarder:
        """The second forwarder, loading, after the first was scored. The first is ended beforehand: the two never run at once."""
        self._running.pop("first").end()
        return self._loading("second", task, seed)

    def third(self, task: Task, seed: int) -> Forwarder:
        """One more, for other rows, after the second was scored. It is never early: few programs need one."""
        self.close()
        return self._loading("third", task, seed)

    def _loading(self, name: str, task: Task, seed: int) -> Forwarder:
        forwarder = self._running.get(name)
        if forwarder is None:
            forwarder = self._started(name)
        elif not (forwarder.lie_still(0.0) and forwarder.process.seal()):
            forwarder = self._replaced(name)
        if not forwarder.told_to_build:
            forwarder.build(task, seed, rehearse=False)  # a rehearsal may be what failed
        forwarder.load(task)
        return forwarder

    def _started(self, name: str) -> Forwarder:
        self._running[name] = self._start(name, False)
        self._running[name].settle()  # one that dies is left to the judge, which finds out when it asks
        return self._running[name]

    def _replaced(self, name: str) -> Forwarder:
        self._running.pop(name).end()
        return self._started(name)

    def close(self) -> None:
        """Ends those that run. Idempotent."""
        for forwarder in self._running.values():
            forwarder.process.stop()  # all at once: giving back a GPU's memory takes a while
        while self._running:
            self._running.popitem()[1].end()
