"""What taking the machine's pace off scores is worth on a real machine: does it foretell better what a program scores when drawn again?

    python scripts/bench_pace.py --record FILE.jsonl [--count 32] [--repeats 4] [--budget 8] [--profile cpu] [--seed 2]
    python scripts/bench_pace.py [FILE.jsonl]

`--record` evaluates varied programs (as scripts/record_curves.py draws them) several times, all of them once before any again, and
appends a line of JSON for each; the same command goes on where it was interrupted. Without it a file is read: each repeat in turn is taken
for a run that has drawn every program once, and three of them, the seed's among them, as often as there are repeats; a score, as it is and
levelled by evo/numeric/pace.py, is then compared with the mean of the same program's other draws.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import correlation, fmean, median, pstdev
from typing import Any

from record_curves import drawn

from evaluator.outcome import Scored
from evo import assembly
from evo.config import load
from evo.history import Genome, fold
from evo.numeric.pace import Leveller, fit

DEFAULT = Path(__file__).parent / "data" / "cpu_repeats.jsonl"
OFTEN = 3  # programs that a run has drawn more than once
KEPT = ("val_bpb", "tokens", "steps", "parameters", "training_seconds", "waited_share")


def record(options: argparse.Namespace) -> None:
    """Appends what is missing."""
    settings = {"run.profile": options.profile, "run.slots": 1, "run.budget_seconds": options.budget}
    assembled = assembly.build(assembly.plan(load(None, [], settings)), lambda said: print(said, file=sys.stderr, flush=True))
    done = {(row["number"], row["repeat"]) for row in rows(options.record)} if options.record.exists() else set()
    with contextlib.closing(assembled.specs(Path())[0].make()) as evaluate, options.record.open("a") as file:
        for repeat, number in ((r, n) for r in range(options.repeats) for n in range(options.count) if (n, r) not in done):
            text, mutations = drawn(assembled.seed_text, number, options.seed)
            outcome = evaluate(text, 1000 * repeat + number, options.budget)
            told = {name: getattr(outcome, name) for name in KEPT} if isinstance(outcome, Scored) else {"failure": str(outcome)}
            file.write(json.dumps({"number": number, "repeat": repeat, "mutations": mutations, **told}) + "\n")
            file.flush()


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def genome(number: int, draws: Sequence[dict[str, Any]]) -> Genome:
    """A program with some of its draws; all but the seed are children of it."""
    first = draws[0]
    made = ("mutate", ("0",)) if number else ("calibrate", ())
    scores, amounts = tuple(d["val_bpb"] for d in draws), tuple(math.log(d["tokens"]) for d in draws)
    return Genome(
        str(number), number, "s", 10, *made, scores, 0, amounts=amounts, cost=(first["parameters"], round(first["tokens"] / first["steps"]))
    )


def report(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over all repeats."""
    by_number: dict[int, list[dict[str, Any]]] = {}
    for row in (row for row in found if "val_bpb" in row):
        by_number.setdefault(row["number"], []).append(row)
    repeats = sorted({row["repeat"] for row in found})
    complete = {number: draws for number, draws in by_number.items() if len(draws) == len(repeats)}
    if len(complete) < OFTEN + 2 or len(repeats) < 2:
        raise SystemExit(f"{len(complete)} programs with {len(repeats)} draws each: at least {OFTEN + 2} with 2 are needed")
    raw, level, shown = [], [], 0
    for repeat in repeats:
        genomes = {str(n): genome(n, d if n < OFTEN else [r for r in d if r["repeat"] == repeat]) for n, d in sorted(complete.items())}
        shown += fit(genomes) is not None
        levelled = Leveller()(dataclasses.replace(fold(()), genomes=genomes)).genomes
        for number, draws in complete.items():
            if number >= OFTEN:
                truth = fmean(d["val_bpb"] for d in draws if d["repeat"] != repeat)
                raw.append(genomes[str(number)].mean - truth)
                level.append(levelled[str(number)].mean - truth)
    of_truth = math.sqrt(_variance([[d["val_bpb"] for d in draws] for draws in complete.values()]) / (len(repeats) - 1))
    scores, amounts = ([x - fmean(group) for group in groups for x in group] for groups in _values(complete))
    return {
        "programs": len(complete),
        "draws of each": len(repeats),
        "sd of repeats, val_bpb": round(of_truth * math.sqrt(len(repeats) - 1), 4),
        "sd of repeats, log tokens": round(math.sqrt(_variance(_values(complete)[1])), 4),
        "their correlation": round(correlation(scores, amounts), 3),
        "pace shown in": f"{shown} of {len(repeats)}",
        "error of a raw score, sd": round(pstdev(raw), 4),
        "error of a levelled score, sd": round(pstdev(level), 4),
        "error of a raw score, median of |.|": round(median(map(abs, raw)), 4),
        "error of a levelled score, median of |.|": round(median(map(abs, level)), 4),
        "of which the sd of what it is compared with": round(of_truth, 4),
    }


def _values(complete: dict[int, list[dict[str, Any]]]) -> tuple[list[list[float]], list[list[float]]]:
    """(scores, log tokens) of each program's draws."""
    groups = complete.values()
    return [[d["val_bpb"] for d in draws] for draws in groups], [[math.log(d["tokens"]) for d in draws] for draws in groups]


def _variance(groups: list[list[float]]) -> float:
    """Within groups of one size."""
    return fmean(sum((x - fmean(group)) ** 2 for x in group) / (len(group) - 1) for group in groups)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT, metavar="FILE")
    parser.add_argument("--record", type=Path, metavar="FILE")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--budget", type=float, default=8.0)
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--seed", type=int, default=2, help="of the mutations")
    options = parser.parse_args()
    if options.record:
        record(options)
    for name, value in report(rows(options.record or options.file)).items():
        print(f"{name:45} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
