"""`python -m evo.run [RUN_DIR] …`: starts a run, or goes on with one.

A run folder knows its settings: the same command, or the folder alone, goes on where it stopped. Slots, GPUs and the executor may
change between sessions; limits that are given replace the run's; anything else that differs is refused, since scores could not be
compared.
Ctrl-C (or SIGTERM, or a terminal that is closed) stops at once and cleanly; a second one does not even tidy up. Nothing finished is lost
either way, and both say how to go on.

Exit code 0: the run is complete; 1: the machinery failed, the run can go on; 2: it cannot be done as asked and nothing was changed;
130: stopped by a signal.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from evaluator.evaluate import HarnessError
from evo import assembly, given, session
from evo.assembly import Assembly
from evo.claims import claimed
from evo.cli import STOPPED, Parser, drop_output, entry, refusal, tell
from evo.closing import closing_words
from evo.core.words import counted
from evo.drive import Driver, Watcher
from evo.errors import EvoError, SeedFailsError, UserError, one_line
from evo.executor import Executor, InlineExecutor, await_orphans
from evo.folder import DATABASE, StoreError
from evo.given import Given
from evo.llm import start
from evo.llm.desk import Aside, Desk
from evo.session import Session
from evo.store import Store
from evo.table import LiveTable, PlainLines

if TYPE_CHECKING:
    from evo.llm.endpoint import Model

GARBAGE_THRESHOLDS = (100_000, 20, 20)  # syntax trees are many small objects: at the defaults, writing spends a third of its time on them
CURSOR_BACK = "\x1b[0m\x1b[?25h\n"  # undoes what a live table does to a terminal, and ends its line
LAST_WORDS_SECONDS = 1.0  # a terminal that takes nothing does not keep a process alive that is to end
DOUBT_SECONDS = 1.0  # longest wait for an endpoint's list of models at the start
DRIVER_NICENESS = 5  # on CPU slots: the driver's own work must not slow a training


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(arguments)
    now: Session | None = None
    try:
        with _signals(lambda: _further(options, arguments, now)):
            now = session.resolve(options, Path.cwd())
            return run(now, options.add)
    except UserError as error:
        tell(f"evo.run: {refusal(error, session.FLAGS, options)}", sys.stderr)
        return error.exit_code
    except StoreError as error:
        tell(f"evo.run: {error}", sys.stderr)
        return 1
    except (EvoError, HarnessError, OSError) as error:
        further = (
            f"; nothing finished is lost, go on: python -m evo.run {shlex.quote(str(now.run_dir))}" if now and session.begun(now) else ""
        )
        told = str(error)
        if isinstance(error, OSError) and error.strerror and now:  # its text begins with a number, and may name no file
            told = f"{error.filename or now.run_dir}: {error.strerror}"
        tell(f"evo.run: {told}{further}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        further = _further(options, arguments, now)
        told = f"stopped; nothing finished is lost, go on: {further}" if further else "stopped before anything was started"
        tell(f"evo.run: {told}", sys.stderr)
        return STOPPED


def _further(options: argparse.Namespace, arguments: Sequence[str] | None, now: Session | None) -> str:
    """The command that goes on with the run, as it was given if it names the folder; "" as long as there is no run."""
    if options.run_dir:
        typed = sys.argv[1:] if arguments is None else arguments
        return shlex.join(["python", "-m", "evo.run", *typed]) if (Path(options.run_dir) / DATABASE).exists() else ""
    if now is None or not session.begun(now):
        return ""
    return session.command_further(now, *(word for file in options.add for word in ("--add", str(file))))


def run(now: Session, added: Sequence[Path] = ()) -> int:
    """Plans a run, opens its folder, drives it, reports what came of it.

    Args:
        added: files with programs that people hand in.
    """
    model, named = start.connected(now.config.llm), bool(now.config.llm.model)
    if model is not None:
        now = replace(now, config=replace(now.config, llm=replace(now.config.llm, model=model.name)))
    planned = assembly.plan(now.config)
    session.check(now, planned)
    handed_in = given.read(added, planned)
    say(f"run: {now.run_dir} ({'resumed' if now.resumed else 'new'}, profile {planned.profile_name}, {counted(planned.slots, 'slot')})")
    if now.lifted:
        say(f"the limits given replace those of before: {now.lifted} no longer holds")
    if confined := assembly.sandbox_line(planned):
        say(confined)
    if model is not None:
        say(
            f"model: {one_line(model.name)} at {now.config.llm.url or 'OpenAI'} writes; "
            "built-in operators step in where it gives nothing usable"
        )
    doubt = Aside(model.doubt) if model is not None and named else None  # people should know before the seed genome's repeats are done
    assembled = assembly.build(planned, say)
    if doubt is not None and (said := doubt.answer(DOUBT_SECONDS)):  # else the desk has it when it comes
        say(f"model: {one_line(said)}")
    settings = session.settle(now, planned, assembled)
    lab_seed, assembled = assembled.rendered.seed, session.with_stored_seed(now, assembled)
    if assembled.rendered.seed != lab_seed:
        say(f"comments or layout of {assembled.lab.folder / 'train.py'} have changed since; the run goes on with the program as it was")
    with claimed(assembled.gpus, f"evo.run {now.run_dir}"):
        return _work(settings, assembled, model, doubt, handed_in)


def _work(now: Session, assembled: Assembly, model: Model | None, doubt: Aside | None, handed_in: Sequence[Given]) -> int:
    """The rest of `run`, once it has what it works with."""
    await_orphans(now.run_dir)
    before = session.present(now.run_dir)
    executor = make_executor(now, assembled)
    try:
        with _store(now) as store:
            session.save_limits(now)
            for path in store.set_aside:
                say(f"damaged: {path} cannot be read; that evaluation will run again")
            with start.desk(now.config.llm, assembled, model, doubt, now.run_dir) as desk:
                return _drive(now, store, executor, assembled, desk, handed_in)
    except SeedFailsError as error:
        if not now.resumed:  # all that is new is the failure that is about to be reported
            executor.close()
            await_orphans(now.run_dir)
            session.remove_new(now.run_dir, before)
        raise type(error)(f"{error}; try it alone: {session.command_alone(now.config)}") from error
    finally:
        executor.close()


def make_executor(settings: Session, assembled: Assembly) -> Executor:
    """The executor that the settings name."""
    specs, run = assembled.specs(settings.run_dir), settings.config.run
    if run.executor == "inline":
        return InlineExecutor(specs)
    from evo.cluster import RayExecutor  # takes a second to import, and not every command needs it

    return RayExecutor(specs, run.ray_address)


def say(line: str) -> None:
    """One line to standard output, at once. A run does not end because nobody listens any more."""
    try:
        tell(line)
    except OSError as error:
        drop_output()
        with contextlib.suppress(OSError):
            print(f"evo.run: standard output: {error.strerror}; the run goes on and prints nothing more there", file=sys.stderr)


# ---- driving


def _drive(settings: Session, store: Store, executor: Executor, assembled: Assembly, desk: Desk, handed_in: Sequence[Given]) -> int:
    if assembled.device == "cpu":
        os.nice(DRIVER_NICENESS)
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    to_add = [word for given in handed_in for word in ("--add", given.file)]
    # again: Ray takes SIGTERM for itself when it starts
    with _watcher() as watcher, _signals(lambda: session.command_further(settings, *to_add)):
        driver = Driver(settings.config.search, store, executor, assembled.rendered, watcher, desk, handed_in)
        try:
            driver.run(settings.config.run.hours)
            stopped = False
        except KeyboardInterrupt:
            stopped = True
    if settings.config.run.executor == "ray":
        say("ending Ray and the slots' processes…")  # which takes seconds: before the last words, so that the shell comes right after them
    try:
        executor.close()
    finally:  # whoever does not wait for that has them all the same
        for line in closing_words(driver, settings, stopped):
            say(line)
    return STOPPED if stopped else 0


@contextlib.contextmanager
def _store(settings: Session) -> Iterator[Store]:
    try:
        store = Store.open(settings.run_dir, settings.meta)
    except StoreError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        told = f"cannot write {settings.run_dir}: {error.strerror}" if error.strerror else str(error)  # SQLite's name the file themselves
        advice = "make room there, or make it writable, and go on" if settings.resumed else "name another run folder"
        raise UserError(f"{told}; {advice}") from error
    with store:
        yield store


@contextlib.contextmanager
def _watcher() -> Iterator[Watcher]:
    if not sys.stdout.isatty():
        yield PlainLines(say)
        return
    with LiveTable(Console()) as table:
        yield table


@contextlib.contextmanager
def _signals(further: Callable[[], str]) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP (a terminal that is closed, unless `nohup` says otherwise) interrupts the work; a second SIGINT
    or SIGTERM ends the process on the spot.

    Args:
        further: the command that goes on, for the words on the spot; "" if there is none.
    """
    kinds = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else [])]

    def stop(signum: int, frame: object) -> None:
        for kind in kinds:
            signal.signal(kind, signal.SIG_IGN if kind == signal.SIGHUP else on_the_spot)  # shell and kernel both hang up
        raise KeyboardInterrupt

    def on_the_spot(signum: int, frame: object) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(kind, lambda *_: os._exit(STOPPED))
        signal.setitimer(signal.ITIMER_REAL, LAST_WORDS_SECONDS)
        try:
            _last_words(further())
        finally:
            os._exit(STOPPED)

    before = {kind: signal.signal(kind, stop) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            if signal.getsignal(kind) is stop:
                signal.signal(kind, handler)


def _last_words(further: str) -> None:
    """Says how to go on; past Python's streams, which may be in the middle of a line."""
    if os.isatty(1):
        os.write(1, CURSOR_BACK.encode())
    if further:
        os.write(2, f"evo.run: ended on the spot; nothing finished is lost, go on: {further}\n".encode(errors="surrogateescape"))


# ---- the command line


def _parser() -> Parser:
    parser = Parser(
        prog="python -m evo.run", description="Evolves a training program. Goes on with RUN_DIR if it holds a run.", allow_abbrev=False
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", nargs="?", help="run folder (default: a new, dated one under runs/)")
    parser.add_argument("--pop", metavar="N", type=int, help="survivors that parents are drawn from (default: 16)")
    parser.add_argument("--gpus", metavar="N", type=int, help="GPUs to use, one slot each (default: all there are)")
    parser.add_argument("--slots", metavar="N", type=int, help="evaluations at once (default: one per GPU, or as the profile says)")
    parser.add_argument("--budget", metavar="SECONDS", type=float, help="training time of one evaluation (default: the profile's)")
    parser.add_argument(
        "--evals", metavar="N", type=int, help="stop after N new genomes; failed ones count, repeats do not (default: no limit)"
    )
    parser.add_argument("--hours", metavar="H", type=float, help="stop exploring after H hours of work (default: no limit)")
    parser.add_argument("--lab", metavar="DIR", help="folder with prepare.py, train.py, program.md (default: evo's trainer)")
    parser.add_argument(
        "--llm", metavar="URL", help="a model that writes, at an endpoint that speaks OpenAI's chat completions; its key: EVO_LLM_KEY"
    )
    parser.add_argument("--model", metavar="NAME", help="which model (default: the only one at --llm; without --llm, one of OpenAI's)")
    parser.add_argument(
        "--add",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="a program to evaluate in addition to --evals; can be repeated",
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings as TOML")
    parser.add_argument("--profile", metavar="NAME", help="device profile by name or file (default: the one that suits the machine)")
    parser.add_argument("--seed", metavar="N", type=int, help="random seed of the search (default: 0)")
    parser.add_argument("--set", metavar="section.key=value", action="append", default=[], help="any other setting; can be repeated")
    return parser


if __name__ == "__main__":
    sys.exit(entry("evo.run", main))
