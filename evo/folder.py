"""The files of a run folder: whole or not there at all. What a slot writes before it reports, programs and logs by name, the lock.

Usable without the database: slots write their outcomes on machines that never open it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from evaluator.outcome import Outcome, from_dict, to_dict
from evaluator.plain import checked
from evo.core.records import require_times
from evo.errors import one_line

DATABASE, LOCK = "run.sqlite", "run.lock"
LOOK_SECONDS = 1.0  # far longer than a look at a lock takes
FOLDERS = ("genomes", "logs", "prompts", "outcomes")
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)  # raised in reading what is damaged


class StoreError(Exception):
    """The run folder cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Finished:
    """What came of a submitted candidate. An Interrupted outcome has no file: the candidate is run again."""

    index: int
    outcome: Outcome
    slot: str
    started: float  # seconds since the epoch
    finished: float
    unable: bool = False  # interrupted because the slot, as it is, can evaluate nothing: its data are gone, no judge starts


def write_outcome(run_dir: Path, told: Finished) -> None:
    """Makes an evaluation finished: from here on no kill loses it. Called by a slot before it reports; needs no Store."""
    data = {"outcome": to_dict(told.outcome), "slot": told.slot, "started": told.started, "finished": told.finished}
    write_atomically(outcome_path(run_dir, told.index), as_json(data))


def outcome_indexes(run_dir: Path) -> list[int]:
    """Indexes of the outcome files that are in place."""
    stems = [path.stem for path in (run_dir / "outcomes").glob("*.json")]
    return sorted(int(stem) for stem in stems if stem.isdecimal() and str(int(stem)) == stem)


def read_outcomes(run_dir: Path) -> dict[int, Finished]:
    """By index, what the outcome files that are in place say. A damaged one does not count: its evaluation is not finished."""
    found = (_read_outcome(run_dir, index) for index in outcome_indexes(run_dir))
    return {told.index: told for told in found if told is not None}


def _read_outcome(run_dir: Path, index: int) -> Finished | None:
    try:
        data = json.loads(outcome_path(run_dir, index).read_text(encoding="utf-8"))
        told = checked(Finished(index, from_dict(data["outcome"]), data["slot"], data["started"], data["finished"]))
        require_times(told.started, told.finished)
        return told
    except (*DAMAGE, OSError):
        return None


def log(run_dir: Path, index: int) -> str:
    """What the program of one record printed; empty if nothing."""
    path = run_dir / "logs" / f"{index}.log"
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def exchange(run_dir: Path, index: int) -> dict[str, Any] | None:
    """What was said with a model about one proposal (writer.Exchange); None if nothing.

    Raises:
        StoreError: it was damaged.
    """
    path = run_dir / "prompts" / f"{index}.json"
    return _exchange(path) if path.exists() else None


def tokens_spent(run_dir: Path) -> int:
    """Tokens of all exchanges with models that the run has kept.

    Raises:
        StoreError: one was damaged.
    """
    return sum(_exchange(path)["tokens"] for path in (run_dir / "prompts").glob("*.json"))


def _exchange(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        said = [isinstance(turn[name], str) for turn in found["turns"] for name in ("reply", "trouble")]
        said += [isinstance(turn["seconds"], int | float) for turn in found["turns"]]
        if not (said and all(said) and isinstance(found["model"], str) and type(found["tokens"]) is int):
            raise ValueError("it is not a record of a model's turns")
        return found
    except DAMAGE as error:
        told = one_line(str(error))
        raise StoreError(f"{path} is damaged ({told}): delete it; what was said is lost, and its tokens are not counted") from error


def read_text(run_dir: Path, genome: str) -> str:
    """A stored program, checked for nothing but being text: to be shown, or read by the hundred.

    Raises:
        StoreError: there is none under this id.
    """
    path = run_dir / "genomes" / f"{genome}.py"
    if not path.exists():
        raise StoreError(f"{path} is missing: the run folder is damaged, or it has no genome {genome}")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is damaged ({error}): restore it from a copy of the run folder") from error


def run_of(file: Path) -> Path | None:
    """The run folder that a program's file lies in, such as `RUN/best/train.py`; None if it lies in none, or is not there."""
    folder = file.resolve().parent.parent
    return folder if file.exists() and (folder / DATABASE).exists() else None


def read_program(run_dir: Path, genome: str) -> str:
    """A stored program, checked: what a disk has damaged is never evaluated, shown as the best, or made a parent.

    Raises:
        StoreError: there is none under this id, or what is there is another program.
    """
    import genomes  # here: a slot's process, which writes outcomes and reads no program, starts in two thirds of the time without it

    text = read_text(run_dir, genome)
    try:
        trouble = "" if genomes.identity(text) == genome else "it is not the program of that name"
    except genomes.GenomeError as error:
        trouble = one_line(str(error))[:200]
    if trouble:
        path = run_dir / "genomes" / f"{genome}.py"
        raise StoreError(f"{path} is damaged ({trouble}): restore it from a copy of the run folder")
    return text


def write_atomically(path: Path, text: str) -> None:
    """The file appears whole or not at all, and stays after a power cut: written beside, synced, renamed, folder synced."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with beside.open("wb") as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def refuse_foreign(run_dir: Path) -> None:
    """Raises StoreError where there is something else than a run, or room for one."""
    if run_dir.exists() and not run_dir.is_dir():
        raise StoreError(f"{run_dir} is a file, not a run folder: name another folder")
    if not run_dir.exists() or (run_dir / DATABASE).exists():
        return
    ours = {LOCK, *FOLDERS}
    strange = sorted(p.name for p in run_dir.iterdir() if p.name not in ours and not p.name.startswith(DATABASE))
    if strange:
        raise StoreError(f"{run_dir} is not a run folder (it holds {', '.join(strange[:3])} and no {DATABASE}): name a new or empty one")


def locked(run_dir: Path) -> IO[str]:
    """The run's lock, held until it is closed.

    Raises:
        StoreError: another process holds it.
    """
    lock = (run_dir / LOCK).open("a+", encoding="utf-8")
    if not _taken(lock):
        lock.seek(0)
        owner = lock.read().strip() or "?"
        lock.close()
        raise StoreError(f"{run_dir} is being written by process {owner}: wait for it, or stop it first")
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _taken(lock: IO[str]) -> bool:
    """Whether the lock is ours now. Whoever only looks at it holds it for an instant, so this tries for a moment."""
    deadline = time.monotonic() + LOOK_SECONDS
    while not _free(lock.fileno(), fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def held(path: Path, shared: bool = False) -> bool:
    """Whether another process holds the lock file. Two that look at the same moment do not see each other.

    Args:
        shared: those who hold it share it. Then two who look may see each other.
    """
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDWR)
    try:
        return not _free(descriptor, fcntl.LOCK_EX if shared else fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _free(descriptor: int, kind: int) -> bool:
    """Takes the lock if nobody has it; whether that worked."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def outcome_path(run_dir: Path, index: int) -> Path:
    """Where a slot leaves the outcome of an evaluation."""
    return run_dir / "outcomes" / f"{index}.json"


def as_json(value: object) -> str:
    """One line, the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
