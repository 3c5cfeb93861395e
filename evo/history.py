"""What the records of a run say about each genome: the fold that every view of a run starts from.

A pure function of the set of records: they are folded in index order, whatever order they arrived in. A failure adds to
`failures` and never becomes a score. Duplicate and Unwritten consume an index and count as tries of their parents, nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from evaluator.outcome import Duplicate, Scored, Unwritten
from evo.records import CALIBRATE, CROSSOVER, FINAL, MUTATE, REPEATS, Candidate, Proposal, Record

EXPLORATIONS = (MUTATE, CROSSOVER)  # operators that make new genomes


@dataclass(frozen=True, slots=True)
class Genome:
    """One genome and all that came of it."""

    id: str
    index: int  # of the record that introduced it; every ancestor has a lower one
    species: str
    size: int  # tree nodes
    operator: str  # that made it; "calibrate" for the seed
    parents: tuple[str, ...]
    scores: tuple[float, ...]  # val_bpb of all its draws, in index order
    failures: int  # evaluations that gave no score


@dataclass(frozen=True)
class History:
    """All genomes of a run, and the counts that decide what is due."""

    genomes: Mapping[str, Genome]  # in the order of their introduction: parents before children
    tries: Mapping[str, int]  # genome -> explorations that had it as a parent, whatever came of them
    crossed: frozenset[frozenset[str]]  # pairs of parents that were crossed
    finals: tuple[Record, ...]  # final draws, in index order
    evaluated: int  # new genomes evaluated: what `evals` limits
    confirmations: int
    calibrations: tuple[int, int]  # (scored, all)
    fruitless: int  # explorations since the last one that was evaluated
    explored_until: int  # highest index that is no final draw; -1 if none


@dataclass
class _Growing:
    candidate: Candidate
    scores: list[float] = field(default_factory=list)
    failures: int = 0

    def freeze(self) -> Genome:
        proposal = self.candidate.proposal
        repeat = proposal.operator in REPEATS
        return Genome(
            id=self.candidate.genome,
            index=proposal.index,
            species=self.candidate.species,
            size=self.candidate.size,
            operator=CALIBRATE if repeat else proposal.operator,
            parents=() if repeat else proposal.parents,
            scores=tuple(self.scores),
            failures=self.failures,
        )


def fold(records: Iterable[Record]) -> History:
    """The history of a run; `records` may come in any order and hold each index once."""
    ordered = sorted(records, key=_index)
    explorations = [r for r in ordered if r.candidate.proposal.operator in EXPLORATIONS]
    calibrations = [r for r in ordered if r.candidate.proposal.operator == CALIBRATE]
    return History(
        genomes=_genomes(ordered),
        tries=count_tries(r.candidate.proposal for r in explorations),
        crossed=crossed_pairs(r.candidate.proposal for r in explorations),
        finals=tuple(r for r in ordered if r.candidate.proposal.operator == FINAL),
        evaluated=sum(1 for r in explorations if _was_evaluated(r)),
        confirmations=sum(1 for r in ordered if r.candidate.proposal.operator == "confirm"),
        calibrations=(sum(1 for r in calibrations if isinstance(r.outcome, Scored)), len(calibrations)),
        fruitless=_fruitless(explorations),
        explored_until=max((_index(r) for r in ordered if r.candidate.proposal.operator != FINAL), default=-1),
    )


def count_tries(proposals: Iterable[Proposal]) -> dict[str, int]:
    """How often each genome was asked to be a parent of a new one."""
    tries: dict[str, int] = {}
    for proposal in proposals:
        if proposal.operator in EXPLORATIONS:
            for parent in proposal.parents:
                tries[parent] = tries.get(parent, 0) + 1
    return tries


def crossed_pairs(proposals: Iterable[Proposal]) -> frozenset[frozenset[str]]:
    """Pairs that need no second crossing: a merge without conflicts gives the same child again."""
    return frozenset(frozenset(p.parents) for p in proposals if p.operator == CROSSOVER)


def _genomes(ordered: list[Record]) -> dict[str, Genome]:
    growing: dict[str, _Growing] = {}
    for record in ordered:
        if not _was_evaluated(record):
            continue
        genome = growing.setdefault(record.candidate.genome, _Growing(record.candidate))
        if isinstance(record.outcome, Scored):
            genome.scores.append(record.outcome.val_bpb)
        else:
            genome.failures += 1
    return {id_: genome.freeze() for id_, genome in growing.items()}


def _fruitless(explorations: list[Record]) -> int:
    for count, record in enumerate(reversed(explorations)):
        if _was_evaluated(record):
            return count
    return len(explorations)


def _was_evaluated(record: Record) -> bool:
    return not isinstance(record.outcome, Unwritten | Duplicate)


def _index(record: Record) -> int:
    return record.candidate.proposal.index
