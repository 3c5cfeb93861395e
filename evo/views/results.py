"""Two views of a run as files, `results.tsv` and `best/`: made from the records, each file written whole.

results.tsv      upstream's columns (commit, val_bpb, memory_gb, status, description), one row per evaluation in index order.
                 commit is the genome id. status is `keep` for genomes on the line from the seed to the champion, `discard` for
                 others, `crash` for failures, whose val_bpb and memory_gb are empty: upstream writes 0.000000 there, which is
                 the best possible score of a minimised metric. A description ends with (self-reported) where the score is the
                 program's own word. Duplicates and unwritten proposals were not evaluated: no row
best/train.py    the champion's program
best/best.json   its figures
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from evaluator.outcome import SELF_REPORTED, Evaluated, Failed, Scored, Stopped
from evo.core.population import ancestors
from evo.core.records import Record
from evo.core.standing import Standing
from evo.folder import read_program, write_atomically

COLUMNS = ("commit", "val_bpb", "memory_gb", "status", "description")


def write(run_dir: Path, standing: Standing) -> None:
    """Brings `results.tsv` and `best/` up to date.

    Raises:
        StoreError: the champion's program is missing or damaged.
    """
    _replace(run_dir / "results.tsv", results_table(standing))
    if standing.champion is not None:
        best = run_dir / "best"
        best.mkdir(exist_ok=True)
        _replace(best / "train.py", read_program(run_dir, standing.champion))
        _replace(best / "best.json", json.dumps(best_figures(standing), indent=2, ensure_ascii=False) + "\n")


def results_table(standing: Standing) -> str:
    """`results.tsv` as text."""
    line = main_line(standing)
    rows = ["\t".join(COLUMNS)]
    rows += ["\t".join(_row(r, line)) for r in standing.records if isinstance(r.outcome, Evaluated)]
    return "\n".join(rows) + "\n"


def main_line(standing: Standing) -> set[str]:
    """The champion and all that it descends from; the seed genome alone before there is a champion."""
    start = standing.champion or standing.founder
    return ancestors({id_: g.parents for id_, g in standing.history.genomes.items()}, start) if start else set()


def best_figures(standing: Standing) -> dict[str, Any]:
    """The champion in numbers: estimate, gain over the seed genome by belief, and the announcement if there is one."""
    id_ = standing.champion
    if id_ is None:
        return {}
    genome, estimate = standing.history.genomes[id_], standing.belief.of[id_]
    seed = standing.belief.of.get(standing.founder or "")
    note = next(r.candidate.note for r in standing.records if r.index == genome.index)
    return {
        "genome": id_,
        "val_bpb": estimate.mean,
        "sd": estimate.sd,
        "scores": list(genome.scores),
        "self_reported": standing.history.self_reported,
        "operator": genome.operator,
        "parents": list(genome.parents),
        "note": note,
        "sandbox": sorted({r.outcome.sandbox for r in standing.records if r.candidate.genome == id_ and isinstance(r.outcome, Scored)}),
        "size": genome.size,
        "noise_sd": standing.belief.noise_sd,
        "seed_genome": standing.founder,
        "seed_val_bpb": seed.mean if seed else None,
        "believed_gain": seed.mean - estimate.mean if seed else None,
        "announcement": announcement_figures(standing),
    }


def announcement_figures(standing: Standing) -> dict[str, Any] | None:
    """The announcement as plain data."""
    said = standing.announcement
    if said is None:
        return None
    heldout = {**dataclasses.asdict(said.heldout), "sentence": said.heldout.sentence()} if said.heldout else None
    return {**dataclasses.asdict(said), "proven": said.proven, "sentence": said.sentence(), "heldout": heldout}


def _row(record: Record, line: set[str]) -> tuple[str, ...]:
    outcome, note = record.outcome, record.candidate.note
    operator = record.operator
    val_bpb = memory = ""
    status = "keep" if record.candidate.genome in line else "discard"
    if isinstance(outcome, Scored):
        val_bpb, memory = f"{outcome.val_bpb:.6f}", f"{outcome.peak_memory_gib:.1f}"
        note = f"{note} ({SELF_REPORTED})" if outcome.self_reported else note
    elif isinstance(outcome, Failed):
        status, note = "crash", f"{note} ({outcome.reason}: {outcome.message})"
    elif isinstance(outcome, Stopped):
        status, note = "discard", f"{note} (stopped: {outcome.note})"
    return record.candidate.genome, val_bpb, memory, status, " ".join(f"{operator}: {note}".split())


def _replace(path: Path, text: str) -> None:
    """Writes only what changed: most evaluations leave the best as it is."""
    if not path.exists() or path.read_bytes() != text.encode("utf-8", errors="backslashreplace"):
        write_atomically(path, text)
