"""A lab for the instant evaluator, and a run on it: three short files, thousands of evaluations in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_run import PROGRAM

from evaluator.instant import Landscape
from evo.core.policies import SearchConfig
from evo.core.records import Record
from evo.drive import Driver, Watcher
from evo.executor import Executor, InlineExecutor, SlotSpec
from evo.lab import Rendered
from evo.llm.desk import Answer, Desk, NoDesk
from evo.store import Store, snapshot

BUDGET_SECONDS = 1.0  # in the lab's own time
NOISY = Landscape(salt=1, noise_sd=0.0005, failure_share=0.1)


def make_lab(folder: Path, program: str = PROGRAM, prepare: str = "TIME_BUDGET = 300\n") -> Path:
    """A lab folder."""
    folder.mkdir(parents=True)
    for name, text in (("train.py", program), ("prepare.py", prepare), ("program.md", "# Agenda\n")):
        (folder / name).write_text(text)
    return folder


class Silent:
    """A watcher that looks at nothing."""

    def told(self, record: Record, driver: Driver) -> None:
        pass

    def answered(self, answer: Answer, driver: Driver) -> None:
        pass

    def tick(self, driver: Driver) -> None:
        pass


class StopAfter(Silent):
    """Interrupts the loop when so many records are in, as Ctrl-C does."""

    def __init__(self, records: int) -> None:
        self.left = records

    def told(self, record: Record, driver: Driver) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def spec(run_dir: Path, landscape: Landscape = NOISY, patience_seconds: float = 60.0) -> SlotSpec:
    return SlotSpec("instant0", landscape, run_dir, BUDGET_SECONDS, patience_seconds)


def drive(
    run_dir: Path,
    evals: int,
    executor: Executor | None = None,
    watcher: Watcher | None = None,
    hours: float | None = None,
    program: str = PROGRAM,
    desk: Desk | None = None,
    **search: Any,
) -> Driver:
    """Starts or resumes a run and drives it to its end; `search` are more of its settings."""
    with Store.open(run_dir, {"lab": "test", "budget_seconds": BUDGET_SECONDS}) as store:
        slots = executor or InlineExecutor((spec(run_dir),))
        driver = Driver(
            SearchConfig(evals=evals, **search), store, slots, Rendered("", program, BUDGET_SECONDS), watcher or Silent(), desk or NoDesk()
        )
        driver.run(hours)
        return driver


def facts(run_dir: Path) -> list[tuple[object, ...]]:
    """What a run found, without when it did."""
    return [(r.candidate, _timeless(r)) for r in snapshot(run_dir).records]


def _timeless(record: Record) -> tuple[object, ...]:
    outcome = record.outcome
    return type(outcome).__name__, getattr(outcome, "val_bpb", None), getattr(outcome, "message", None)
