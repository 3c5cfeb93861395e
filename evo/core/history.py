"""What the records of a run say about each genome: the fold that every view of a run starts from.

A function of the set of records: a `Ledger` files each record under its index, so the order of arrival cannot matter. A failure adds
to `failures` and never becomes a score. Duplicate and Unwritten consume an index and count as tries of their parents, nothing more.
"""

from __future__ import annotations

import math
from bisect import bisect, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from evaluator.outcome import Evaluated, Failed, Outcome, Scored, Stopped
from evo.core.records import (
    ABLATE,
    CALIBRATE,
    CONFIRM,
    CROSSOVER,
    FINAL,
    GIVEN,
    MUTATE,
    OPTUNA,
    RECOMBINE,
    REPAIR,
    REPEATS,
    TUNE,
    Candidate,
    Proposal,
    Record,
)

EXPLORATIONS = (MUTATE, CROSSOVER, RECOMBINE, ABLATE, TUNE, OPTUNA, REPAIR)  # operators that make new genomes
SCORES_PER_FAILURE = 4  # at least, of a genome that may lead


@dataclass(frozen=True, slots=True, kw_only=True)
class Genome:
    """One genome and all that came of it."""

    id: str
    index: int  # index of the record that introduced it; every ancestor has a lower one
    species: str
    size: int  # tree nodes
    operator: str  # the one that made it; "calibrate" for the seed
    parents: tuple[str, ...]
    scores: tuple[float, ...]  # val_bpb of all its draws, in index order
    failures: int  # evaluations that gave no score, runs stopped early among them
    flaw: Failed | None = None  # outcome of the first of them
    memory_gib: float = 0.0  # highest peak of its scored draws; 0 if none was reported
    seconds: float = 0.0  # time of a slot that all its evaluations took
    foretold: float | None = None  # val_bpb that its curve predicted when it was stopped early; not a score
    mean: float = field(init=False)  # mean of the scores; nan without any

    @property
    def unreliable(self) -> bool:
        """Whether more than one in five of its evaluations gave no score: the scores it has are then those of its better runs. A single
        failure says nothing yet: its slot may be to blame."""
        return self.failures > 1 and self.failures * SCORES_PER_FAILURE > len(self.scores)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", math.fsum(self.scores) / len(self.scores) if self.scores else math.nan)


@dataclass(frozen=True)
class History:
    """All genomes of a run, and the counts that decide what is due."""

    genomes: dict[str, Genome]  # in the order of their introduction: parents before children
    tries: Mapping[str, int]  # genome -> explorations that had it as a parent, whatever came of them
    crossed: frozenset[frozenset[str]]  # pairs of parents that were crossed
    finals: tuple[Record, ...]  # final draws, in index order
    evaluated: int  # new genomes evaluated: what `evals` limits
    confirmations: int
    calibrations: tuple[int, int]  # (scored, all)
    fruitless: int  # explorations since the last one that was evaluated
    explored_until: int  # highest index that is no final draw; -1 if none
    self_reported: bool = False  # the scores are the programs' own word (compat mode)
    late_confirmations: int = 0  # those after the last exploration, and the last program that was handed in
    repaired: frozenset[str] = frozenset()  # genomes that a repair was proposed for, whatever came of it


def fold(records: Iterable[Record]) -> History:
    """The history of a run; `records` may come in any order and hold each index once."""
    ledger = Ledger()
    for record in records:
        ledger.add(record)
    return ledger.history()


