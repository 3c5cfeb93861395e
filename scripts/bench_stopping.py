"""What early stopping would have saved, and lost, in recorded full runs, by the very rule that a run uses (evo/core/stopping.py).

    python scripts/bench_stopping.py [--curves scripts/data/cpu_curves.jsonl.xz|RUN] [--population 16] [--orders 200] [--false-stops 0.02]
                                     [--waited 0.1]

The recorded runs (scripts/record_curves.py, or a run folder's own) come in random orders, one after another. All finish until as many have
as the population holds. From then on the bar is the worst of the best so far, whatever their species, the rule is learned from what has
finished, and a curve is watched point by point; what is stopped teaches nothing. Reported over orders: the share of all training seconds
saved; the share of would-be survivors (candidates that at full budget would have beaten the bar of their time) lost; the share lost of
those that are the best of all in the end; how often a stopped run was the best so far; and what is saved and lost in the order in which
they were recorded. `--waited` leaves out runs that waited longer for a core, to show what a machine of one's own would.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean, median, quantiles

from record_curves import rows_of_run

import genomes
from evaluator.outcome import CurvePoint
from evo.core.rule import Watching
from evo.core.stopping import Trace, learn, trace
from evo.folder import StoreError
from evo.numeric.lore import warmup_share

DEFAULT = Path(__file__).parent / "data" / "cpu_curves.jsonl.xz"


@dataclass(frozen=True)
class Recorded:
    """One full run."""

    trace: Trace
    warmup: float  # share of the budget
    curve: tuple[CurvePoint, ...]
    training_seconds: float
    budget_seconds: float


@dataclass(frozen=True)
class Replay:
    """What came of one order."""

    saved: float  # share of all training seconds
    stopped: int
    survivors: int  # runs that would have beaten the bar of their time
    lost: int  # survivors that were stopped
    best_lost: int  # lost ones that were better than all before them
    last_lost: int  # lost ones of the population that full budgets would have left in the end


def read(path: Path, most_waited: float) -> tuple[list[Recorded], int]:
    """The runs with a score, and the number of those without.

    Args:
        most_waited: largest share of its time that a run may have waited for a core.
    """
    if path.is_dir():
        rows = rows_of_run(path)
    else:
        text = lzma.decompress(path.read_bytes()).decode() if path.suffix == ".xz" else path.read_text()
        rows = [json.loads(line) for line in text.splitlines()]
    found = []
    for row in (row for row in rows if row["val_bpb"] is not None and row["waited_share"] <= most_waited):
        curve = tuple(CurvePoint(*point) for point in row["curve"])
        warmup, budget = warmup_share(genomes.knobs(row["program"])), row["budget_seconds"]
        told = trace(row["number"], genomes.loss_code(row["program"]), row["val_bpb"], curve, budget, warmup)
        found.append(Recorded(told, warmup, curve, row["training_seconds"], budget))
    return found, sum(row["val_bpb"] is None for row in rows)


def replay(runs: list[Recorded], population: int, false_stops: float) -> Replay:
    """Plays the runs in their order."""
    traces, best = list[Trace](), list[float]()
    last = sorted(run.trace.val_bpb for run in runs)[:population][-1]
    saved, stopped, survivors, lost, best_lost, last_lost = 0.0, 0, 0, 0, 0, 0
    for number, run in enumerate(runs):
        value = run.trace.val_bpb
        full = len(best) >= population
        note, at = None, 0.0
        if full:
            rule = learn(traces, run.trace.loss_code, best[-1], false_stops, run.budget_seconds, run.warmup)
            watch = Watching(rule) if rule else None
            note, at = next(((said, p.seconds) for p in run.curve if watch and (said := watch(p)) is not None), (None, 0.0))
            survivors += value < best[-1]
        if note is not None:
            saved, stopped = saved + run.training_seconds - at, stopped + 1
            lost, best_lost, last_lost = lost + (value < best[-1]), best_lost + (value < best[0]), last_lost + (value <= last)
            continue
        traces.append(replace(run.trace, index=number))
        best = sorted([*best, value])[:population]
    return Replay(saved / sum(run.training_seconds for run in runs), stopped, survivors, lost, best_lost, last_lost)


def report(found: list[Replay], as_recorded: Replay, runs: list[Recorded], failures: int, population: int) -> dict[str, float]:
    saved, shares = [r.saved for r in found], [r.lost / r.survivors for r in found if r.survivors]
    tenths = quantiles(shares, n=10)
    return {
        "runs": len(runs),
        "failures": failures,
        "loss_codes": len({run.trace.loss_code for run in runs}),
        "orders": len(found),
        "saved_median": round(median(saved), 4),
        "saved_worst": round(min(saved), 4),
        "stopped_median": median(r.stopped for r in found),
        "survivors_median": median(r.survivors for r in found),
        "lost_mean": round(sum(r.lost for r in found) / sum(r.survivors for r in found), 4),
        "lost_median": round(median(shares), 4),
        "lost_ninth_tenth": round(tenths[-1], 4),
        "lost_worst": round(max(shares), 4),
        "last_population_lost_mean": round(fmean(r.last_lost for r in found) / population, 4),
        "best_lost_per_order": round(fmean(r.best_lost for r in found), 4),
        "as_recorded_saved": round(as_recorded.saved, 4),
        "as_recorded_survivors": as_recorded.survivors,
        "as_recorded_lost": as_recorded.lost,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("--curves", type=Path, default=DEFAULT, metavar="FILE")
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--false-stops", type=float, default=0.02, metavar="SHARE")
    parser.add_argument("--waited", type=float, default=1.0, metavar="SHARE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        runs, failures = read(options.curves, options.waited)
    except (StoreError, OSError) as error:
        parser.error(str(error))
    orders = [Random(f"{order}").sample(runs, len(runs)) for order in range(options.orders)]
    played = [replay(order, options.population, options.false_stops) for order in orders]
    figures = report(played, replay(runs, options.population, options.false_stops), runs, failures, options.population)
    print(json.dumps(figures) if options.json else "\n".join(f"{name:26} {value}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
