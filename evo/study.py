"""The Optuna study of a run, which `optuna-dashboard RUN/optuna.log` opens: a view of the store, written in step with the run.

    all evaluations     one trial per evaluation; parameters are the seed program's tunable named constants
    species ID, tuned   one trial per evaluation of a species that was tuned; parameters are the values that moved within it, so the
                        study is made anew, under a new number, when more have moved

What holds: a trial's identity is its `index` attribute, so records may come in any order. A failure has no value. What is in the file
is compared with the store at the start of a session and whenever somebody else has written to it: studies that do not agree are made
anew, a file that does not read is replaced. A dashboard that is open follows everything but the replacement of the file.

The file is an Optuna journal, appended in bulk by its single writer (run.lock sees to that): without Optuna's lock file, which a
killed process leaves behind, and without a sync, since it can be made again. SQLite through Optuna takes tens of ms per trial.
Left out: keeping what people write into the dashboard; a parameter whose value cannot stand on its scale (0 on a logarithmic one).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import get_note, save_note
from optuna_dashboard._note import note_ver_key, split_body

from evo import trials
from evo.folder import StoreError, read_text
from evo.records import TUNE, Record
from evo.standing import Standing
from evo.store import curve
from evo.study_notes import overview_note, species_note, trial_note
from genomes import GenomeError, Knob, Reader, Value, constants

FILE = "optuna.log"
OVERVIEW = "all evaluations"
VERSION = 1  # of what is written: a study made otherwise is made anew
AT_ONCE = 500  # trials that one refresh writes while slots may be waiting for the driver
GROWTH = 1.5  # a species' study is made anew during a run when it has grown so much: the cost stays in proportion
PARTS = ("distributions", "params", "intermediate_values")  # of a trial, which the writer needs no memory of
TRIAL_NOTE = re.compile(r"dashboard:\d+:note_str")
METRIC_NAMES = "study:metric_names"  # what Study.set_metric_names sets, which warns that it is experimental
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, AssertionError, optuna.exceptions.OptunaError)  # of reading a foreign file


class StudyError(Exception):
    """The file cannot be written; the run itself is not concerned."""


class StudyView:
    """Writes the study of one run folder; the caller holds the run's lock."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._book: _Book | None = None
        self._texts = lru_cache(maxsize=8)(self._text)  # parents come again and again

    def refresh(self, standing: Standing, whole: bool) -> None:
        """Adds what is missing: all of it, or `AT_ONCE` trials.

        Raises:
            StudyError: the file cannot be written.
        """
        if standing.founder is None:
            return
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study on the terminal of the live table
        book, self._book = self._book, None  # forgotten, and read again, unless this refresh comes to its end
        try:
            if book is None or not book.journal.untouched():
                book = _opened(self._run_dir / FILE, standing)
            self._write(book, standing, whole)
        except OSError as error:
            raise StudyError(f"{self._run_dir / FILE} cannot be written: {error.strerror}") from error
        self._book = book

    def _write(self, book: _Book, standing: Standing, whole: bool) -> None:
        left = sys.maxsize if whole else AT_ONCE
        records = [record for record in standing.records if trials.evaluated(record)]
        left -= self._overview(book, standing, records, left)
        for species in tuned_species(standing.records):
            members = [record for record in records if record.candidate.species == species]
            if members and left > 0:
                left -= self._species(book, standing, members, left, whole)
        book.journal.write()

    def _overview(self, book: _Book, standing: Standing, records: Sequence[Record], most: int) -> int:
        """Adds at most `most` trials to the overview; how many they were."""
        founder = standing.founder or ""
        board = book.boards.get(OVERVIEW)
        if board is None or board.reader is None:
            reader = Reader(constants(self._texts(founder)))
            if board is not None and list(reader.knobs) == list(board.knobs):
                board.reader = reader
            else:
                board = book.make(OVERVIEW, founder, reader, tuple(reader.knobs))
        missing = [r for r in records if r.candidate.proposal.index not in board.indexes][:most]
        for record in missing:
            self._add(book, board, record, standing, _read(board.reader, constants(self._texts(record.candidate.genome))))
        book.say(board, overview_note(standing))
        return len(missing)

    def _species(self, book: _Book, standing: Standing, members: Sequence[Record], most: int, whole: bool) -> int:
        """The same for one tuned species."""
        name = species_study(members[0].candidate.species)
        board = book.boards.get(name)
        if board is None:
            reader = Reader(self._texts(members[0].candidate.genome))
            moved = self._moved(reader, members[:most])
            board = book.make(name, members[0].candidate.genome, reader, moved)
        if board.reader is None:
            board.reader = Reader(self._texts(board.reference))
        missing = [r for r in members if r.candidate.proposal.index not in board.indexes][:most]
        book.has_moved(board, self._moved(board.reader, missing))
        if board.moved - set(board.knobs) and (whole or len(board.indexes) + len(missing) >= GROWTH * board.made_with):
            names = tuple(name for name in board.reader.knobs if name in board.moved)
            board = book.make(name, board.reference, board.reader, names)
            missing = list(members[:most])
        for record in missing:
            self._add(book, board, record, standing, _read(board.reader, self._texts(record.candidate.genome)))
        board.made_with = board.made_with or len(missing)
        book.say(board, species_note(members[0].candidate.species, board.knobs, standing))
        return len(missing)

    def _moved(self, reader: Reader, members: Iterable[Record]) -> tuple[str, ...]:
        """Names of the knobs in which a member differs from the reference, in the order of the program."""
        read = [_read(reader, self._texts(record.candidate.genome)) for record in members]
        return tuple(name for name, knob in reader.knobs.items() if any(v.get(name, knob.value) != knob.value for v in read))

    def _add(self, book: _Book, board: _Board, record: Record, standing: Standing, values: Mapping[str, Value]) -> None:
        assert board.reader is not None
        placed = {name: placed_in(board.reader.knobs[name], values[name]) for name in board.knobs if name in values}
        params = {name: found for name, found in placed.items() if found is not None}
        points = trials.points(curve(self._run_dir, record.candidate.proposal.index))
        book.add(board, _frozen(record, params, points), trial_note(record, standing, self._texts))

    def _text(self, genome: str) -> str:
        """A program; "" where it is missing, which a view can bear."""
        try:
            return read_text(self._run_dir, genome)
        except StoreError:
            return ""


