"""The program that a reply is about, by its lines: where a passage stands, and what is near one that stands nowhere.

A passage must occur exactly once: as it is, else without trailing white space, else shifted as a whole to the left or right, and then what
takes its place is shifted alike, else without the comments behind code. Nothing is guessed beyond that, but for one thing: of several equal
places, the one within `_HINT_LINES` of the line number that a diff gives is taken, if there is just one. Searching is linear, and `difflib`
sees few and short lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from genomes.errors import EditError, ParseError
from genomes.replies.spelling import COUNTED, Spelling, in_strings, indent_of, indents, reindented, tokens, without_comment
from genomes.source import Splice, parse

MOST_PASSAGES = 64  # blocks, or hunks, in a reply
COPY = "copy whole lines of the program, with their indentation"
_HINT_LINES = 10  # between the line number of a diff and the place that it is taken to mean
_NEAR_LINES, _NEAR_CHARACTERS = 1000, 120  # compared to find what is near
_COMMENTED = 100  # most lines at once whose comments are kept
_SHOWN = 80  # characters of a line in a message

_Shift = tuple[str, str]  # what every line of a passage has at its start, what the program has there instead; one of them is empty
_UNMOVED: _Shift = ("", "")


@dataclass(frozen=True)
class Run:
    """The lines first..end of a passage, from 0, and what takes their place; first == end inserts."""

    first: int
    end: int
    new: tuple[str, ...]


@dataclass(frozen=True)
class Passage:
    """Lines that the program is said to have, and what is to become of them: a block, or a hunk of a diff."""

    where: str  # "block 1"
    subject: str  # what may occur only once: "its SEARCH"
    lines: tuple[str, ...]
    loose: tuple[str, ...]  # the same lines, where a sign that a diff lacks is no sign but the program's
    runs: tuple[Run, ...]
    hint: int = 0  # a line number, from 1, that may be wrong
    closed: bool = True  # the reply says where it ends
    at: int = -1  # for a block: how many lines stand before it, outside of blocks


@dataclass(frozen=True)
class Cut:
    """One splice of the program, and which part of the reply wants it."""

    where: str
    splice: Splice


class Page:
    """The lines of a program, without their ends, in the three spellings that passages are looked up in.

    Raises:
        ParseError: it is no program.
    """

    def __init__(self, text: str) -> None:
        self.text, self.source = text, parse(text)
        self._whole, self._starts = self.source.lines, (*self.source.starts, len(text))
        self.lines = tuple(line.rstrip("\r\n") for line in self._whole)
        self._exact, self._trimmed, self._bare = (
            Spelling(lines) for lines in (self.lines, [line.rstrip() for line in self.lines], [line.strip() for line in self.lines])
        )
        self.line_end = (_line_end(self._whole[0]) if self._whole else "") or "\n"
        self.known = frozenset(line.strip() for line in self.lines)

    def cut(self, where: str, first: int, end: int, new: Sequence[str]) -> Cut:
        """The lines first..end, from 0, replaced by others, with the program's own line ends; first == end inserts."""
        if first == end and first == len(self._whole) > 0 and not _line_end(self._whole[-1]):  # behind a last line that has no end
            return Cut(where, Splice(self._starts[-1], self._starts[-1], "".join(self.line_end + line for line in new)))
        usual = _line_end(self._whole[end - 1]) or self.line_end if end else self.line_end
        tail = usual if first == end else _line_end(self._whole[end - 1])
        return Cut(where, Splice(self._starts[first], self._starts[end], usual.join(new) + tail if new else ""))

    def find(self, passage: Passage) -> Iterator[Cut]:
        """The cuts that a passage makes at its one place.

        Raises:
            EditError: there is none, or more than one.
        """
        place = self._place_as_it_is(passage)
        if place is None:  # only then, since a tab may be meant
            spelt, passage = passage, self._reindented(passage)
            place = self._place(passage) or self._place_of_code(passage) or self._place_of_tokens(passage)
            if place is not None and any(place[0] + run.first in self._strings[0] for run in passage.runs if run not in spelt.runs):
                place = None  # the new lines there are text
        if place is None:
            raise EditError(f"{passage.where}: {self._why(passage)}; {COPY}")
        line, shift = place
        for run in passage.runs:
            new = _moved(passage, run.new, shift) if shift is not None else self._with_comments(line + run.first, line + run.end, run.new)
            yield self.cut(passage.where, line + run.first, line + run.end, new)

    def _place_as_it_is(self, passage: Passage) -> tuple[int, _Shift | None] | None:
        for spelling, wanted in ((self._exact, passage.lines), (self._trimmed, [line.rstrip() for line in passage.lines])):
            matches = spelling.matches(wanted)
            if matches:
                return self._only(passage, matches), _UNMOVED
        return None

    def _place(self, passage: Passage) -> tuple[int, _Shift | None] | None:
        if place := self._place_as_it_is(passage):
            return place
        found = {line: self._shift(passage, line) for line in self._bare.matches([line.strip() for line in passage.lines])}
        shifts = {line: shift for line, shift in found.items() if shift is not None}
        if not shifts:
            return None
        line = self._only(passage, [line for line, shift in shifts.items() if shift == _UNMOVED] or list(shifts))
        return line, shifts[line]

    def _place_of_code(self, passage: Passage) -> tuple[int, _Shift | None] | None:
        """Where the passage stands but for comments behind code, which models leave out and change; None: nowhere."""
        matches = self._outside_strings(passage, self._code.matches([without_comment(line) for line in passage.lines]))
        return (self._only(passage, matches), None) if matches else None

    def _place_of_tokens(self, passage: Passage) -> tuple[int, _Shift | None] | None:
        """Where it stands but for blanks between tokens, quotes and the spelling of numbers."""
        matches = self._outside_strings(passage, self._tokens.matches([tokens(line) for line in passage.lines]))
        shifts = {line: shift for line in matches if (shift := self._shift(passage, line)) is not None}
        if not shifts:
            return None
        line = self._only(passage, list(shifts))
        return line, None if shifts[line] == _UNMOVED else shifts[line]

    def _outside_strings(self, passage: Passage, matches: Sequence[int]) -> list[int]:
        """The matches that begin in code and have the same text in strings over several lines: there every blank and `#` counts."""
        begin, end = self._strings
        found = list[int]()
        for line in matches:
            pairs = enumerate(zip(passage.lines, self.lines[line : line + len(passage.lines)], strict=True), line)
            if line not in begin and all(a.strip() == b.strip() for at, (a, b) in pairs if at in begin or at in end):
                found.append(line)
        return found

    def _reindented(self, passage: Passage) -> Passage:
        if not self.indents:
            return passage
        new = tuple(replace(run, new=reindented(run.new, self.indents)) for run in passage.runs)
        return replace(passage, lines=reindented(passage.lines, self.indents), loose=reindented(passage.loose, self.indents), runs=new)

    @cached_property
    def indents(self) -> str:
        """What the program's lines are indented by; "" where they differ in that."""
        return indents(self.lines)

    @cached_property
    def _strings(self) -> tuple[set[int], set[int]]:
        return in_strings(self.lines)

    @cached_property
    def _tokens(self) -> Spelling:
        return Spelling([tokens(line) for line in self.lines])

    @cached_property
    def _code(self) -> Spelling:
        return Spelling([without_comment(line) for line in self.lines])

    def _with_comments(self, first: int, end: int, new: Sequence[str]) -> Sequence[str]:
        """New lines, with comments that they left out, such as a knob's range, where they replace as many that set the same names."""
        if end - first != len(new) or len(new) > _COMMENTED:
            return new
        pairs = zip(self.lines[first:end], new, strict=True)
        return [line + _comment(old) if not _comment(line) and "" != _target(line) == _target(old) else line for old, line in pairs]

    def _only(self, passage: Passage, matches: Sequence[int]) -> int:
        near = [line for line in matches if abs(line + 1 - passage.hint) <= _HINT_LINES] if passage.hint else []
        if len(matches) == 1 or len(near) == 1:
            return (near or matches)[0]
        shown = ", ".join(str(line + 1) for line in matches[:4])
        count = f"{len(matches)} times" if len(matches) < COUNTED else "many times"
        raise EditError(f"{passage.where}: {passage.subject} occurs {count}, at lines {shown}: add lines around it until it occurs once")

    def _shift(self, passage: Passage, line: int) -> _Shift | None:
        """How far the passage is shifted against the program there; None if its lines differ in that."""
        there = self.lines[line : line + len(passage.lines)]
        if all(here.rstrip() in (a.rstrip(), b.rstrip()) for a, b, here in zip(passage.lines, passage.loose, there, strict=True)):
            return _UNMOVED
        shift = None
        for wanted, here in zip(passage.lines, there, strict=True):
            if wanted.strip():
                a, b = indent_of(wanted), indent_of(here)
                own = (a[: len(a) - len(b)], "") if a.endswith(b) else ("", b[: len(b) - len(a)]) if b.endswith(a) else None
                if own is None or (shift is not None and own != shift):
                    return None
                shift = own
        return shift

    def _why(self, passage: Passage) -> str:
        """What does not match, and what is near."""
        lines = passage.lines
        first = next(index for index, line in enumerate(lines) if line.strip())
        starts = self._bare.matches([lines[first].strip()])
        if not starts:
            return f"no line of the program is {shown(lines[first])}; {self._near(lines[first])}"
        length, start = max((self._agreement(lines[first:], line), -line) for line in starts)
        there, wanted = -start + length, first + length
        if wanted == len(lines):
            return f"its lines stand from line {-start + 1} on, but indented differently, as {shown(self.lines[-start])}"
        program = f"line {there + 1} is {shown(self.lines[there])}" if there < len(self.lines) else "the program ends"
        return f"it matches from line {-start + 1} on, then its line {wanted + 1} is {shown(lines[wanted])} where {program}"

    def _agreement(self, search: Sequence[str], line: int) -> int:
        """How many lines of a passage agree with the program from `line` on, but for white space."""
        pairs = zip(search, self.lines[line:], strict=False)
        return next((count for count, (a, b) in enumerate(pairs) if a.strip() != b.strip()), min(len(search), len(self.lines) - line))

    def _near(self, wanted: str) -> str:
        """What is near, by the whole line; before that, lines that continue the wanted one, as by a comment, or that set the same name."""
        start, name = wanted.strip(), wanted.partition("=")[0].rstrip() + " ="
        longer = [n for n, line in enumerate(self.lines, 1) if line.strip().startswith(start)]
        same = [n for n, line in enumerate(self.lines, 1) if "=" in wanted and line.startswith(name)]
        if longer or same:
            return _meant([(n, self.lines[n - 1]) for n in (longer or same)[:2]])
        lines = {line.strip()[:_NEAR_CHARACTERS]: number for number, line in reversed(list(enumerate(self.lines[:_NEAR_LINES], 1)))}
        close = difflib.get_close_matches(wanted.strip()[:_NEAR_CHARACTERS], [line for line in lines if line], n=2, cutoff=0.5)
        if not close:
            return "nothing is near"
        return _meant([(lines[line], self.lines[lines[line] - 1]) for line in close])


