"""What is printed at the end of a session: what came of the run, whether to believe it, and how to look further or go on."""

from __future__ import annotations

import shlex
import time

from evaluator.outcome import SELF_REPORTED
from evo import session
from evo.core import flags
from evo.core.records import GIVEN
from evo.core.standing import Standing
from evo.core.stopping import audit
from evo.core.words import counted
from evo.drive import Driver
from evo.session import Session
from evo.store import curve
from evo.table import clock, model_words


def closing_words(driver: Driver, settings: Session, stopped: bool) -> list[str]:
    """The lines to print."""
    standing, run_dir = driver.search.standing, settings.run_dir
    lines = [*_end(driver, stopped), *_best(standing), *driver.notices, *filter(None, [driver.upkeep.busy]), *model_words(driver)]
    audited = audit(standing.records, lambda index: curve(run_dir, index), driver.lab.budget_seconds)
    lines += [audited.sentence()] if audited.stopped or audited.doomed else []
    lines += _further(driver, settings, standing)
    more = [] if stopped else _more(driver, settings)
    more += [word for file in driver.not_added for word in ("--add", file)]
    return [*lines, f"{'go on' if stopped else 'go further'}: {session.command_further(settings, *more)}"]


def _more(driver: Driver, settings: Session) -> list[str]:
    """The limit that ended the run, to be raised, and the other one where it still leaves room."""
    ended, flag = ("run.hours", "--hours") if driver.hours.are_up else ("search.evals", "--evals")
    room = not (driver.hours.are_up and driver.search.limit_reached)
    return [flag, "MORE", *(session.other_limit(settings, ended) if room else ())]


def _end(driver: Driver, stopped: bool) -> list[str]:
    """How much was done, and why no more."""
    history, exhausted = driver.search.standing.history, driver.search.exhausted
    told = f"{counted(history.evaluated, 'new genome')} evaluated, {counted(len(driver.search.standing.records), 'record')}, "
    told += f"{clock(time.time() - driver.hours.began)} this session"
    lines = [f"stopped: {told}; nothing finished is lost" if stopped else f"done: {told}"]
    if exhausted:
        lines.append(f"exploration ended: {exhausted}")
    elif driver.hours.are_up and not stopped:
        lines.append(f"exploration ended: the run has worked for {driver.hours.spent:.2f} of {driver.hours.limit:g} hours")
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
        tried = any(genome.parents for genome in standing.history.genomes.values())
        nothing = "nothing better was found" if tried else "nothing else has been tried yet"
        return [f"best genome: {best}, the seed itself: {nothing}", *_handed_in(standing)]
    estimate = standing.belief.of[best]
    told = f" ({SELF_REPORTED})" if standing.history.self_reported else ""
    return [f"best genome: {best}, val_bpb {estimate.mean:.4f} ± {estimate.sd:.4f}{told} so far, not yet confirmed by fresh draws"]


def _handed_in(standing: Standing) -> list[str]:
    """Of the programs that people handed in the one that is believed to be best: it is no better than the seed."""
    of, seed = standing.belief.of, standing.belief.of.get(standing.founder or "")
    given = [genome for genome in standing.history.genomes.values() if genome.operator == GIVEN and genome.id in of]
    if not given or seed is None:
        return []
    best = min(given, key=lambda genome: of[genome.id].mean)
    theirs = of[best.id]
    which = "the program handed in" if len(given) == 1 else f"the best of {len(given)} programs handed in"
    own = f"{theirs.mean:.4f} ± {theirs.sd:.4f} ({counted(len(best.scores), 'draw')})"
    return [f"{which}, {best.id}, has val_bpb {own}, the seed {seed.mean:.4f} ± {seed.sd:.4f} ({counted(seed.n, 'draw')})"]


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
