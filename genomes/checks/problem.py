"""A reason why a text is no genome, as a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One reason why a text is no genome. `line` is 0 where the whole file is meant; the message names no line, so that a child's problems
    can be compared with its parent's."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message
