"""What is worth telling a model about a run for one proposal: a pure function from what is known to a `Brief`, which prompts.py words."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import genomes
from evaluator.outcome import Duplicate, Failed, Outcome, Scored, Stopped, Unwritten
from evo.core.belief import Belief
from evo.core.history import EXPLORATIONS
from evo.core.population import ancestors
from evo.core.records import Candidate, Proposal, Record
from evo.core.standing import Standing
from evo.operators import Library, common_ancestor

TRIED, BEST, LOST, FAILURES, UNDER_WAY = 20, 10, 12, 6, 8  # most entries of each kind
_IDS = re.compile(r"^[0-9a-f]{8} into [0-9a-f]{8}: ")  # ids of a crossover's parents: a model knows neither

# What one of several answers about the same program is to look at first, so that they do not all come back with the same idea: prompts
# that differ are what keeps such searches varied (AlphaEvolve, arXiv 2506.13131, section 2.2).
FOCUSES = (
    "the optimisers: their kind, momentum and decay, and which parameters each of them has",
    "attention: heads, windows, positions, scaling, what becomes of its values",
    "the schedules, of rates, momentum or weight decay: warm-up, decay, floor",
    "the MLP: width, activation, gates",
    "speed: the same model in less time per step, so that the budget has more steps",
    "norms and the residual stream: where they stand, how it is scaled, skips, gates",
    "embeddings, the output layer and the loss",
    "depth against width, and the sequence of the blocks",
    "initial values of the parameters",
    "batches: how large, in how many parts, whether they grow",
    "what can be left out at no cost",
)


@dataclass(frozen=True)
class Figure:
    """A program's true val_bpb as it is believed, or a gain between two."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Result:
    """One program of the run, and the last of the steps that led to it."""

    score: Figure
    note: str  # of that step alone
    gain: Figure | None  # of that step over its parent; positive is better
    edited: bool = False  # it is the program to edit


@dataclass(frozen=True)
class Attempt:
    """Something that was tried, and how it ended."""

    note: str
    end: str


@dataclass(frozen=True)
class Change:
    """What a mutation is: one change, apart from those that other answers about the same program are about to make. (A crossover has no
    others beside it: no pair of programs is crossed twice.)"""

    beside: int = 0  # other answers that are being written
    focus: str = ""  # what this one is to look at first; "" if it is alone


@dataclass(frozen=True)
class Rivals:
    """A place that both parents of a crossover changed, each in its own way; empty text means deleted."""

    where: str  # qualified name of the definition
    ancestor: str
    program: str  # as the program to edit has it
    partner: str


@dataclass(frozen=True)
class Partner:
    """The other parent of a crossover, by what it changed since the common ancestor."""

    score: Figure | None
    edits: str  # genomes.describe
    unified: str  # diff from the ancestor
    definitions: tuple[str, ...]  # functions and methods that it changed, in full
    rivals: tuple[Rivals, ...] = ()  # what the three-way merge of the two cannot unite


@dataclass(frozen=True)
class Setting:
    """Where programs are trained, what they may use, and what people want."""

    agenda: str  # the lab's program.md, as it is now
    profile: str  # name of the device profile
    budget_seconds: float
    device: str = ""
    threads: int = 0  # CPU threads of one program; 0: not known
    memory_gib: float = 0.0  # memory that a program may use: the GPU's where there is one; 0: not known
    offers: tuple[str, ...] = ()  # constants and functions of prepare.py, a line each


@dataclass(frozen=True)
class Measured:
    """What an evaluation measured besides its score."""

    steps: int
    tokens: int
    training_seconds: float
    parameters: int
    peak_memory_gib: float
    losses: tuple[tuple[int, float], ...] = ()  # (step, training loss): the first and the last that are known


@dataclass(frozen=True)
class Brief:
    """Everything that a prompt is made of."""

    setting: Setting
    noise_sd: float  # of one score
    seed_score: Figure | None
    text: str  # the program to edit
    contract: bool  # whether the run's genomes are under the contract of labs; else they are scripts that report their own scores
    score: Figure | None
    measured: Measured | None  # in its latest evaluation that has a score
    tried: tuple[Attempt, ...]  # on this program, latest first
    best: tuple[Result, ...]  # best first
    lost: tuple[Attempt, ...]  # on programs near this one, latest first: what made them worse
    failures: tuple[Attempt, ...]  # of the run, latest first
    under_way: tuple[str, ...]  # notes of programs that are being evaluated and were not made of this one
    task: Change | Partner  # a mutation, or a crossover with another program


