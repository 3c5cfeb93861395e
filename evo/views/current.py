"""Keeps the views of a run current while it goes on, or makes them anew. A dashboard must be started again when its file was replaced."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from evo.core.standing import Standing, assess
from evo.errors import StudyError
from evo.folder import LOCK, StoreError, held, locked, read_text
from evo.species import Shelf
from evo.store import snapshot
from evo.views import results
from evo.views.study import FILE as STUDY
from evo.views.study import StudyView


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
        with found.damage_named():
            standing = assess(found.records, found.search, Shelf(partial(read_text, run_dir)))
        results.write(run_dir, standing)
        for name in (STUDY, f"{STUDY}.lock"):  # the lock of a dashboard that was killed would hold up the next one's notes
            (run_dir / name).unlink(missing_ok=True)
        StudyView(run_dir).refresh(standing, whole=True)
    return standing
