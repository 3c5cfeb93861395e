"""The one source of facts about a run, and the only writer of its folder.

    run.sqlite            candidates (begun) and records (finished), as JSON beside plain columns; WAL, one writer
    genomes/<id>.py       programs by content
    logs/<index>.log      what each program printed
    outcomes/<index>.json what a slot wrote before it reported; taken in and removed by `finish`, or at the next start
    run.lock              held by the writing process; the kernel releases it when the process dies

An evaluation is finished when its outcome file is in place. `begin` is durable before a slot starts, `finish` before the search is
told: a kill at any moment loses no finished evaluation and runs none twice. Files appear whole (written beside, synced, renamed).
Records come back lean: the log is in `logs/`, the learning curve in a column of its own (`curve`).
Everything else in the folder is a view that can be deleted (evo/views.py).
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from evaluator.outcome import CurvePoint, Duplicate, Interrupted, Scored, Unwritten
from evo.folder import (
    DATABASE,
    FOLDERS,
    StoreError,
    as_json,
    locked,
    log,
    outcome_path,
    read_outcomes,
    read_text,
    refuse_foreign,
    write_atomically,
    write_outcome,
)
from evo.records import Candidate, Record, candidate_from_dict, candidate_to_dict, lean, record_from_dict, record_to_dict

__all__ = ["Snapshot", "Store", "StoreError", "curve", "known", "log", "read_outcomes", "read_text", "snapshot", "write_outcome"]

VERSION = 1  # of the schema

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE candidates (
    idx INTEGER PRIMARY KEY, operator TEXT NOT NULL, genome TEXT NOT NULL, note TEXT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE records (
    idx INTEGER PRIMARY KEY, operator TEXT NOT NULL, genome TEXT NOT NULL, outcome TEXT NOT NULL, val_bpb REAL,
    slot TEXT NOT NULL, started REAL NOT NULL, finished REAL NOT NULL, curve TEXT NOT NULL, payload TEXT NOT NULL);
"""


