"""Programs that people hand in: read and checked before a run begins or goes on, evaluated like any other, and parents from then on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import genomes
from evo.errors import UserError
from evo.lab import Rendered


@dataclass(frozen=True)
class Given:
    """A program, and the file that it was read from, as it was named."""

    file: str
    text: str

    @property
    def genome(self) -> str:
        """The program's identity."""
        return genomes.identity(self.text)


def read(files: Sequence[Path], rendered: Rendered, fitted: Callable[[str], str]) -> tuple[Given, ...]:
    """The programs in these files.

    Args:
        rendered: the lab, whose contract they must keep.
        fitted: turns a copy of the lab's file into a program for this run's profile.
    Raises:
        UserError: one cannot be read, or is no program of this lab.
    """
    return tuple(_checked(file, rendered, fitted) for file in files)


def _checked(file: Path, rendered: Rendered, fitted: Callable[[str], str]) -> Given:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    if problems := genomes.check(text, genomes.contract_of(rendered.seed), rendered.prepare):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{file} is not a program of this lab: line {problems[0].line}: {problems[0].message}{more}")
    return Given(str(file), fitted(text))
