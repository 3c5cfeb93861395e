"""Executors: they carry candidates to slots and bring outcomes back. One suite, tests/test_executor.py, holds for all of them.

inline   in the driver's process, one after another: for tests, for debugging, and where Ray does not run
ray      one actor per slot (evo/cluster.py)

An evaluation is finished when its outcome file is in the run folder, which a slot writes before it reports. While a slot may still
write there it holds `slots.lock`: the next driver waits for the slots of a killed one to be gone (`await_orphans`) and only then takes
in their outcomes, so that none is missed and run twice.
"""

from __future__ import annotations

import fcntl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

from evaluator.compat import Compat, CompatConfig
from evaluator.evaluate import Evaluate, HarnessError, Watch
from evaluator.instant import Instant, Landscape
from evaluator.outcome import CurvePoint, Interrupted, Outcome, Stopped
from evaluator.slot import Slot, SlotConfig
from evo.core.records import FINAL, Candidate
from evo.core.rule import Watching
from evo.errors import ClusterError, one_line
from evo.folder import LOCK, Finished, held, write_outcome

SLOTS_LOCK = "slots.lock"
UNABLE = (HarnessError, OSError)  # what a slot that can evaluate nothing raises
SlotKind = SlotConfig | CompatConfig | Landscape


@dataclass(frozen=True)
class SlotSpec:
    """One slot: what it evaluates with. Plain data, so that it can be sent to the machine that has the slot."""

    name: str  # "cpu0", "gpu3"
    evaluator: SlotKind
    run_dir: Path  # where outcome files go
    budget_seconds: float
    patience_seconds: float  # an evaluation that takes longer is lost: its slot hangs
    comparable: str = ""  # what its machine must be, as `evaluator.key.comparable` says; "" where that is the driver's own machine

    @property
    def overlaps(self) -> bool:
        """Whether it may take a candidate while it scores the previous one."""
        return isinstance(self.evaluator, SlotConfig) and self.evaluator.early_start

    def make(self) -> Evaluate:
        """The evaluator itself, in the process that is to use it."""
        if isinstance(self.evaluator, Landscape):
            return Instant(self.evaluator)
        return Compat(self.evaluator) if isinstance(self.evaluator, CompatConfig) else Slot(self.evaluator)


@dataclass(frozen=True)
class Running:
    """A candidate on a slot."""

    index: int
    slot: str
    started: float  # seconds since the epoch
    point: CurvePoint | None  # the latest of its curve that is known


class Executor(Protocol):
    """Slots, and what runs on them. Used by one thread."""

    @property
    def slots(self) -> int:
        """How many candidates can run at once."""
        ...

    @property
    def starting(self) -> int:
        """How many of the slots have no process yet that answers."""
        ...

    @property
    def free_slots(self) -> int:
        """How many more candidates may be submitted now. A slot may take its next one while it scores the previous one; a slot whose
        process has not started takes none, so for a while there may be none at all."""
        ...

    def submit(self, candidate: Candidate, text: str) -> None:
        """Starts an evaluation; its program is `text`.

        Raises:
            ValueError: no slot is free, or the index runs already.
        """
        ...

    def next_finished(self, timeout_seconds: float) -> Finished | None:
        """Waits for a result until the timeout, or until a slot can take a candidate; None if there is none.

        Raises:
            ClusterError: the slots are lost for good.
        """
        ...

    def running(self) -> tuple[Running, ...]:
        """What runs now, in order of submission."""
        ...

    def renew(self, slot: str) -> None:
        """Gives a slot new processes, unless it is retired. What runs there is interrupted."""
        ...

    def retire(self, slot: str) -> bool:
        """Gives a slot no more work, and interrupts what runs there; False, with nothing changed, if it is the last one or is retired
        already."""
        ...

    def close(self) -> None:
        """Abandons what runs and leaves no process behind. Idempotent."""
        ...