def brief(proposal: Proposal, library: Library, standing: Standing, setting: Setting, beside: int = 0) -> Brief:
    """The brief of one proposal: a mutation, or with two parents a crossover into the first.

    Args:
        beside: how many other answers about the same parents are being written.
    """
    parent, belief = proposal.parents[0], library.belief
    text = library.texts(parent)
    return Brief(
        setting=setting,
        noise_sd=belief.noise_sd,
        seed_score=_score(belief, library.founder.genome),
        text=text,
        contract=library.contract is genomes.Contract.LAB,
        score=_score(belief, parent),
        measured=_measured(parent, library, standing),
        tried=tuple(islice(_tried(parent, library, standing), TRIED)),
        best=_best(parent, library),
        lost=tuple(islice(_lost(parent, library, standing), LOST)),
        failures=tuple(islice(_failures(parent, belief, standing), FAILURES)),
        under_way=tuple(islice((_note(c) for c in _under_way(library, standing) if parent not in c.proposal.parents), UNDER_WAY)),
        task=_task(proposal, library, beside),
    )


def _task(proposal: Proposal, library: Library, beside: int) -> Change | Partner:
    if len(proposal.parents) > 1:
        return _partner(library, *proposal.parents)
    return Change(beside, FOCUSES[proposal.index % len(FOCUSES)] if beside else "")


def _tried(parent: str, library: Library, standing: Standing) -> Iterator[Attempt]:
    """What was made of this parent: under way first, then latest first."""
    for candidate in _under_way(library, standing):
        if parent in candidate.proposal.parents:
            yield Attempt(_note(candidate), "is being evaluated")
    for record in reversed(standing.records):
        proposal = record.candidate.proposal
        if parent in proposal.parents and proposal.operator in EXPLORATIONS:
            yield Attempt(_note(record.candidate), _end(record, library.belief, parent))


def _under_way(library: Library, standing: Standing) -> Iterator[Candidate]:
    """New programs without an outcome, latest first."""
    told = {record.index for record in standing.records}
    for candidate in reversed(tuple(library.known.values())):
        if candidate.proposal.operator in EXPLORATIONS and candidate.proposal.index not in told:
            yield candidate


def _measured(genome: str, library: Library, standing: Standing) -> Measured | None:
    """What the latest evaluation with a score measured; None if there is none."""
    scored = (r for r in reversed(standing.records) if r.candidate.genome == genome and isinstance(r.outcome, Scored))
    record = next(scored, None)
    if record is None or not isinstance(record.outcome, Scored):
        return None
    told = [(p.step, p.loss) for p in library.curves(record.index) if p.loss is not None]
    losses = tuple(told[:1] + told[1:][-1:])
    out = record.outcome
    return Measured(out.steps, out.tokens, out.training_seconds, out.parameters, out.peak_memory_gib, losses)


def _best(parent: str, library: Library) -> tuple[Result, ...]:
    """The best programs, by score: if ties went to the smaller program, the list would look out of order."""
    genomes_, of = library.history.genomes, library.belief.of
    leaders = sorted((id_ for id_ in of if genomes_[id_].parents and id_ in library.known), key=lambda id_: of[id_].mean)
    return tuple(_result(id_, parent, library) for id_ in leaders[:BEST])


def _result(genome: str, parent: str, library: Library) -> Result:
    before, estimate = library.history.genomes[genome].parents[0], library.belief.of[genome]
    gain = _gain(library.belief, before, genome) if before in library.belief.of else None
    return Result(Figure(estimate.mean, estimate.sd), _note(library.known[genome]), gain, genome == parent)


