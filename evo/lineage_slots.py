"""What each slot has done, whether it scores unlike the others, and what the machines' pace does to scores, as plain data and as lines:
`python -m evo.lineage RUN slots`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from evaluator.outcome import Failed, Scored, Stopped
from evo.history import slot_seconds
from evo.lineage_text import Line
from evo.numeric.pace import fit
from evo.records import REPEATS, Record
from evo.slots import Draw, offsets
from evo.standing import Standing


def slots(standing: Standing) -> dict[str, Any]:
    """Evaluations by slot, by how much its scores lie above the usual slot's (evo/slots.py), and the pace (evo/numeric/pace.py)."""
    rows: dict[str, dict[str, Any]] = {}
    for record in standing.records:
        outcome = record.outcome
        if not record.slot or not isinstance(outcome, Scored | Failed | Stopped):
            continue
        row = rows.setdefault(record.slot, {"slot": record.slot, "evaluations": 0, "failed": 0, "stopped": 0, "hours": 0.0})
        row["evaluations"] += 1
        row["failed"] += isinstance(outcome, Failed)
        row["stopped"] += isinstance(outcome, Stopped)
        row["hours"] += slot_seconds(outcome) / 3600
    found = offsets([draw for record in standing.records if (draw := _draw(record)) is not None])
    for name, row in rows.items():
        row["offset"] = dataclasses.asdict(found[name]) if name in found else None
    return {"slots": [rows[name] for name in sorted(rows)], "differ": bool(found), "pace": _pace(standing)}


def _pace(standing: Standing) -> dict[str, float] | None:
    """None where the scores do not show that pace moves them."""
    found = fit(standing.history.genomes)
    return {"slope": found.slope, "sd": found.sd, "noise_sd": found.noise_sd} if found else None


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
        "val_bpb: by how much a slot's scores lie above the usual slot's, each against its parents'; it may be hot, or busy with other work"
        if data["differ"]
        else "val_bpb: the slots cannot be told apart by their scores: too few, or noise explains how they differ"
    )
    return [*lines, (said, "dim"), (_pace_line(data["pace"]), "dim")]


def _pace_line(pace: Mapping[str, float] | None) -> str:
    if pace is None:
        return "pace: that more or fewer tokens in one budget move the scores of a program has not shown; nothing is taken off"
    effect = f"repeats of a program vary by {pace['sd']:.1%} in tokens, and 1 % more give {pace['slope'] / 100:+.5f} val_bpb"
    rest = f"which leaves noise of sd {pace['noise_sd']:.4f}; an announcement compares raw scores"
    return f"pace: {effect}; that is taken off before programs are compared, {rest}"
