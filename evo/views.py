"""`python -m evo.views RUN`: makes the views of a run anew from its store. While a run goes on, it keeps them current itself.

results.tsv, best/    evo/results.py
optuna.log            evo/study.py; opened with `optuna-dashboard RUN/optuna.log`, which must be started again when the file was replaced

All of them can be deleted at any time. Wrong input, or a run that is going on: one line, exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evo import results
from evo.cli import Parser, entry
from evo.folder import LOCK, StoreError, held, locked
from evo.species import Shelf
from evo.standing import Standing, assess
from evo.store import read_text, snapshot
from evo.study import FILE as STUDY
from evo.study import StudyError, StudyView


class Views:
    """The views of one session; the caller holds the run's lock."""

    def __init__(self, run_dir: Path) -> None:
        self.trouble = ""  # why one is not current; one line. A view never stops a run
        self._run_dir = run_dir
        self._study = StudyView(run_dir)

    def refresh(self, standing: Standing, whole: bool = False) -> None:
        """Brings the files up to date; of the study, only a limited part at once unless `whole`."""
        self.trouble = ""
        try:
            results.write(self._run_dir, standing)
        except OSError as error:
            self.trouble = f"results.tsv or best/ of {self._run_dir} cannot be written: {error.strerror}"
        except StoreError as error:
            self.trouble = str(error)
        try:
            self._study.refresh(standing, whole)
        except StudyError as error:
            self.trouble = str(error)


def rebuild(run_dir: Path) -> Standing:
    """Deletes the study, and makes all views from the store.

    Raises:
        StoreError: the folder is no run, or the run is going on.
        StudyError: the study cannot be written.
    """
    snapshot(run_dir)  # before anything is touched: is it a run at all?
    if held(run_dir / LOCK):
        raise StoreError(f"{run_dir} is being written by process {(run_dir / LOCK).read_text()}: the run itself keeps its views current")
    with locked(run_dir):
        found = snapshot(run_dir)
        standing = assess(found.records, found.policy, Shelf(partial(read_text, run_dir)))
        results.write(run_dir, standing)
        for name in (STUDY, f"{STUDY}.lock"):  # the lock of a dashboard that was killed would hold up the next one's notes
            (run_dir / name).unlink(missing_ok=True)
        StudyView(run_dir).refresh(standing, whole=True)
    return standing


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="python -m evo.views", description="Makes the views of a run anew from its store.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    run_dir = parser.parse_args(arguments).run
    try:
        standing = rebuild(run_dir)
    except (StoreError, StudyError) as error:
        print(f"evo.views: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"evo.views: cannot write the views of {run_dir}: {error.strerror}", file=sys.stderr)
        return 2
    made = f"results.tsv, best/ and {STUDY} of {run_dir} made from {len(standing.records)} records"
    print(f"{made}; an optuna-dashboard that is open must be started again")
    return 0


if __name__ == "__main__":
    sys.exit(entry("evo.views", main))
