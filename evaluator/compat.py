"""Compat mode: a program in karpathy/autoresearch's shape, which trains, keeps its own clock and scores itself when it is run.

What holds: it runs in the same sandbox as any other program (no network, no secrets, no file it was not given, memory and processes
bounded); the seed is the harness's, written into its `manual_seed` calls; all of it ends within set-up, budget, grace and scoring time on
the harness's clock. It sees the validation data, since it scores itself, so its score is its own word: `self_reported`.

What is not defended against: everything that a self-scored program can do about its number, such as untimed steps, a false summary or
training on the validation shard (karpathy/autoresearch, issues 599 and 623). The lab's own contract, with `build_model()` and `main()`, is
the way out of that.
"""

from __future__ import annotations

import ast
import math
import os
import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from evaluator import sandbox
from evaluator.evaluate import Watch
from evaluator.inside import wire
from evaluator.outcome import LEAST_BPB, MOST_BPB, MOST_LOSS, CurvePoint, Failed, Outcome, Phase, Reason, Scored, Stopped
from evaluator.printed import one_below_the_other, printable, read_log
from evaluator.scratch import KERNELS_BYTES, Evaluations, Kept
from evaluator.splice import spliced
from evaluator.training import Limits, add_point, failure, how_it_ended, what_was_raised

_GIB = 2**30
_POLL_SECONDS = 0.2
_CHUNK_BYTES = 1 << 20  # most output read in one poll
_LINE_CHARACTERS = 1000  # most characters read of a line that may report a step
_SUMMARY_BYTES = 1 << 16  # end of the output, where the summary is looked for
_SEEDING = ("manual_seed", "manual_seed_all")
_STEP = re.compile(r"\bstep\W{0,3}(\d{1,12})\b.*?loss\W{0,3}([\w.+-]+)", re.IGNORECASE)
_FIGURE = re.compile(r"(\w+):\s+([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?(?:nan|inf))", re.IGNORECASE)


@dataclass(frozen=True)
class CompatConfig:
    """All that a slot needs to know to run such programs; plain data, so that it can be sent to the machine that has the slot."""

    prepare: str  # text of prepare.py, constants set
    measurement_key: str
    home: str  # what ~ means to the program, which sees only what `readable` names of it
    readable: tuple[str, ...] = ()  # files and folders of data, shown where they are, if they are there
    modules: tuple[tuple[str, str], ...] = ()  # (file name, text) of what else the program may import
    device: str = "cpu"  # "cpu", "cuda" or "mps"
    gpu: str = ""  # value of CUDA_VISIBLE_DEVICES
    cpus: tuple[int, ...] = ()  # cores that it is bound to; empty: any
    threads: int = 1
    limits: Limits = field(default_factory=Limits)
    sandbox: str = "auto"  # "auto": the strongest that works; or "namespaces", "process"
    compile_cache: str = ""  # folder that keeps compiled kernels between programs and runs; empty: none


