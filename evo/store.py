"""The one source of facts about a run, and the only writer of its folder.

    run.sqlite            candidates (begun) and records (finished), as JSON beside plain columns; WAL, one writer
    genomes/<id>.py       programs by content
    logs/<index>.log      what each program printed
    prompts/<index>.json  what was said with a model about a proposal
    outcomes/<index>.json what a slot wrote before it reported; taken in and removed by `finish`, or at the next start; one that does not
                          read any more is kept as <index>.damaged, and its evaluation runs again
    run.lock              held by the writing process; the kernel releases it when the process dies

An evaluation is finished when its outcome file is in place. `begin` is durable before a slot starts, `finish` before the search is
told: a kill at any moment loses no finished evaluation and runs none twice. Files appear whole (written beside, synced, renamed).
Records come back lean: the log is in `logs/`, the learning curve in a column of its own (`curve`).
Everything else in the folder is a view that can be deleted (evo/views/current.py).
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import genomes
from evaluator.outcome import CurvePoint, Evaluated, Failed, Interrupted, Scored
from evaluator.plain import checked
from evo.core.policies import POLICIES, SearchConfig
from evo.core.records import Candidate, Record, candidate_from_dict, candidate_to_dict, lean, record_from_dict, record_to_dict
from evo.database import check_version, connected, read_meta, read_pending, read_records, reader, transaction, translated, written
from evo.folder import (
    DATABASE,
    FOLDERS,
    StoreError,
    as_json,
    locked,
    outcome_indexes,
    outcome_path,
    read_outcomes,
    read_program,
    refuse_foreign,
    write_atomically,
)


class Store:
    """A run folder opened for writing. Use as a context manager, or `close` it."""

    def __init__(self, run_dir: Path, meta: Mapping[str, Any], lock: IO[str], connection: sqlite3.Connection) -> None:
        self.run_dir = run_dir
        self.meta = dict(meta)
        self.set_aside: list[Path] = []  # outcomes that were damaged: their evaluations run again
        self._lock = lock
        self._connection = connection

    @classmethod
    def open(cls, run_dir: Path, meta: Mapping[str, Any]) -> Store:
        """Opens a run for writing, or makes a new one; takes in outcomes that were never reported.

        Args:
            meta: what makes this run what it is (lab, seed, measurement key, …), JSON-ready. An existing run must have the same.
        Raises:
            StoreError: the folder is no run, is another run, is being written, or is newer than this program.
        """
        refuse_foreign(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = locked(run_dir)
        try:
            for folder in FOLDERS:
                (run_dir / folder).mkdir(exist_ok=True)
            store = cls(run_dir, meta, lock, connected(run_dir, meta))
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
        row = (candidate.index, candidate.operator, candidate.genome, candidate.note, as_json(candidate_to_dict(candidate)))
        self._insert("candidates", row, "begun")

    def finish(self, record: Record) -> None:
        """Stores what came of a candidate, before the search is told. Idempotent. Duplicate and Unwritten need no `begin`.

        Raises:
            StoreError: the index was finished with something else, was never begun, or the outcome is Interrupted.
            ValueError: it could not be read again, and a run that holds it could not be resumed.
        """
        candidate, outcome = record.candidate, record.outcome
        index = candidate.index
        if isinstance(outcome, Interrupted):
            raise StoreError(f"index {index} was interrupted: run it again under its index, it is not finished")
        if isinstance(outcome, Evaluated):
            self._expect_begun(candidate)
            if printed := _printed(outcome):
                write_atomically(self.run_dir / "logs" / f"{index}.log", printed)
        points = outcome.curve if isinstance(outcome, Evaluated) else ()
        stored = record_to_dict(lean(record))
        record_from_dict(stored)
        row = (
            *(index, candidate.operator, candidate.genome, type(outcome).__name__),
            *(outcome.val_bpb if isinstance(outcome, Scored) else None, record.slot, record.started, record.finished),
            as_json([dataclasses.astuple(checked(point, finite=False)) for point in points]),
            as_json(stored),
        )
        self._insert("records", row, "finished")
        outcome_path(self.run_dir, index).unlink(missing_ok=True)

    def keep_exchange(self, name: str, exchange: str) -> None:
        """Stores what was said with a model, as JSON, under the index of the proposal, or that and `.late`; a later one replaces it."""
        write_atomically(self.run_dir / "prompts" / f"{name}.json", exchange)

    # ---- reading

    def records(self) -> tuple[Record, ...]:
        """All finished records, lean, in index order."""
        with translated(self.run_dir):
            return read_records(self._connection)

    def pending(self) -> tuple[Candidate, ...]:
        """Begun and not finished, in index order: to be run again under their index."""
        with translated(self.run_dir):
            return read_pending(self._connection)

    def text(self, genome: str) -> str:
        """A stored program; see `folder.read_program`."""
        return read_program(self.run_dir, genome)

    # ---- inside

    def _insert(self, table: str, row: tuple[object, ...], verb: str) -> None:
        """Inserts a row; the same row again is fine, another under its index is not."""
        with written(self.run_dir), transaction(self._connection):
            found = self._connection.execute(f"SELECT * FROM {table} WHERE idx = ?", (row[0],)).fetchone()
            if found is None:
                self._connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
            elif found[-1] != row[-1]:
                raise StoreError(f"index {row[0]} was {verb} before with something else\n  stored: {found[-1]}\n  given:  {row[-1]}")

    def _expect_begun(self, candidate: Candidate) -> None:
        query = "SELECT payload FROM candidates WHERE idx = ?"
        found = self._connection.execute(query, (candidate.index,)).fetchone()
        if found is None or candidate_from_dict(json.loads(found[0])) != candidate:
            raise StoreError(f"index {candidate.index} finishes a candidate that was not begun: {candidate}")

    def _recover(self) -> None:
        """Outcome files that were never reported become records; half-written files of a killed process go."""
        for folder in ("genomes", "logs", "prompts"):  # written by the store alone: a slot may be writing into outcomes/
            for torn in (self.run_dir / folder).glob(".*.tmp"):
                torn.unlink()
        begun = {c.index: c for c in self.pending()}
        outcomes = read_outcomes(self.run_dir)
        for index in outcome_indexes(self.run_dir):
            filed = outcomes.get(index)
            if filed is None and index in begun:
                self.set_aside.append(outcome_path(self.run_dir, index).rename(self.run_dir / "outcomes" / f"{index}.damaged"))
                continue
            if filed is not None and index in begun and not isinstance(filed.outcome, Interrupted):
                self.finish(Record(begun[index], filed.outcome, filed.slot, filed.started, filed.finished))
            outcome_path(self.run_dir, index).unlink(missing_ok=True)


def _printed(outcome: Evaluated) -> str:
    """What the program printed, with the trace of its failure if it did not print that itself."""
    trace = outcome.trace if isinstance(outcome, Failed) else ""
    return outcome.log if trace in outcome.log else f"{outcome.log}\n{trace}".lstrip("\n")


# ---- reading without writing


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A run as it is now; read while another process may be writing it."""

    run_dir: Path
    meta: Mapping[str, Any]
    records: tuple[Record, ...]
    pending: tuple[Candidate, ...]

    @contextmanager
    def damage_named(self) -> Iterator[None]:
        """Says which program is damaged if one does not read; only then, since to check all of a large run takes long.

        Raises:
            StoreError: one is damaged.
        """
        try:
            yield
        except genomes.GenomeError:
            for id_ in {record.candidate.genome: None for record in self.records if record.candidate.genome}:
                read_program(self.run_dir, id_)
            raise

    @property
    def settings(self) -> dict[str, Any]:
        """What the run was started with, `section.key` -> value.

        Raises:
            StoreError: they are lost.
        """
        found = self.meta.get("settings")
        if not isinstance(found, dict) or found.get("search.policy", "evo") not in tuple(POLICIES):
            raise StoreError(f"{self.run_dir / DATABASE} has lost the run's settings: restore it from a copy of the run folder")
        return found

    @property
    def search(self) -> SearchConfig:
        """Those of its settings that decide who survives and who is presented; defaults if none were kept.

        Raises:
            StoreError: they are lost.
        """
        kept = self.settings if "settings" in self.meta else {}
        names = ("policy", "final_draws", "population", "species_share")
        return SearchConfig(**{name: kept[f"search.{name}"] for name in names if f"search.{name}" in kept})


def snapshot(run_dir: Path) -> Snapshot:
    """Reads a run without locking or changing it.

    Raises:
        StoreError: the folder is no run, or is newer than this program.
    """
    with translated(run_dir), closing(reader(run_dir)) as connection:
        check_version(connection, run_dir)
        with transaction(connection):
            return Snapshot(run_dir, read_meta(connection), read_records(connection), read_pending(connection))


def curve(run_dir: Path, index: int) -> tuple[CurvePoint, ...]:
    """The learning curve of one record."""
    with translated(run_dir), closing(reader(run_dir)) as connection:
        found = connection.execute("SELECT curve FROM records WHERE idx = ?", (index,)).fetchone()
        return tuple(checked(CurvePoint(*point), finite=False) for point in json.loads(found[0])) if found else ()


def known(records: tuple[Record, ...], pending: tuple[Candidate, ...]) -> dict[str, Candidate]:
    """Genome id -> the candidate that introduced it, pending ones included."""
    real = [r.candidate for r in records if isinstance(r.outcome, Evaluated)]
    first: dict[str, Candidate] = {}
    for candidate in sorted([*real, *pending], key=lambda c: c.index):
        first.setdefault(candidate.genome, candidate)
    return first
