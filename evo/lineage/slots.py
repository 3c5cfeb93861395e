"""What each slot has done, whether it scores unlike the others, and how much of the noise is their pace, as plain data and as lines:
`python -m evo.lineage RUN slots`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from evaluator.outcome import Evaluated, Failed, Scored, Stopped
from evo.core.history import slot_seconds
from evo.core.records import REPEATS, Record
from evo.core.standing import Standing
from evo.lineage.offsets import Draw, offsets
from evo.lineage.pace import Repeat, pace
from evo.lineage.text import Line


def slots(standing: Standing) -> dict[str, Any]:
    """Each slot's evaluations and how far its scores lie above the usual slot's (offsets.py), and the noise (pace.py)."""
    rows: dict[str, dict[str, Any]] = {}
    for record in standing.records:
        outcome = record.outcome
        if not record.slot or not isinstance(outcome, Evaluated):
            continue
        row = rows.setdefault(record.slot, {"slot": record.slot, "evaluations": 0, "failed": 0, "stopped": 0, "hours": 0.0})
        row["evaluations"] += 1
        row["failed"] += isinstance(outcome, Failed)
        row["stopped"] += isinstance(outcome, Stopped)
        row["hours"] += slot_seconds(outcome) / 3600
    found = offsets([draw for record in standing.records if (draw := _draw(record)) is not None])
    for name, row in rows.items():
        row["offset"] = dataclasses.asdict(found[name]) if name in found else None
    return {"slots": [rows[name] for name in sorted(rows)], "differ": bool(found), "noise": _noise(standing)}


def _noise(standing: Standing) -> dict[str, Any] | None:
    """What repeats say about the noise; None if they are too few."""
    drawn: dict[str, list[Repeat]] = {}
    for record in standing.records:
        if isinstance(record.outcome, Scored) and record.outcome.tokens > 0:
            drawn.setdefault(record.candidate.genome, []).append(Repeat(record.outcome.val_bpb, record.outcome.tokens))
    # a genome that is drawn again was lucky in its first draw; the seed was not
    found = pace([draws if genome == standing.founder else draws[1:] for genome, draws in drawn.items()])
    return dataclasses.asdict(found) if found else None


def _draw(record: Record) -> Draw | None:
    """A score, and whom it is compared with."""
    candidate, proposal = record.candidate, record.candidate.proposal
    if not record.slot or not isinstance(record.outcome, Scored):
        return None
    parents = () if proposal.operator in REPEATS else proposal.parents
    return Draw(candidate.genome, parents, record.slot, record.outcome.val_bpb)


def slots_lines(data: Mapping[str, Any]) -> list[Line]:
    """A table, and what is made of it."""
    if not data["slots"]:
        return [("no slot has evaluated anything yet", "")]
    width = max(len("slot"), *(len(row["slot"]) for row in data["slots"])) + 2
    lines: list[Line] = [(f"{'slot':{width}}{'evaluations':>12}{'failed':>8}{'stopped':>9}{'hours':>8}   val_bpb", "bold")]
    for row in data["slots"]:
        offset = f"{row['offset']['mean']:+.4f} ± {row['offset']['sd']:.4f}" if row["offset"] else "-"
        counts = f"{row['evaluations']:>12}{row['failed']:>8}{row['stopped']:>9}{row['hours']:>8.2f}"
        lines.append((f"{row['slot']:{width}}{counts}   {offset}", ""))
    lines.append(("", ""))
    said = (
        "val_bpb: how far a slot's scores lie above the usual slot's, each against its parents'; a high one may be hot, or busy"
        if data["differ"]
        else "one slot: nothing to compare"
        if len(data["slots"]) == 1
        else "val_bpb: the slots cannot be told apart by their scores: these are too few, or noise explains the differences"
    )
    return [*lines, (said, "dim"), (_noise_line(data["noise"]), "dim")]


def _noise_line(noise: Mapping[str, Any] | None) -> str:
    if noise is None:
        return "noise: too few repeats to say where it comes from"
    said = f"noise: repeats of a program vary by {noise['noise_sd']:.4f} val_bpb (sd) and by {noise['tokens_sd']:.1%} in tokens"
    if noise["slope"] is None:
        return f"{said}; nothing shows that the two are related"
    return f"{said}; 1 % more tokens change val_bpb by {noise['slope'] / 100:+.5f}, and at equal tokens {noise['rest_sd']:.4f} would remain"
