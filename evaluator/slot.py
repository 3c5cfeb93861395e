"""A slot: one GPU, or a share of the CPU cores, on which one program at a time is trained in a sandbox and scored by the judge.

What holds: the program never sees validation data, the judge, the clock or a file it was not given; no real token reaches it before the
clock runs; it is dead, with all it started, before its weights are scored; what scores it never runs its code.

What is not defended against yet: work in the seconds of grace after the budget (their use is bounded and recorded as
`training_seconds`); a compile cache shared between the programs of one slot, where a profile allows one, could carry weights; at
sandbox level "process" files and network are open. The level is recorded with every score.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from evaluator import data as datafolder
from evaluator import sandbox
from evaluator.data import Data
from evaluator.evaluate import Watch
from evaluator.outcome import Failed, Outcome, Phase, Reason, Scored, Stopped
from evaluator.scoring import Judge, Verdict, shared_memory, task_for
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

    def __call__(self, program: str, seed: int, budget_seconds: float, watch: Watch | None = None) -> Outcome:
        began = time.monotonic()
        self._ready_judge()
        with tempfile.TemporaryDirectory(prefix="evo-slot-") as folder:
            files = _Files.lay_out(Path(folder), program, self.config.prepare)
            trained = self._train(files, seed, budget_seconds, watch)
            if isinstance(trained, Trained) and files.tampered():
                trained = Failed(Reason.TAMPERED, Phase.TRAIN, f"{files.tampered()} was changed while the program ran")
            log = read_log(files.log, self.config.limits.log_bytes)
            if not isinstance(trained, Trained):
                return _with_log(trained, log, time.monotonic() - began)
            verdict = self._score(files, trained, seed)
            return self._outcome(trained, verdict, log, time.monotonic() - began)

    def close(self) -> None:
        if self._judge is not None:
            self._judge.close()
            self._judge = None

    def _ready_judge(self) -> Judge:
        if self._judge is None:
            self._judge = Judge(self.config.threads, self.config.cpus, self._gpu_environment())
        return self._judge

    def _gpu_environment(self) -> dict[str, str]:
        return {"CUDA_VISIBLE_DEVICES": self.config.gpu}

    def _train(self, files: _Files, seed: int, budget_seconds: float, watch: Watch | None) -> Trained | Stopped | Failed:
        with _channel() as (ours, theirs), open(files.log, "wb") as log:
            what = self._confined("trainee.py", files, seed, {"EVO_CHANNEL": str(theirs.fileno())}, writable=(str(files.work),))
            process = sandbox.Process(what, (theirs.fileno(),), log.fileno())
            theirs.close()
            limits = self.config.limits
            return TrainingRun(process, ours, self._data, limits, budget_seconds, files.weights, watch).run()

    def _score(self, files: _Files, trained: Trained, seed: int) -> Verdict:
        limits = self.config.limits
        task = task_for(trained.vocabulary, trained.vocabulary.val, self._data.length, self.config.device, limits.score_seconds)
        memory = shared_memory(task.memory_bytes)
        try:
            with _channel() as (ours, theirs), open(files.log, "ab") as log:
                told = {"EVO_CHANNEL": str(theirs.fileno()), "EVO_MEMORY": str(memory), "EVO_WEIGHTS": str(files.weights)}
                what = self._confined("forwarder.py", files, seed, told, writable=(str(files.forward),))
                what = replace(what, readable=(*what.readable, str(files.weights)), cwd=str(files.forward))
                process = sandbox.Process(what, (theirs.fileno(), memory), log.fileno())
                theirs.close()
                try:
                    return self._ready_judge().score(task, ours, memory, patience_seconds=10 * limits.score_seconds)
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


@contextlib.contextmanager
def _channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The harness's end and the program's, closed on the way out."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@dataclass(frozen=True)
class _Files:
    """Layout of one evaluation's folder. Only `work` and `forward` can be written to from inside, each by one process."""

    lab: Path
    work: Path
    forward: Path
    weights: Path
    log: Path
    hashes: tuple[tuple[str, str], ...]

    @classmethod
    def lay_out(cls, folder: Path, program: str, prepare: str) -> _Files:
        lab, work, forward = folder / "lab", folder / "work", folder / "forward"
        for path in (lab, work, forward):
            path.mkdir()
        texts = {"train.py": program, "prepare.py": prepare}
        for name, text in texts.items():
            (lab / name).write_text(text, encoding="utf-8")
        hashes = tuple((name, hashlib.sha256(text.encode()).hexdigest()) for name, text in texts.items())
        return cls(lab, work, forward, folder / "weights.pt", folder / "log.txt", hashes)

    def tampered(self) -> str:
        """Name of a lab file that is not what it was, or ""."""
        for name, sha256 in self.hashes:
            path = self.lab / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                return name
        return ""