class Store:
    """A run folder opened for writing. Use as a context manager, or `close` it."""

    def __init__(self, run_dir: Path, meta: Mapping[str, Any], lock: IO[str], connection: sqlite3.Connection) -> None:
        self.run_dir = run_dir
        self.meta = dict(meta)
        self._lock = lock
        self._connection = connection

    @classmethod
    def open(cls, run_dir: Path | str, meta: Mapping[str, Any]) -> Store:
        """Opens a run for writing, or makes a new one; takes in outcomes that were never reported.

        Args:
            meta: what makes this run what it is (lab, seed, measurement key, …), JSON-ready. An existing run must have the same.
        Raises:
            StoreError: the folder is no run, is another run, is being written, or is newer than this program.
        """
        run_dir = Path(run_dir)
        refuse_foreign(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = locked(run_dir)
        try:
            for folder in FOLDERS:
                (run_dir / folder).mkdir(exist_ok=True)
            store = cls(run_dir, meta, lock, _connected(run_dir, meta))
        except BaseException:
            lock.close()
            raise
        try:
            store._recover()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Gives the folder back. Idempotent."""
        self._connection.close()
        self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- writing

    def begin(self, candidate: Candidate, text: str) -> None:
        """Stores a candidate before a slot starts on it. Idempotent.

        Raises:
            StoreError: the index is taken by another candidate.
        """
        path = self.run_dir / "genomes" / f"{candidate.genome}.py"
        if not path.exists():
            write_atomically(path, text)
        proposal = candidate.proposal
        row = (proposal.index, proposal.operator, candidate.genome, candidate.note, as_json(candidate_to_dict(candidate)))
        self._insert("candidates", row, "begun")

    def finish(self, record: Record) -> None:
        """Stores what came of a candidate, before the search is told. Idempotent. Duplicate and Unwritten need no `begin`.

        Raises:
            StoreError: the index was finished with something else, was never begun, or the outcome is Interrupted.
        """
        candidate, outcome = record.candidate, record.outcome
        index = candidate.proposal.index
        if isinstance(outcome, Interrupted):
            raise StoreError(f"index {index} was interrupted: run it again under its index, it is not finished")
        if not isinstance(outcome, Duplicate | Unwritten):
            self._expect_begun(candidate)
            log_, trace = getattr(outcome, "log", ""), getattr(outcome, "trace", "")
            printed = log_ if trace in log_ else f"{log_}\n{trace}".lstrip("\n")
            if printed:
                write_atomically(self.run_dir / "logs" / f"{index}.log", printed)
        row = (
            *(index, candidate.proposal.operator, candidate.genome, type(outcome).__name__),
            *(outcome.val_bpb if isinstance(outcome, Scored) else None, record.slot, record.started, record.finished),
            as_json([dataclasses.astuple(point) for point in getattr(outcome, "curve", ())]),
            as_json(record_to_dict(lean(record))),
        )
        self._insert("records", row, "finished")
        outcome_path(self.run_dir, index).unlink(missing_ok=True)

    # ---- reading

    def records(self) -> tuple[Record, ...]:
        """All finished records, lean, in index order."""
        return _records(self._connection)

    def pending(self) -> tuple[Candidate, ...]:
        """Begun and not finished, in index order: to be run again under their index."""
        return _pending(self._connection)

    def known(self) -> dict[str, Candidate]:
        """Genome id -> the candidate that introduced it, pending ones included."""
        return known(self.records(), self.pending())

    def text(self, genome: str) -> str:
        """A stored program."""
        return read_text(self.run_dir, genome)

    # ---- inside

    def _insert(self, table: str, row: tuple[object, ...], verb: str) -> None:
        """Inserts a row; the same row again is fine, another under its index is not."""
        with _transaction(self._connection):
            found = self._connection.execute(f"SELECT * FROM {table} WHERE idx = ?", (row[0],)).fetchone()
            if found is None:
                self._connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
            elif found[-1] != row[-1]:
                raise StoreError(f"index {row[0]} was {verb} before with something else\n  stored: {found[-1]}\n  given:  {row[-1]}")

    def _expect_begun(self, candidate: Candidate) -> None:
        query = "SELECT payload FROM candidates WHERE idx = ?"
        found = self._connection.execute(query, (candidate.proposal.index,)).fetchone()
        if found is None or candidate_from_dict(json.loads(found[0])) != candidate:
            raise StoreError(f"index {candidate.proposal.index} finishes a candidate that was not begun: {candidate}")

    def _recover(self) -> None:
        """Outcome files that were never reported become records; half-written files of a killed process go."""
        for folder in ("genomes", "logs"):  # of the store alone: a slot may be writing into outcomes/
            for torn in (self.run_dir / folder).glob(".*.tmp"):
                torn.unlink()
        begun = {c.proposal.index: c for c in self.pending()}
        for index, report in read_outcomes(self.run_dir).items():
            if index in begun and not isinstance(report.outcome, Interrupted):
                self.finish(Record(begun[index], report.outcome, report.slot, report.started, report.finished))
            outcome_path(self.run_dir, index).unlink(missing_ok=True)


# ---- reading without writing


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A run as it is now; read while another process may be writing it."""

    run_dir: Path
    meta: Mapping[str, Any]
    records: tuple[Record, ...]
    pending: tuple[Candidate, ...]


def snapshot(run_dir: Path | str) -> Snapshot:
    """Reads a run without locking or changing it.

    Raises:
        StoreError: the folder is no run, or is newer than this program.
    """
    run_dir = Path(run_dir)
    with _translated(run_dir), closing(_reader(run_dir)) as connection:
        _check_version(connection, run_dir)
        with _transaction(connection):
            return Snapshot(run_dir, _meta(connection), _records(connection), _pending(connection))


def curve(run_dir: Path | str, index: int) -> tuple[CurvePoint, ...]:
    """The learning curve of one record."""
    with _translated(Path(run_dir)), closing(_reader(Path(run_dir))) as connection:
        found = connection.execute("SELECT curve FROM records WHERE idx = ?", (index,)).fetchone()
    return tuple(CurvePoint(*point) for point in json.loads(found[0])) if found else ()


def known(records: tuple[Record, ...], pending: tuple[Candidate, ...]) -> dict[str, Candidate]:
    """Genome id -> the candidate that introduced it."""
    real = [r.candidate for r in records if not isinstance(r.outcome, Duplicate | Unwritten)]
    first: dict[str, Candidate] = {}
    for candidate in sorted([*real, *pending], key=lambda c: c.proposal.index):
        first.setdefault(candidate.genome, candidate)
    return first


# ---- the database


def _connected(run_dir: Path, meta: Mapping[str, Any]) -> sqlite3.Connection:
    connection = sqlite3.connect(run_dir / DATABASE, isolation_level=None)
    try:
        with _translated(run_dir):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            _check_version(connection, run_dir, empty_is_fine=True)
            given = json.loads(json.dumps(meta))
            if _version(connection) == 0:
                _create(connection, given)
            _check_meta(_meta(connection), given, run_dir)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _translated(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{run_dir / DATABASE} cannot be read as a run: {error}") from error


def _create(connection: sqlite3.Connection, meta: Mapping[str, Any]) -> None:
    """The whole schema in one transaction: a kill leaves an empty database or a complete one."""
    with _transaction(connection):
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", [(key, as_json(value)) for key, value in meta.items()])
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _check_version(connection: sqlite3.Connection, run_dir: Path, empty_is_fine: bool = False) -> None:
    version = _version(connection)
    if version > VERSION:
        raise StoreError(f"{run_dir} has schema version {version}, this program knows {VERSION}: update the program")
    if version == 0 and not empty_is_fine:
        raise StoreError(f"{run_dir} is no run folder yet: its {DATABASE} is empty")


def _check_meta(stored: Mapping[str, Any], given: Mapping[str, Any], run_dir: Path) -> None:
    differing = [key for key in sorted({*stored, *given}) if stored.get(key) != given.get(key)]
    if differing:
        pairs = "; ".join(f"{key} is {stored.get(key)!r} there, {given.get(key)!r} here" for key in differing)
        raise StoreError(f"{run_dir} belongs to another run ({pairs}): name a new folder, or go on with what it was started with")


def _reader(run_dir: Path) -> sqlite3.Connection:
    path = run_dir / DATABASE
    if not path.exists():
        raise StoreError(f"{run_dir} is no run folder: it has no {DATABASE}")
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _meta(connection: sqlite3.Connection) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta")}


def _records(connection: sqlite3.Connection) -> tuple[Record, ...]:
    return tuple(record_from_dict(json.loads(row[0])) for row in connection.execute("SELECT payload FROM records ORDER BY idx"))


def _pending(connection: sqlite3.Connection) -> tuple[Candidate, ...]:
    query = "SELECT payload FROM candidates WHERE idx NOT IN (SELECT idx FROM records) ORDER BY idx"
    return tuple(candidate_from_dict(json.loads(row[0])) for row in connection.execute(query))


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
