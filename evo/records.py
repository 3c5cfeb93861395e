"""The values that cross evo's borders: what is proposed, what was written, what came of it. Pure data, JSON-ready."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from evaluator.outcome import Outcome, from_dict, to_dict

CALIBRATE, MUTATE, CROSSOVER, TUNE, CONFIRM, FINAL = "calibrate", "mutate", "crossover", "tune", "confirm", "final"
REPEATS = (CALIBRATE, CONFIRM, FINAL)  # operators that evaluate a known genome again under a new seed


@dataclass(frozen=True)
class Proposal:
    """What the search wants tried next. `index` is unique in a run and orders everything.

    `parents` are genome ids: none for the seed genome's calibration, one for mutate / tune / confirm / final, two for crossover.
    `seed` is the evaluation's seed, owned by the harness. `group` ties the final draws of one announcement together:
    the index of the first of them; -1 elsewhere.
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


@dataclass(frozen=True)
class Record:
    """A finished candidate. Unwritten proposals have an empty genome, species and size 0."""

    candidate: Candidate
    outcome: Outcome
    slot: str = ""  # which slot evaluated it: "cpu0", "node-2/gpu3"
    started: float = 0.0  # seconds since the epoch; shown, never used by the search
    finished: float = 0.0


def lean(record: Record) -> Record:
    """The record without learning curve, trace and log, which only people read: 10,000 records must fit in the driver's memory."""
    bulk = {f.name for f in dataclasses.fields(record.outcome)} & {"curve", "trace", "log"}
    slim = {name: () if name == "curve" else "" for name in bulk if getattr(record.outcome, name)}
    if not slim:
        return record
    return dataclasses.replace(record, outcome=dataclasses.replace(record.outcome, **slim))  # type: ignore[arg-type]


def candidate_to_dict(candidate: Candidate) -> dict[str, Any]:
    return dataclasses.asdict(candidate)


def candidate_from_dict(data: dict[str, Any]) -> Candidate:
    proposal = dict(data["proposal"])
    proposal["parents"] = tuple(proposal["parents"])
    return Candidate(**{**data, "proposal": Proposal(**proposal)})


def record_to_dict(record: Record) -> dict[str, Any]:
    return {**dataclasses.asdict(record), "outcome": to_dict(record.outcome)}


def record_from_dict(data: dict[str, Any]) -> Record:
    return Record(**{**data, "candidate": candidate_from_dict(data["candidate"]), "outcome": from_dict(data["outcome"])})
