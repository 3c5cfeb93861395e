"""The SQLite file of a run folder: schema, opening, refusing. SQL is here and in evo/store.py."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from evo.core.records import Candidate, Record, candidate_from_dict, record_from_dict
from evo.errors import one_line
from evo.folder import DAMAGE, DATABASE, StoreError, as_json

VERSION = 1  # of the schema
NO_ROOM = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_SHM")  # what SQLite says on a full disk
_Row = TypeVar("_Row", Record, Candidate)

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE candidates (
    idx INTEGER PRIMARY KEY, operator TEXT NOT NULL, genome TEXT NOT NULL, note TEXT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE records (
    idx INTEGER PRIMARY KEY, operator TEXT NOT NULL, genome TEXT NOT NULL, outcome TEXT NOT NULL, val_bpb REAL,
    slot TEXT NOT NULL, started REAL NOT NULL, finished REAL NOT NULL, curve TEXT NOT NULL, payload TEXT NOT NULL);
"""


def connected(run_dir: Path, meta: Mapping[str, Any]) -> sqlite3.Connection:
    """The run's file opened for writing; with its schema and this meta, if it was not there.

    Raises:
        StoreError: it does not read, is newer than this program, or has another meta.
    """
    connection = sqlite3.connect(run_dir / DATABASE, isolation_level=None)
    try:
        with translated(run_dir):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            check_version(connection, run_dir, empty_is_fine=True)
            given = json.loads(json.dumps(meta))
            if _version(connection) == 0:
                _create(connection, given)
            _check_meta(read_meta(connection), given, run_dir)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def translated(run_dir: Path) -> Iterator[None]:
    """Turns whatever no longer reads as it was written into one error, whether SQLite or a value in it shows that."""
    try:
        yield
    except (sqlite3.DatabaseError, *DAMAGE) as error:
        told = one_line(f"{type(error).__name__}: {error}")
        if getattr(error, "sqlite_errorname", "").startswith(NO_ROOM):
            raise StoreError(f"{run_dir / DATABASE} cannot be opened ({told}): make room on its disk, and go on") from error
        raise StoreError(f"{run_dir / DATABASE} cannot be read as a run ({told}): restore it from a copy of the run folder") from error


@contextmanager
def written(run_dir: Path) -> Iterator[None]:
    """Raises the same error for SQLite's files as for all others if they cannot be written (a full disk)."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(f"cannot write {run_dir / DATABASE}: {error}") from error


def _create(connection: sqlite3.Connection, meta: Mapping[str, Any]) -> None:
    """The whole schema in one transaction: a kill leaves an empty database or a complete one."""
    with transaction(connection):
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", [(key, as_json(value)) for key, value in meta.items()])
        connection.execute(f"PRAGMA user_version = {VERSION}")


def check_version(connection: sqlite3.Connection, run_dir: Path, empty_is_fine: bool = False) -> None:
    """Raises StoreError where the schema is newer than this program, or there is none."""
    version = _version(connection)
    if version > VERSION:
        raise StoreError(f"{run_dir} has schema version {version}, this program knows {VERSION}: update the program")
    if version == 0 and not empty_is_fine:
        raise StoreError(f"{run_dir} is not a run folder yet: its {DATABASE} is empty")


def _check_meta(stored: Mapping[str, Any], given: Mapping[str, Any], run_dir: Path) -> None:
    differing = [key for key in sorted({*stored, *given}) if stored.get(key) != given.get(key)]
    if differing:
        pairs = "; ".join(f"{key} is {stored.get(key)!r} there, {given.get(key)!r} here" for key in differing)
        raise StoreError(
            f"{run_dir} belongs to another run ({pairs}): name a new folder, or go on with the settings that it was started with"
        )


def reader(run_dir: Path) -> sqlite3.Connection:
    """A connection for reading alone, also while somebody else writes, or where nobody can."""
    path = run_dir / DATABASE
    if not path.exists():
        raise StoreError(f"{run_dir} is not a run folder: it has no {DATABASE}")
    connection = _readable(path, "mode=ro")
    try:
        _version(connection)
    except sqlite3.Error as error:
        connection.close()
        shared = os.access(run_dir, os.W_OK) or path.with_name(f"{path.name}-wal").exists()
        if shared or not isinstance(error, sqlite3.OperationalError):
            raise
        # A file in WAL mode is shared through two others beside it. If those cannot be made nobody writes, so nothing needs to be shared.
        return _readable(path, "immutable=1")
    return connection


def _readable(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, isolation_level=None)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta")}


def read_records(connection: sqlite3.Connection) -> tuple[Record, ...]:
    rows = connection.execute("SELECT idx, payload FROM records ORDER BY idx")
    return tuple(_indexed(row[0], record_from_dict(json.loads(row[1]))) for row in rows)


def read_pending(connection: sqlite3.Connection) -> tuple[Candidate, ...]:
    rows = connection.execute("SELECT idx, payload FROM candidates WHERE idx NOT IN (SELECT idx FROM records) ORDER BY idx")
    return tuple(_indexed(row[0], candidate_from_dict(json.loads(row[1]))) for row in rows)


def _indexed(index: int, found: _Row) -> _Row:
    if found.index != index:
        raise ValueError(f"row {index} holds index {found.index}")
    return found


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All statements of the block or none of them; reads in it see one state of the file."""
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
