"""Search/replace blocks.

    <<<<<<< SEARCH
    whole lines as they stand in the program
    =======
    lines that take their place
    >>>>>>> REPLACE

Markers have at least five signs, since models miscount them, and a line of their own. Blocks are read before fences are, so that a block
may contain fences as well as stand in one.
"""

from __future__ import annotations

from collections.abc import Sequence

from genomes.errors import EditError
from genomes.replies.page import COPY, MOST_PASSAGES, Passage, Run

_MARK = 5  # least length of a marker
FORMAT = "write blocks of <<<<<<< SEARCH, =======, >>>>>>> REPLACE, each on a line of its own"


def blocks(lines: Sequence[str]) -> tuple[list[Passage], list[str]]:
    """The blocks, in their order, and the lines outside of them.

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
            found.append(_block(number, search, replace))
            part = ""
        else:
            {"": outside, "search": search, "replace": replace}[part].append(line)
    if part:
        raise EditError(f"block {len(found) + 1} is cut off: it ends without >>>>>>> REPLACE; send it whole")
    return found, outside


def _block(number: int, search: list[str], replace: list[str]) -> Passage:
    if number > MOST_PASSAGES:
        raise EditError(f"the reply has more than {MOST_PASSAGES} blocks: make one focused change")
    if not any(line.strip() for line in search):
        raise EditError(f"block {number} has an empty SEARCH: {COPY}, such as the line before the place of an insertion")
    return Passage(f"block {number}", "its SEARCH", tuple(search), tuple(search), (Run(0, len(search), tuple(replace)),))


def _marker(line: str) -> str:
    """ "<", "=" or ">" for the lines that structure a reply, else ""."""
    stripped = line.strip()
    sign = stripped[:1]
    if sign not in ("<", "=", ">") or not stripped.startswith(sign * _MARK):
        return ""
    rest = stripped.lstrip(sign).strip().upper()
    return sign if rest == {"<": "SEARCH", "=": "", ">": "REPLACE"}[sign] or not rest else ""