def evaluate_and_file(
    spec: SlotSpec,
    evaluate: Evaluate,
    candidate: Candidate,
    text: str,
    watch: Watch | None = None,
    trained: Callable[[], None] | None = None,
) -> Finished:
    """The slot's side of every executor: evaluates, and files the outcome before it reports.

    An error of ours that this program provoked is an interruption: raised, it would end every session that tries the program.

    Args:
        watch, trained: see `Evaluate`. The candidate's rule may stop the run as well.
    Raises:
        HarnessError: evaluations cannot be made here, or the outcome of this one cannot be written.
    """
    started = time.time()
    proposal, rule = candidate.proposal, candidate.rule
    watching = Watching(rule) if rule is not None and not rule.spared else None

    def seen(point: CurvePoint) -> str | None:
        note = watch(point) if watch is not None else None
        return note or (watching(point) if watching is not None else None)

    outcome: Outcome
    try:
        outcome = evaluate(text, proposal.seed, spec.budget_seconds, seen, proposal.operator == FINAL, trained)
    except HarnessError:
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, it is given up after three tries
        outcome = Interrupted(one_line(f"{type(error).__name__}: {error}"))
    if isinstance(outcome, Stopped) and watching is not None:
        outcome = replace(outcome, foretold=watching.foretold)
    finished = Finished(proposal.index, outcome, spec.name, started, time.time())
    if not isinstance(outcome, Interrupted):
        try:
            write_outcome(spec.run_dir, finished)
        except OSError as error:
            raise HarnessError(f"cannot write into {spec.run_dir}: {error.strerror}") from error
    return finished


class InlineExecutor:
    """Evaluates in this process when asked for the next event, in order of submission."""

    def __init__(self, specs: tuple[SlotSpec, ...]) -> None:
        """
        Args:
            specs: more than one slot means a queue of that length, on the first slot's evaluator.
        """
        self._specs = specs
        self._evaluate: Evaluate | None = None
        self._queue: deque[tuple[Candidate, str, float]] = deque()

    @property
    def slots(self) -> int:
        return len(self._specs)

    @property
    def starting(self) -> int:
        return 0

    @property
    def free_slots(self) -> int:
        return self.slots - len(self._queue)

    def submit(self, candidate: Candidate, text: str) -> None:
        check_submission(self, candidate)
        self._queue.append((candidate, text, time.time()))

    def next_finished(self, timeout_seconds: float) -> Finished | None:
        """The timeout is ignored: the evaluation is made here and now."""
        if not self._queue:
            return None
        candidate, text, since = self._queue[0]
        try:
            if self._evaluate is None:
                self._evaluate = self._specs[0].make()
            finished = evaluate_and_file(self._specs[0], self._evaluate, candidate, text)
        except UNABLE as error:
            slot, index = self._specs[0].name, candidate.index
            finished = Finished(index, Interrupted(cannot_work(slot, error)), slot, since, time.time(), unable=True)
        self._queue.popleft()
        return finished

    def running(self) -> tuple[Running, ...]:
        return tuple(Running(c.index, self._specs[0].name, since, None) for c, _, since in self._queue)

    def renew(self, slot: str) -> None:
        if self._evaluate is not None:
            self._evaluate.close()
            self._evaluate = None

    def retire(self, slot: str) -> bool:
        return False

    def close(self) -> None:
        self._queue.clear()
        self.renew(self._specs[0].name)


def cannot_work(slot: str, error: BaseException) -> str:
    """Why a slot can evaluate nothing, for `Interrupted`."""
    return one_line(f"{slot} cannot work: {error}")


def check_submission(executor: Executor, candidate: Candidate) -> None:
    """The rules of `Executor.submit`."""
    index = candidate.index
    if executor.free_slots < 1:
        raise ValueError(f"candidate {index} was submitted while all {executor.slots} slots are taken")
    if any(r.index == index for r in executor.running()):
        raise ValueError(f"candidate {index} is already running")


# ---- slots that outlive their driver


def hold(run_dir: Path) -> IO[str]:
    """Declares, for a slot in a process of its own, that outcomes may still appear in the run folder, until closed or dead."""
    lock = (run_dir / SLOTS_LOCK).open("a", encoding="utf-8")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def await_orphans(run_dir: Path, timeout_seconds: float = 60.0) -> None:
    """Returns when no slot of an earlier driver can write into the run folder any more, at once where another driver is at work.

    Raises:
        ClusterError: slots of an earlier driver are still there at the end of the timeout.
    """
    deadline = time.monotonic() + timeout_seconds
    while (run_dir / SLOTS_LOCK).exists() and held(run_dir / SLOTS_LOCK, shared=True) and not held(run_dir / LOCK):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"slots of an earlier session are still working in {run_dir} after {timeout_seconds:g} s: end them, then try again"
            )
        time.sleep(0.1)
