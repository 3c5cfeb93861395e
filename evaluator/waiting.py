"""A confined process that waits until it is told what to do. It imports libraries, the slowest part of its start, says that it has, and
then lies still, without a CUDA context and without having seen a program."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Any

from evaluator import sandbox
from evaluator.inside import wire

_START_SECONDS = 60.0


class Waiting:
    """A waiting process, and the slot's end of the channel to it."""

    def __init__(self, what: sandbox.Confined, log: Path) -> None:
        """Starts it; what it prints goes to `log`."""
        self.channel, theirs = socket.socketpair()
        self._settled: bool | None = None
        with contextlib.ExitStack() as unless_started:
            unless_started.callback(self.channel.close)
            with theirs, open(log, "wb") as output:
                self.process = sandbox.Process(what, output.fileno(), theirs.fileno())
            unless_started.pop_all()

    def settle(self) -> bool:
        """Waits until it lies still; False if it hangs or has died, even since then. Only before it is told anything. Idempotent."""
        if self._settled is None:
            self._settled = self.hear("waiting", _START_SECONDS)
        return self._settled and self.process.alive

    def hear(self, op: str, seconds: float) -> bool:
        """Whether the next thing it says, within `seconds`, is `op`."""
        try:
            received = wire.receive(self.channel, deadline=time.monotonic() + seconds)
        except (OSError, wire.WireError):
            received = None
        self.channel.settimeout(None)
        return received is not None and received[0]["op"] == op

    def tell(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Sends it a message. Returns at once. If it has died, whoever listens to it next finds out."""
        with contextlib.suppress(ConnectionError):
            wire.send(self.channel, message, fds)

    def end(self) -> None:
        """Ends it and waits until nothing of it is left. Idempotent."""
        self.process.end()
        self.channel.close()
