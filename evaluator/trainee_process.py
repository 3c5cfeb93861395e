"""The slot's side of a training process before it has a program: its folder, and the word to begin.

On a GPU the next one is started while the present program sets up: it imports libraries, lies still before the clock runs, and waits,
without a CUDA context and without a program. Only in namespaces: without them a running program could reach into it. On a CPU it is
started when it is needed, for it would take a core from a timed phase.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from evaluator import sandbox
from evaluator.inside import wire

_START_SECONDS = 60.0


@dataclass(frozen=True)
class Files:
    """Layout of one evaluation's folder. Only `work`, and a folder for each forwarder, can be written to from inside."""

    lab: Path
    work: Path
    root: Path
    weights: Path
    log: Path

    @classmethod
    def lay_out(cls, folder: Path) -> Files:
        """Empty but for its folders."""
        lab, work, root = folder / "lab", folder / "work", folder / "root"
        for path in (lab, work, root):
            path.mkdir()
        weights = folder / "weights.pt"
        weights.touch()  # empty until the training is over; a sandbox can only show what exists when it is built
        return cls(lab, work, root, weights, folder / "log.txt")

    def fill(self, program: str, prepare: str) -> dict[str, str]:
        """Writes the lab; file name -> hash, for `tampered`."""
        texts = {"train.py": program, "prepare.py": prepare}
        for name, text in texts.items():
            (self.lab / name).write_text(text, encoding="utf-8")
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}

    def tampered(self, hashes: dict[str, str]) -> str:
        """Name of a lab file that is not what it was, or ""."""
        for name, sha256 in hashes.items():
            path = self.lab / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                return name
        return ""


class Trainee:
    """A training process that waits for its program, and the channel to it."""

    def __init__(self, files: Files, what: Callable[[Files], sandbox.Confined]) -> None:
        """Starts it; `what` says what it is given."""
        self.files = files
        self.channel, theirs = socket.socketpair()
        self._settled: bool | None = None
        confined = what(files)
        with theirs, open(files.log, "wb") as log:
            told = replace(confined, env=(*confined.env, ("EVO_CHANNEL", str(theirs.fileno()))))
            self.process = sandbox.Process(told, (theirs.fileno(),), log.fileno())

    def settle(self) -> bool:
        """Waits until it lies still; False if it has died or hangs."""
        if self._settled is None:
            try:
                received = wire.receive(self.channel, deadline=time.monotonic() + _START_SECONDS)
            except (OSError, wire.WireError):
                received = None
            self.channel.settimeout(None)
            self._settled = received is not None and received[0]["op"] == "waiting"
        return self._settled

    def begin(self, seed: int) -> bool:
        """Lets it import and run the program that is in its lab by now; False if it has died. Returns at once."""
        try:
            wire.send(self.channel, {"op": "begin", "seed": seed})
        except ConnectionError:
            return False
        return True

    def end(self) -> None:
        """Ends it with all it started. Idempotent."""
        self.process.end()
        self.channel.close()
