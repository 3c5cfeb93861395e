"""The search policies against one another and against Optuna's samplers, on a surrogate of real evaluations or on made-up landscapes.

    python scripts/bench_search.py --table ../shared/landscape/h200_300s.parquet [--evals 300] [--slots 8] [--seeds 24]
                                   [--policy NAME …] [--landscape NAME …] [--set NAME=NUMBER …] [--json] [--jobs J] [--cache FILE]

The real core runs with real programs (Search, operators, species, tuner); only the evaluation is the surrogate's, with noise on it, on
`--slots` slots in simulated time. At each mark the policy is asked for its best program, and what counts is that program's value without
noise. All evaluations count: calibrations, repeats, failures. `--table` needs pandas and scikit-learn; `surrogate.py` is taken from the
table's folder unless `--surrogate` says where it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from searchbench import course
from searchbench.cost import cost
from searchbench.course import Course, Oddity
from searchbench.ours import Core, announced
from searchbench.problem import Problem
from searchbench.synthetic import LANDSCAPES

from evo.search import SearchConfig

OURS = ("evo", "greedy", "random", "tune-only")
RIVALS = ("optuna-tpe", "optuna-tpe-narrow", "optuna-cmaes", "optuna-gp", "optuna-random")
MARKS = (25, 50, 100, 200, 300)
EARLY = 30  # first evaluations, in which memory is still being learned
_PROBLEM: list[Problem] = []  # in a worker process


@dataclass(frozen=True)
class Setup:
    """What all runs have in common."""

    slots: int
    marks: Sequence[int]
    oddity: Oddity
    search: Mapping[str, float]  # settings of ours that are not the default ones


def one(policy: str, setup: Setup, seed: int) -> Course:
    """One run of one policy."""
    problem = _PROBLEM[0]
    if policy in OURS:
        proposer: course.Proposer = Core(problem, policy, seed, setup.slots, **setup.search)
    else:
        from searchbench.rivals import rival

        proposer = rival(policy, problem, seed)
    return course.run(proposer, problem, setup.slots, setup.marks, seed, oddity=setup.oddity)


def measure(problem: Problem, policies: Sequence[str], setup: Setup, seeds: int, jobs: int) -> dict[str, list[Course]]:
    """Policy -> its runs, in the order of seeds."""
    _PROBLEM[:] = [problem]
    tasks = [(policy, setup, seed) for policy in policies for seed in range(seeds)]
    if jobs == 1:
        done = [one(*task) for task in tasks]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
            done = list(pool.map(one, *zip(*tasks, strict=True)))
    return {policy: done[i * seeds : (i + 1) * seeds] for i, policy in enumerate(policies)}


def summary(runs: Sequence[Course]) -> dict[str, Any]:
    """The runs of one policy in numbers, JSON-ready."""
    found: dict[str, Any] = {}
    for mark in runs[0].true:
        values = sorted(run.true[mark] for run in runs)
        low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
        found[str(mark)] = {"true": median(values), "low": low, "high": high, "seconds": median(run.seconds[mark] for run in runs)}
    found["infeasible"] = median(1 - sum(run.feasible) / len(run.feasible) for run in runs)
    later = [run.feasible[EARLY:] for run in runs if len(run.feasible) > EARLY]
    found["infeasible_later"] = sum(sum(1 for fits in run if not fits) for run in later) / max(1, sum(map(len, later)))
    last = max(runs[0].gap)
    found["gap"] = sum(run.gap[last] for run in runs) / len(runs)
    found["lowest"] = median(run.lowest for run in runs)
    return found


def pairs(ours: Sequence[Course], others: Sequence[Course]) -> dict[str, dict[str, float]]:
    """Mark -> median and standard error of the mean of (other's true value - ours), and in what share of seeds ours is better."""
    found = {}
    for mark in ours[0].true:
        differences = [b.true[mark] - a.true[mark] for a, b in zip(ours, others, strict=True)]
        mean = sum(differences) / len(differences)
        sd = (sum((d - mean) ** 2 for d in differences) / max(1, len(differences) - 1)) ** 0.5
        found[str(mark)] = {
            "median": median(differences),
            "mean": mean,
            "error": sd / len(differences) ** 0.5,
            "better": sum(d > 0 for d in differences) / len(differences),
        }
    return found


def report(problem: Problem, results: dict[str, list[Course]]) -> str:
    """The results as text for people."""
    marks = list(next(iter(results.values()))[0].true)
    head = f"{'policy':18s}" + "".join(f"{mark:>24d}" for mark in marks) + "   infeasible (later)   gap      lowest"
    lines = [f"{problem.name}: {len(next(iter(results.values())))} seeds, median of the true value of the claimed best (quartiles)", head]
    for policy, runs in results.items():
        s = summary(runs)
        cells = "".join(f"  {s[str(m)]['true']:.4f} ({s[str(m)]['low']:.4f}, {s[str(m)]['high']:.4f})"[:25].rjust(24) for m in marks)
        lines.append(f"{policy:18s}{cells}   {s['infeasible']:.3f} ({s['infeasible_later']:.3f})     {s['gap']:+.5f}  {s['lowest']:.4f}")
    if "evo" in results:
        for policy, runs in results.items():
            if policy != "evo":
                cells = [f"{p['mean']:+.4f} ± {p['error']:.4f} ({100 * p['better']:.0f} %)" for p in pairs(results["evo"], runs).values()]
                lines.append(f"evo better than {policy} by: " + ", ".join(f"@{m} {c}" for m, c in zip(marks, cells, strict=True)))
    return "\n".join(lines)


def setting(text: str) -> tuple[str, float]:
    """NAME=NUMBER of a setting that `SearchConfig` has."""
    name, _, value = text.partition("=")
    known = [field.name for field in fields(SearchConfig) if field.type in ("int", "float")]
    if name not in known:
        raise argparse.ArgumentTypeError(f"{name!r} is no setting of the search, known: {', '.join(known)}")
    return name, float(value) if "." in value else int(value)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="Parquet file of evaluations")
    parser.add_argument(
        "--landscape", nargs="+", choices=tuple(LANDSCAPES), default=[], help="made-up ones; with --json an object of objects"
    )
    parser.add_argument("--surrogate", type=Path, help="the pinned surrogate; default: surrogate.py beside the table")
    parser.add_argument("--cache", type=Path, help="file that keeps the fitted surrogate between calls")
    parser.add_argument("--evals", type=int, default=300)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--uneven", type=float, default=0.0, metavar="SD", help="of what a slot adds to every score that it gives")
    parser.add_argument("--seed-noise", type=float, default=1.0, metavar="F", help="the seed program's scores scatter F times as much")
    parser.add_argument("--set", type=setting, nargs="+", default=[], metavar="NAME=NUMBER", help="settings of our policies")
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--policy", nargs="+", choices=(*OURS, *RIVALS), default=["evo", "greedy", "random", "tune-only", *RIVALS])
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--announced", type=int, metavar="RUNS", help="in how many whole runs of evo a gain is announced")
    parser.add_argument("--cost", type=int, nargs="+", help="measure what a step costs at so many records, instead of searching")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if (options.table is None) == (not options.landscape):
        parser.error("give either --table PATH or --landscape NAME …")
    oddity = Oddity(options.uneven, options.seed_noise)
    if (oddity != Oddity() or options.set) and (options.cost or options.announced):
        parser.error("--uneven, --seed-noise and --set are for runs that are compared, not for --cost or --announced")
    if options.cost:
        problem = next(problems(options))
        for count in options.cost:
            print(json.dumps(cost(problem, count)), flush=True)
        return 0
    if options.announced:
        for problem in problems(options):
            proven = sum(announced(problem, options.evals, options.slots, seed) for seed in range(options.announced))
            print(json.dumps({"landscape": problem.name, "runs": options.announced, "announced": proven}), flush=True)
        return 0
    marks = sorted({*(m for m in MARKS if m <= options.evals), options.evals})
    setup = Setup(options.slots, marks, oddity, dict(options.set))
    found = {}
    for problem in problems(options):
        results = measure(problem, options.policy, setup, options.seeds, options.jobs)
        found[problem.name] = {policy: summary(runs) for policy, runs in results.items()}
        if not options.json:
            print(report(problem, results), flush=True)
    if options.json:
        print(json.dumps(next(iter(found.values())) if options.table else found))
    return 0


def problems(options: argparse.Namespace) -> Iterator[Problem]:
    """The problem of the table, or those of the landscapes."""
    if options.table:
        from searchbench.tabular import load

        yield load(options.table, options.surrogate or options.table.parent / "surrogate.py", options.cache)
    for name in options.landscape:
        yield LANDSCAPES[name]()


if __name__ == "__main__":
    sys.exit(main())
