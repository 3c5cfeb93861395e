"""The dry run: takes a program from its import to its saved weights in seconds, on the CPU, in the same sandbox as a training.

It is imported, builds its model, warms up, takes a few steps on random tokens and saves; another process builds the model anew, loads the
weights, and checks the logits' shape, NaN, and whether they look ahead. The caller makes the program small first (evo/preflight.py).

The result is a verdict, never a score, and never an exception for what the program is like. Only what points at the program is a failure:
too little time or memory, a missing device or an end by a signal says nothing (`Inconclusive`).
Left out: what large sizes, a GPU, compilers and long training bring about. A program that means to deceive can pass.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluator import sandbox
from evaluator.berth import Berth, Berths, Files
from evaluator.data import Data, Rows, Vocabulary
from evaluator.inside import wire
from evaluator.outcome import Failed, Phase, Reason, Stopped
from evaluator.printed import read_log
from evaluator.scratch import Evaluations
from evaluator.training import Limits, Trained, TrainingRun, failure, how_it_ended, what_was_raised
from evaluator.waiting import Waiting

BUDGET_SECONDS = 0.5  # training time: dozens of steps of a small model, one of a large
SEED = 0
EXAMINED_ROWS = 2
_ROWS = 64  # rows of random tokens, for training
_GIB = 2**30
_OF_THE_MACHINE = (Reason.OUT_OF_MEMORY, Reason.SETUP_TIMEOUT, Reason.OVERRAN, Reason.SCORE_TIMEOUT, Reason.TOO_BIG)
# Messages of programs that need a GPU, a compiler or a kernel that is not here, that end on purpose, or that the machine ended.
_SAYS_NOTHING = re.compile(
    r"cuda|\bgpus?\b|triton|inductor|(flex|flash)_?att|not implemented for|\bcompiler\b|SystemExit|ended with signal", re.IGNORECASE
)
_FRAME = re.compile(r'^ *File "([^"]*)"', re.MULTILINE)
_OF_A_DEVICE = re.compile(r"[\\/]torch[\\/](cuda|_inductor|nn[\\/]attention)[\\/]")


@dataclass(frozen=True)
class Passed:
    """Nothing was found."""

    seconds: float


@dataclass(frozen=True)
class Inconclusive:
    """The dry run says nothing about the program, for that reason."""

    why: str
    seconds: float


Verdict = Passed | Inconclusive | Failed


@dataclass(frozen=True)
class Trial:
    """A program to run dry."""

    program: str
    prepare: str  # text of prepare.py, constants set
    length: int  # tokens of a row: its MAX_SEQ_LEN


@dataclass(frozen=True)
class DryRunConfig:
    """What a dry run may use."""

    threads: int = 1
    seconds: float = 60.0  # for each of set-up, the end of training, and the checks of the model
    memory_gib: float = 8.0
    masked: tuple[str, ...] = ()  # hidden from programs, as in a slot
    sandbox: str = "auto"
    ahead: bool = False  # start the next program's process when one is done: it waits, with its libraries imported


class DryRun:
    """Runs one program at a time, from whichever thread it is called."""

    def __init__(self, config: DryRunConfig) -> None:
        self.config = config
        self.level = sandbox.level()[0] if config.sandbox == "auto" else config.sandbox
        self._held = contextlib.ExitStack()
        self._template = self._held.enter_context(sandbox.template(self.level, "cpu", config.threads))
        self._evaluations = Evaluations()
        self._berths = Berths(self._evaluations, self._confined, early=False)
        self._turn = threading.Lock()

    def __call__(self, trial: Trial) -> Verdict:
        """Runs the program and says what was found."""
        with self._turn:
            began = time.monotonic()
            with contextlib.closing(self._berths.take()) as berth:
                verdict = self._run(berth, trial)
                log = read_log(berth.files.log, Limits().log_bytes)
            if self.config.ahead and self.level == "namespaces":
                self._berths.prepare()
        seconds = time.monotonic() - began
        return replace(verdict, total_seconds=seconds, log=log) if isinstance(verdict, Failed) else replace(verdict, seconds=seconds)

    def close(self) -> None:
        """Ends what waits. Idempotent."""
        self._berths.close()
        self._evaluations.close()
        self._held.close()

    def _run(self, berth: Berth, trial: Trial) -> Verdict:
        if not berth.trainee.settle():
            return Inconclusive("a process for the dry run does not start on this machine", 0.0)
        berth.begin(trial.program, trial.prepare, SEED)
        data, weights = _random_rows(berth.files.lab.parent / "rows.bin", trial.length), berth.files.weights
        process, channel = berth.trainee.process, berth.trainee.channel
        trained = TrainingRun(process, channel, data, self._limits, BUDGET_SECONDS, weights).run()
        assert not isinstance(trained, Stopped), "nobody watches a dry run"
        if isinstance(trained, Trained):
            examiner = self._start_examiner(berth.files)
            try:
                return self._examined(examiner, trained.vocabulary.size, trial.length)
            finally:
                examiner.end()
        return weighed(trained)

    @property
    def _limits(self) -> Limits:
        seconds, gib = self.config.seconds, self.config.memory_gib
        late = seconds / BUDGET_SECONDS  # a step of a large program takes longer than the budget
        return Limits(setup_seconds=seconds, grace_seconds=seconds, late_share=late, host_memory_gib=gib, weights_gib=gib, file_gib=gib)

    def _examined(self, examiner: Waiting, vocab: int, length: int) -> Verdict:
        """What the examiner says of the saved weights."""
        if not examiner.settle():
            return Inconclusive("a process for the dry run does not start on this machine", 0.0)
        examiner.tell({"op": "examine", "seed": SEED, "rows": EXAMINED_ROWS, "length": length, "vocab": vocab})
        try:
            received = wire.receive(examiner.channel, deadline=time.monotonic() + self.config.seconds)
        except TimeoutError:
            return Inconclusive(f"the model did not predict within {self.config.seconds:g} s", 0.0)
        except (wire.WireError, ConnectionError):
            received = None
        if received is None:
            return weighed(_failure(*how_it_ended(examiner.process.end(), self._limits)))
        return _finding(received[0])

    def _start_examiner(self, files: Files) -> Waiting:
        folder, weights = files.lab.parent, str(files.weights)
        work = folder / "examiner"
        work.mkdir()
        what = self._confined("examiner.py", files, work)
        told = replace(what, readable=(*what.readable, weights), env=(*what.env, ("EVO_WEIGHTS", weights)))
        return Waiting(told, folder / "examiner.txt")

    def _confined(self, script: str, files: Files, work: Path, cached: bool = False) -> sandbox.Confined:
        config = self.config
        # Without a GPU in sight; torch.compile hands back what it is given, since compiling takes longer than all the rest.
        more = {"EVO_DEVICE": "cpu", "EVO_LAB": str(files.lab), "CUDA_VISIBLE_DEVICES": "", "TORCHDYNAMO_DISABLE": "1"}
        return sandbox.Confined(
            script=script,
            cwd=str(work),
            readable=(str(files.lab),),
            writable=(str(work),),
            masked=config.masked,
            env=sandbox.environment(config.threads, **more),
            cpus=(),
            memory_bytes=int(config.memory_gib * _GIB),
            data_bytes=int(config.memory_gib * _GIB),
            tasks=self._limits.tasks,
            file_bytes=int(config.memory_gib * _GIB),
            level=self.level,
            root=str(files.root),
            template=self._template,
        )


def weighed(failed: Failed) -> Failed | Inconclusive:
    """The failure itself if it points at the program, else that nothing can be said."""
    raised_in = "".join(_FRAME.findall(failed.trace)[-1:])
    elsewhere = failed.reason in _OF_THE_MACHINE or _SAYS_NOTHING.search(failed.message) or _OF_A_DEVICE.search(raised_in)
    return Inconclusive(f"{failed.reason} in {failed.phase}: {failed.message}", failed.total_seconds) if elsewhere else failed


def _finding(reply: dict[str, Any]) -> Verdict:
    """The examiner's word as a verdict. It comes from where the program runs, so anything may stand in it."""
    if reply["op"] == "sound":
        return Passed(0.0)
    if reply["op"] == "error":
        reason, text = what_was_raised(reply)
        return weighed(_failure(reason, text, str(reply.get("trace", ""))))
    known = {reason.value: reason for reason in (Reason.BAD_LOGITS, Reason.NOT_FINITE, Reason.NOT_CAUSAL)}
    return _failure(known.get(str(reply.get("reason")), Reason.CONTRACT), str(reply.get("message")))


def _failure(reason: Reason, message: str, trace: str = "") -> Failed:
    return failure(reason, Phase.SCORE, message, trace, 0.0, ())


@dataclass(frozen=True)
class _RandomRows(Data):
    """Training rows of tokens that every tokenisation has; prepare.py itself refuses sizes that it does not know."""

    file: str = ""

    def vocabulary(self, size: Any) -> Vocabulary | None:
        rows = Rows(self.file, _ROWS, "")
        return Vocabulary(size, rows, rows, rows, "", "") if isinstance(size, int) else None


def _random_rows(file: Path, length: int) -> Data:
    tokens = bytearray(2 * _ROWS * (length + 1))  # little-endian uint16
    tokens[::2] = random.Random(SEED).randbytes(len(tokens) // 2)
    file.write_bytes(tokens)
    return _RandomRows(str(file.parent), length, "", (), (), file=str(file))