def _comment(line: str) -> str:
    """What `without_comment` leaves out, with the blanks before it."""
    return line.rstrip()[len(without_comment(line)) :]


def _target(line: str) -> str:
    """What a line assigns to, as it is written; "" if nothing, or if the statement does not end with the line."""
    try:
        parse(line.strip())
    except ParseError:
        return ""
    name, equals, _ = line.partition("=")
    return name.strip() if equals else ""


def _meant(lines: Sequence[tuple[int, str]]) -> str:
    """A clause that names lines by number and text."""
    return "did you mean " + " or ".join(f"line {number}, {shown(line)}" for number, line in lines) + "?"


def shown(line: str) -> str:
    """A line for a message: quoted, shortened."""
    return repr(line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…")


def _moved(passage: Passage, new: Sequence[str], shift: _Shift) -> tuple[str, ...]:
    """What takes a passage's place, shifted as the passage had to be."""
    extra, missing = shift
    for line in new:
        if line.strip() and not line.startswith(extra):
            too_far = f"{passage.subject} is indented {len(extra)} characters more than the program"
            raise EditError(f"{passage.where}: {too_far}, and {shown(line)} cannot be moved as far; {COPY}")
    return tuple(missing + line[len(extra) :] if line.strip() else line for line in new)


def _line_end(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]
