"""The comment beside a knob may say how it is tuned. Everything else in the comment is its meaning, for people and prompts.

    # learning rate, range 1e-3..1 log        bounds; `log` or `linear` fixes the scale
    # width, power of two                      doubles and halves
    # vocabulary, one of 2048, 4096, 8192      a choice; the list runs to the end of the comment or to a semicolon
    # rows per step, not tuned                 left alone

The remark belongs to the literals of its line. `range` and `one of` go to those that they contain; a lone literal takes them anyway.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBER = r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"\brange\s+({_NUMBER})\s*\.\.\s*({_NUMBER})(?:\s+(log|linear)\b)?")
_ONE_OF = re.compile(r"\bone of:?\s+([^;]+)")
_NOT_TUNED = re.compile(r"\bnot tuned\b")
_POWER = re.compile(r"\bpowers? of two\b")
_FARTHEST = 1e100  # an end of a range: what lies beyond overflows somewhere
_COMMENT = re.compile(r"""(?:[^#'"\r\n]|"(?:[^"\\\r\n]|\\.)*"|'(?:[^'\\\r\n]|\\.)*')*#([^\r\n]*)""")


@dataclass(frozen=True)
class Remark:
    """What a comment says about tuning."""

    comment: str = ""
    low: float | None = None
    high: float | None = None
    scale: str = ""  # "log", "linear" or "" for inferred
    real: bool = False  # a bound is written as a real number
    options: tuple[str, ...] = ()
    power_of_two: bool = False
    tuned: bool = True


NOTHING = Remark()


def comment_after(text: str, position: int) -> str:
    """The comment on the rest of the line from a position that is outside any string; '' if there is none."""
    found = _COMMENT.match(text, position)
    return found.group(1).strip() if found else ""


def read(comment: str) -> Remark:
    """Parse one comment."""
    if not comment:
        return NOTHING
    bounds, options = _RANGE.search(comment), _ONE_OF.search(comment)
    ends = [float(bounds.group(1)), float(bounds.group(2))] if bounds else []
    if bounds and not -_FARTHEST < ends[0] < ends[1] < _FARTHEST:
        bounds = None  # no range: a slip
    choices = [part.strip().strip("'\"`") for part in re.split(r",|\bor\b", options.group(1))] if options else []
    return Remark(
        comment=comment,
        low=ends[0] if bounds else None,
        high=ends[1] if bounds else None,
        scale=(bounds.group(3) or "") if bounds else "",
        real=bool(bounds and re.search(r"[.eE]", bounds.group(1) + bounds.group(2))),
        options=tuple(choice for choice in choices if choice and not _NOT_TUNED.search(choice)),
        power_of_two=bool(_POWER.search(comment)),
        tuned=not _NOT_TUNED.search(comment),
    )
