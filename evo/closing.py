"""What is printed at the end of a session: what came of the run, whether to believe it, and how to look further or go on."""

from __future__ import annotations

import shlex
import time

from evaluator.outcome import SELF_REPORTED
from evo import session
from evo.core import flags
from evo.core.standing import Standing
from evo.core.stopping import audit
from evo.drive import Driver
from evo.session import Session
from evo.store import curve
from evo.table import clock, model_words


def closing_words(driver: Driver, settings: Session, stopped: bool) -> list[str]:
    """The lines to print."""
    standing, run_dir = driver.search.standing, settings.run_dir
    lines = [*_end(driver, stopped), *_best(standing), *driver.notices, *([driver.busy] if driver.busy else []), *model_words(driver)]
    audited = audit(standing.records, lambda index: curve(run_dir, index), driver.lab.budget_seconds)
    lines += [audited.sentence()] if audited.stopped or audited.doomed else []
    lines += _further(driver, settings, standing)
    more = [] if stopped else ["--hours", "MORE"] if driver.time_is_up else ["--evals", "MORE"]
    more += [word for file in driver.not_added for word in ("--add", file)]
    return [*lines, f"{'go on' if stopped else 'go further'}: {session.command_further(settings, *more)}"]


def _end(driver: Driver, stopped: bool) -> list[str]:
    """How much was done, and why no more."""
    history, exhausted = driver.search.standing.history, driver.search.exhausted
    told = f"{history.evaluated} new genomes evaluated, {len(driver.search.standing.records)} records, "
    told += f"{clock(time.time() - driver.began)} this session"
    lines = [f"stopped: {told}; nothing finished is lost" if stopped else f"done: {told}"]
    if exhausted:
        lines.append(f"exploration ended: {exhausted}")
    elif driver.time_is_up and not stopped:
        lines.append(f"exploration ended: the run has worked for {driver.hours_spent:.2f} of {driver.hours:g} hours")
    return lines


def _best(standing: Standing) -> list[str]:
    """The champion, and what is odd about its latest evaluation."""
    best, said = standing.champion, standing.announcement
    if best is None:
        return []
    if said is not None:
        odd = [f"check its latest evaluation before you believe it: {flag}" for flag in flags.latest(standing.records, best)]
        return [f"best genome: {said.sentence()}", *([said.heldout.sentence()] if said.heldout else []), *odd]
    if best == standing.founder:
        nothing = "nothing better was found" if standing.history.evaluated else "nothing else has been tried yet"
        return [f"best genome: {best}, the seed itself: {nothing}"]
    estimate = standing.belief.of[best]
    told = f" ({SELF_REPORTED})" if standing.history.self_reported else ""
    return [f"best genome: {best}, val_bpb {estimate.mean:.4f} ± {estimate.sd:.4f}{told} so far, not yet confirmed by fresh draws"]


def _further(driver: Driver, settings: Session, standing: Standing) -> list[str]:
    """The champion's program, and commands that show more."""
    best, run_dir, folder = standing.champion, settings.run_dir, shlex.quote(str(settings.run_dir))
    if best is None:
        return []
    shown = best == standing.founder or (standing.announcement is not None and standing.announcement.proven)
    program, doubt = run_dir / "best" / "train.py", "" if shown else " (a guess: no gain has been shown)"
    trouble = driver.views.trouble
    return [
        f"its program: {program}{doubt}; measure it again:",
        f"  {session.command_alone(settings.config, program)}",
        "to see more:",
        f"  python -m evo.lineage {folder}",
        f"  python -m evo.lineage {folder} show {best}",
        f"  python -m evo.lineage {folder} best",
        f"  ({trouble})" if trouble else f"  optuna-dashboard {shlex.quote(str(run_dir / 'optuna.log'))}",
    ]
