"""A slot: one GPU, or a share of the CPU cores, on which one program at a time is trained in a sandbox and scored by the judge.

What holds: the program never sees validation data, the judge, the clock or a file it was not given; no real token reaches it before the
clock runs; it is dead, with all it started, before its weights are scored; what scores it never runs its code.

What is not defended against yet (issue 5): work in the seconds of grace after the budget (bounded, and recorded as `training_seconds`);
learning during set-up from library sources, which resemble the embedded default data, or while being scored from rows that the weights
carry along (both bounded by `setup_seconds` and `score_seconds`); a compile cache shared between the programs of one slot, where a
profile allows one, which could carry weights or rows; GPU memory beyond a program's share. At sandbox level "process" files and network
are open. The level is recorded with every score.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from evaluator import data as datafolder
from evaluator import sandbox
from evaluator.data import Data
from evaluator.evaluate import HarnessError, Watch
from evaluator.outcome import Failed, Interrupted, Outcome, Phase, Reason, Scored, Stopped
from evaluator.scoring import Judge, Verdict, shared_memory, task_for
from evaluator.scratch import Evaluations
from evaluator.training import Limits, Trained, TrainingRun, printable, read_log

_GIB = 2**30


@dataclass(frozen=True)
class SlotConfig:
    """All that a slot needs to know; plain data, so that it can be sent to the machine that has the slot."""

    prepare: str  # text of prepare.py, constants set
    data: str  # prepared data folder
    measurement_key: str
    device: str = "cpu"  # "cpu", "cuda" or "mps"
    gpu: str = ""  # value of CUDA_VISIBLE_DEVICES for the slot's processes
    cpus: tuple[int, ...] = ()  # cores that its processes are bound to; empty: any
    threads: int = 1
    limits: Limits = field(default_factory=Limits)
    sandbox: str = "auto"  # "auto": the strongest that works; or "namespaces", "process"
    compile_cache: str = ""  # folder that keeps compiled kernels between programs; empty: none


class Slot:
    """`Evaluate` by real training."""

    def __init__(self, config: SlotConfig) -> None:
        self.config = config
        self.measurement_key = config.measurement_key
        self.level = sandbox.level()[0] if config.sandbox == "auto" else config.sandbox
        self._data: Data = datafolder.load(config.data)
        self._judge: Judge | None = None
        self._evaluations = Evaluations()

    def __call__(self, program: str, seed: int, budget_seconds: float, watch: Watch | None = None) -> Outcome:
        began = time.monotonic()
        self._ready_judge()
        with self._evaluations.folder() as folder:
            files = _Files.lay_out(folder, program, self.config.prepare)
            trained = self._train(files, seed, budget_seconds, watch)
            if isinstance(trained, Trained) and files.tampered():
                trained = Failed(Reason.TAMPERED, Phase.TRAIN, f"{files.tampered()} was changed while the program ran")
            log = read_log(files.log, self.config.limits.log_bytes)
            if not isinstance(trained, Trained):
                return _with_log(trained, log, time.monotonic() - began)
            try:
                verdict = self._score(files, trained, seed)
            except HarnessError as error:  # the judge died over this program: a fresh one for the next, and this one again
                self._judge = None
                return Interrupted(str(error))
            return self._outcome(trained, verdict, log, time.monotonic() - began)

    def close(self) -> None:
        if self._judge is not None:
            self._judge.close()
            self._judge = None
        self._evaluations.close()

    def _ready_judge(self) -> Judge:
        if self._judge is None:
            self._judge = Judge(self.config.threads, self.config.cpus, self._gpu_environment())
        return self._judge

    def _gpu_environment(self) -> dict[str, str]:
        return {"CUDA_VISIBLE_DEVICES": self.config.gpu}

    def _train(self, files: _Files, seed: int, budget_seconds: float, watch: Watch | None) -> Trained | Stopped | Failed:
        with sandbox.channel() as (ours, theirs), open(files.log, "wb") as log:
            what = self._confined("trainee.py", files, seed, {"EVO_CHANNEL": str(theirs.fileno())}, writable=(str(files.work),))
            process = sandbox.Process(what, (theirs.fileno(),), log.fileno())
            theirs.close()
            limits = self.config.limits
            return TrainingRun(process, ours, self._data, limits, budget_seconds, files.weights, watch).run()

    def _score(self, files: _Files, trained: Trained, seed: int) -> Verdict:
        """Two passes, each with a forwarder of its own: the second must not know what the first has seen."""
        judge, limits = self._ready_judge(), self.config.limits
        task = task_for(trained.vocabulary, trained.vocabulary.val, self._data.length, self.config.device, limits.score_seconds)
        with self._forwarding(files, "first", task.memory_bytes, seed) as (channel, memory):
            verdict = judge.score(task, channel, memory)
        if verdict.reason:
            return verdict
        with self._forwarding(files, "second", task.memory_bytes, seed) as (channel, memory):
            refusal = judge.check(task, channel, memory)
        return refusal if refusal.reason else verdict

    @contextlib.contextmanager
    def _forwarding(self, files: _Files, name: str, memory_bytes: int, seed: int) -> Iterator[tuple[socket.socket, int]]:
        """A forwarder with the weights: the channel to it and the descriptor of the memory shared with it."""
        work = files.lab.parent / name
        work.mkdir()
        memory = shared_memory(memory_bytes)
        try:
            with sandbox.channel() as (ours, theirs), open(files.log, "ab") as log:
                told = {"EVO_CHANNEL": str(theirs.fileno()), "EVO_MEMORY": str(memory), "EVO_WEIGHTS": str(files.weights)}
                what = self._confined("forwarder.py", files, seed, told, writable=(str(work),))
                what = replace(what, readable=(*what.readable, str(files.weights)))
                process = sandbox.Process(what, (theirs.fileno(), memory), log.fileno())
                theirs.close()
                try:
                    yield ours, memory
                finally:
                    process.end()
        finally:
            os.close(memory)

    def _confined(self, script: str, files: _Files, seed: int, told: dict[str, str], writable: tuple[str, ...]) -> sandbox.Confined:
        config, cache = self.config, self.config.compile_cache
        more = {"EVO_SEED": str(seed), "EVO_DEVICE": config.device, "EVO_LAB": str(files.lab), **self._gpu_environment(), **told}
        if cache:
            more |= {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor", "TRITON_CACHE_DIR": f"{cache}/triton"}
        return sandbox.Confined(
            script=script,
            cwd=writable[0],
            readable=(str(files.lab),),
            writable=(*writable, cache) if cache else writable,
            masked=self._data.masked,
            env=sandbox.environment(config.threads, **more),
            cpus=config.cpus,
            memory_bytes=int(config.limits.host_memory_gib * _GIB),
            file_bytes=int(config.limits.file_gib * _GIB),
            level=self.level,
            root=str(files.root),
        )

    def _outcome(self, trained: Trained, verdict: Verdict, log: str, seconds: float) -> Scored | Failed:
        if verdict.val_bpb is None:
            line = printable(verdict.message).strip().split("\n")[0][:500]
            return Failed(Reason(verdict.reason), Phase.SCORE, line, printable(verdict.trace), seconds, trained.curve, log)
        return Scored(
            val_bpb=verdict.val_bpb,
            training_seconds=trained.seconds,
            total_seconds=seconds,
            steps=trained.steps,
            tokens=trained.tokens,
            parameters=verdict.parameters,
            peak_memory_gib=trained.peak_memory_gib,
            measurement_key=self.measurement_key,
            sandbox=self.level,
            curve=trained.curve,
            log=log,
        )


def _with_log(outcome: Stopped | Failed, log: str, seconds: float) -> Stopped | Failed:
    return replace(outcome, log=log, total_seconds=seconds) if isinstance(outcome, Failed) else replace(outcome, log=log)


@dataclass(frozen=True)
class _Files:
    """Layout of one evaluation's folder. Only `work`, and a folder for each forwarder, can be written to from inside."""

    lab: Path
    work: Path
    root: Path
    weights: Path
    log: Path
    hashes: tuple[tuple[str, str], ...]

    @classmethod
    def lay_out(cls, folder: Path, program: str, prepare: str) -> _Files:
        lab, work, root = folder / "lab", folder / "work", folder / "root"
        for path in (lab, work, root):
            path.mkdir()
        texts = {"train.py": program, "prepare.py": prepare}
        for name, text in texts.items():
            (lab / name).write_text(text, encoding="utf-8")
        hashes = tuple((name, hashlib.sha256(text.encode()).hexdigest()) for name, text in texts.items())
        return cls(lab, work, root, folder / "weights.pt", folder / "log.txt", hashes)

    def tampered(self) -> str:
        """Name of a lab file that is not what it was, or ""."""
        for name, sha256 in self.hashes:
            path = self.lab / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                return name
        return ""
