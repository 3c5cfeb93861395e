"""How much of the noise of repeats is the machine's pace, for varied programs on a real machine.

    python scripts/bench_noise.py --record FILE.jsonl [--count 32] [--repeats 4] [--budget 8] [--profile cpu] [--seed 2]
    python scripts/bench_noise.py [FILE.jsonl]

`--record` evaluates varied programs (as scripts/record_curves.py draws them) several times, all of them once before any twice, and
appends a line of JSON for each; the same command goes on where it was interrupted. Without it a file is read (scripts/data has one).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from record_curves import drawn, whole_rows

from evaluator.outcome import Scored
from evo import assembly
from evo.config import load
from evo.lineage.pace import Repeat, pace

DEFAULT = Path(__file__).parent / "data" / "cpu_repeats.jsonl"
KEPT = ("val_bpb", "tokens", "steps", "parameters", "training_seconds", "waited_share")


def record(options: argparse.Namespace) -> None:
    """Appends what is missing."""
    settings = {"run.profile": options.profile, "run.slots": 1, "run.budget_seconds": options.budget}
    assembled = assembly.build(assembly.plan(load(None, [], settings)), lambda said: print(said, file=sys.stderr, flush=True))
    done = {(row["number"], row["repeat"]) for row in whole_rows(options.record)}
    with contextlib.closing(assembled.specs(Path())[0].make()) as evaluate, options.record.open("a") as file:
        for repeat, number in ((r, n) for r in range(options.repeats) for n in range(options.count) if (n, r) not in done):
            text, mutations = drawn(assembled.rendered.seed, number, options.seed)
            outcome = evaluate(text, 1000 * repeat + number, options.budget)
            told = {name: getattr(outcome, name) for name in KEPT} if isinstance(outcome, Scored) else {"failure": str(outcome)}
            file.write(json.dumps({"number": number, "repeat": repeat, "mutations": mutations, **told}) + "\n")
            file.flush()


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def report(found: list[dict[str, Any]]) -> dict[str, str]:
    """What evo/lineage/pace.py says of all repeats."""
    drawn: dict[int, list[Repeat]] = {}
    for row in (row for row in found if "val_bpb" in row):
        drawn.setdefault(row["number"], []).append(Repeat(row["val_bpb"], row["tokens"]))
    said = pace(list(drawn.values()))
    if said is None:
        raise SystemExit(f"{len(drawn)} programs with {sum(map(len, drawn.values()))} scores in all: too few repeats to tell")
    slope = "has not shown" if said.slope is None else f"{said.slope / 100:+.5f}"
    return {
        "programs, scores": f"{len(drawn)}, {sum(map(len, drawn.values()))}",
        "sd of repeats, val_bpb": f"{said.noise_sd:.4f}",
        "sd of repeats, tokens": f"{said.tokens_sd:.1%}",
        "val_bpb for 1 % more tokens": slope,
        "sd at equal tokens, val_bpb": f"{said.rest_sd:.4f}",
    }


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
        print(f"{name:30} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
