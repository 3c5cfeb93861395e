"""Records learning curves of varied programs, each trained to the end by the real evaluator: what early stopping is measured on.

    python scripts/record_curves.py --out FILE.jsonl [--count 220] [--budget 8] [--profile cpu] [--seed 0]
    python scripts/record_curves.py --pack FILE.jsonl|RUN scripts/data/cpu_curves.jsonl.xz

Programs are the profile's seed under one random seed after another (one in twenty) and its children by one to four built-in mutations,
numbers and structure as they are drawn: which they are depends only on --seed and their number. They are evaluated one at a time, and a
line of JSON is appended for each; the same command goes on where it was interrupted. Failures are lines too, without a score. `--pack`
compresses what is there, or what a run has evaluated in its order (one with `--set search.early_stopping=0`, so that all curves are whole);
scripts/bench_stopping.py reads any of these.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import lzma
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import genomes
from evaluator.outcome import CurvePoint, Evaluated, Failed, Outcome, Scored
from evo import assembly
from evo.config import load
from evo.core.records import REPEATS
from evo.folder import read_text
from evo.store import curve, snapshot

SEED_EVERY = 20  # one in so many is the seed itself
MOST_MUTATIONS = 4
POINTS = 60  # most points of a recorded curve
_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**26}]  # programs are alike, but far apart in the file


def drawn(seed_text: str, number: int, run: int) -> tuple[str, list[str]]:
    """The program of a number, and the mutations that made it from the seed."""
    text, mutations = seed_text, list[str]()
    for generation in range(0 if number % SEED_EVERY == 0 else Random(f"{run}/{number}").randint(1, MOST_MUTATIONS)):
        child = genomes.mutate(text, Random(f"{run}/{number}/{generation}"))
        text = child.text
        mutations.append(f"{child.mutation}: {child.note}")
    return text, mutations


def rows_of_run(run_dir: Path) -> list[dict[str, Any]]:
    """The evaluations of new genomes in a run, in its order, the seed's first one included."""
    found, rows = snapshot(run_dir), []
    budget = found.meta["budget_seconds"]
    for record in found.records:
        proposal, outcome = record.candidate.proposal, record.outcome
        if not isinstance(outcome, Evaluated) or (proposal.operator in REPEATS and proposal.index > 0):
            continue
        whole = replace(outcome, curve=curve(run_dir, proposal.index)) if isinstance(outcome, Scored) else outcome
        text, notes = read_text(run_dir, record.candidate.genome), [f"{proposal.operator}: {record.candidate.note}"]
        rows.append({**line(proposal.index, text, notes, budget, whole), "seed": proposal.seed})
    return rows


def line(number: int, text: str, mutations: list[str], budget: float, outcome: Outcome) -> dict[str, Any]:
    """What is kept of an evaluation."""
    row = {"number": number, "seed": number, "budget_seconds": budget, "mutations": mutations, "program": text}
    if isinstance(outcome, Scored):
        facts = {"val_bpb": outcome.val_bpb, "training_seconds": outcome.training_seconds, "steps": outcome.steps}
        facts |= {"key": outcome.measurement_key, "waited_share": outcome.waited_share}
        return {**row, **facts, "curve": thinned(outcome.curve)}
    said = f"{outcome.reason}: {outcome.message}" if isinstance(outcome, Failed) else str(outcome)
    return {**row, "val_bpb": None, "failure": said}


def thinned(curve: tuple[CurvePoint, ...]) -> list[list[float | None]]:
    """[seconds, step, tokens, loss] of every k-th point and the last."""
    every = -(-len(curve) // (POINTS - 1))
    kept = [point for i, point in enumerate(curve) if i % every == 0 or i == len(curve) - 1]
    return [[round(p.seconds, 4), p.step, p.tokens, None if p.loss is None else round(p.loss, 5)] for p in kept]


def recorded(out: Path) -> set[int]:
    """Numbers of the programs that the file has. A torn last line is cut off."""
    return {row["number"] for row in whole_rows(out)}


def whole_rows(out: Path) -> list[dict[str, Any]]:
    """All lines of a file of JSON; none if there is no such file. A torn last line is cut off in it."""
    if not out.exists():
        return []
    whole = [text for text in out.read_text().split("\n")[:-1] if text]
    out.write_text("".join(text + "\n" for text in whole))
    return [json.loads(text) for text in whole]


def record(options: argparse.Namespace) -> None:
    settings = {"run.profile": options.profile, "run.slots": 1, "run.budget_seconds": options.budget}
    assembled = assembly.build(assembly.plan(load(None, [], settings)), lambda said: print(said, file=sys.stderr, flush=True))
    done = recorded(options.out)
    with contextlib.closing(assembled.specs(Path())[0].make()) as evaluate, options.out.open("a") as file:
        for number in sorted(set(range(options.count)) - done):
            text, mutations = drawn(assembled.rendered.seed, number, options.seed)
            began = time.monotonic()
            row = line(number, text, mutations, options.budget, evaluate(text, number, options.budget))
            file.write(json.dumps(row) + "\n")
            file.flush()
            said = row.get("failure", row["val_bpb"])
            print(f"{number} in {time.monotonic() - began:.1f} s: {said}  {'; '.join(mutations)[:100]}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON lines, appended to")
    parser.add_argument("--count", type=int, default=220, help="evaluations in all (%(default)s)")
    parser.add_argument("--budget", type=float, default=8.0, metavar="SECONDS")
    parser.add_argument("--profile", default="cpu", metavar="P")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pack", type=Path, nargs=2, metavar=("FILE", "PACKED"))
    options = parser.parse_args()
    if (options.out is None) == (options.pack is None):
        parser.error("give either --out or --pack")
    if options.pack:
        source, packed = options.pack
        lines = "".join(json.dumps(row) + "\n" for row in rows_of_run(source)).encode() if source.is_dir() else source.read_bytes()
        packed.parent.mkdir(parents=True, exist_ok=True)
        packed.write_bytes(lzma.compress(lines, filters=_LZMA))
        print(f"{packed}: {packed.stat().st_size / 1e3:.0f} kB of {len(lines) / 1e3:.0f}")
        return 0
    record(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
