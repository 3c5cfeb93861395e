"""Unified diffs, as models write them: by what the lines say, not by what the numbers say.

Headers (`diff`, `---`, `+++`, `***`) are skipped, and counts are ignored. A hunk ends at `@@`, at a header, or at a line `...` that skips
lines of the program; without any of them a diff is one hunk. Hunks may come in any order, and each must have its place by its own context
and deleted lines alone (`page.Page`), all of which are lines of the program as given. The number behind `@@ -` decides only between places
that are equal otherwise. A context line may lack the space in front; what an added line is indented by is kept, or shifted as the hunk is.

In a fence every line belongs to the diff. Outside of fences a hunk ends at the first line that has no sign and is none of the program's;
what has a sign after that is an error, since it may be a change or an item of a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from genomes.errors import EditError
from genomes.replies.page import MOST_PASSAGES, Page, Passage, Run, shown
from genomes.replies.parts import Part

_HINT = re.compile(r"@@+ *-(\d{1,7})\b")
_SKIPS = ("...", "…", "# ...")
_HEADERS = ("diff --git ", "Index: ", "*** ")
_FORMAT = "write it with lines of context around each change, every line with a sign (space, + or -) in front"


@dataclass(frozen=True)
class _Hunk:
    lines: tuple[str, ...]  # with their signs
    hint: int


def is_diff(part: Part) -> bool:
    """Whether it is called a diff, or has the marks of one."""
    marks = (line.startswith(("@@", _HEADERS[0])) or _is_header(part.lines, index) for index, line in enumerate(part.lines))
    return part.is_called_diff or any(marks)


def has_signs(part: Part, page: Page) -> bool:
    """Whether it could be a diff without marks: lines with signs, and a line of the program."""
    known = any(line[:1] in (" ", "-") and line[1:].strip() in page.known for line in part.lines if line[1:].strip())
    return known and any(line[:1] in ("+", "-") for line in part.lines)


def hunks(part: Part, page: Page, before: int) -> list[Passage]:
    """The passages of a diff, `before` of which were read in other parts of the reply.

    Raises:
        EditError: there are too many, one has no line of the program, or it goes on after something that is no diff.
    """
    found = list[Passage]()
    for hunk in _split(part, page):
        number = before + len(found) + 1
        if number > MOST_PASSAGES:
            raise EditError(f"the reply has more than {MOST_PASSAGES} hunks: make one focused change")
        found.append(_passage(f"hunk {number}", hunk))
    if not found:
        raise EditError(f"the diff in {part.name} adds and deletes no line; {_FORMAT}")
    return found


def _split(part: Part, page: Page) -> Iterator[_Hunk]:
    """The hunks that change something."""
    lines, start = part.lines, _start(part)
    body, hint, state = list[str](), 0, "header" if start else "body"
    for index in range(start, len(lines) + 1):
        line = lines[index] if index < len(lines) else "@@"
        header = line.startswith(_HEADERS) or _is_header(lines, index)
        if line.startswith("@@") or header or (state == "body" and line.strip() in _SKIPS):
            yield from _hunk(body, hint)
            body, state = [], "header" if line.startswith((_HEADERS[0], "---")) else "body"
            if line.startswith("@@") or header:
                hint = int(found[1]) if (found := _HINT.match(line)) else 0
        elif state == "header" and (line.startswith("+++ ") or line[:1] not in ("+", "-", " ")):
            state = "body" if line.startswith("+++ ") else state
        elif line.startswith("\\"):
            continue  # "\ No newline at end of file"
        elif state == "after":
            if line[:1] in ("+", "-"):
                raise EditError(f"{shown(line)} comes after a hunk that had ended: put the whole diff in one fence, ```diff")
        elif not part.number and line[:1] not in (" ", "+", "-", "") and line.strip() not in page.known:
            state = "after"
        else:
            body.append(line)
            state = "body"


def _start(part: Part) -> int:
    """Where the diff begins: outside of fences, and where anything stands before the first mark, at that mark."""
    marks = (i for i, line in enumerate(part.lines) if line.startswith(("@@", *_HEADERS)) or _is_header(part.lines, i))
    first = next(marks, 0)
    signed = any(line[:1] in ("+", "-") for line in part.lines[:first])
    return 0 if part.number and signed else first


def _is_header(lines: Sequence[str], index: int) -> bool:
    """Whether `--- a` and `+++ b` stand there: a pair, since a deleted line may begin with dashes of its own."""
    return index + 1 < len(lines) and lines[index].startswith("--- ") and lines[index + 1].startswith("+++ ")


def _hunk(body: list[str], hint: int) -> Iterator[_Hunk]:
    """A hunk without the blank lines around it, which models add between hunks."""
    full = [index for index, line in enumerate(body) if line.strip()]
    if any(line[:1] in ("+", "-") for line in body):
        yield _Hunk(tuple(body[full[0] : full[-1] + 1]), hint)


def _passage(where: str, hunk: _Hunk) -> Passage:
    lines, loose, runs = list[str](), list[str](), list[Run]()
    first, new = 0, list[str]()
    for line in (*hunk.lines, " "):
        sign = line[:1] if line[:1] in ("+", "-", " ") else ""
        if sign == "+":
            new.append(line[1:])
        elif sign == "-":
            lines.append(line[1:])
            loose.append(line[1:])
        else:
            if new or first < len(lines):
                runs.append(Run(first, len(lines), tuple(new)))
            lines.append(line[len(sign) :])
            loose.append(line)
            first, new = len(lines), []
    lines, loose = lines[:-1], loose[:-1]  # the line that closed the last run
    if not any(line.strip() for line in lines):
        raise EditError(f"{where} has no line of the program: {_FORMAT}")
    return Passage(where, "it", tuple(lines), tuple(loose), tuple(runs), hunk.hint)
