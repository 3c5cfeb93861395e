"""A slot: one GPU, or a share of the CPU cores, on which one program at a time is trained in a sandbox and scored by the judge.

What holds: the program never sees validation data, the judge, the clock or a file it was not given; no real token reaches it before the
clock runs; it is dead, with all it started, before its weights are scored; what scores it never runs its code.

Out of reach, at the strongest level:
- The last twentieth: in the grace after the budget a program may spend a twentieth of the budget on a core before it is refused; on a GPU
  all of the grace. Weights that come later than the seed genome's are flagged (evo/core/flags.py).
  Looks are a twentieth of a second apart: children that live for less, and whose end their parent ignores, are not seen.
- Text before the clock: sources of installed libraries resemble the embedded default data, and a program's own text can carry knowledge.
  Both are bounded by `setup_seconds`, to which the scoring of the previous program adds its time where they overlap, and where a profile
  allows no compilation also by `setup_work_share`, a little time on a core. A set-up that is longer than the seed genome's is flagged. With
  data of one's own (--from) the former is no use. Looks are as far apart there, and what is built anew to be scored may read such text as
  well, up to `score_seconds`.
- Luck: a program may ignore its seed, and then keeps the luck of a seed of its own, about one sd over seeds, in every confirmation.
- A look ahead, or learning while scored, that changes less than 0.003 nats a token (twins.py); rare looks, at a few tokens in a hundred,
  that no twin happens to meet. What the first rows say of all, such as which kind of text they are, where the start of a single row
  suggests the same: 0.04 bits on the default data, in 9 of 16 evaluations.
- A compile cache that the programs of one slot share, where a profile allows one: it could carry weights or training rows, or code for
  the next program; a socket in it could carry a validation row to a program that is set up meanwhile. At level "process" so could a file.
- Notes on files that all can read, such as the interpreter's: a lock (flock) while a process holds it; a page that is in the machine's
  cache since somebody has read it. A bit each, for whoever looks.
- Further training while weights are loaded, on rows that the weights carry: for two more graces. Work at each prediction: a program that
  only keeps rows, and looks up how they go on when it is asked, has the time of its scoring besides, up to `score_seconds`. A scoring that
  takes longer than the seed genome's is flagged.
- Kernel exploits, timing and other side channels, GPU memory that an earlier process left, pinned host memory (launch.py).
At level "process" files, other processes and network are open, too, and only changes to the lab and to the training rows are noticed. The
level is recorded with every score.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from evaluator import data as datafolder
from evaluator import packing, sandbox
from evaluator.berth import Berth, Berths, Files
from evaluator.data import Data, Rows, Vocabulary
from evaluator.evaluate import HarnessError, Watch
from evaluator.lending import Library
from evaluator.outcome import MOST_BPB, Failed, Interrupted, Outcome, Phase, Reason, Scored, Stopped
from evaluator.printed import read_log
from evaluator.scoring import Judge, Verdict, task_for
from evaluator.scratch import KERNELS_BYTES, Evaluations, Kept
from evaluator.task import Task
from evaluator.training import Limits, Trained, TrainingRun, failure

_GIB = 2**30
_LOADED_A_SECOND = 2**28  # bytes of weights loaded a second on a busy machine
_TORCH_SAYS = re.compile(r"Tried to allocate (?P<tried>[\d.]+) (?P<unit>\w+)\..* of which (?P<free>[\d.]+) (?P<unit_free>\w+) is free")
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BEFORE_THE_CLOCK = (Phase.START, Phase.IMPORT, Phase.SETUP)


@dataclass(frozen=True)
class SlotConfig:
    """All that a slot needs to know; plain data, so that it can be sent to the machine that has the slot."""

    prepare: str  # text of prepare.py, constants set
    modules: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)  # (file name, text) of what its data preparation imports
    data: str  # prepared data folder
    measurement_key: str
    device: str = "cpu"  # "cpu", "cuda" or "mps"
    gpu: str = ""  # value of CUDA_VISIBLE_DEVICES for the slot's processes
    cpus: tuple[int, ...] = ()  # cores that its processes are bound to; empty: any
    threads: int = 1
    limits: Limits = field(default_factory=Limits)
    sandbox: str = "auto"  # "auto": the strongest that works; or "namespaces", "process"
    compile_cache: str = ""  # folder that keeps compiled kernels between programs and runs; empty: none
    compiles: bool = True  # forwarders compile the model; where programs do not, nothing hides how long that takes
    early_start: bool = False  # start the next program's processes ahead, and overlap evaluations: for GPUs, see berth.py


def crowded_out(failed: Failed, beside: bool) -> bool:
    """Whether memory would have sufficed without other processes, which on a GPU always include a program's own forwarders.

    Args:
        beside: whether the previous program was being scored.
    """
    if failed.reason is not Reason.OUT_OF_MEMORY:
        return False
    said = _TORCH_SAYS.search(failed.message)
    if said is None:
        return beside or failed.message.startswith("more GPU memory")
    tried, free = (float(said[number]) * _UNITS.get(said[unit], 1) for number, unit in (("tried", "unit"), ("free", "unit_free")))
    return free < tried  # else the program's own limit was in the way


@dataclass(frozen=True)
class Ready:
    """A program that has trained, and is to be scored."""

    berth: Berth
    trained: Trained
    log: str
    ended: float  # monotonic seconds at the end of its process


class _Turn:
    """A lock that is taken somewhere in a block, if at all, and released at its end."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock, self._taken = lock, False

    def take(self) -> None:
        self._lock.acquire()
        self._taken = True

    def close(self) -> None:
        if self._taken:
            self._lock.release()


