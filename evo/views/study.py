"""The Optuna study of a run, which `optuna-dashboard RUN/optuna.log` opens: a view of the store, written in step with the run.

    all evaluations     one trial per evaluation; parameters are those of the seed program's tunable named constants that had moved when
                        the trial was written, which is once: made anew, all trials have all of them. Before any has moved, one stands still
    species ID, tuned   one trial per evaluation of a species that was tuned; parameters are the values that moved within it, so the
                        study is made anew, under a new number, when more have moved

What holds: a trial's identity is its `index` attribute, so records may come in any order. A failure has no value. What is in the file
is compared with the store at the start of a session and whenever somebody else has written to it: studies that do not agree are made
anew, a file that does not read is replaced. A dashboard that is open follows everything but the replacement of the file.

The file is an Optuna journal (evo/views/book.py), written by whoever holds run.lock; SQLite through Optuna takes tens of ms per trial.
Left out: keeping what people write into the dashboard; a parameter whose value cannot stand on its scale (0 on a logarithmic one).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from evaluator.outcome import Evaluated
from evo.core.records import TUNE, Record
from evo.core.standing import Standing
from evo.errors import StudyError
from evo.folder import DAMAGE, StoreError, read_text
from evo.store import curve
from evo.views import trials
from evo.views.book import MADE, VERSION, Board, Book
from evo.views.notes import overview_facts, overview_note, species_facts, species_note, trial_note
from genomes import GenomeError, Knob, Reader, Value, constants

FILE = "optuna.log"
OVERVIEW = "all evaluations"
AT_ONCE = 500  # trials that one refresh writes while slots may be waiting for the driver
FOREIGN = (*DAMAGE, AssertionError, optuna.exceptions.OptunaError)  # what reading a file that others have written to may raise

Params = Mapping[str, tuple[BaseDistribution, Value]]


class StudyView:
    """Writes the study of one run folder; the caller holds the run's lock."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._book: Book | None = None
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
                book = self._opened(standing)
            self._add_missing(book, standing, whole)
        except OSError as error:
            raise StudyError(f"{self._run_dir / FILE} cannot be written: {error.strerror}") from error
        self._book = book

    def _opened(self, standing: Standing) -> Book:
        """The file, with those of its studies that are right; a new one if it does not read."""
        path = self._run_dir / FILE
        try:
            book = Book(path)
            self._adopt(book, standing)
        except FOREIGN:
            path.unlink()
            book = Book(path)
        return book

    def _adopt(self, book: Book, standing: Standing) -> None:
        """Takes over the studies that agree with the records; the others go."""
        expected = {r.index: trials.verdict(r) for r in standing.records if isinstance(r.outcome, Evaluated)}
        tuned = {species_study(species) for species in tuned_species(standing.records)}
        for study in book.storage.get_all_studies():
            made = study.system_attrs.get(MADE, {})
            ours = study.study_name in tuned or (study.study_name == OVERVIEW and made.get("reference") == standing.founder)
            told = book.told(study) if ours and made.get("version") == VERSION else None
            if told is None or not told.items() <= expected.items():
                book.storage.delete_study(study._study_id)
            else:
                book.remember(study.study_name, partial(self._reader, study.study_name, made["reference"]), set(told))

    def _add_missing(self, book: Book, standing: Standing, whole: bool) -> None:
        left = sys.maxsize if whole else AT_ONCE
        records = [record for record in standing.records if isinstance(record.outcome, Evaluated)]
        left -= self._overview(book, standing, records, left)
        for species in tuned_species(standing.records):
            members = [record for record in records if record.candidate.species == species]
            if members and left > 0:
                left -= self._species(book, standing, members, None if whole else left)
        book.journal.write()

    def _overview(self, book: Book, standing: Standing, records: Sequence[Record], most: int) -> int:
        """Adds at most `most` trials to the overview; returns how many."""
        founder = standing.founder or ""
        board = book.boards.get(OVERVIEW)
        if board is None:
            reader = self._reader(OVERVIEW, founder)
            board = book.make(OVERVIEW, founder, reader, reader.knobs)
        missing = board.missing(records)[:most]
        values = [_read(board.reader, constants(self._texts(record.candidate.genome))) for record in missing]
        moved = board.moved.union(*(_differing(board.reader, row) for row in values))
        for record, row in zip(missing, values, strict=True):
            self._add(book, board, record, standing, _params(board, row, moved))
        book.has_moved(board, moved)
        book.say(board, overview_note(standing), overview_facts(standing))
        return len(missing)

    def _species(self, book: Book, standing: Standing, members: Sequence[Record], most: int | None) -> int:
        """Adds trials to the study of one tuned species, all that are missing if `most` is None; returns how many."""
        species = members[0].candidate.species
        name = species_study(species)
        board = book.boards.get(name)
        reference = board.reference if board else members[0].candidate.genome
        missing = (board.missing(members) if board else list(members))[:most]
        if board and not missing and (board.moved <= set(board.knobs) or not board.may_grow(0, most is None)):
            book.say(board, species_note(species, board.knobs, standing), species_facts(species, standing))
            return 0
        reader = board.reader if board else self._reader(name, reference)
        moved = set(board.moved) if board else set[str]()
        for record in missing:
            moved.update(_differing(reader, _read(reader, self._texts(record.candidate.genome))))
        if board is None or (board.may_grow(len(missing), most is None) and not moved <= set(board.knobs)):
            board = book.make(name, reference, reader, filter(moved.__contains__, reader.knobs))
            missing = list(members[:most])
        book.has_moved(board, moved)
        for record in missing:
            values = _read(reader, self._texts(record.candidate.genome))
            self._add(book, board, record, standing, _params(board, values, moved))
        board.made_with = board.made_with or len(missing)
        book.say(board, species_note(species, board.knobs, standing), species_facts(species, standing))
        return len(missing)

    def _add(self, book: Book, board: Board, record: Record, standing: Standing, params: Params) -> None:
        points = trials.points(curve(self._run_dir, record.index))
        book.add(board, _frozen(record, params, points), trial_note(record, standing, self._texts))

    def _reader(self, study: str, genome: str) -> Reader:
        text = self._texts(genome)
        try:
            return Reader(constants(text) if study == OVERVIEW else text)
        except GenomeError:  # damaged: no knobs are known, and a view can bear it
            return Reader("")

    def _text(self, genome: str) -> str:
        """A program; "" where it is missing, which a view can bear."""
        try:
            return read_text(self._run_dir, genome)
        except StoreError:
            return ""


