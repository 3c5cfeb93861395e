"""A run as it was read, and what it says about its genomes: plain data, which text.py turns into lines."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import unified_diff
from functools import partial
from pathlib import Path
from typing import Any

import genomes
from evaluator.outcome import Failed, Scored, Stopped
from evaluator.printed import printable
from evo.core import flags
from evo.core.history import Genome
from evo.core.records import Record
from evo.core.standing import Standing, assess
from evo.errors import LineageError
from evo.folder import LOCK, exchange, held, log, read_text
from evo.species import Shelf
from evo.store import Snapshot, curve, snapshot
from evo.views.results import announcement_figures, best_figures

LOG_LINES = 20  # lines from the end of a log
REPLY_LINES = 40  # lines from the end of what a model said


@dataclass(frozen=True)
class Run:
    """A run as it was when this command read it."""

    snapshot: Snapshot
    standing: Standing
    by_index: Mapping[int, Record]
    goes_on: bool  # a driver is at work in the folder

    def genome(self, id_: str) -> Genome:
        return self.standing.history.genomes[id_]


def read(run_dir: Path) -> Run:
    """A run folder, read without locking it."""
    found = snapshot(run_dir)
    try:
        goes_on = held(run_dir / LOCK)
    except OSError:  # read only: whoever writes here does so from another machine
        goes_on = False
    with found.damage_named():
        standing = assess(found.records, found.search, Shelf(partial(read_text, run_dir)))
    return Run(found, standing, {r.index: r for r in found.records}, goes_on)


def resolve(run: Run, asked: str) -> str:
    """The full id of the proposal with this index (`#12` or `12`), or the one that starts with what is asked for.

    Raises:
        LineageError: no genome fits, or several do.
    """
    prefix, matches = asked.lower(), _starting(run, asked)
    if prefix in matches:
        return prefix
    if (indexed := _at_index(run, asked)) is not None:
        return indexed
    if not matches:
        raise LineageError(
            f"no evaluated genome starts with {asked!r}: python -m evo.lineage {shlex.quote(str(run.snapshot.run_dir))} lists them"
        )
    if len(matches) > 1:
        raise LineageError(f"{prefix!r} is ambiguous: {', '.join(matches[:4])}{', …' if len(matches) > 4 else ''}")
    return matches[0]


def also_meant(run: Run, asked: str) -> str:
    """A line on what a number could have named besides the proposal of that index; "" if nothing."""
    found, others = _at_index(run, asked), _starting(run, asked)
    others = [id_ for id_ in others if id_ != found]
    if found is None or not others or asked.lower() in others:
        return ""
    return (
        f"{asked} is taken as #{asked}, {found}; it also begins the ids: {', '.join(others[:4])}; give more characters to mean one of them"
    )


def _at_index(run: Run, asked: str) -> str | None:
    record = next((record for index, record in run.by_index.items() if str(index) == asked.removeprefix("#")), None)
    return record.candidate.genome if record is not None and record.candidate.genome in run.standing.history.genomes else None


def _starting(run: Run, asked: str) -> list[str]:
    return [id_ for id_ in run.standing.history.genomes if id_.startswith(asked.lower())]


# ---- the answers, as plain data


def tree(run: Run) -> dict[str, Any]:
    """All genomes in order of introduction, and what happened besides."""
    counts = {"Duplicate": 0, "Unwritten": 0}
    for record in run.standing.records:
        kind = type(record.outcome).__name__
        if kind in counts:
            counts[kind] += 1
    return {
        "run": str(run.snapshot.run_dir),
        "champion": run.standing.champion,
        "noise_sd": run.standing.belief.noise_sd,
        "self_reported": run.standing.history.self_reported,
        "genomes": [_summary(run, g) for g in run.standing.history.genomes.values()],
        "unfinished": [{"index": c.index, "operator": c.operator, "genome": c.genome} for c in run.snapshot.pending],
        "goes_on": run.goes_on,
        "duplicates": counts["Duplicate"],
        "unwritten": counts["Unwritten"],
    }


def show(run: Run, id_: str) -> dict[str, Any]:
    """All about one genome."""
    folder, genome = run.snapshot.run_dir, run.genome(id_)
    text = read_text(folder, id_)
    usual = flags.usual(run.standing.records)
    evaluations = [_evaluation(r, usual) for r in run.standing.records if r.candidate.genome == id_]
    return {
        **_summary(run, genome),
        "species": genome.species,
        "size": genome.size,
        "file": str(folder / "genomes" / f"{id_}.py"),
        "writer": run.by_index[genome.index].candidate.writer,
        "model": _said(folder, genome.index),
        "evaluations": [e for e in evaluations if e],
        "curve": [[p.seconds, p.step, p.tokens, p.loss] for p in curve(folder, genome.index)],
        "diffs": [_difference(run, parent, id_, text) for parent in genome.parents],
        "log": log(folder, genome.index).splitlines()[-LOG_LINES:],
    }


def path(run: Run, id_: str) -> dict[str, Any]:
    """The steps from the seed genome to `id_`; through the first parent of a crossover, into which the other was merged."""
    chain = [run.genome(id_)]
    while chain[-1].parents and chain[-1].parents[0] in run.standing.history.genomes:
        chain.append(run.genome(chain[-1].parents[0]))
    chain.reverse()
    steps = []
    for before, genome in zip([chain[0], *chain], chain, strict=False):
        steps.append({**_summary(run, genome), "gain": _gain(run, before, genome), "total": _gain(run, chain[0], genome)})
    return {"genome": id_, "self_reported": run.standing.history.self_reported, "steps": steps}


def best(run: Run) -> dict[str, Any]:
    """The champion: figures, path and announcement.

    Raises:
        LineageError: nothing has a score yet.
    """
    if run.standing.champion is None:
        raise LineageError(f"{run.snapshot.run_dir} has no scored genome yet")
    return {
        **best_figures(run.standing),
        "file": str(run.snapshot.run_dir / "best" / "train.py"),
        "path": path(run, run.standing.champion)["steps"],
        "announcement": announcement_figures(run.standing),
    }


def _summary(run: Run, genome: Genome) -> dict[str, Any]:
    estimate = run.standing.belief.of.get(genome.id)
    record = run.by_index[genome.index]
    trouble = None
    if not genome.scores:
        trouble = f"{record.outcome.reason}: {record.outcome.message}" if isinstance(record.outcome, Failed) else "stopped"
    return {
        "genome": genome.id,
        "index": genome.index,
        "operator": genome.operator,
        "parents": list(genome.parents),
        "note": record.candidate.note,
        "val_bpb": estimate.mean if estimate else None,
        "sd": estimate.sd if estimate else None,
        "n": len(genome.scores),
        "self_reported": run.standing.history.self_reported,
        "failures": genome.failures,
        "trouble": trouble,
    }


def _evaluation(record: Record, usual: flags.Usual) -> dict[str, Any] | None:
    """One evaluation of a genome; None for what was not evaluated."""
    outcome, proposal = record.outcome, record.candidate.proposal
    row = {"index": proposal.index, "operator": proposal.operator, "seed": proposal.seed, "slot": record.slot}
    if isinstance(outcome, Scored):
        kept = ("val_bpb", "heldout_bpb", "steps", "tokens", "parameters", "peak_memory_gib", "self_reported")
        times = ("training_seconds", "setup_seconds", "score_seconds", "total_seconds")
        figures = {name: getattr(outcome, name) for name in (*kept, *times)}
        return {**row, "outcome": "Scored", **figures, "flags": flags.of(record, usual)}
    if isinstance(outcome, Failed):
        figures = {"reason": str(outcome.reason), "phase": outcome.where, "message": outcome.message}
        return {**row, "outcome": "Failed", **figures, "circumstances": outcome.circumstances}
    if isinstance(outcome, Stopped):
        return {**row, "outcome": "Stopped", "message": outcome.note, "training_seconds": outcome.training_seconds}
    return None


def _said(folder: Path, index: int) -> dict[str, Any] | None:
    """What a model said about a proposal, whether or not the program is its work; None where none was asked."""
    found = exchange(folder, index)
    if found is None:
        return None
    turns = found["turns"]
    return {
        "model": found["model"],
        "tokens": found["tokens"],
        "seconds": sum(turn["seconds"] for turn in turns),
        "troubles": [printable(turn["trouble"]) for turn in turns if turn["trouble"]],
        "reply": printable(turns[-1]["reply"]).splitlines()[-REPLY_LINES:],
        "file": str(folder / "prompts" / f"{index}.json"),
    }


def _difference(run: Run, parent: str, id_: str, text: str) -> dict[str, Any]:
    original = read_text(run.snapshot.run_dir, parent)
    try:
        edits = genomes.describe(genomes.diff(original, text))
    except genomes.GenomeError as error:
        edits = f"not described: {error}"
    lines = unified_diff(original.splitlines(), text.splitlines(), parent, id_, lineterm="", n=2)
    return {"parent": parent, "edits": edits, "unified": list(lines)}


def _gain(run: Run, before: Genome, after: Genome) -> dict[str, float] | None:
    """Improvement in bits per byte and its sd; None where one has no score."""
    a, b = run.standing.belief.of.get(before.id), run.standing.belief.of.get(after.id)
    if a is None or b is None:
        return None
    return {"mean": a.mean - b.mean, "sd": 0.0 if before.id == after.id else math.hypot(a.sd, b.sd)}
