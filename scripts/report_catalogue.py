"""What the built-in mutations give: random children of the seed, checked, and a sample of them trained.

    python scripts/report_catalogue.py [--children 1000] [--train 100] [--budget 3] [--jobs 1] [--each] [--seed 0] [--profile cpu] [--json]

The seed is trainer/train.py as a device profile renders it, by default the one for CPU cores; `--profile h100` takes the machine's GPUs,
one for each job. Children are drawn as a run draws them. Reported: how many parse and keep the contract, how many are the seed
itself by identity, how often each mutation was drawn; of a sample, how many train to a finite score, by a real evaluation under that
profile. `--each` trains one child by every mutation instead of a random sample: a mutation that never works cannot hide behind those that
do.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from random import Random

import genomes
from evaluator.evaluate import Evaluate
from evaluator.outcome import Failed, Scored
from evo import assembly
from evo.config import load


@dataclass(frozen=True)
class Trained:
    """One child after its evaluation; `val_bpb` is None where it has none, `said` is why."""

    mutation: str
    note: str
    val_bpb: float | None
    said: str


def drawn(seed: str, count: int, run: int) -> list[genomes.Mutant]:
    return [genomes.mutate(seed, Random(f"{run}/{number}")) for number in range(count)]


def one_each(seed: str, run: int) -> list[genomes.Mutant]:
    """A child by every mutation that applies to the seed."""
    children = []
    for mutation in genomes.MUTATIONS:
        try:
            children.append(genomes.mutate(seed, Random(f"{run}/{mutation.name}"), [mutation.name]))
        except genomes.MutationError:
            print(f"{mutation.name}: does not apply to the seed", file=sys.stderr)
    return children


def trained(children: list[genomes.Mutant], assembled: assembly.Assembly, jobs: int) -> list[Trained]:
    """Evaluations, `jobs` at once, each on a slot of its own."""
    slots: Queue[Evaluate] = Queue()
    for spec in assembled.specs(Path())[:jobs]:
        slots.put(spec.make())

    def one(child: genomes.Mutant) -> Trained:
        slot = slots.get()
        try:
            outcome = slot(child.text, 0, assembled.rendered.budget_seconds)
        finally:
            slots.put(slot)
        value = outcome.val_bpb if isinstance(outcome, Scored) and math.isfinite(outcome.val_bpb) else None
        said = f"{outcome.reason} in {outcome.phase}: {outcome.message}" if isinstance(outcome, Failed) else ""
        found = Trained(child.mutation, child.note, value, said)
        print(
            f"{'failed' if value is None else f'{value:.4f}'}  {child.mutation}: {child.note[:90]}  {said[:160]}",
            file=sys.stderr,
            flush=True,
        )
        return found

    try:
        with ThreadPoolExecutor(jobs) as threads:
            return list(threads.map(one, children))
    finally:
        while not slots.empty():
            slots.get().close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("--children", type=int, default=1000)
    parser.add_argument("--train", type=int, default=0, metavar="N", help="evaluate a sample of N of them")
    parser.add_argument("--each", action="store_true", help="evaluate one child by every mutation")
    parser.add_argument("--budget", type=float, default=3.0, metavar="SECONDS")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="evaluations at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", default="cpu", metavar="P", help="device profile by name or file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = load(None, [], {"run.profile": options.profile, "run.slots": options.jobs, "run.budget_seconds": options.budget})
    assembled = assembly.build(assembly.plan(config), lambda line: print(line, file=sys.stderr, flush=True))
    seed = assembled.rendered.seed
    children = drawn(seed, options.children, options.seed)
    sound = sum(not genomes.check(child.text) for child in children)
    same = sum(genomes.identity(child.text) == genomes.identity(seed) for child in children)
    chosen = one_each(seed, options.seed) if options.each else Random(f"{options.seed}/sample").sample(children, options.train)
    scores = trained(chosen, assembled, options.jobs) if chosen else []
    failed = [one for one in scores if one.val_bpb is None]
    counts = Counter(child.mutation for child in children)
    if options.json:
        figures = {"children": len(children), "sound": sound, "equal_to_parent": same, "drawn": counts}
        print(json.dumps({**figures, "trained": [asdict(one) for one in scores]}, indent=2))
        return 0
    print(f"{len(children)} children by {len(counts)} of {len(genomes.MUTATIONS)} mutations")
    print(f"{sound} keep the contract, {same} equal their parent")
    print(
        f"{len(scores)} evaluated at {options.budget:g} s under profile {options.profile}; {len(scores) - len(failed)} have a finite score"
    )
    for one in failed:
        print(f"  {one.mutation}: {one.note}: {one.said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
