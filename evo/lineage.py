"""`python -m evo.lineage RUN [show ID | path ID | best | effects | operators | slots] [--json]`: how the genomes of a run came to be.

    (nothing)   the tree: id, posterior val_bpb ± sd, draws, operator, note; failures marked, champion starred
    show ID     one genome: its figures, all its evaluations, learning curve, differences to its parents, end of its log
    path ID     from the seed genome to ID, with the gain of each step and the sum so far
    best        the path of the champion, its figures and the announcement
    effects     what each edit of the seed genome is worth, estimated over all scored genomes
    operators   what each operator has brought for the time that it took
    slots       what each slot has evaluated, and whether it scores unlike the others

IDs may be cut short as long as they are unique. Reads only, also while the run goes on. Wrong input: one line, exit code 2.
Differences of two posterior means come with the root of the summed squares of their sds, as if they were independent; relatives share
information, so this is on the wide side.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import unified_diff
from functools import partial
from pathlib import Path
from typing import Any

import genomes
from evaluator.outcome import Failed, Scored, Stopped
from evaluator.printed import printable
from evo import flags
from evo.cli import Parser, entry
from evo.folder import LOCK, held, read_program
from evo.history import Genome
from evo.lineage_effects import effects, effects_lines
from evo.lineage_operators import operators, operators_lines
from evo.lineage_slots import slots, slots_lines
from evo.lineage_text import best_lines, path_lines, show_lines, tree_lines
from evo.policies import SearchConfig
from evo.records import Record
from evo.results import announcement_figures, best_figures
from evo.species import Shelf
from evo.standing import Standing, assess
from evo.store import Snapshot, StoreError, curve, exchange, log, read_text, snapshot

WHAT = ("tree", "show", "path", "best", "effects", "operators", "slots")
LOG_LINES = 20  # of the end of a log
REPLY_LINES = 40  # of the end of what a model said


class LineageError(Exception):
    """The question cannot be answered; the message says why."""


@dataclass(frozen=True)
class Run:
    """A run as it was when this command read it."""

    snapshot: Snapshot
    standing: Standing
    by_index: Mapping[int, Record]
    goes_on: bool  # a driver is at work in the folder

    def genome(self, id_: str) -> Genome:
        return self.standing.history.genomes[id_]


def read(run_dir: Path | str) -> Run:
    """A run folder, read without locking it."""
    found = snapshot(run_dir)
    try:
        goes_on = held(Path(run_dir) / LOCK)
    except OSError:  # read only: whoever writes here does so from another machine
        goes_on = False
    standing = assess(found.records, found.policy, Shelf(partial(read_text, run_dir)))
    return Run(found, standing, {r.candidate.proposal.index: r for r in found.records}, goes_on)


def resolve(run: Run, asked: str) -> str:
    """The full id of the proposal with this index (`#12` or `12`), or the one that starts with what is asked for.

    Raises:
        LineageError: none or several do.
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
    """What a number could have named besides the proposal of that index, in a line; "" if nothing."""
    found, others = _at_index(run, asked), _starting(run, asked)
    others = [id_ for id_ in others if id_ != found]
    if found is None or not others or asked.lower() in others:
        return ""
    return f"{asked} is taken for #{asked}, {found}; ids that begin so too: {', '.join(others[:4])}; give more characters for one of them"


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
        "unfinished": [{"index": c.proposal.index, "operator": c.proposal.operator, "genome": c.genome} for c in run.snapshot.pending],
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
    """The steps from the seed genome to `id_`; of a crossover's parents the first, into which the other was merged."""
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


# ---- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        run = read(options.run)
        with _named_damage(run):
            data, lines = _answer(run, options)
            if options.id and (said := also_meant(run, options.id)):
                print(f"evo.lineage: {said}", file=sys.stderr)
    except (StoreError, LineageError) as error:
        print(f"evo.lineage: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"evo.lineage: cannot read {options.run}: {error.strerror}; name a run folder", file=sys.stderr)
        return 2
    _print(json.dumps(data, ensure_ascii=False, indent=2) if options.json else lines)
    return 0


@contextlib.contextmanager
def _named_damage(run: Run) -> Iterator[None]:
    """To check all programs takes long in a large run, so it is done when one does not read, to name it."""
    try:
        yield
    except genomes.GenomeError:
        for id_ in run.standing.history.genomes:
            read_program(run.snapshot.run_dir, id_)
        raise


def _parser() -> Parser:
    parser = Parser(prog="python -m evo.lineage", description="How the genomes of a run came to be.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("what", nargs="?", default="tree", choices=WHAT, help="default: tree")
    parser.add_argument("id", nargs="?", metavar="ID", help="index, genome id or the start of one, for show and path")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return parser


def _answer(run: Run, options: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    named = options.what in ("show", "path")
    if named and not options.id:
        raise LineageError(f"{options.what} needs an ID: python -m evo.lineage {shlex.quote(str(options.run))} {options.what} ID")
    if options.id and not named:
        raise LineageError(f"{options.what} takes no ID, got {options.id!r}")
    answers: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], list[tuple[str, str]]]]] = {
        "tree": (lambda: tree(run), tree_lines),
        "show": (lambda: show(run, resolve(run, options.id)), show_lines),
        "path": (lambda: path(run, resolve(run, options.id)), path_lines),
        "best": (lambda: best(run), best_lines),
        "effects": (lambda: effects(run.standing, partial(read_text, options.run)), effects_lines),
        "operators": (lambda: operators(run.standing, _search_config(run)), operators_lines),
        "slots": (lambda: slots(run.standing), slots_lines),
    }
    answer, lines = answers[options.what]
    data = answer()
    return data, lines(data)


def _search_config(run: Run) -> SearchConfig:
    """What of it decides who survives, as the run was started; defaults where it kept none."""
    usual, kept = SearchConfig(), run.snapshot.settings if "settings" in run.snapshot.meta else {}
    return replace(usual, **{name: kept.get(f"search.{name}", getattr(usual, name)) for name in ("population", "species_share")})


def _print(output: str | list[tuple[str, str]]) -> None:
    """Text as it is; styled lines in colour on a terminal only."""
    if isinstance(output, str):
        print(output)
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        console = Console(soft_wrap=True, highlight=False)
        for text, style in output:
            console.print(Text(text, style=style))
    else:
        for text, _ in output:
            print(text)


if __name__ == "__main__":
    sys.exit(entry("evo.lineage", main))