def tuned_species(records: Iterable[Record]) -> list[str]:
    """The species that tuning has worked on."""
    return sorted({r.candidate.species for r in records if r.operator == TUNE and r.candidate.species})


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
    if room is None or isinstance(value, str):
        return None
    low, high = room
    if knob.kind == "float":
        return FloatDistribution(low, high, log=knob.log), float(value)
    return IntDistribution(int(low), int(high), log=knob.log), int(value)


def _params(board: Board, values: Mapping[str, Value], moved: Set[str]) -> Params:
    """The parameters of a trial: knobs that have `moved`. Optuna gives one that is the same in all trials a row among the importances, and
    some importance if it has a range; thirty of them hide the few that matter."""
    known = [name for name in board.knobs if name in values and name in board.reader.knobs]
    placed = {name: placed_in(board.reader.knobs[name], values[name]) for name in known}
    found = {name: there for name, there in placed.items() if there is not None}
    return {name: there for name, there in found.items() if name in moved} if moved else _still(found)


def _still(found: Params) -> Params:
    """One number whose range is its value, for trials before anything has moved: a dashboard divides by how many parameters there are."""
    for name, (distribution, value) in found.items():
        if isinstance(distribution, FloatDistribution | IntDistribution) and isinstance(value, int | float):
            return {name: (type(distribution)(value, value, log=distribution.log), value)}  # type: ignore[arg-type]  # whole where it must be
    return {}


def _read(reader: Reader, text: str) -> dict[str, Value]:
    """Values of a program; none of one that does not parse."""
    try:
        return reader.values(text)
    except GenomeError:
        return {}


def _differing(reader: Reader, values: Mapping[str, Value]) -> list[str]:
    """The knobs that have another value than in the reference."""
    return [name for name, value in values.items() if value != reader.knobs[name].value]


def _frozen(record: Record, params: Params, points: dict[int, float]) -> FrozenTrial:
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
