"""Programs that people hand in: read and checked before a run begins or goes on, evaluated like any other, and parents from then on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import genomes
from evo.assembly import Plan
from evo.errors import UserError
from evo.folder import StoreError, run_of
from evo.lab import Rendered, fitted
from evo.store import snapshot


@dataclass(frozen=True)
class Given:
    """A program, and the file that it was read from, as it was named."""

    file: str
    text: str
    unlike: str = ""  # knobs that this run's profile sets and that it has from elsewhere: "DEPTH 1 (here 2)"

    @property
    def genome(self) -> str:
        """The program's identity."""
        return genomes.identity(self.text)


def read(files: Sequence[Path], planned: Plan) -> tuple[Given, ...]:
    """The programs in these files; a copy of the lab's file is made to fit the profile.

    Raises:
        UserError: one cannot be read, or is no program of this lab.
    """
    texts = [fitted(_checked(file, planned.rendered), planned.lab, planned.profile) for file in files]
    return tuple(Given(str(file), text, _unlike(text, file, planned)) for file, text in zip(files, texts, strict=True))


def text_of(file: Path) -> str:
    """A program that people name.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; name a Python file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a text file: {error}") from error


def _checked(file: Path, rendered: Rendered) -> str:
    text = text_of(file)
    if problems := genomes.check(text, genomes.contract_of(rendered.seed), rendered.prepare):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{file} is not a program of this lab: line {problems[0].line}: {problems[0].message}{more}")
    return text


def _profile_of(file: Path) -> str:
    """The profile of the run that a file lies in; "" where it lies in none, or in one that does not read."""
    run_dir = run_of(file)
    try:
        return str(snapshot(run_dir).meta.get("profile", "")) if run_dir is not None else ""
    except StoreError:
        return ""


def _unlike(text: str, file: Path, planned: Plan) -> str:
    """Knobs of the profile that a program from elsewhere has other values of, in words."""
    profile = planned.profile
    if profile is None or planned.lab.compat or _profile_of(file) == profile.head.name:
        return ""
    own, here = ({knob.name: knob.value for knob in genomes.knobs(program)} for program in (text, planned.rendered.seed))
    both = [name for name in profile.knobs if name in own and name in here and own[name] != here[name]]
    return ", ".join(f"{name} {own[name]} (here {here[name]})" for name in both)
