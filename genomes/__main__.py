"""`python -m genomes knobs|diff|merge|mutate|check FILE… [--json]`: what this package knows of programs, for people.

    knobs FILE          every literal by name: value, kind, range, whether it may be tuned
    diff A B            the edits that lead from A to B, and how far apart they are
    merge BASE A B      the three-way merge, on standard output; conflicts on standard error. `--prefer a` settles them, else `--seed N`
    mutate FILE         a child, on standard output; what was done on standard error. `mutate --list` shows the catalogue
    check FILE…         what keeps each from being a genome, and its identity where nothing does

`-` reads standard input. Exit code 0; 1 where programs differ, a merge has conflicts, or a check finds problems; 2 for wrong input, which
is reported in one line. This is the only module of the package that reads files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from random import Random
from typing import Any, NoReturn

import genomes

_SHOWN_VALUE = 24  # characters
_SHOWN_CONFLICT = 8  # lines of each side


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message}; `{self.prog} --help` lists the options\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that the terminal's encoding lacks is no reason to end
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        code = run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _drop_output()
        return 0
    except genomes.GenomeError as error:
        message = str(error)
    except OSError as error:
        message = f"cannot read {error.filename}: {error.strerror}" if error.filename else f"cannot write: {error.strerror}"
        _drop_output()
    print(f"genomes: {message}", file=sys.stderr)
    return 2


def _parser() -> Parser:
    parser = Parser(prog="python -m genomes", description="Genetics on the syntax trees of training programs.", allow_abbrev=False)
    commands = parser.add_subparsers(metavar="knobs|diff|merge|mutate|check", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        added.set_defaults(run=run)
        added.add_argument("--json", action="store_true", help="one JSON object instead of text")
        return added

    one = command("knobs", _knobs, "every literal by name")
    one.add_argument("file", metavar="FILE")
    one.add_argument("--tunable", action="store_true", help="only those that a search may move")
    one = command("diff", _diff, "the edits that lead from A to B")
    for name in ("a", "b"):
        one.add_argument(name, metavar=name.upper())
    one = command("merge", _merge, "three-way merge")
    for name in ("base", "a", "b"):
        one.add_argument(name, metavar=name.upper())
    how = one.add_mutually_exclusive_group()
    how.add_argument("--prefer", choices=("a", "b"), help="take this side of every conflict")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="settle conflicts at random, by this seed (default: 0)")
    one = command("mutate", _mutate, "a child made by a mutation from the catalogue")
    one.add_argument("file", metavar="FILE", nargs="?")
    one.add_argument("--list", action="store_true", help="show the catalogue instead")
    one.add_argument("--names", nargs="+", metavar="NAME", help="draw only from these")
    one.add_argument("--seed", type=int, default=0, metavar="N")
    one = command("check", _check, "what keeps programs from being genomes")
    one.add_argument("files", metavar="FILE", nargs="+")
    one.add_argument("--contract", choices=[str(c) for c in genomes.Contract], default="lab", help="script: an autoresearch checkout's")
    return parser


def _drop_output() -> None:
    """Discards what is still to be written, so that it causes no further error at the end of the process."""
    with contextlib.suppress(OSError):  # no real stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _read(path: str) -> str:
    """The text as it is, line ends included."""
    try:
        if path == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise genomes.ParseError(f"{path} is not UTF-8 text: {error}") from error


def _program(path: str) -> str:
    """The text of a program."""
    text = _read(path)
    try:
        genomes.identity(text)
    except genomes.ParseError as error:
        raise genomes.ParseError(f"{path}: {error}") from error
    return text


def _knobs(options: argparse.Namespace) -> int:
    found = [knob for knob in genomes.knobs(_program(options.file)) if knob.tunable or not options.tunable]
    if options.json:
        _print_json({"knobs": [asdict(knob) for knob in found]})
        return 0
    rows = [(k.name, _cut(repr(k.value)), k.kind, _range(k), f"line {k.line}", k.comment) for k in found]
    _print_table(("knob", "value", "kind", "range", "", "comment"), rows)
    return 0


def _range(knob: genomes.Knob) -> str:
    if not knob.tunable:
        return "fixed"
    if knob.choices:
        return " ".join(map(str, knob.choices))
    if knob.kind == "bool":
        return "True False"
    return f"{knob.low:g}..{knob.high:g}{' log' if knob.log else ''}"


def _diff(options: argparse.Namespace) -> int:
    a, b = _program(options.a), _program(options.b)
    edits = genomes.diff(a, b)
    facts = {"same_genome": genomes.identity(a) == genomes.identity(b), "same_species": genomes.species(a) == genomes.species(b)}
    apart = genomes.distance(a, b)
    if options.json:
        _print_json({"edits": [{**asdict(edit), "text": str(edit)} for edit in edits], **facts, "distance": apart})
    else:
        for edit in edits:
            print(edit)
        kin = "the same genome" if facts["same_genome"] else "the same species, other knobs" if facts["same_species"] else "another species"
        print(f"{kin}, distance {apart:.2g}")
    return 1 if edits else 0


def _merge(options: argparse.Namespace) -> int:
    base, a, b = (_program(path) for path in (options.base, options.a, options.b))
    settle = genomes.prefer(options.prefer) if options.prefer else genomes.seeded(Random(options.seed))
    merged = genomes.merge(base, a, b, settle)
    if options.json:
        _print_json({"text": merged.text, "conflicts": [asdict(conflict) for conflict in merged.conflicts]})
    else:
        sys.stdout.write(merged.text)
        sys.stdout.flush()
        for conflict in merged.conflicts:
            print(_conflict(conflict), file=sys.stderr)
    return 1 if merged.conflicts else 0


def _conflict(conflict: genomes.Conflict) -> str:
    sides = (("base", conflict.base), ("a", conflict.a), ("b", conflict.b))
    shown = [f"  {name}{' (taken)' if name == conflict.taken else ''}:\n{_indented(text)}" for name, text in sides]
    return "\n".join([f"conflict: {conflict.where or 'the module'}", *shown])


def _indented(text: str) -> str:
    lines = text.splitlines() or ["(nothing)"]
    more = [f"… {len(lines) - _SHOWN_CONFLICT} more"] if len(lines) > _SHOWN_CONFLICT else []
    return "\n".join(f"    {line}" for line in [*lines[:_SHOWN_CONFLICT], *more])


def _mutate(options: argparse.Namespace) -> int:
    if options.list:
        kept = ("name", "kind", "weight", "summary", "source")
        rows = [{name: getattr(mutation, name) for name in kept} for mutation in genomes.MUTATIONS]
        if options.json:
            _print_json({"mutations": rows})
        else:
            _print_table(kept, [tuple(f"{value:g}" if isinstance(value, float | int) else value for value in row.values()) for row in rows])
        return 0
    if options.file is None:
        raise genomes.MutationError("mutate needs a FILE, or --list")
    text = _program(options.file)
    child = genomes.mutate(text, Random(options.seed), options.names, genomes.contract_of(text))
    if options.json:
        _print_json(asdict(child))
    else:
        sys.stdout.write(child.text)
        sys.stdout.flush()
        print(f"{child.mutation}: {child.note}", file=sys.stderr)
    return 0


def _check(options: argparse.Namespace) -> int:
    reports = {path: _report(_read(path), options.contract) for path in options.files}
    if options.json:
        _print_json({"files": reports})
    else:
        for path, report in reports.items():
            for problem in report["problems"]:
                print(f"{path}{':' if problem['line'] else ''}{problem['line'] or ''}: {problem['message']}")
            if not report["problems"]:
                print(f"{path}: genome {report['genome']}, species {report['species']}, {report['size']} nodes, {report['knobs']} knobs")
    return 1 if any(report["problems"] for report in reports.values()) else 0


def _report(text: str, contract: str) -> dict[str, Any]:
    problems = genomes.check(text, genomes.Contract(contract))
    if problems:
        return {"problems": [asdict(problem) for problem in problems]}
    names = {"genome": genomes.identity(text), "species": genomes.species(text), "size": genomes.size(text)}
    return {"problems": [], **names, "knobs": len(genomes.knobs(text))}


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_VALUE else text[: _SHOWN_VALUE - 1] + "…"


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns as wide as they need to be; the last one is not padded."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
    for line in lines:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip())


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    sys.exit(main())
