"""The values that cross evo's borders: what is proposed, what was written, what came of it. Pure data, JSON-ready."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from evaluator.outcome import Evaluated, Failed, Outcome, Scored, from_dict, to_dict
from evaluator.plain import checked
from evo.core.rule import Rule, rule_from_dict

CALIBRATE, MUTATE, CROSSOVER, TUNE, CONFIRM, FINAL = "calibrate", "mutate", "crossover", "tune", "confirm", "final"
ABLATE = "ablate"  # a genome without an edit that seems worth nothing
RECOMBINE = "recombine"  # a genome with an edit that others have shown to be worth something
REPAIR = "repair"  # a genome that failed, mended by a rule
OPTUNA = "optuna"  # knobs as Optuna would move them: the policy tune-only
GIVEN = "given"  # a program that people hand in, as a child of the seed genome
LATEST_SECONDS = 2.5e11  # latest time, since the epoch: the year 9892
_OWN_PLACE = re.compile(r'File "[^"\n]*\btrain\.py", line \d+')
SEEDS = 2**31  # evaluation seeds are below this
REPEATS = (CALIBRATE, CONFIRM, FINAL)  # operators that evaluate a known genome again under a new seed


@dataclass(frozen=True)
class Proposal:
    """What the search wants tried next. `index` is unique in a run and orders everything.

    `parents` are genome ids: none for the seed genome's calibration; two for crossover, and for final, the genome that is drawn and the
    champion that the draws are about; one for all others. `seed` is the evaluation's seed, owned by the harness.
    `group` ties the final draws of one announcement together: the index of the first of them; -1 elsewhere.
    """

    index: int
    operator: str
    parents: tuple[str, ...]
    seed: int
    group: int = -1


@dataclass(frozen=True)
class Candidate:
    """A proposal that has become a program. The text itself is stored by content under `genome`."""

    proposal: Proposal
    genome: str  # genomes.identity(text)
    species: str  # genomes.species(text)
    size: int  # tree nodes: simpler wins ties
    note: str  # one line for people: "MATRIX_LR 0.04 → 0.05"
    writer: str = ""  # name of the model that wrote the text; "": made without one
    loss_code: str = ""  # genomes.loss_code(text): curves are compared where it is equal; "": never
    warmup: float = 0.0  # share of the budget in which its rates rise, as far as its knobs say (lore.warmup_share)
    rule: Rule | None = None  # when its run is to be stopped early; None: never

    @property
    def index(self) -> int:
        return self.proposal.index

    @property
    def operator(self) -> str:
        return self.proposal.operator


@dataclass(frozen=True)
class Record:
    """A finished candidate. Unwritten proposals have an empty genome, species and size 0."""

    candidate: Candidate
    outcome: Outcome
    slot: str = ""  # which slot evaluated it: "cpu0", "node-2/gpu3"
    started: float = 0.0  # seconds since the epoch; shown, never used by the search
    finished: float = 0.0

    @property
    def index(self) -> int:
        return self.candidate.proposal.index

    @property
    def operator(self) -> str:
        return self.candidate.proposal.operator


def lean(record: Record) -> Record:
    """The record without its bulk, since 10,000 records must fit in the driver's memory: without learning curve and log, which only people
    read; without the rule, unless the run was spared; and of a trace only the program's own places, which repairs need."""
    rule = record.candidate.rule
    if rule is not None and not (rule.spared and isinstance(record.outcome, Scored)):
        record = dataclasses.replace(record, candidate=dataclasses.replace(record.candidate, rule=None))
    outcome = record.outcome
    if isinstance(outcome, Evaluated) and (outcome.curve or outcome.log):
        outcome = dataclasses.replace(outcome, curve=(), log="")
    if isinstance(outcome, Failed) and outcome.trace != (own := "\n".join(found.group() for found in _OWN_PLACE.finditer(outcome.trace))):
        outcome = dataclasses.replace(outcome, trace=own)
    return record if outcome is record.outcome else dataclasses.replace(record, outcome=outcome)


def places(trace: str) -> tuple[int, ...]:
    """Lines of the program on the way to a failure, the innermost last."""
    return tuple(int(match.group().rpartition(" ")[2]) for match in _OWN_PLACE.finditer(trace))


def candidate_to_dict(candidate: Candidate) -> dict[str, Any]:
    return dataclasses.asdict(candidate)


def candidate_from_dict(data: dict[str, Any]) -> Candidate:
    proposal = dict(data["proposal"])
    proposal["parents"] = tuple(proposal["parents"])
    rule = data.get("rule")  # absent in records that are older than rules
    return checked(Candidate(**{**data, "proposal": checked(Proposal(**proposal)), "rule": rule_from_dict(rule) if rule else None}))


def record_to_dict(record: Record) -> dict[str, Any]:
    return {**dataclasses.asdict(record), "outcome": to_dict(record.outcome)}


def record_from_dict(data: dict[str, Any]) -> Record:
    """Inverse of `record_to_dict`.

    Raises:
        ValueError, KeyError, TypeError, …: it is not what was stored (folder.DAMAGE).
    """
    record = checked(Record(**{**data, "candidate": candidate_from_dict(data["candidate"]), "outcome": from_dict(data["outcome"])}))
    require_times(record.started, record.finished)
    return record


def require_times(started: float, finished: float) -> None:
    """Raises ValueError where these are not seconds since the epoch that a calendar has."""
    if not (0 <= started < LATEST_SECONDS and 0 <= finished < LATEST_SECONDS):
        raise ValueError(f"from {started} to {finished} is no time")
