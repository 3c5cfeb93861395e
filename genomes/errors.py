"""Everything that genomes raises on purpose.

GenomeError            the text, the edit or the request does not fit; the message says what, both values, and what is near
├── ParseError         the text is not a Python program
├── KnobError          no knob of that name, or a value that it cannot hold
├── EditError          an edit finds no place in this text
└── MutationError      no such mutation, or none that applies
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GenomeError(Exception):
    """Base of the tree: drop the candidate, keep the parent, show the message to whoever wrote the edit."""


class ParseError(GenomeError):
    """The text is not a Python program."""


class KnobError(GenomeError):
    """A knob does not exist or cannot take the value."""


class EditError(GenomeError):
    """An edit matches nothing in this text."""


class MutationError(GenomeError):
    """No mutation of that name, or none that applies to this program."""


def nearest(wanted: str, known: Iterable[str], count: int = 3) -> str:
    """A clause that names what comes closest, or says that nothing does."""
    close = difflib.get_close_matches(wanted, list(known), n=count, cutoff=0.4)
    return f"nearest: {', '.join(close)}" if close else "nothing is near"
