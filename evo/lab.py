"""The lab: three files that say what is evolved. Read as text, rendered for a profile, never imported.

Rendering sets constants of prepare.py (the whole right-hand side of a top-level assignment) and knobs of train.py (single literals,
through `genomes`). The data are prepared by running the rendered prepare.py in a process of its own.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import genomes
from evo.errors import UserError, nearest
from evo.profiles import Profile

DEFAULT = Path(__file__).resolve().parent.parent / "trainer"
FILES = {
    "prepare.py": "constants, data and batches: the constitution",
    "train.py": "the program that is evolved",
    "program.md": "the research agenda",
}


@dataclass(frozen=True)
class Lab:
    """The files of a lab folder, as text."""

    folder: Path
    prepare: str
    train: str
    program: str

    @property
    def hash(self) -> str:
        """Of what makes two runs comparable. The agenda is left out: people edit it while a run goes on."""
        return hashlib.sha256(f"{self.prepare}\0{self.train}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Rendered:
    """The lab for one profile and budget."""

    prepare: str
    seed: str  # train.py with the profile's knobs: the seed genome


def load(folder: Path) -> Lab:
    """Reads a lab.

    Raises:
        UserError: a file is missing, unreadable, or no Python where it should be.
    """
    if not folder.is_dir():
        raise UserError(f"no lab folder {folder}; --lab wants a folder with {', '.join(FILES)}")
    texts = {}
    for name, role in FILES.items():
        try:
            texts[name] = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UserError(f"the lab {folder} has no readable {name} ({role}): {why}") from error
    lab = Lab(folder, texts["prepare.py"], texts["train.py"], texts["program.md"])
    _parsed(lab.prepare, folder / "prepare.py")
    _parsed(lab.train, folder / "train.py")
    problems = genomes.check(lab.train)
    if problems:
        raise UserError(f"{folder / 'train.py'} is no genome: {problems[0]}")
    return lab


def render(lab: Lab, profile: Profile, budget_seconds: float) -> Rendered:
    """The lab's programs for a profile, with the budget written where prepare.py keeps it.

    Raises:
        UserError: the lab lacks a constant or knob that the profile sets.
    """
    budget = int(budget_seconds) if budget_seconds == int(budget_seconds) else budget_seconds
    name = profile.head.name
    prepare = set_constants(lab.prepare, {**profile.prepare, "TIME_BUDGET": budget}, f"{lab.folder / 'prepare.py'} for profile {name}")
    try:
        return Rendered(prepare, genomes.set_knobs(lab.train, dict(profile.knobs)))
    except genomes.GenomeError as error:
        raise UserError(
            f"{lab.folder / 'train.py'} does not fit profile {name}: {error}; name a profile of its own with --profile FILE"
        ) from error


def set_constants(text: str, values: Mapping[str, Any], what: str) -> str:
    """The program with top-level constants set; nothing else in it changes, comments included.

    Args:
        values: constant -> value; a list becomes a tuple.
        what: named in the error.
    Raises:
        UserError: a constant is not assigned at top level.
    """
    found = {
        node.targets[0].id: node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    }
    lines = text.encode().splitlines(keepends=True)  # ast counts columns in bytes
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    raw, splices = text.encode(), list[tuple[int, int, bytes]]()
    for name, value in values.items():
        if name not in found:
            raise UserError(f"{what}: no constant {name} at top level; {nearest(name, found)}")
        node = found[name]
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        splices.append((start, end, repr(tuple(value) if isinstance(value, list) else value).encode()))
    for start, end, new in sorted(splices, reverse=True):
        raw = raw[:start] + new + raw[end:]
    return raw.decode()


def prepare_data(prepare: str, source: str, say: Callable[[str], None]) -> str:
    """Runs prepare.py, which builds the data once and checks them afterwards.

    Args:
        prepare: its text, rendered.
        source: text to use instead of the lab's default; "" for the default.
        say: gets each line that it prints.
    Returns:
        The data folder.
    Raises:
        UserError: it failed; the message has its last line.
    """
    with tempfile.TemporaryDirectory(prefix="evo-prepare-") as folder:
        script = Path(folder) / "prepare.py"
        script.write_text(prepare, encoding="utf-8")
        command = [sys.executable, "-u", str(script), "--json", *(["--from", os.path.abspath(source)] if source else [])]
        environment = {name: value for name, value in os.environ.items() if name != "EVO_CHANNEL"}
        process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        last = ""
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    last = line.strip()
                    if not last.startswith("{"):
                        say(last)
    if process.returncode:
        raise UserError(f"the lab's prepare.py fails with exit code {process.returncode}: {last or 'no output'}")
    try:
        return str(json.loads(last)["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'prepare.py --json must end with a line {{"data": folder, …}}, it ended with {last[:200]!r}') from error


def _parsed(text: str, path: Path) -> None:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} does not parse: {error}") from error
