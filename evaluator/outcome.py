"""What an evaluation can come to: one of six frozen values, never an exception, and never a number for a failure.

An outcome crosses processes, machines and restarts, so it holds plain data only and survives `to_dict` / `from_dict` unchanged.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evaluator.plain import checked

SELF_REPORTED = "self-reported"  # stands beside every such score that is shown
LEAST_BPB, MOST_BPB = 1e-6, 1e3  # a score's val_bpb lies between; beyond, a model has diverged or a figure is made up
_MOST_STORED = 1e100  # limit for scores stored before there was MOST_BPB: what cannot be squared is damage
MOST_LOSS = 1e30  # largest loss of a learning curve, nats per token: sums of larger ones overflow


class Phase(StrEnum):
    """Where in its life a program was when something happened to it."""

    START = "start"  # the process, before the program's first line
    IMPORT = "import"
    SETUP = "setup"  # building the model and warming up on random tokens
    TRAIN = "train"
    SAVE = "save"
    SCORE = "score"


class Reason(StrEnum):
    """Why a program has no score. Each says what to do next."""

    SYNTAX = "syntax"  # does not parse: have it rewritten
    CONTRACT = "contract"  # lacks what the lab asks for, or misuses what prepare offers: have it rewritten
    CRASH = "crash"  # raised or died: show the writer the last frames
    OUT_OF_MEMORY = "out_of_memory"  # halve the device batch at constant total batch
    SETUP_TIMEOUT = "setup_timeout"  # too slow before the first batch: compile or build less
    OVERRAN = "overran"  # weights arrived too late: it ignored the end of its batches
    NO_MODEL = "no_model"  # ended without saving: have it rewritten
    NOT_FINITE = "not_finite"  # weights or logits hold NaN or infinity, or predictions have diverged: lower a rate
    BAD_LOGITS = "bad_logits"  # wrong shape or type of logits, or no chance for a token of the text: have it rewritten
    NOT_CAUSAL = "not_causal"  # a prediction changed with its future, its neighbours or the order of rows
    TAMPERED = "tampered"  # a file of the lab was changed while the program ran
    TOO_BIG = "too_big"  # weights or files over the limit
    TOO_MANY = "too_many"  # processes and threads over the limit
    SCORE_TIMEOUT = "score_timeout"  # too slow to be scored


@dataclass(frozen=True)
class CurvePoint:
    """One point of a learning curve, as the parent saw it arrive."""

    seconds: float  # since the first real batch, on the parent's clock
    step: int
    tokens: int
    loss: float | None  # nats per token as the program reports it; informational, never ranked


@dataclass(frozen=True)
class Scored:
    """The program trained within its budget and was scored by the judge."""

    val_bpb: float  # validation bits per byte
    training_seconds: float  # first real batch to last byte of the weights, on the parent's clock
    total_seconds: float  # the whole evaluation
    steps: int
    tokens: int  # handed out by prepare, as it reports them
    parameters: int
    peak_memory_gib: float
    measurement_key: str  # scores with different keys are never compared
    sandbox: str  # level the score was taken at: "namespaces" or "process"
    setup_seconds: float = 0.0  # process start to the request for the first real batch; 0 in records from before it was measured
    score_seconds: float = 0.0  # end of the training process to the end of the last forwarder; 0 likewise
    waited_share: float = 0.0  # how much of the time in which its main thread could have run it waited for a core
    logits_through: str = ""  # "memory" on a CPU; "GPU memory", or "pinned memory" or "pageable memory" where the driver refuses that
    heldout_bpb: float | None = None  # bits per byte of the held-out text; None where that was not asked for, or there is none
    self_reported: bool = False  # compat mode only: the number is the program's own word
    curve: tuple[CurvePoint, ...] = ()
    log: str = ""  # last part of what the program printed, control characters removed


@dataclass(frozen=True)
class Stopped:
    """Ended early on purpose by whoever watched its curve."""

    note: str
    training_seconds: float
    curve: tuple[CurvePoint, ...] = ()
    log: str = ""
    total_seconds: float = 0.0  # set-up included
    foretold: float | None = None  # val_bpb predicted from its curve, where that is why it was stopped; not a score


@dataclass(frozen=True)
class Failed:
    """The program is at fault. `message` is one line; `trace` the last frames, both safe to print."""

    reason: Reason
    phase: Phase
    message: str
    trace: str = ""
    total_seconds: float = 0.0
    curve: tuple[CurvePoint, ...] = ()
    log: str = ""
    error: str = ""  # class of the exception that ended it; "" when none was reported
    steps: int = 0  # last step that it reported
    losses: tuple[float, ...] = ()  # last losses that it reported, nats per token, oldest first
    peak_memory_gib: float = 0.0  # host memory, measured from outside; 0 where it was not measured

    @property
    def where(self) -> str:
        """Phase, and how far it got in it."""
        return f"{self.phase} at step {self.steps}" if self.phase is Phase.TRAIN and self.steps else str(self.phase)

    @property
    def circumstances(self) -> str:
        """Last losses and memory, in words; "" where nothing is known."""
        losses = f"last losses {', '.join(f'{loss:.3g}' for loss in self.losses)}" if self.losses else ""
        memory = f"peak memory {self.peak_memory_gib:.2f} GiB of the host" if self.peak_memory_gib else ""
        return "; ".join(filter(None, (losses, memory)))


@dataclass(frozen=True)
class Duplicate:
    """Not evaluated, since its canonical tree is that of a genome known already."""

    of: int  # index of the candidate that has the same genome


@dataclass(frozen=True)
class Unwritten:
    """No program came of the proposal: no mutation applied, the merge gave a parent, or the writer failed."""

    why: str


@dataclass(frozen=True)
class Interrupted:
    """The harness, not the program, ended it (worker lost, machine gone): run it again under its index."""

    why: str


Evaluated = Scored | Stopped | Failed  # a slot worked on it
Outcome = Evaluated | Duplicate | Unwritten | Interrupted

_KINDS: dict[str, type] = {c.__name__: c for c in (Scored, Stopped, Failed, Duplicate, Unwritten, Interrupted)}


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """JSON-ready form: the fields, and the class name under `outcome`."""
    return {"outcome": type(outcome).__name__, **dataclasses.asdict(outcome)}


def from_dict(data: dict[str, Any]) -> Outcome:
    """Inverse of `to_dict`.

    Raises:
        ValueError: the kind is unknown, or a field is not what it is declared to be.
    """
    fields = dict(data)
    name = fields.pop("outcome", None)
    if name not in _KINDS:
        raise ValueError(f"unknown outcome {name!r}; known: {', '.join(_KINDS)}")
    if "curve" in fields:
        fields["curve"] = tuple(checked(CurvePoint(**point), finite=False) for point in fields["curve"])
    if "losses" in fields:
        fields["losses"] = tuple(fields["losses"])
    if name == "Failed":
        fields["reason"], fields["phase"] = Reason(fields["reason"]), Phase(fields["phase"])
    outcome: Outcome = checked(_KINDS[name](**fields))
    if isinstance(outcome, Scored) and not max(abs(outcome.val_bpb), abs(outcome.heldout_bpb or 0.0)) < _MOST_STORED:
        raise ValueError(f"Scored.val_bpb is {outcome.val_bpb}, heldout_bpb {outcome.heldout_bpb}")
    return outcome
