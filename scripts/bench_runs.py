"""Whole runs of several policies side by side, and what their champions are really worth: each is scored again under fresh seeds.

    python scripts/bench_runs.py FOLDER [--policies evo greedy] [--minutes 10] [--seeds 3] [--slots 2] [--draws 8] [--set section.key=value]

Runs are made one after another, policies in turn, so that a machine that gets slower does so for all; then the seed program and every
champion are trained and scored under the same fresh seeds, one evaluation at a time on each slot, as in a run. What is done is kept in
FOLDER: the same command goes on where it was interrupted. Reported for each run: the mean of the fresh scores with its standard error, what
the run claims, and how many programs it wrote; for each policy against the first: the mean difference of the champions of the same seed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import queue
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from evaluator.evaluate import Evaluate
from evaluator.outcome import Interrupted, Outcome, Scored
from evo import assembly
from evo.config import load

FIRST_SEED = 1_000_000  # first seed of the fresh scores: no run draws such seeds for its first evaluations
SEED_PROGRAM = "seed program"


def run(folder: Path, policy: str, seed: int, options: argparse.Namespace) -> None:
    """Makes a run to its end, or goes on with it; a run that has ended under the same command is left alone.

    Raises:
        SystemExit: it ended under another command, so it does not answer this one.
    """
    settings = [f"search.policy={policy}", *options.set]
    command = [sys.executable, "-m", "evo.run", str(folder), "--slots", str(options.slots), "--seed", str(seed)]
    command += ["--profile", options.profile, "--hours", str(options.minutes / 60)]
    command += [part for setting in settings for part in ("--set", setting)]
    said, done = shlex.join(command[1:]), folder / "done"
    if done.exists():
        if done.read_text() != said:
            raise SystemExit(f"{folder} was made by `{done.read_text()}`, asked for is `{said}`: choose another folder")
        return
    print(f"{policy}, seed {seed}", file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    done.write_text(said)


def rescored(programs: dict[str, str], assembled: assembly.Assembly, options: argparse.Namespace) -> dict[str, list[float | None]]:
    """val_bpb of each program under each fresh seed; None where it got no score."""
    file = options.folder / "rescored.jsonl"
    done = [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []
    comparable = [row for row in done if row["key"] == assembled.measurement_key]
    found: dict[tuple[str, int], float | None] = {(row["program"], row["seed"]): row["val_bpb"] for row in comparable}
    known = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in programs.items()}
    seeds = range(FIRST_SEED, FIRST_SEED + options.draws)
    todo = [(name, seed) for seed in seeds for name in programs if (known[name], seed) not in found]
    free = queue.SimpleQueue[Evaluate]()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(options.slots) as threads, file.open("a") as out:
        for spec in assembled.specs(options.folder):
            free.put(stack.enter_context(contextlib.closing(spec.make())))

        def evaluated(job: tuple[str, int]) -> tuple[tuple[str, int], Outcome]:
            evaluate = free.get()
            try:
                return job, evaluate(programs[job[0]], job[1], assembled.rendered.budget_seconds)
            finally:
                free.put(evaluate)

        for (name, seed), outcome in threads.map(evaluated, todo):
            if isinstance(outcome, Interrupted):  # nobody's fault: the same command tries it again
                continue
            found[known[name], seed] = score = outcome.val_bpb if isinstance(outcome, Scored) else None
            row = {"name": name, "program": known[name], "key": assembled.measurement_key, "seed": seed, "val_bpb": score}
            out.write(json.dumps(row) + "\n")
            out.flush()
    return {name: [found.get((known[name], seed)) for seed in seeds] for name in programs}


def said(name: str, best: dict[str, Any], genomes: int, scores: list[float | None]) -> str:
    """A line on one program."""
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return f"{name:16} got a score under {len(known)} of {len(scores)} fresh seeds"
    error = stdev(known) / len(known) ** 0.5 if len(known) > 1 else math.nan
    proven = (best.get("announcement") or {}).get("proven")
    claim = f"  claimed {best['val_bpb']:.5f}, {'announced' if proven else 'not announced'}, {genomes} programs" if best else ""
    return f"{name:16} {mean(known):.5f} ± {error:.5f}{claim}"


def difference(one: list[list[float | None]], other: list[list[float | None]]) -> str:
    """How much lower `one`'s champions are than the other's, seed by seed."""
    pairs = list(zip(map(average, one), map(average, other), strict=True))
    gaps = [b - a for a, b in pairs if a is not None and b is not None]
    fragile = f"; in {len(pairs) - len(gaps)} more pairs a champion does not always get a score" if len(gaps) < len(pairs) else ""
    error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else math.nan
    lower = f"{mean(gaps):+.5f} ± {error:.5f} lower, in {sum(gap > 0 for gap in gaps)} of {len(gaps)}" if gaps else "nothing to compare"
    return lower + fragile


def average(scores: list[float | None]) -> float | None:
    """The mean; None if a score is missing."""
    known = [score for score in scores if score is not None]
    return mean(known) if len(known) == len(scores) else None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--policies", nargs="+", default=["evo", "greedy"], metavar="NAME")
    parser.add_argument("--minutes", type=float, default=10, help="of each run (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each policy (%(default)s)")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--draws", type=int, default=8, help="fresh scores of each champion (%(default)s)")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    runs = {(policy, seed): options.folder / f"{policy}-{seed}" for seed in range(options.seeds) for policy in options.policies}
    for (policy, seed), folder in runs.items():
        run(folder, policy, seed, options)
    planned = assembly.plan(load(None, list(options.set), {"run.profile": options.profile, "run.slots": options.slots}))
    assembled = assembly.build(planned, lambda text: print(text, file=sys.stderr))
    programs = {SEED_PROGRAM: assembled.rendered.seed}
    programs |= {folder.name: (folder / "best" / "train.py").read_text() for folder in runs.values()}
    scores = rescored(programs, assembled, options)
    print(said(SEED_PROGRAM, {}, 0, scores[SEED_PROGRAM]))
    for folder in runs.values():
        best = json.loads((folder / "best" / "best.json").read_text())
        genomes = sum(1 for _ in (folder / "genomes").glob("*.py"))
        print(said(folder.name, best, genomes, scores[folder.name]))
    first, *others = ([scores[f"{policy}-{seed}"] for seed in range(options.seeds)] for policy in options.policies)
    for policy, other in zip(options.policies[1:], others, strict=True):
        print(f"{options.policies[0]} against {policy}: {difference(first, other)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
