"""What an evaluation costs beside its training: seconds in which a slot trains nothing, in evaluations in a row as a run makes them.

    python scripts/bench_evaluator.py [--kind literal|structure|seed] [--count 8] [--budget 20] [--profile h100] [--data PATH] [--alone]

Programs are children of the seed by built-in mutations: with other numbers (`literal`), of another structure (`structure`), or the
seed itself under one seed after another. Each is called as soon as the previous one has trained, as the executor does; `--alone` waits for
the verdict instead. Reported for each: `outside`, seconds from the end of the previous training to the start of its clock; set-up;
scoring; steps a second. The first has nothing before it and does not count. On a GPU also the most memory of the card that was in use
while a program was scored, which is scoring's own only with `--alone`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median

import genomes
from evaluator.card import Card
from evaluator.evaluate import Evaluate
from evaluator.outcome import CurvePoint, Failed, Outcome, Scored
from evaluator.slot import SlotConfig
from evo import assembly
from evo.config import load

_GIB = 2**30
_GIVEN_BACK_SECONDS = 1.0  # for which the memory of a process that has trained may stay in use


@dataclass(frozen=True)
class Measured:
    """One evaluation. Times are those of time.monotonic, in seconds."""

    name: str
    said: str  # its val_bpb, or why it has none
    outside: float | None  # seconds
    setup: float
    scoring: float
    steps_a_second: float
    tokens_a_second: float
    scoring_gib: float  # most memory of the card in use meanwhile; 0 where there is no card


@dataclass
class Times:
    """When an evaluation's clock started and stopped, and when it was done."""

    started: float = 0.0
    trained: float = 0.0
    done: float = 0.0


class Usage:
    """How much of a card was in use, sampled."""

    def __init__(self, gpu: str) -> None:
        self._samples: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._card: Card | None = None
        with contextlib.suppress(OSError):
            self._card = Card(gpu or "0")
            threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        assert self._card is not None
        while not self._over.wait(0.05):
            self._samples.append((time.monotonic(), self._card.used_bytes() / _GIB))

    def most(self, begin: float, end: float) -> float:
        """The most that was in use between two times, in GiB."""
        return max((used for when, used in self._samples if begin <= when <= end), default=0.0)

    def close(self) -> None:
        self._over.set()


def programs(seed: str, kind: str, count: int, run: int) -> Iterator[tuple[str, str, int]]:
    """(name, text, seed) of each."""
    structural = set(genomes.STRUCTURAL_MUTATIONS)
    names = [m.name for m in genomes.MUTATIONS if (m.name in structural) == (kind == "structure")]
    for number in range(count):
        child = genomes.Mutant(seed, "seed", "") if kind == "seed" else genomes.mutate(seed, Random(f"{run}/{number}"), names)
        yield f"{child.mutation}: {child.note}"[:90], child.text, run + number


Called = tuple[str, Future[Outcome], Times]


def evaluated(evaluate: Evaluate, todo: list[tuple[str, str, int]], budget: float, alone: bool) -> list[Called]:
    """Evaluates one after another, each as soon as it may come, unless `alone`. All are done on return."""
    found = list[Called]()
    with ThreadPoolExecutor(2) as threads:
        for name, text, seed in todo:
            times, ready = Times(), threading.Event()
            outcome = threads.submit(one, evaluate, text, seed, budget, times, ready)
            found.append((name, outcome, times))
            if alone:
                outcome.result()
            ready.wait()
    return found


def one(evaluate: Evaluate, text: str, seed: int, budget: float, times: Times, ready: threading.Event) -> Outcome:
    def watch(point: CurvePoint) -> None:
        times.started = times.started or time.monotonic() - point.seconds

    try:
        outcome = evaluate(text, seed, budget, watch, False, ready.set)
        times.done = time.monotonic()
        times.trained = times.started + outcome.training_seconds if isinstance(outcome, Scored) else times.done
        print(f"{outcome.val_bpb if isinstance(outcome, Scored) else outcome}"[:200], file=sys.stderr, flush=True)
        return outcome
    finally:
        ready.set()


def measured(found: list[Called], usage: Usage) -> list[Measured]:
    rows, before = [], 0.0
    for name, future, times in found:
        outcome = future.result()
        outside = times.started - before if before and times.started else None
        gib = usage.most(times.trained + _GIVEN_BACK_SECONDS, times.done)
        if isinstance(outcome, Scored):
            speed = outcome.steps / outcome.training_seconds, outcome.tokens / outcome.training_seconds
            rows.append(Measured(name, f"{outcome.val_bpb:.4f}", outside, outcome.setup_seconds, outcome.score_seconds, *speed, gib))
        else:
            said = f"{outcome.reason}: {outcome.message}" if isinstance(outcome, Failed) else str(outcome)
            rows.append(Measured(name, said, outside, 0.0, 0.0, 0.0, 0.0, gib))
        before = times.trained if times.started else 0.0
    return rows


def summary(rows: list[Measured]) -> dict[str, float]:
    """Medians over those that had another before them; nothing where there are none."""
    outside = [row.outside for row in rows if row.outside is not None]
    scored = [row for row in rows[1:] if row.outside is not None and row.tokens_a_second]
    if not scored:
        return {}
    return {
        "evaluations": len(outside),
        "outside_seconds": round(median(outside), 2),
        "worst": round(max(outside), 2),
        "setup_seconds": round(median(row.setup for row in scored), 2),
        "scoring_seconds": round(median(row.scoring for row in scored), 2),
        "tokens_a_second": round(median(row.tokens_a_second for row in scored)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("--kind", choices=("literal", "structure", "seed"), default="literal")
    parser.add_argument("--count", type=int, default=8, help="evaluations after the first (%(default)s)")
    parser.add_argument("--budget", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--profile", default="h100", metavar="P")
    parser.add_argument("--data", default="", metavar="PATH", help="text to train on and to validate with, as run.data")
    parser.add_argument("--alone", action="store_true", help="do not overlap evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = {"run.profile": options.profile, "run.slots": 1, "run.budget_seconds": options.budget, "run.data": options.data}
    assembled = assembly.build(assembly.plan(load(None, [], settings)), lambda line: print(line, file=sys.stderr, flush=True))
    spec = assembled.specs(Path())[0]
    todo = [("warm-up", assembled.rendered.seed, 0), *programs(assembled.rendered.seed, options.kind, options.count, options.seed)]
    usage = Usage(spec.evaluator.gpu if isinstance(spec.evaluator, SlotConfig) else "")
    with contextlib.closing(usage), contextlib.closing(spec.make()) as evaluate:
        rows = measured(evaluated(evaluate, todo, options.budget, options.alone), usage)
    figures = summary(rows)
    if options.json:
        print(json.dumps({"kind": options.kind, "alone": options.alone, **figures, "rows": [asdict(row) for row in rows]}))
        return 0
    for row in rows:
        outside = "-" if row.outside is None else f"{row.outside:.1f}"
        print(
            f"outside {outside:>5} s, set-up {row.setup:5.1f}, scoring {row.scoring:5.1f}, {row.steps_a_second:6.2f} steps/s, "
            f"{row.scoring_gib:5.1f} GiB  {row.said[:60]}  {row.name}"
        )
    print(", ".join(f"{value} {name}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
