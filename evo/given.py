"""Programs that people hand in: read and checked before a run begins or goes on, evaluated like any other, and parents from then on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import genomes
from evo.errors import UserError


@dataclass(frozen=True)
class Given:
    """A program, and the file that it was read from, as it was named."""

    file: str
    text: str

    @property
    def genome(self) -> str:
        """Its identity."""
        return genomes.identity(self.text)


def read(files: Sequence[Path], seed: str, prepare: str) -> tuple[Given, ...]:
    """The programs in these files, as they are.

    Args:
        seed: the lab's program, whose contract they must keep.
        prepare: text of the lab's prepare.py, as programs see it; "" where no program is run.
    Raises:
        UserError: one cannot be read, or is no program of this lab.
    """
    return tuple(_checked(file, genomes.contract_of(seed), prepare) for file in files)


def _checked(file: Path, contract: genomes.Contract, prepare: str) -> Given:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    if problems := genomes.check(text, contract, prepare):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{file} is no program of this lab: line {problems[0].line}: {problems[0].message}{more}")
    return Given(str(file), text)