class Slot:
    """`Evaluate` by real training, in two stages with a lock each. Where processes are started early (berth.py), a program is set up while
    the one before it is scored: once `trained` is called, the next call may come, from another thread. Its clock waits for the verdict, so
    that the timed phase has the GPU to itself."""

    def __init__(self, config: SlotConfig) -> None:
        self.config = config
        self.measurement_key = config.measurement_key
        self.level = sandbox.level()[0] if config.sandbox == "auto" else config.sandbox
        self._data: Data = datafolder.load(config.data)
        self._held = contextlib.ExitStack()
        if config.compile_cache:
            self._held.callback(Kept(config.compile_cache, KERNELS_BYTES).close)
        self._template = self._held.enter_context(sandbox.template(self.level, config.device, config.threads))
        self._usual = self._data.vocabularies[0]  # the vocabulary of the last program that trained; the best guess at the next one's
        self._judge: Judge | None = None
        self._evaluations = Evaluations()
        self._library = Library(read_only=self.level == "namespaces")
        # At level "process" a program could reach into processes that wait for the next.
        self._early = config.early_start and self.level == "namespaces"
        self._overlaps = self._early
        self._berths = Berths(self._evaluations, self._confined, self._early)
        self._training, self._scoring = threading.Lock(), threading.Lock()  # taken in this order; the second before the clock starts

    def __call__(
        self,
        program: str,
        seed: int,
        budget_seconds: float,
        watch: Watch | None = None,
        heldout: bool = False,
        trained: Callable[[], None] | None = None,
    ) -> Outcome:
        with contextlib.ExitStack() as stage:
            with self._training:
                began = time.monotonic()
                try:
                    ready = self._train(program, seed, budget_seconds, watch, stage)
                except packing.PackingError as error:
                    return Interrupted(str(error))
            if isinstance(ready, Failed | Stopped):
                return replace(ready, total_seconds=time.monotonic() - began)
            if trained is not None and self._overlaps:
                trained()
            try:
                verdict = self._score(ready, seed, heldout)
            except HarnessError as error:  # the judge died over this program, which gets another try
                return Interrupted(str(error))
            if verdict.reason == Reason.OUT_OF_MEMORY and self._training.locked():
                self._overlaps = False
                return Interrupted(f"{verdict.message}, beside the set-up of the next program: from now on this slot does not overlap them")
        now = time.monotonic()
        return self._outcome(ready, verdict, now - began, now - ready.ended)

    def close(self) -> None:
        self._end_judge()
        self._berths.close()
        self._library.close()
        self._evaluations.close()
        self._held.close()

    # ---- training

    def _train(
        self, program: str, seed: int, budget_seconds: float, watch: Watch | None, stage: contextlib.ExitStack
    ) -> Ready | Stopped | Failed:
        """Trains it. A set-up that finds too little memory beside others is tried again alone."""
        beside = self._scoring.locked()
        ended = self._try(program, seed, budget_seconds, watch, stage, self._early)
        if isinstance(ended, Failed) and self._early and ended.phase in _BEFORE_THE_CLOCK and crowded_out(ended, beside):
            stage.close()
            with self._scoring:
                pass
            ended = self._try(program, seed, budget_seconds, watch, stage, False)
        return ended

    def _try(
        self, program: str, seed: int, budget_seconds: float, watch: Watch | None, stage: contextlib.ExitStack, build: bool
    ) -> Ready | Stopped | Failed:
        """
        Args:
            build: whether the forwarders build the model meanwhile.
        """
        if not self._scoring.locked():  # else the judge is at work
            self._ready_judge()
        turn = stage.enter_context(contextlib.closing(_Turn(self._scoring)))
        berth = stage.enter_context(contextlib.closing(self._berths.take()))  # closed before the turn is over
        deadline = time.monotonic() + self.config.limits.setup_seconds
        hashes = berth.begin(program, self.config.prepare, seed, self._task(self._usual, self._usual.val) if build else None)
        self._berths.prepare()

        def before_clock() -> None:
            turn.take()
            self._ready_judge().wait()
            berth.forwarders.lie_still(deadline)
            self._berths.settle()

        ended = self._training_run(berth, budget_seconds, watch, before_clock).run()
        now = time.monotonic()
        changed = berth.files.tampered(hashes) or self._library.changed()
        if changed:
            ended = Failed(Reason.TAMPERED, Phase.TRAIN, f"{changed} was changed while the program ran")
        log = read_log(berth.files.log, self.config.limits.log_bytes)
        if isinstance(ended, Trained):
            self._usual = ended.vocabulary
        return Ready(berth, ended, log, now) if isinstance(ended, Trained) else replace(ended, log=log)

    def _training_run(self, berth: Berth, budget_seconds: float, watch: Watch | None, before_clock: Callable[[], None]) -> TrainingRun:
        return TrainingRun(
            berth.trainee.process,
            berth.trainee.channel,
            self._data,
            self.config.limits,
            budget_seconds,
            berth.files.weights,
            watch,
            lend=self._library.lend,
            pack=self._pack,
            before_clock=before_clock,
        )

    def _pack(self, size: int) -> Data:
        """The data with one more vocabulary, which this slot and others find packed from here on."""
        config = self.config
        with_it = datafolder.load(config.data)
        if with_it.vocabulary(size) is None:
            preparation = packing.Preparation(config.prepare, config.modules)
            packing.add_vocabulary(preparation, config.data, size, config.cpus, config.limits.pack_seconds)
            with_it = datafolder.load(config.data)
        self._data = with_it
        return with_it

    # ---- scoring

    def _ready_judge(self) -> Judge:
        if self._judge is not None and not self._judge.alive:
            self._end_judge()
        if self._judge is None:
            self._judge = Judge(self.config.threads, self.config.cpus, self._gpu_environment())
        return self._judge

    def _end_judge(self) -> None:
        if self._judge is not None:
            self._judge.close()
            self._judge = None

    def _gpu_environment(self) -> dict[str, str]:
        return {"CUDA_VISIBLE_DEVICES": self.config.gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # so that a card's number is NVML's too

    def _score(self, ready: Ready, seed: int, heldout: bool) -> Verdict:
        """Two passes, each with a forwarder of its own, and a third over the held-out rows if they are asked for."""
        judge, forwarders, vocabulary = self._ready_judge(), ready.berth.forwarders, ready.trained.vocabulary
        first_seconds = self.config.limits.grace_seconds + ready.berth.files.weights.stat().st_size / _LOADED_A_SECOND
        task = replace(self._task(vocabulary, vocabulary.val), first_seconds=first_seconds)
        try:
            verdict = judge.score(task, forwarders.first(task, seed))
            if verdict.reason:
                return verdict
            refusal = judge.check(task, forwarders.second(task, seed))
            if refusal.reason or not heldout:
                return refusal if refusal.reason else verdict
            task = replace(self._task(vocabulary, vocabulary.heldout), first_seconds=first_seconds)
            other = judge.score(task, forwarders.third(task, seed))
            return other if other.reason else replace(verdict, heldout_bpb=other.val_bpb)
        except BaseException:
            self._end_judge()  # it is in the middle of something
            raise
        finally:
            forwarders.close()
            judge.rest()

    def _task(self, vocabulary: Vocabulary, rows: Rows) -> Task:
        return task_for(vocabulary, rows, self._data.length, self.config.device, self.config.limits.score_seconds)

    def _confined(self, script: str, files: Files, work: Path, cached: bool) -> sandbox.Confined:
        config, cache = self.config, self.config.compile_cache if cached else ""
        spare = int(config.limits.gpu_spare_gib * _GIB) if config.device == "cuda" else 0
        more = {"EVO_DEVICE": config.device, "EVO_LAB": str(files.lab), "EVO_GPU_SPARE_BYTES": str(spare), **self._gpu_environment()}
        if not config.compiles:
            more["EVO_UNCOMPILED"] = "1"
        if cache:
            more |= {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor", "TRITON_CACHE_DIR": f"{cache}/triton"}
        return sandbox.Confined(
            script=script,
            cwd=str(work),
            readable=(str(files.lab),),
            writable=(str(work), cache) if cache else (str(work),),
            masked=self._data.masked,
            env=sandbox.environment(config.threads, **more),
            cpus=config.cpus,
            memory_bytes=int(config.limits.host_memory_gib * _GIB),
            data_bytes=int(config.limits.host_memory_gib * _GIB) if config.device == "cpu" else 0,
            tasks=config.limits.tasks,
            file_bytes=int(config.limits.file_gib * _GIB),
            level=self.level,
            root=str(files.root),
            gpu=config.gpu,
            gpu_free_bytes=spare // 2,  # some of the spare memory is the harness's: contexts, and the judge's rows
            template=self._template,
        )

    def _outcome(self, ready: Ready, verdict: Verdict, seconds: float, score_seconds: float) -> Scored | Failed:
        trained = ready.trained
        if verdict.val_bpb is None:
            failed = failure(Reason(verdict.reason), Phase.SCORE, verdict.message, verdict.trace, seconds, trained.curve)
            return replace(failed, log=ready.log)
        worst = max(verdict.val_bpb, verdict.heldout_bpb or 0.0)
        if not worst < MOST_BPB:
            said = f"bits per byte are {worst:.3g}, but a score is below {MOST_BPB:g}: the predictions have diverged"
            return replace(failure(Reason.NOT_FINITE, Phase.SCORE, said, "", seconds, trained.curve), log=ready.log)
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
            waited_share=trained.waited_share,
            heldout_bpb=verdict.heldout_bpb,
            logits_through=verdict.through,
            curve=trained.curve,
            log=ready.log,
        )
