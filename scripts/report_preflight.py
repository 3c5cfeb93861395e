"""What the preflight catches: the crash corpus and honest programs, through the static checks and the dry run, for one profile.

    python scripts/report_preflight.py [--profile h100] [--only TEXT] [--children 20] [--json]
    python scripts/report_preflight.py --verify [--budget 2] [--only TEXT]

The first command asks whether the static checks, or else the dry run, catch each crash of tests/crashes, and whether either refuses any
honest program (the seed, structural edits of it that train, children of it by the catalogue, tests/programs). No GPU is needed whatever the
profile. The second evaluates each crash on the CPU profile and says which fail in another way than the corpus says; exit code 1 if one
does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from crash_corpus import Crash, corpus, way  # noqa: E402
from model_server import BLOCK  # noqa: E402
from structural_edits import POOL  # noqa: E402

import genomes  # noqa: E402
from evaluator.evaluate import Evaluate  # noqa: E402
from evaluator.outcome import Failed  # noqa: E402
from evaluator.preflight import DryRunConfig, Inconclusive, Passed  # noqa: E402
from evo import assembly, profiles  # noqa: E402
from evo import lab as labs  # noqa: E402
from evo.config import load  # noqa: E402
from evo.preflight import Preflight, static_problems  # noqa: E402

CAUGHT = ("static checks", "dry run")
DRY_SECONDS = 60.0


@dataclass(frozen=True)
class Finding:
    """What the preflight says of one program."""

    group: str
    name: str
    by: str  # one of CAUGHT; "not conclusive" or "passed"
    said: str
    static_seconds: float
    dry_seconds: float


def examined(case: tuple[str, str, str], prepare: str, preflight: Preflight) -> Finding:
    """One program through the static checks and, if they find nothing, the dry run."""
    group, name, program = case
    began = time.perf_counter()
    problems = static_problems(program, genomes.Contract.LAB, prepare)
    static_seconds = time.perf_counter() - began
    if problems:
        return Finding(group, name, CAUGHT[0], problems, static_seconds, 0.0)
    verdict = preflight(program)
    dry_seconds = time.perf_counter() - began - static_seconds
    match verdict:
        case Failed():
            return Finding(group, name, CAUGHT[1], f"{way(verdict)}: {verdict.message}", static_seconds, dry_seconds)
        case Inconclusive():
            return Finding(group, name, "not conclusive", verdict.why, static_seconds, dry_seconds)
        case Passed():
            return Finding(group, name, "passed", "", static_seconds, dry_seconds)


def honest(seed: str, device: str, children: int) -> Iterator[tuple[str, str]]:
    """Programs that train well, with their names. Those of tests/programs are written for the CPU profile's constants."""
    yield "seed", seed
    for path in sorted((ROOT / "tests" / "programs").glob("*.py")) if device == "cpu" else ():
        yield path.stem, path.read_text(encoding="utf-8")
    for edit in POOL:
        yield edit.name, genomes.patch(seed, "\n".join(BLOCK.format(old, new) for old, new in edit.changes))
    structural = [mutation.name for mutation in genomes.MUTATIONS if mutation.kind == "structural"]
    for index in range(children):
        mutant = genomes.mutate(seed, Random(f"preflight/{index}"), structural)
        yield f"child {index}: {mutant.note}"[:60], mutant.text


def report(options: argparse.Namespace) -> int:
    """Prints the table and the totals."""
    profile = profiles.load(profiles.FOLDER / f"{options.profile}.toml")
    rendered = labs.render(labs.load(labs.DEFAULT), profile, profile.head.budget_seconds)
    preflight = Preflight(rendered.prepare, profile.head.device, DryRunConfig(seconds=DRY_SECONDS, ahead=True))
    cases = [(crash.group, crash.name, crash.program(rendered.seed)) for crash in wanted(options.only)]
    cases += [("honest", name, text) for name, text in honest(rendered.seed, profile.head.device, options.children) if options.only in name]
    found = []
    try:
        for case in cases:
            one = examined(case, rendered.prepare, preflight)
            found.append(one)
            if not options.json:
                print(
                    f"{one.group:10s} {one.name:52s} {one.by:15s} {one.static_seconds:6.3f} {one.dry_seconds:6.1f}  {one.said[:120]}",
                    flush=True,
                )
    finally:
        preflight.close()
    print(json.dumps([asdict(one) for one in found]) if options.json else totals(found))
    return 0


def totals(found: list[Finding]) -> str:
    """How many of each group were caught by what."""
    columns = (*CAUGHT, "not conclusive", "passed")
    lines = ["", f"{'group':12s}" + "".join(f"{name:>16s}" for name in columns)]
    groups = sorted({one.group for one in found} - {"honest"})
    for group in (*groups, "all crashes", "honest"):
        counts = Counter(one.by for one in found if one.group == group or (group == "all crashes" and one.group != "honest"))
        lines.append(f"{group:12s}" + "".join(f"{counts[name]:16d}" for name in columns))
    times = sorted(one.dry_seconds for one in found if one.dry_seconds)
    if times:
        lines.append(f"a dry run took {times[len(times) // 2]:.1f} s in the median, {times[-1]:.1f} s at most")
    return "\n".join(lines)


def verify(options: argparse.Namespace) -> int:
    """Really evaluates each crash; says which fail in another way than the corpus says."""
    config = load(None, [], {"run.profile": "cpu", "run.slots": 1, "run.budget_seconds": options.budget})
    assembled = assembly.build(assembly.plan(config), lambda line: print(line, file=sys.stderr))
    slot: Evaluate = assembled.specs(Path())[0].make()
    wrong = 0
    try:
        for crash in wanted(options.only):
            outcome = slot(crash.program(assembled.rendered.seed), 0, options.budget)
            found = way(outcome) if isinstance(outcome, Failed) else type(outcome).__name__
            wrong += found != crash.fails
            told = "" if found == crash.fails else f"  the corpus says {crash.fails}"
            said = outcome.message if isinstance(outcome, Failed) else ""
            print(f"{crash.group:10s} {crash.name:52s} {found}{told}  {said[:100]}", flush=True)
    finally:
        slot.close()
    print(f"{wrong} fail otherwise than the corpus says")
    return 1 if wrong else 0


def wanted(only: str) -> list[Crash]:
    return [crash for crash in corpus() if only in f"{crash.group}/{crash.name}"]


def main() -> int:
    parser = argparse.ArgumentParser(description="What the static checks and the dry run catch of the crash corpus.")
    parser.add_argument("--profile", default="h100", help="the machine that programs are for (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="entries whose group/name holds it")
    parser.add_argument("--children", type=int, default=20, metavar="N", help="honest children by the catalogue (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("--verify", action="store_true", help="evaluate each crash on the CPU profile")
    parser.add_argument("--budget", type=float, default=2.0, metavar="S", help="seconds of training for --verify (default: %(default)g)")
    options = parser.parse_args()
    return verify(options) if options.verify else report(options)


if __name__ == "__main__":
    sys.exit(main())