def tuned_species(records: Iterable[Record]) -> list[str]:
    """The species that tuning has worked on."""
    return sorted({r.candidate.species for r in records if r.candidate.proposal.operator == TUNE and r.candidate.species})


def species_study(species: str) -> str:
    """The name of a tuned species' study."""
    return f"species {species}, tuned"


# ---- a trial in Optuna's form


def placed_in(knob: Knob, value: Value) -> tuple[BaseDistribution, Value] | None:
    """A parameter's distribution and value; None if it does not fit. Kind and scale are the knob's for the whole study, as Optuna asks."""
    if knob.kind in ("bool", "choice"):
        choices = (False, True) if knob.kind == "bool" else knob.choices
        same = [choice for choice in choices if choice == value and type(choice) is type(value)]
        return (CategoricalDistribution(choices), same[0]) if same else None
    room = trials.room(knob, value)
    if room is None:
        return None
    if knob.kind == "float":
        return FloatDistribution(*room, log=knob.log), float(value)
    return IntDistribution(int(room[0]), int(room[1]), log=knob.log), int(value)


def _read(reader: Reader | None, text: str) -> dict[str, Value]:
    """Values of a program; none of one that does not parse."""
    try:
        return reader.values(text) if reader else {}
    except GenomeError:
        return {}


def _frozen(record: Record, params: Mapping[str, tuple[BaseDistribution, Value]], points: dict[int, float]) -> FrozenTrial:
    state, value = trials.verdict(record)
    return FrozenTrial(
        number=-1,  # given by the storage, as is the id
        trial_id=-1,
        state=TrialState[state],
        value=value,
        datetime_start=datetime.fromtimestamp(record.started, UTC),
        datetime_complete=datetime.fromtimestamp(record.finished, UTC),
        params={name: value for name, (_, value) in params.items()},
        distributions={name: distribution for name, (distribution, _) in params.items()},
        user_attrs=trials.attributes(record),
        system_attrs={},
        intermediate_values=points,
    )


# ---- the file


@dataclass
class _Board:
    """One study in the file, as its writer remembers it."""

    study: optuna.Study
    reference: str  # genome whose knobs give names, kinds and scales
    knobs: tuple[str, ...]  # the parameters
    moved: set[str]  # known to have moved, parameters or not yet
    indexes: set[int] = field(default_factory=set)
    reader: Reader | None = None  # of the reference; read when it is needed
    made_with: int = 0  # trials
    note: str = ""