def _lost(parent: str, library: Library, standing: Standing) -> Iterator[Attempt]:
    """What made programs near `parent` worse, each change once, latest first. Near are the programs that it descends from and those of its
    structure. Left out: what was made of `parent` itself, which `_tried` lists, and what `parent` contains, which is no warning."""
    genomes_ = library.history.genomes
    line = ancestors({id_: g.parents for id_, g in genomes_.items()}, parent)
    own = genomes_[parent].species if parent in genomes_ else None
    near = {*line, *(id_ for id_, g in genomes_.items() if g.species == own)} - {parent}
    said: set[str] = set()
    for record in reversed(standing.records):
        candidate, parents = record.candidate, record.candidate.proposal.parents
        base = next((id_ for id_ in parents if id_ in near), None)
        if base is None or parent in parents or candidate.operator not in EXPLORATIONS or candidate.genome in line:
            continue
        loss = _loss(record, library.belief, base)
        if loss and (note := _note(candidate)) not in said:
            said.add(note)
            yield Attempt(note, loss)


def _loss(record: Record, belief: Belief, base: str) -> str:
    """The loss in words; "" if nothing was lost, or nobody knows."""
    outcome, child = record.outcome, record.candidate.genome
    if base not in belief.of:
        return ""
    if isinstance(outcome, Scored) and child in belief.of and (gain := _gain(belief, base, child)).mean < -gain.sd:
        return f"lost {-gain.mean:.4f} ± {gain.sd:.4f} against its parent"
    if isinstance(outcome, Stopped) and outcome.foretold is not None and (loss := outcome.foretold - belief.of[base].mean) > 0:
        return f"stopped early: its curve predicted a loss of {loss:.4f} against its parent"
    return ""


def _note(candidate: Candidate) -> str:
    """A candidate's note without ids."""
    return _IDS.sub("crossover: ", candidate.note)


def _failures(parent: str, belief: Belief, standing: Standing) -> Iterator[Attempt]:
    """Failures of programs that were not made of `parent`, each once: a change that fails does so on many parents."""
    said: set[Attempt] = set()
    for record in reversed(standing.records):
        if isinstance(record.outcome, Failed) and parent not in record.candidate.proposal.parents:
            attempt = Attempt(_note(record.candidate), _end(record, belief, parent))
            if attempt not in said:
                said.add(attempt)
                yield attempt


def _partner(library: Library, parent: str, other: str) -> Partner:
    """What `other` changed since the ancestor that it shares with `parent`; of strangers, how it differs from `parent`."""
    own, text = library.texts(parent), library.texts(other)
    base = library.texts(common_ancestor(library, parent, other) or parent)
    known = set(genomes.definitions(base))
    unified = difflib.unified_diff(base.splitlines(), text.splitlines(), "ancestor", "other", lineterm="")
    return Partner(
        score=_score(library.belief, other),
        edits=genomes.describe(genomes.diff(base, text)),
        unified="\n".join(unified),
        definitions=tuple(code for code in genomes.definitions(text) if code not in known),
        rivals=tuple(Rivals(c.where, c.base, c.a, c.b) for c in genomes.merge(base, own, text, genomes.prefer("a")).conflicts),
    )


def _end(record: Record, belief: Belief, parent: str) -> str:
    outcome, child = record.outcome, record.candidate.genome
    if isinstance(outcome, Scored) and child in belief.of and parent in belief.of:
        gain = _gain(belief, parent, child)
        return f"gained {gain.mean:+.4f} ± {gain.sd:.4f} over its parent"
    return _said(outcome)


def _said(outcome: Outcome) -> str:
    if isinstance(outcome, Scored):
        return f"scored {outcome.val_bpb:.4f}"
    if isinstance(outcome, Failed):
        return f"failed in {outcome.where}, {outcome.reason}: {outcome.message}"
    if isinstance(outcome, Stopped):
        return f"stopped early: {outcome.note}"
    if isinstance(outcome, Duplicate):
        return "is a program that had been tried before"
    return f"not evaluated: {outcome.why}" if isinstance(outcome, Unwritten) else "interrupted"


def _score(belief: Belief, genome: str) -> Figure | None:
    estimate = belief.of.get(genome)
    return Figure(estimate.mean, estimate.sd) if estimate else None


def _gain(belief: Belief, before: str, after: str) -> Figure:
    a, b = belief.of[before], belief.of[after]
    return Figure(a.mean - b.mean, math.hypot(a.sd, b.sd))