class Compat:
    """`Evaluate` by the program's own word."""

    def __init__(self, config: CompatConfig) -> None:
        self.config = config
        self.measurement_key = config.measurement_key
        self.level = sandbox.level()[0] if config.sandbox == "auto" else config.sandbox
        self._evaluations = Evaluations()
        self._kept = Kept(config.compile_cache, KERNELS_BYTES) if config.compile_cache else None

    def __call__(
        self,
        program: str,
        seed: int,
        budget_seconds: float,
        watch: Watch | None = None,
        heldout: bool = False,
        trained: Callable[[], None] | None = None,
    ) -> Outcome:
        try:
            text = with_seed(program, seed)
        except (SyntaxError, ValueError, RecursionError) as error:
            return failure(Reason.SYNTAX, Phase.IMPORT, str(error), "", 0.0, ())
        if text is None:
            return failure(Reason.CONTRACT, Phase.IMPORT, "has no manual_seed(…) call, so no seed can be given to it", "", 0.0, ())
        with self._evaluations.folder() as folder:
            return self._run(folder, text, budget_seconds, watch)

    def close(self) -> None:
        self._evaluations.close()
        if self._kept is not None:
            self._kept.close()

    def _run(self, folder: Path, program: str, budget_seconds: float, watch: Watch | None) -> Outcome:
        began, log = time.monotonic(), folder / "log.txt"
        for name in ("lab", "root", "compiled"):
            (folder / name).mkdir()
        for name, text in (*self.config.modules, ("prepare.py", self.config.prepare), ("train.py", program)):
            (folder / "lab" / name).write_text(text, encoding="utf-8")
        ours, theirs = socket.socketpair()
        with ours, theirs, open(log, "wb") as sink, open(log, "rb") as output:
            process = sandbox.Process(self._confined(folder), sink.fileno(), theirs.fileno())
            theirs.close()
            run = _Run(process, ours, output, self.config.limits, budget_seconds, watch)
            ended = run.to_the_end()
        printed = read_log(log, _SUMMARY_BYTES)
        seconds, kept = time.monotonic() - began, printed[-self.config.limits.log_bytes :]
        if isinstance(ended, Stopped):
            return replace(ended, log=kept, total_seconds=seconds)
        return replace(ended or self._scored(run, read_summary(printed), seconds), log=kept, total_seconds=seconds)

    def _scored(self, run: _Run, summary: dict[str, float], seconds: float) -> Scored | Failed:
        """The score, from the program's own figures, if they show that it kept to its budget."""
        trouble = run.trouble_with(summary)
        if trouble is not None:
            return trouble
        steps, tokens = _count(summary, "num_steps"), _count(summary, "total_tokens_M", 1e6)
        return Scored(
            val_bpb=summary["val_bpb"],
            training_seconds=summary.get("training_seconds", seconds),
            total_seconds=seconds,
            steps=steps,
            tokens=tokens,
            parameters=_count(summary, "num_params_M", 1e6),
            peak_memory_gib=_count(summary, "peak_vram_mb", 2**20) / _GIB,
            measurement_key=self.measurement_key,
            sandbox=self.level,
            self_reported=True,
            curve=tuple(
                replace(point, tokens=min(tokens, round(tokens * (point.step + 1) / steps))) if steps else point for point in run.curve
            ),
        )

    def _confined(self, folder: Path) -> sandbox.Confined:
        config, lab = self.config, str(folder / "lab")
        cache = config.compile_cache or str(folder / "compiled")
        env = sandbox.environment(
            config.threads,
            HOME=config.home,
            HF_HUB_OFFLINE="1",  # what is not in the cache cannot be fetched: no waiting for a network that is not there
            TORCHINDUCTOR_CACHE_DIR=f"{cache}/inductor",
            TRITON_CACHE_DIR=f"{cache}/triton",
            CUDA_VISIBLE_DEVICES=config.gpu,
            EVO_LAB=lab,
        )
        return sandbox.Confined(
            script="script.py",
            cwd=lab,
            readable=tuple(path for path in config.readable if os.path.exists(path)),
            writable=(lab, cache),
            masked=(),
            env=env,
            cpus=config.cpus,
            memory_bytes=int(config.limits.host_memory_gib * _GIB),
            data_bytes=int(config.limits.host_memory_gib * _GIB) if config.device == "cpu" else 0,
            tasks=config.limits.tasks,
            file_bytes=int(config.limits.file_gib * _GIB),
            level=self.level,
            root=str(folder / "root"),
        )


def with_seed(program: str, seed: int) -> str | None:
    """The program with the argument of each `manual_seed(…)` call replaced by the seed; None where it has no such call.

    Raises:
        SyntaxError, ValueError, RecursionError: it does not parse.
    """
    arguments = _Arguments()
    arguments.visit(ast.parse(program))
    return spliced(program, [(node, str(seed)) for node in arguments.found]) if arguments.found else None


class _Arguments(ast.NodeVisitor):
    """Collects what is given to calls that set a seed."""

    def __init__(self) -> None:
        self.found: list[ast.expr] = []

    def visit_Call(self, node: ast.Call) -> None:
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if getattr(node.func, "attr", getattr(node.func, "id", "")) in _SEEDING and given:
            self.found.append(given[0])
            self.visit(node.func)  # `Generator().manual_seed(1)`; not the argument, which goes
        else:
            self.generic_visit(node)


def read_summary(printed: str) -> dict[str, float]:
    """The figures after the last line `---`; of a name that comes twice, the last."""
    _, mark, rest = f"\n{printed}".rpartition("\n---\n")
    found = (_FIGURE.fullmatch(line.strip()) for line in rest.splitlines()) if mark else ()
    return {figure[1]: float(figure[2]) for figure in found if figure}


def _count(summary: dict[str, float], name: str, unit: float = 1.0) -> int:
    """A figure as a whole number; 0 where the program gives none that can be one."""
    value = summary.get(name, 0.0) * unit
    return round(value) if 0 <= value < 2**63 else 0


