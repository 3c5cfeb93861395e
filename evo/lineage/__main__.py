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
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from evo.cli import Parser, entry, folded, tell, width_of
from evo.errors import LineageError
from evo.folder import StoreError, read_text
from evo.lineage.effects import effects, effects_lines
from evo.lineage.operators import operators, operators_lines
from evo.lineage.questions import Run, also_meant, best, path, read, resolve, show, tree
from evo.lineage.slots import slots, slots_lines
from evo.lineage.text import Line, best_lines, path_lines, show_lines, tree_lines

CODE = ("+", "-", "@@", " ")  # beginnings of lines of a difference, or of a log
Data = dict[str, Any]  # an answer, JSON-ready
ANSWERS: dict[str, tuple[Callable[[Run, argparse.Namespace], Data], Callable[[Data], list[Line]]]] = {
    "tree": (lambda run, _: tree(run), tree_lines),
    "show": (lambda run, options: show(run, resolve(run, options.id)), show_lines),
    "path": (lambda run, options: path(run, resolve(run, options.id)), path_lines),
    "best": (lambda run, _: best(run), best_lines),
    "effects": (lambda run, options: effects(run.standing, partial(read_text, options.run)), effects_lines),
    "operators": (lambda run, _: operators(run.standing, run.snapshot.search), operators_lines),
    "slots": (lambda run, _: slots(run.standing), slots_lines),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        run = read(options.run)
        with run.snapshot.damage_named():
            data, lines = _answer(run, options)
            if options.id and (said := also_meant(run, options.id)):
                tell(f"evo.lineage: {said}", sys.stderr)
    except (StoreError, LineageError) as error:
        tell(f"evo.lineage: {error}", sys.stderr)
        return 2
    except OSError as error:
        tell(f"evo.lineage: cannot read {options.run}: {error.strerror}; name a run folder", sys.stderr)
        return 2
    if options.json:
        print(json.dumps(data, ensure_ascii=False, indent=2))
    else:
        _print(lines, CODE if options.what == "show" else ())
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m evo.lineage", description="How the genomes of a run came to be.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("what", nargs="?", default="tree", choices=ANSWERS, help="default: tree")
    parser.add_argument("id", nargs="?", metavar="ID", help="index, genome id or the start of one, for show and path")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return parser


def _answer(run: Run, options: argparse.Namespace) -> tuple[Data, list[Line]]:
    named = options.what in ("show", "path")
    if named and not options.id:
        raise LineageError(f"{options.what} needs an ID: python -m evo.lineage {shlex.quote(str(options.run))} {options.what} ID")
    if options.id and not named:
        raise LineageError(f"{options.what} takes no ID, got {options.id!r}")
    answer, lines = ANSWERS[options.what]
    data = answer(run, options)
    return data, lines(data)


def _print(lines: list[Line], whole: tuple[str, ...]) -> None:
    """Prints lines; on a terminal in colour and broken between words, but for those that begin with one of `whole`."""
    width = width_of(sys.stdout)
    if not width:
        for text, _ in lines:
            print(text)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    for text, style in lines:
        console.print(Text(text if text.startswith(whole) else folded(text, width), style=style))


if __name__ == "__main__":
    sys.exit(entry("evo.lineage", main))
