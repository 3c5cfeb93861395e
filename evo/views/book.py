"""The studies in the file that `optuna-dashboard` opens: what each was made with, which trials it has, what its pages say.

An Optuna journal without Optuna's lock and sync (journal.py): operations are collected, and written in bulk by `Book.journal.write`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial
from optuna_dashboard import get_note, save_note
from optuna_dashboard._note import note_ver_key, split_body

from evo.core.records import Record
from evo.views.journal import Journal
from genomes import Reader

VERSION = 2  # of what is written: a study of another version is made anew
GROWTH = 1.5  # a species' study is made anew during a run when it has grown by this factor: the cost stays in proportion
MADE, MOVED = "evo:made", "evo:moved"  # how a study was made; which knobs are known to have moved
METRIC_NAMES = "study:metric_names"  # what Study.set_metric_names sets, which warns that it is experimental


class _Backend(Journal, BaseJournalBackend):
    """The journal as Optuna's storage takes it."""


@dataclass
class Board:
    """One study in the file, as its writer remembers it."""

    study: optuna.Study
    reference: str  # genome whose knobs give names, kinds and scales
    read: Callable[[], Reader]  # makes `reader`; that takes longer than all else, and few studies grow in a session
    knobs: tuple[str, ...]  # the parameters
    moved: set[str]  # knobs known to have moved, parameters or not yet
    indexes: set[int]
    made_with: int  # trials
    note: str

    @cached_property
    def reader(self) -> Reader:
        """The reader of the reference's knobs."""
        return self.read()

    def may_grow(self, more: int, whole: bool) -> bool:
        """Whether it is time to make the study anew with more parameters."""
        return whole or len(self.indexes) + more >= GROWTH * self.made_with

    def missing(self, records: Iterable[Record]) -> list[Record]:
        return [record for record in records if record.index not in self.indexes]


class Book:
    """All studies in the file."""

    def __init__(self, path: Path) -> None:
        self.journal = _Backend(path)
        self.storage = JournalStorage(self.journal)
        self.boards: dict[str, Board] = {}

    def told(self, study: FrozenStudy) -> dict[int, tuple[str, float | None]] | None:
        """Index -> (state, value) of a study's trials; None if one is there twice or lacks its note."""
        found = self.storage.get_all_trials(study._study_id, deepcopy=False)
        told = {trial.user_attrs["index"]: (trial.state.name, trial.value) for trial in found}
        noted = all(note_ver_key(trial._trial_id) in study.system_attrs for trial in found)
        return told if noted and len(told) == len(found) else None

    def remember(self, name: str, read: Callable[[], Reader], indexes: set[int]) -> Board:
        """Goes on with a study that is in the file."""
        study = optuna.load_study(study_name=name, storage=self.storage)
        attributes = self.storage.get_study_system_attrs(study._study_id)
        made, moved = attributes[MADE], set(attributes[MOVED])
        self.boards[name] = Board(study, made["reference"], read, tuple(made["knobs"]), moved, indexes, len(indexes), get_note(study))
        return self.boards[name]

    def make(self, name: str, reference: str, reader: Reader, knobs: Iterable[str]) -> Board:
        """A new study, in place of the one of this name if there is one."""
        old = self.boards.pop(name, None)
        if old is not None:
            self.storage.delete_study(old.study._study_id)
        study_id = self.storage.create_new_study([StudyDirection.MINIMIZE], name)
        self.storage.set_study_system_attr(study_id, MADE, {"version": VERSION, "reference": reference, "knobs": list(knobs)})
        self.storage.set_study_system_attr(study_id, MOVED, sorted(old.moved if old else ()))
        self.storage.set_study_system_attr(study_id, METRIC_NAMES, ["val_bpb"])
        return self.remember(name, lambda: reader, set())

    def add(self, board: Board, trial: FrozenTrial, note: str) -> None:
        """One trial and its note; `save_note` wants a trial that is still running."""
        study_id = board.study._study_id
        trial_id = self.storage.create_new_trial(study_id, template_trial=trial)
        for key, value in {**split_body(note, trial_id), note_ver_key(trial_id): 1}.items():  # the version last: it says that all is there
            self.storage.set_study_system_attr(study_id, key, value)
        board.indexes.add(trial.user_attrs["index"])

    def has_moved(self, board: Board, names: set[str]) -> None:
        """Stores which knobs have moved: a species' knob until the study is made with it, also in the next session."""
        if not names <= board.moved:
            board.moved |= names
            self.storage.set_study_system_attr(board.study._study_id, MOVED, sorted(board.moved))

    def say(self, board: Board, note: str, facts: Mapping[str, str]) -> None:
        """The note of a study, and the facts on its first page."""
        if note != board.note:
            save_note(board.study, note)
            board.note = note
        known = self.storage.get_study_user_attrs(board.study._study_id)
        for name, fact in facts.items():
            if known.get(name) != fact:
                board.study.set_user_attr(name, fact)
