"""Search/replace blocks.

    <<<<<<< SEARCH
    whole lines as they stand in the program
    =======
    lines that take their place
    >>>>>>> REPLACE

Markers have at least five signs, since models miscount them, and a line of their own. Other words that models put there, such as those of
git's conflicts, mean the same. Blocks are read before fences are, so that a block may stand in one; a fence around one half of a block is
dropped. The last block may lack its last marker, if nothing was cut off.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from genomes.errors import EditError
from genomes.replies.page import COPY, MOST_PASSAGES, Passage, Run
from genomes.replies.parts import NOTE

_READ = 100  # characters of a line that may be a fence
_MARK = 5  # least length of a marker
_WORDS = {
    "<": ("", "SEARCH", "HEAD", "ORIGINAL", "OLD", "BEFORE", "CURRENT"),
    "=": ("",),
    ">": ("", "REPLACE", "REPLACED", "UPDATED", "NEW", "AFTER", "MODIFIED"),
}
_FENCE = re.compile(r"\s{0,40}(?:`{3,}|~{3,})\s*[\w+.-]{0,40}\s*")
FORMAT = "write blocks of <<<<<<< SEARCH, =======, >>>>>>> REPLACE, each on a line of its own"


def blocks(lines: Sequence[str], cut: bool = False) -> tuple[list[Passage], list[str]]:
    """The blocks, in their order, and the lines outside of them.

    Args:
        cut: whether the reply was cut off, so that a block without its last marker is incomplete.

    Raises:
        EditError: one is incomplete, or has nothing to search for.
    """
    found, outside = list[Passage](), list[str]()
    part, search, replace = "", list[str](), list[str]()
    for line in lines:
        kind, number = _marker(line), len(found) + 1
        if kind == "<" and part:
            raise EditError(f"block {number} is not closed by >>>>>>> REPLACE before the next one begins; {FORMAT}")
        if kind == ">" and part != "replace":
            raise EditError(f"block {number} has no {'=======' if part else '<<<<<<< SEARCH'} before its >>>>>>> REPLACE; {FORMAT}")
        if kind == "<":
            part, search, replace = "search", [], []
        elif kind == "=" and part == "search":
            part = "replace"
        elif kind == ">":
            found.append(dataclasses.replace(_block(number, search, replace), at=len(outside)))
            part = ""
        else:
            {"": outside, "search": search, "replace": replace}[part].append(line)
    if part:
        replace, notes = _without_notes(_unblanked(_unfenced(replace)))
        outside += notes
        if cut or not replace or any(map(_is_note, replace)):
            raise cut_off(f"block {len(found) + 1}")
        found.append(dataclasses.replace(_block(len(found) + 1, search, replace), closed=False, at=len(outside) - len(notes)))
    return found, outside


def cut_off(where: str) -> EditError:
    """The error for a block that does not end."""
    return EditError(f"{where} is cut off: it ends without >>>>>>> REPLACE; send it whole")


def _block(number: int, search: list[str], replace: list[str]) -> Passage:
    if number > MOST_PASSAGES:
        raise EditError(f"the reply has more than {MOST_PASSAGES} blocks: make one focused change")
    search, replace = _unfenced(search), _unfenced(replace)
    if not any(line.strip() for line in search):
        raise EditError(f"block {number} has an empty SEARCH: {COPY}, such as the line before the place of an insertion")
    return Passage(f"block {number}", "its SEARCH", tuple(search), tuple(search), (Run(0, len(search), tuple(replace)),))


def _unfenced(lines: list[str]) -> list[str]:
    """The lines without a fence, or half of one, around all of them."""
    full = [index for index, line in enumerate(lines) if line.strip()]
    first = full[0] + 1 if full and _FENCE.fullmatch(lines[full[0]][:_READ]) else 0
    end = full[-1] if len(full) > bool(first) and _FENCE.fullmatch(lines[full[-1]][:_READ]) else len(lines)
    return lines[first:end]


def _unblanked(lines: list[str]) -> list[str]:
    """The lines without blank ones at the end, which are layout where the reply ends."""
    full = [index for index, line in enumerate(lines) if line.strip()]
    return lines[: full[-1] + 1] if full else []


def _without_notes(lines: list[str]) -> tuple[list[str], list[str]]:
    """Lines without the notes at their end, which are words to the reader where no marker closes the code; and those."""
    end = len(lines)
    while end and (not lines[end - 1].strip() or _is_note(lines[end - 1])):
        end -= 1
    return (lines[:end], lines[end:]) if any(map(_is_note, lines[end:])) else (lines, [])


def _is_note(line: str) -> bool:
    return line.lstrip().startswith(NOTE)


def _marker(line: str) -> str:
    """ "<", "=" or ">" for the lines that structure a reply, else ""."""
    stripped = line.strip()
    sign = stripped[:1]
    if sign not in ("<", "=", ">") or not stripped.startswith(sign * _MARK):
        return ""
    rest = stripped.lstrip(sign).strip().rstrip(":").upper()
    return sign if rest in _WORDS[sign] else ""