@dataclass
class _Run:
    """One run of a program, watched from outside. `to_the_end()` is called once."""

    process: sandbox.Process
    channel: socket.socket
    output: BinaryIO  # what it has printed so far
    limits: Limits
    budget_seconds: float
    watch: Watch | None
    curve: list[CurvePoint] = field(default_factory=list)
    _born: float = field(default_factory=time.monotonic)
    _first_step: float = math.inf  # when that was seen
    _line: str = ""  # a line begun and not ended

    def to_the_end(self) -> Stopped | Failed | None:
        """None: it ended by itself and well. It and all that it started are gone afterwards."""
        ended: Stopped | Failed | None
        try:
            ended = self._follow()
        except ConnectionError:
            ended = None
        except TimeoutError:
            ended = self._late()
        except wire.WireError as error:
            ended = self._fail(Reason.CONTRACT, f"wrote to the harness's channel: {error}")
        finally:
            exit_ = self.process.end()
        self._look()
        return self._fail(*how_it_ended(exit_, self.limits)) if ended is None and exit_.code else ended

    def trouble_with(self, summary: dict[str, float]) -> Failed | None:
        """Why the summary gives no score; None where it gives one."""
        if "val_bpb" not in summary:
            return self._fail(Reason.CONTRACT, "ended without a line `val_bpb: NUMBER` after a line `---`", phase=Phase.SCORE)
        val_bpb, trained = summary["val_bpb"], summary.get("training_seconds", 0.0)
        if not math.isfinite(val_bpb):
            return self._fail(Reason.NOT_FINITE, f"val_bpb: {val_bpb} is not a score", phase=Phase.SCORE)
        if val_bpb <= 0:
            return self._fail(Reason.CRASH, f"val_bpb: {val_bpb:f} is not a score; it stands for a crash", phase=Phase.SCORE)
        if not LEAST_BPB < val_bpb < MOST_BPB:
            said = f"val_bpb: {val_bpb:.3g} is not a score; one lies between {LEAST_BPB:g} and {MOST_BPB:g}"
            return self._fail(Reason.NOT_FINITE, said, phase=Phase.SCORE)
        if not 0 <= trained <= self.budget_seconds + self.limits.grace_seconds:
            allowed = f"{self.budget_seconds:g} s budget and {self.limits.grace_seconds:g} s of grace"
            return self._fail(
                Reason.OVERRAN, f"says that it trained for {trained:g} s, which is more than the {allowed}", phase=Phase.TRAIN
            )
        return None

    @property
    def _allowed_seconds(self) -> float:
        return self.limits.setup_seconds + self.budget_seconds + self.limits.grace_seconds + self.limits.score_seconds

    def _follow(self) -> Stopped | Failed | None:
        deadline = self._born + self._allowed_seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return self._late()
            said = select.select([self.channel], [], [], min(left, _POLL_SECONDS))[0]
            note = self._look()
            if note is not None:
                return Stopped(note, time.monotonic() - self._first_step, tuple(self.curve))
            if said:
                message = wire.receive(self.channel, deadline=deadline)
                return None if message is None else self._raised(message[0])

    def _look(self) -> str | None:
        """Takes in what was printed since the last look: each step becomes a point of the curve. The watch's note, if it has one."""
        text = one_below_the_other(self._line + self.output.read(_CHUNK_BYTES).decode("utf-8", errors="replace"))
        *lines, self._line = text.split("\n")
        self._line = self._line[-_LINE_CHARACTERS:]
        note = None
        for line in lines:
            found = _STEP.search(line[:_LINE_CHARACTERS])
            if found is None or (self.curve and int(found[1]) <= self.curve[-1].step):
                continue
            self._first_step = min(self._first_step, time.monotonic())
            seconds = time.monotonic() - self._first_step
            add_point(self.curve, CurvePoint(seconds, int(found[1]), 0, _loss(found[2])))  # its tokens are known at the end
            note = note or (self.watch(self.curve[-1]) if self.watch else None)
        return note

    def _raised(self, message: dict[str, Any]) -> Failed:
        if message["op"] != "error":
            return self._fail(Reason.CONTRACT, f"wrote to the harness's channel: {message['op']!r}")
        reason, text = what_was_raised(message, self.limits)
        if message.get("type") == "SystemExit" and (last := self._last_words()):
            text = f"{text}, after printing {last!r}"  # a program of this kind prints why, and exits
        return self._fail(reason, text, str(message.get("trace", "")))

    def _last_words(self) -> str:
        """End of the output, in one line."""
        size = self.output.seek(0, os.SEEK_END)
        self.output.seek(max(0, size - 400))
        return " ".join(printable(self.output.read().decode("utf-8", errors="replace")).split())[-100:]

    def _late(self) -> Failed:
        limits = self.limits
        parts = f"{limits.setup_seconds:g} s of set-up, {self.budget_seconds:g} s budget, {limits.grace_seconds:g} s of grace"
        return self._fail(
            Reason.OVERRAN, f"still ran after {self._allowed_seconds:g} s ({parts} and {limits.score_seconds:g} s for its scoring)"
        )

    def _fail(self, reason: Reason, message: str, trace: str = "", phase: Phase | None = None) -> Failed:
        reached = Phase.TRAIN if self.curve else Phase.SETUP
        return failure(reason, phase or reached, message, trace, time.monotonic() - self._born, tuple(self.curve))


def _loss(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < MOST_LOSS else None  # nor is NaN