class _Book:
    """The studies in the file. Operations are collected until `journal.write()`."""

    def __init__(self, journal: _Journal) -> None:
        self.journal = journal
        self.storage = JournalStorage(journal)
        self.boards: dict[str, _Board] = {}

    def adopt(self, standing: Standing) -> None:
        """Takes over the studies that agree with the records; the others go."""
        expected = {r.candidate.proposal.index: trials.verdict(r) for r in standing.records if trials.evaluated(r)}
        names = {OVERVIEW, *map(species_study, tuned_species(standing.records))}
        for frozen in self.storage.get_all_studies():
            made = frozen.user_attrs.get("made", {})
            found = self.storage.get_all_trials(frozen._study_id, deepcopy=False)
            noted = all(note_ver_key(t._trial_id) in frozen.system_attrs for t in found)
            told = {t.user_attrs.get("index"): (t.state.name, t.value) for t in found}
            ours = frozen.study_name in names and made.get("version") == VERSION
            fits = ours and (frozen.study_name != OVERVIEW or made["reference"] == standing.founder)
            if fits and noted and len(told) == len(found) and told.items() <= expected.items():
                self._remember(frozen.study_name, made, set(frozen.user_attrs["moved"]), {i for i in expected if i in told})
            else:
                self.storage.delete_study(frozen._study_id)

    def make(self, name: str, reference: str, reader: Reader, knobs: tuple[str, ...]) -> _Board:
        """A new study, in place of the one of this name if there is one."""
        old = self.boards.pop(name, None)
        if old is not None:
            self.storage.delete_study(old.study._study_id)
        study_id = self.storage.create_new_study([StudyDirection.MINIMIZE], name)
        made = {"version": VERSION, "reference": reference, "knobs": list(knobs)}
        moved = old.moved if old else set(knobs)
        self.storage.set_study_user_attr(study_id, "made", made)
        self.storage.set_study_user_attr(study_id, "moved", sorted(moved))
        self.storage.set_study_system_attr(study_id, METRIC_NAMES, ["val_bpb"])
        board = self._remember(name, made, moved, set())
        board.reader = reader
        return board

    def add(self, board: _Board, trial: FrozenTrial, note: str) -> None:
        """One trial and its note; `save_note` wants a trial that is still running."""
        study_id = board.study._study_id
        trial_id = self.storage.create_new_trial(study_id, template_trial=trial)
        for key, value in {note_ver_key(trial_id): 1, **split_body(note, trial_id)}.items():
            self.storage.set_study_system_attr(study_id, key, value)
        board.indexes.add(trial.user_attrs["index"])

    def has_moved(self, board: _Board, names: Iterable[str]) -> None:
        """Keeps for the next session what has moved, until it becomes a parameter."""
        if not board.moved.issuperset(names):
            board.moved |= set(names)
            self.storage.set_study_user_attr(board.study._study_id, "moved", sorted(board.moved))

    def say(self, board: _Board, note: str) -> None:
        """The note of a study."""
        if note != board.note:
            save_note(board.study, note)
            board.note = note

    def _remember(self, name: str, made: Mapping[str, Any], moved: set[str], indexes: set[int]) -> _Board:
        study = optuna.load_study(study_name=name, storage=self.storage)
        board = _Board(study, made["reference"], tuple(made["knobs"]), moved, indexes, made_with=len(indexes), note=get_note(study))
        self.boards[name] = board
        return board


class _Journal(BaseJournalBackend):
    """Optuna's journal for a single writer: appends in bulk, and tells its storage what it needs to count along and no more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []  # to be written
        self._untold: Iterable[dict[str, Any]] = self._stored()
        self._mark: tuple[int, int] | None = None  # inode and size as this writer left them

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """What was not told yet: there is one storage, which asks in order."""
        untold, self._untold = self._untold, []
        return untold

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Collects; `write` writes."""
        self._lines += [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        self._untold = [*self._untold, *map(_lean, logs)]

    def write(self) -> None:
        """Appends what was collected. Somebody else's lines in between are found by `untouched`."""
        if not self._lines:
            return
        data = "".join(self._lines).encode()
        self._lines = []
        with self._path.open("ab") as file:
            before = os.fstat(file.fileno())
            file.write(data)
            file.flush()
            alone = self._mark == (before.st_ino, before.st_size)
            self._mark = (before.st_ino, before.st_size + len(data)) if alone else None

    def untouched(self) -> bool:
        """Is the file as this writer left it?"""
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        return self._mark == (now.st_ino, now.st_size)

    def _stored(self) -> Iterator[dict[str, Any]]:
        """The file, line by line, cut after its last whole line: a kill may have torn one."""
        with self._path.open("a+b") as file:
            whole = _whole_lines(self._path)
            file.truncate(whole)
            file.seek(0)
            for line in file:
                yield _lean(json.loads(line))
            self._mark = (os.fstat(file.fileno()).st_ino, whole)


def _opened(path: Path, standing: Standing) -> _Book:
    """The file with what is right in it; a new one where it does not read."""
    try:
        book = _Book(_Journal(path))
        book.adopt(standing)
    except DAMAGE:
        path.unlink()
        book = _Book(_Journal(path))
    return book


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last line that has one."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position:
            start = max(0, position - 65536)
            file.seek(start)
            found = file.read(position - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            position = start
    return 0


def _lean(log: dict[str, Any]) -> dict[str, Any]:
    """An operation without its bulk: the driver holds no texts and no curves."""
    lean = {name: value for name, value in log.items() if name not in PARTS}
    if isinstance(said := lean.get("user_attrs"), dict):
        lean["user_attrs"] = {"index": said.get("index")}
    if isinstance(said := lean.get("system_attr"), dict):
        lean["system_attr"] = {key: "" if TRIAL_NOTE.match(key) else value for key, value in said.items()}
    return lean