class Ledger:
    """Grows a history record by record. Everything in it is kept by index or counted: the order of `add` does not matter."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._births: list[tuple[int, str]] = []  # (index, genome), ascending
        self._tries: dict[str, int] = {}
        self._crossed: frozenset[frozenset[str]] = frozenset()
        self._repaired: frozenset[str] = frozenset()
        self._finals: list[Record] = []
        self._explorations: list[tuple[int, bool]] = []  # (index, was evaluated), ascending
        self._confirmations: list[int] = []  # indices, ascending
        self._evaluated = self._calibrations = self._calibrated = 0
        self._explored_until = -1
        self._brought_until = -1  # highest index of a proposal that makes or brings a genome
        self._self_reported = False

    def add(self, record: Record) -> None:
        """Files one record; its index must be new."""
        proposal, evaluated = record.candidate.proposal, isinstance(record.outcome, Evaluated)
        if proposal.operator in EXPLORATIONS:
            insort(self._explorations, (proposal.index, evaluated))
            self._evaluated += evaluated
            for parent in proposal.parents:
                self._tries[parent] = self._tries.get(parent, 0) + 1
            if proposal.operator == CROSSOVER:
                self._crossed |= crossed_pairs((proposal,))
            if proposal.operator == REPAIR:
                self._repaired |= repaired_genomes((proposal,))
        elif proposal.operator == FINAL:
            insort(self._finals, record, key=lambda r: r.index)
        elif proposal.operator == CONFIRM:
            insort(self._confirmations, proposal.index)
        if proposal.operator in (*EXPLORATIONS, GIVEN):
            self._brought_until = max(self._brought_until, proposal.index)
        self._calibrations += proposal.operator == CALIBRATE
        self._calibrated += proposal.operator == CALIBRATE and isinstance(record.outcome, Scored)
        if proposal.operator != FINAL:
            self._explored_until = max(self._explored_until, proposal.index)
        self._self_reported |= isinstance(record.outcome, Scored) and record.outcome.self_reported
        if evaluated:
            self._enter(record)

    def history(self) -> History:
        """All records added so far, as a value."""
        return History(
            genomes={id_: self._entries[id_].genome() for _, id_ in self._births},
            tries=dict(self._tries),
            crossed=self._crossed,
            finals=tuple(self._finals),
            evaluated=self._evaluated,
            confirmations=len(self._confirmations),
            late_confirmations=len(self._confirmations) - bisect(self._confirmations, self._brought_until),
            calibrations=(self._calibrated, self._calibrations),
            fruitless=self._fruitless(),
            explored_until=self._explored_until,
            self_reported=self._self_reported,
            repaired=self._repaired,
        )

    def _enter(self, record: Record) -> None:
        id_, index = record.candidate.genome, record.index
        entry = self._entries.get(id_)
        if entry is None:
            entry = self._entries[id_] = _Entry(record.candidate)
            insort(self._births, (index, id_))
        elif index < entry.candidate.index:
            self._births.remove((entry.candidate.index, id_))
            entry.candidate = record.candidate
            insort(self._births, (index, id_))
        entry.add(index, record.outcome)

    def _fruitless(self) -> int:
        for count, (_, evaluated) in enumerate(reversed(self._explorations)):
            if evaluated:
                return count
        return len(self._explorations)


@dataclass
class _Entry:
    """One genome while records arrive; its value is made once per change."""

    candidate: Candidate  # of the record with the lowest index
    draws: list[tuple[int, float]] = field(default_factory=list)  # (index, val_bpb), ascending
    failures: int = 0
    flaw: tuple[int, Failed] | None = None  # (index, outcome) of the first failure
    memory_gib: float = 0.0
    seconds: list[tuple[int, float]] = field(default_factory=list)  # (index, time of its evaluation), ascending: a sum depends on the order
    foretold: tuple[int, float] | None = None  # (index, predicted value) of the first run that was stopped
    _value: Genome | None = None

    def add(self, index: int, outcome: Outcome) -> None:
        if isinstance(outcome, Scored):
            insort(self.draws, (index, outcome.val_bpb))
            self.memory_gib = max(self.memory_gib, outcome.peak_memory_gib)
        else:
            self.failures += 1
        if isinstance(outcome, Failed) and (self.flaw is None or index < self.flaw[0]):
            self.flaw = index, outcome
        insort(self.seconds, (index, slot_seconds(outcome)))
        if isinstance(outcome, Stopped) and outcome.foretold is not None and (self.foretold is None or index < self.foretold[0]):
            self.foretold = index, outcome.foretold
        self._value = None

    def genome(self) -> Genome:
        if self._value is None:
            candidate, proposal = self.candidate, self.candidate.proposal
            repeat = proposal.operator in REPEATS
            self._value = Genome(
                id=candidate.genome,
                index=proposal.index,
                species=candidate.species,
                size=candidate.size,
                operator=CALIBRATE if repeat else proposal.operator,
                parents=() if repeat else proposal.parents,
                scores=tuple(score for _, score in self.draws),
                failures=self.failures,
                flaw=self.flaw[1] if self.flaw else None,
                memory_gib=self.memory_gib,
                seconds=math.fsum(seconds for _, seconds in self.seconds),
                foretold=self.foretold[1] if self.foretold else None,
            )
        return self._value


def count_tries(proposals: Iterable[Proposal]) -> dict[str, int]:
    """How often each genome is asked to be a parent of a new one."""
    tries: dict[str, int] = {}
    for proposal in proposals:
        if proposal.operator in EXPLORATIONS:
            for parent in proposal.parents:
                tries[parent] = tries.get(parent, 0) + 1
    return tries


def crossed_pairs(proposals: Iterable[Proposal]) -> frozenset[frozenset[str]]:
    """Pairs that need no second crossing: a merge without conflicts gives the same child again."""
    return frozenset(frozenset(p.parents) for p in proposals if p.operator == CROSSOVER)


def repaired_genomes(proposals: Iterable[Proposal]) -> frozenset[str]:
    """Genomes that need no second repair: the same rules give the same child again."""
    return frozenset(p.parents[0] for p in proposals if p.operator == REPAIR)


def slot_seconds(outcome: Outcome) -> float:
    """Seconds for which an evaluation took a slot; 0 for what was not evaluated."""
    if isinstance(outcome, Stopped):
        return outcome.total_seconds or outcome.training_seconds  # older records have only the latter
    return outcome.total_seconds if isinstance(outcome, Scored | Failed) else 0.0
