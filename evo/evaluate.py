"""`python -m evo.evaluate FILE`: evaluates one program and prints its outcome.

The lab's own train.py is evaluated with the profile's knobs, since as a file it is the seed for an H100; any other file as it is, unless
`--render` says that it is a changed copy of that one. A file of a run folder is measured as its run measures, unless options say otherwise.
Exit code 0: scored; 1: failed, stopped or interrupted; 2: it could not be tried.

With `--dry-run` it is checked and run small on the CPU instead (evo/preflight.py), for any profile on any machine, without data and
without a score. Exit code 0: nothing was found; 1: it fails; 2: it could not be tried.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluator.evaluate import HarnessError
from evaluator.outcome import SELF_REPORTED, Failed, Outcome, Scored, to_dict
from evaluator.preflight import DryRunConfig, Inconclusive, Passed, Verdict
from evo import assembly, profiles
from evo import lab as labs
from evo.claims import claimed
from evo.cli import Parser, entry, refusal, tell
from evo.config import Config, from_flat, stated
from evo.core.flags import WAITED_SHARE
from evo.core.records import SEEDS
from evo.core.words import counted
from evo.errors import EvoError, UserError
from evo.folder import StoreError, run_of
from evo.given import text_of
from evo.machine import probe
from evo.preflight import Preflight, static_problems
from evo.session import FLAGS, MEASURED
from evo.store import snapshot


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.dry_run:
            return rehearse(options)
        outcome, taken_with = evaluate(options)
    except (EvoError, HarnessError) as error:
        flags = {flag: name for flag, name in FLAGS.items() if name in MEASURED}
        tell(f"evo.evaluate: {refusal(error, flags, options)}", sys.stderr)
        return error.exit_code if isinstance(error, EvoError) else 1
    print(json.dumps({**taken_with, **to_dict(outcome)}) if options.json else describe(outcome, taken_with))
    return 0 if isinstance(outcome, Scored) else 1


def evaluate(options: argparse.Namespace) -> tuple[Outcome, dict[str, Any]]:
    """The outcome, and the settings that it was measured with."""
    file = Path(options.file)
    if not 0 <= options.seed < SEEDS:
        raise UserError(f"--seed is {options.seed}, must be at least 0 and below {SEEDS}")
    flags = {"run.lab": options.lab, "run.profile": options.profile, "run.budget_seconds": options.budget}
    config = _settings(file, options.set, flags | {"run.slots": 1, "run.executor": "inline"})
    text, planned = text_of(file), assembly.plan(config)
    own = _is_seed(file, planned.lab)
    program = planned.rendered.seed if own else _rendered(file, text, planned.lab, planned.profile, options.render)
    assembled = assembly.build(planned, _say_to_stderr)
    with claimed(assembled.gpus, f"evo.evaluate {file}"), contextlib.closing(assembled.specs(Path())[0].make()) as evaluator:
        outcome = evaluator(program, options.seed, assembled.rendered.budget_seconds)
    rendered = not assembled.lab.compat if own else options.render
    whose = "the lab's own, " if own else ""
    knobs = f"{whose}with the knobs of profile {assembled.profile}" if rendered else "as it is"
    taken_with = {
        "file": str(file),
        "program": knobs,
        "profile": assembled.profile,
        "budget_seconds": assembled.rendered.budget_seconds,
        "seed": options.seed,
    }
    return outcome, taken_with


def rehearse(options: argparse.Namespace) -> int:
    """The static checks and, where they find nothing, the dry run; prints what came of them, returns the exit code."""
    file = Path(options.file)
    config = _settings(file, options.set, {"run.lab": options.lab, "run.profile": options.profile}, dry=True)
    program, lab = text_of(file), labs.load(Path(config.run.lab) if config.run.lab else labs.DEFAULT)
    if lab.compat or config.evaluator.kind == "instant":
        raise UserError("--dry-run needs a lab whose programs have build_model() and main(), and evaluator.kind = slot")
    profile = profiles.find(config.run.profile, probe())
    rendered = labs.render(lab, profile, profile.head.budget_seconds)
    text = rendered.seed if _is_seed(file, lab) else _rendered(file, program, lab, profile, options.render)
    problems = static_problems(text, lab.contract, rendered.prepare)
    verdict: Verdict | None = None
    if not problems:
        dry = DryRunConfig(sandbox=config.evaluator.sandbox)
        with contextlib.closing(Preflight(rendered.prepare, profile.head.device, dry)) as preflight:
            verdict = preflight(text)
    facts = {"file": str(file), "profile": profile.head.name, **_told(problems, verdict)}
    print(json.dumps(facts) if options.json else f"{file}, profile {facts['profile']}: {facts['verdict']}{_why(facts)}")
    return 1 if facts["verdict"] == "failed" else 0


def _told(problems: str, verdict: Verdict | None) -> dict[str, Any]:
    match verdict:
        case None:
            return {"verdict": "failed", "by": "static checks", "why": problems}
        case Failed():
            why = f"{verdict.reason} in {verdict.phase}: {verdict.message}"
            return {"verdict": "failed", "by": "dry run", "why": why, "trace": verdict.trace, "seconds": verdict.total_seconds}
        case Inconclusive():
            return {"verdict": "not conclusive", "by": "dry run", "why": verdict.why, "seconds": verdict.seconds}
        case Passed():
            return {"verdict": "passed", "by": "dry run", "why": "", "seconds": verdict.seconds}


def _why(facts: dict[str, Any]) -> str:
    seconds = f" in {facts['seconds']:.1f} s" if "seconds" in facts else ""
    said = f" ({facts['by']}{seconds}): {facts['why']}" if facts["why"] else f" ({facts['by']}{seconds})"
    return f"{said}\n{facts.get('trace', '')}".rstrip()


def describe(outcome: Outcome, taken_with: Mapping[str, Any]) -> str:
    """The outcome as text for people."""
    lines = [f"{taken_with['file']} ({taken_with['program']}), seed {taken_with['seed']}, budget {taken_with['budget_seconds']:g} s"]
    if isinstance(outcome, Scored):
        own = f" ({SELF_REPORTED})" if outcome.self_reported else ""
        lines += [
            f"val_bpb          {outcome.val_bpb:.6f}{own}",
            f"training         {outcome.training_seconds:.1f} s ({outcome.total_seconds:.1f} s in all), {counted(outcome.steps, 'step')}",
            *_outside(outcome),
            f"tokens           {outcome.tokens}{_rate(outcome)}",
            *([f"waiting          for a core, {outcome.waited_share:.0%} of the time"] if outcome.waited_share > WAITED_SHARE else []),
            f"parameters       {outcome.parameters}",
            f"peak memory      {outcome.peak_memory_gib:.2f} GiB",
            f"measurement key  {outcome.measurement_key}",
            f"sandbox          {outcome.sandbox}",
        ]
    elif isinstance(outcome, Failed):
        lines += [f"failed: {outcome.reason} in {outcome.where}: {outcome.message}", *outcome.trace.splitlines()]
        lines += [outcome.circumstances] if outcome.circumstances else []
    else:
        lines.append(f"{type(outcome).__name__.lower()}: {outcome}")
    return "\n".join(lines)


def _rate(outcome: Scored) -> str:
    """Tokens a second; "" if a checkout reports that it trained for 0 seconds."""
    return f" ({outcome.tokens / outcome.training_seconds:.0f} a second)" if outcome.training_seconds > 0 else ""


def _outside(outcome: Scored) -> list[str]:
    """Where the time outside training went, if it was measured."""
    if not outcome.score_seconds:
        return []
    rest = outcome.total_seconds - outcome.setup_seconds - outcome.training_seconds - outcome.score_seconds
    parts = f"start+set-up {outcome.setup_seconds:.1f} s, scoring {outcome.score_seconds:.1f} s, the rest {rest:.1f} s"
    return [f"outside training {parts}; logits through {outcome.logits_through}"]


def _settings(file: Path, assignments: Sequence[str], flags: Mapping[str, Any], dry: bool = False) -> Config:
    """The settings of the command line; for the rest, a file that lies in a run folder is measured as that run measures.

    Args:
        dry: nothing is measured, so it does not matter by which evaluator.
    Raises:
        UserError: the settings do not fit, or the run's cannot be read.
    """
    said, run_dir = stated(None, assignments, flags), run_of(file)
    if run_dir is None:
        return from_flat(said)
    try:
        stored = snapshot(run_dir).settings
    except StoreError as error:
        raise UserError(f"{file} lies in a run folder that cannot be read: {error}; to measure it alone, copy it elsewhere") from error
    by = () if dry else ("evaluator.", "instant.")
    kept = {name: value for name, value in stored.items() if name in MEASURED or name.startswith(by)}
    config = from_flat({**kept, **said})
    run = config.run
    parts = [f"lab {run.lab}", *([f"profile {run.profile}"] if run.profile else [])]
    parts += [f"{run.budget_seconds:g} s"] if run.budget_seconds else []
    parts += [f"data {run.data}"] if run.data else []
    _say_to_stderr(f"measured as in the run {run_dir}, unless options say otherwise: {', '.join(parts)}")
    return config


def _is_seed(file: Path, lab: labs.Lab) -> bool:
    return file.resolve() == (lab.folder / "train.py").resolve()


def _rendered(file: Path, program: str, lab: labs.Lab, profile: profiles.Profile | None, wanted: bool) -> str:
    """The program as it is evaluated, where it is not the lab's own."""
    if profile is None or lab.compat:
        if wanted:
            raise UserError("--render needs a lab whose programs have build_model() and main(), and evaluator.kind = slot")
    elif wanted:
        return labs.fitted(program, lab, profile)
    elif labs.fitted(program, lab, profile) != program:
        _say_to_stderr(
            f"{file} has the knobs of {lab.folder / 'train.py'}, not those of profile {profile.head.name}: --render sets the latter"
        )
    return program


def _say_to_stderr(line: str) -> None:
    tell(line, sys.stderr)


def _parser() -> Parser:
    parser = Parser(prog="python -m evo.evaluate", description="Evaluates one program and prints its outcome.", allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", help="the program; the lab's own train.py gets the profile's knobs")
    parser.add_argument("--lab", metavar="DIR", help="folder with prepare.py, train.py, program.md (default: evo's trainer)")
    parser.add_argument("--profile", metavar="P", help="device profile by name or file (default: the one that suits the machine)")
    parser.add_argument("--budget", metavar="S", type=float, help="seconds of training (default: the profile's)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="random seed of the evaluation (default: %(default)s)")
    parser.add_argument("--set", metavar="section.key=value", action="append", default=[], help="any other setting")
    parser.add_argument("--render", action="store_true", help="FILE is a changed copy of the lab's train.py: set the profile's knobs in it")
    parser.add_argument("--dry-run", action="store_true", help="look for mistakes in seconds on the CPU; no data, no score")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(entry("evo.evaluate", main))
