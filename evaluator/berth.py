"""A berth: a place for one evaluation, with all the processes that will see its program.

On a GPU the next berth is made when a program begins, so that no program's set-up waits for libraries to be imported. The next berth's
processes lie still, waiting (waiting.py), before the clock runs; by then the forwarders of the program that is timed have built its model
and are frozen. This needs namespaces: without them a program could reach into what waits for the next. On a CPU a berth is made when it is
needed, and its forwarders later still: they would take cores from a set-up or a timed phase.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from evaluator import sandbox
from evaluator.forwarding import Forwarder, Forwarders
from evaluator.scratch import Evaluations
from evaluator.task import Task, Weights
from evaluator.waiting import Waiting


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
        """A new layout, empty except for its folders."""
        lab, work, root = folder / "lab", folder / "work", folder / "root"
        for path in (lab, work, root):
            path.mkdir()
        weights = folder / "weights.pt"
        weights.touch()  # empty until the training is over; a sandbox can only show what exists when it is built
        return cls(lab, work, root, weights, folder / "log.txt")

    def fill(self, program: str, prepare: str) -> dict[str, str]:
        """Writes the lab and returns file name -> hash, for `tampered`."""
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


Confine = Callable[[str, Files, Path, bool], sandbox.Confined]
"""(script, files, working folder, whether it may write to the compile cache) -> what the script's process is given."""


class Berth:
    """The folder of one evaluation, the training process that waits there, and its forwarders."""

    def __init__(self, folder: AbstractContextManager[Path], confine: Confine, early: bool) -> None:
        """Makes it in `folder`, which is removed when the berth is closed, and starts the training process.

        Args:
            early: whether both forwarders are started now, too.
        """
        self._confine = confine
        with contextlib.ExitStack() as started:
            self.files = Files.lay_out(started.enter_context(folder))
            self.trainee = Waiting(confine("trainee.py", self.files, self.files.work, True), self.files.log)
            started.callback(self.trainee.end)
            self.forwarders = started.enter_context(contextlib.closing(Forwarders(self._start_forwarder, early)))
            self._started = started.pop_all()

    def begin(self, program: str, prepare: str, seed: int, task: Task | None = None) -> dict[str, str]:
        """Lets the training process import and run the program. Returns at once, with the hashes of the lab for `Files.tampered`.

        Args:
            task: what will be scored, as far as known, for forwarders to build the model now; None: they do not build now.
        """
        hashes = self.files.fill(program, prepare)
        self.trainee.tell({"op": "begin", "seed": seed})
        if task is not None:
            self.forwarders.build(task, seed)
        return hashes

    def close(self) -> None:
        """Ends the processes, then removes the folder. Idempotent."""
        self._started.close()

    def _start_forwarder(self, name: str, cached: bool) -> Forwarder:
        folder = self.files.lab.parent
        given = folder / f"{name}_given"
        for path in (folder / name, given):
            path.mkdir(exist_ok=True)  # it exists if this one replaces another, which has seen no weights
        weights = Weights(str(self.files.weights), str(given / self.files.weights.name))
        what = self._confine("forwarder.py", self.files, folder / name, cached)
        # The card's memory is watched in whatever is set up beside it: this one would be ended for what the other has taken.
        told = replace(what, readable=(*what.readable, str(given)), env=(*what.env, ("EVO_WEIGHTS", weights.given)), gpu_free_bytes=0)
        return Forwarder(told, folder / f"{name}.txt", weights)


class Berths:
    """One berth after another, each perhaps made ahead. The folder of each comes from `evaluations`; see `Berth` for the rest."""

    def __init__(self, evaluations: Evaluations, confine: Confine, early: bool) -> None:
        self._evaluations, self._confine, self._early = evaluations, confine, early
        self.waiting: Berth | None = None

    def prepare(self) -> None:
        """Makes the next one now if berths are made early. The one before must have been taken."""
        if self._early:
            self.waiting = self._made()

    def settle(self) -> None:
        """Waits until the next one, if it is made already, lies still."""
        if self.waiting is not None:
            self.waiting.trainee.settle()
            self.waiting.forwarders.lie_still(time.monotonic())

    def take(self) -> Berth:
        """The one that waits, if its training process is well; otherwise a fresh one. Whoever takes it closes it."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            if waiting.trainee.settle():
                return waiting
            waiting.close()
        return self._made()

    def close(self) -> None:
        """Ends what waits. Idempotent."""
        if self.waiting is not None:
            self.waiting.close()
            self.waiting = None

    def _made(self) -> Berth:
        return Berth(self._evaluations.folder(), self._confine, self._early)
