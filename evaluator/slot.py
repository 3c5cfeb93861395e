"""A slot: one GPU, or a share of the CPU cores, on which one program at a time is trained in a sandbox and scored by the judge.

What holds: the program never sees validation data, the judge, the clock or a file it was not given; no real token reaches it before the
clock runs; it is dead, with all it started, before its weights are scored; what scores it never runs its code.

What is not defended against yet (issue 5): work in the seconds of grace after the budget (bounded, and recorded as `training_seconds`);
learning during set-up from library sources, which resemble the embedded default data, or while being scored from rows that the weights
carry along (both bounded by `setup_seconds` and `score_seconds`); a compile cache shared between the programs of one slot and between
the two forwarders of one program, where a profile allows one, which could carry weights or rows; GPU memory beyond a program's share. At
sandbox level "process" files, other processes and network are open. The level is recorded with every score.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from evaluator import data as datafolder
from evaluator import sandbox
from evaluator.data import Data
from evaluator.evaluate import HarnessError, Watch
from evaluator.forwarding import Forwarder, Forwarders
from evaluator.outcome import Failed, Interrupted, Outcome, Phase, Reason, Scored, Stopped
from evaluator.scoring import Judge, Verdict, task_for
from evaluator.scratch import Scratch
from evaluator.trainee_process import Files, Trainee
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
    early_start: bool = False  # start what is needed next beside what runs: for GPUs, see forwarding.py and trainee_process.py


class Slot:
    """`Evaluate` by real training."""

    def __init__(self, config: SlotConfig) -> None:
        self.config = config
        self.measurement_key = config.measurement_key
        self.level = sandbox.level()[0] if config.sandbox == "auto" else config.sandbox
        self._data: Data = datafolder.load(config.data)
        self._judge: Judge | None = None
        self._scratch: Scratch | None = None
        self._spare: _Berth | None = None  # for the next program

    def __call__(self, program: str, seed: int, budget_seconds: float, watch: Watch | None = None) -> Outcome:
        began = time.monotonic()
        berth, hashes = self._begin(program, seed)
        with contextlib.closing(berth):
            files = berth.files
            start = partial(self._start_forwarder, files, seed)
            with contextlib.closing(Forwarders(start, self._early)) as forwarders:
                trained = self._train(berth.trainee, budget_seconds, watch, forwarders)
                ended = time.monotonic()
                if isinstance(trained, Trained) and files.tampered(hashes):
                    trained = Failed(Reason.TAMPERED, Phase.TRAIN, f"{files.tampered(hashes)} was changed while the program ran")
                log = read_log(files.log, self.config.limits.log_bytes)
                if not isinstance(trained, Trained):
                    return _with_log(trained, log, time.monotonic() - began)
                try:
                    verdict = self._score(forwarders, trained)
                except HarnessError as error:  # the judge died over this program, which gets another try
                    return Interrupted(str(error))
        now = time.monotonic()
        return self._outcome(trained, verdict, log, now - began, now - ended)

    def close(self) -> None:
        if self._judge is not None:
            self._judge.close()
            self._judge = None
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def _ready_scratch(self) -> Scratch:
        if self._scratch is None:
            self._scratch = Scratch()
        return self._scratch

    def _ready_judge(self) -> Judge:
        if self._judge is not None and not self._judge.alive:
            self._judge.close()
            self._judge = None
        if self._judge is None:
            self._judge = Judge(self.config.threads, self.config.cpus, self._gpu_environment())
        return self._judge

    def _gpu_environment(self) -> dict[str, str]:
        return {"CUDA_VISIBLE_DEVICES": self.config.gpu}

    @property
    def _early(self) -> bool:
        """Whether processes are started before they are needed; at level "process" a program could reach into those that wait."""
        return self.config.early_start and self.level == "namespaces"

    def _make_spare(self) -> _Berth:
        folder = tempfile.TemporaryDirectory(prefix="evaluation-", dir=self._ready_scratch().path)
        try:
            files = Files.lay_out(Path(folder.name))
            return _Berth(folder, files, Trainee(files, lambda files: self._confined("trainee.py", files, {}, (str(files.work),))))
        except BaseException:
            folder.cleanup()
            raise

    def _begin(self, program: str, seed: int) -> tuple[_Berth, dict[str, str]]:
        """The program is in its lab, whose hashes come along, and its process has the word to begin: the one that waits, if it is well."""
        waiting, self._spare = self._spare, None
        if waiting is not None:
            hashes = waiting.files.fill(program, self.config.prepare)
            if waiting.trainee.settle() and waiting.trainee.begin(seed):
                return waiting, hashes
            waiting.close()
        fresh = self._make_spare()
        hashes = fresh.files.fill(program, self.config.prepare)
        fresh.trainee.begin(seed)  # one that has died already is found out and explained by the run
        return fresh, hashes

    def _train(self, trainee: Trainee, budget_seconds: float, watch: Watch | None, forwarders: Forwarders) -> Trained | Stopped | Failed:
        judge, limits = self._ready_judge(), self.config.limits
        forwarders.start_early()
        if self._early:
            self._spare = self._make_spare()

        def before_clock() -> None:
            judge.wait()
            forwarders.settle()
            if self._spare is not None:
                self._spare.trainee.settle()

        weights = trainee.files.weights
        return TrainingRun(trainee.process, trainee.channel, self._data, limits, budget_seconds, weights, watch, before_clock).run()

    def _score(self, forwarders: Forwarders, trained: Trained) -> Verdict:
        """Two passes, each with a forwarder of its own."""
        judge, limits = self._ready_judge(), self.config.limits
        task = task_for(trained.vocabulary, trained.vocabulary.val, self._data.length, self.config.device, limits.score_seconds)
        verdict = judge.score(task, forwarders.first(task))
        if verdict.reason:
            return verdict
        refusal = judge.check(task, forwarders.second(task))
        return refusal if refusal.reason else verdict

    def _start_forwarder(self, files: Files, seed: int, name: str) -> Forwarder:
        work = files.lab.parent / name
        work.mkdir()
        what = self._confined("forwarder.py", files, {"EVO_WEIGHTS": str(files.weights), "EVO_SEED": str(seed)}, (str(work),))
        return Forwarder(replace(what, readable=(*what.readable, str(files.weights))), files.lab.parent / f"{name}.txt")

    def _confined(self, script: str, files: Files, told: dict[str, str], writable: tuple[str, ...]) -> sandbox.Confined:
        config, cache = self.config, self.config.compile_cache
        more = {"EVO_DEVICE": config.device, "EVO_LAB": str(files.lab), **self._gpu_environment(), **told}
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

    def _outcome(self, trained: Trained, verdict: Verdict, log: str, seconds: float, score_seconds: float) -> Scored | Failed:
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
            setup_seconds=trained.setup_seconds,
            score_seconds=score_seconds,
            logits_through=_carrier(self.config.device, verdict.pinned),
            curve=trained.curve,
            log=log,
        )


def _carrier(device: str, pinned: bool) -> str:
    return "memory" if device != "cuda" else "pinned memory" if pinned else "pageable memory"


def _with_log(outcome: Stopped | Failed, log: str, seconds: float) -> Stopped | Failed:
    return replace(outcome, log=log, total_seconds=seconds) if isinstance(outcome, Failed) else replace(outcome, log=log)


@dataclass(frozen=True)
class _Berth:
    """A place for one evaluation: its folder, and the training process that waits there."""

    folder: tempfile.TemporaryDirectory[str]
    files: Files
    trainee: Trainee

    def close(self) -> None:
        """Ends the process, then removes the folder."""
        self.trainee.end()
        self.folder.cleanup()
