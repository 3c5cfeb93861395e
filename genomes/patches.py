"""A model's reply as an edit: search/replace blocks become splices that are applied in one pass.

    <<<<<<< SEARCH
    whole lines as they stand in the program
    =======
    lines that take their place
    >>>>>>> REPLACE

What is said around the blocks, code fences included, is ignored. Every SEARCH must occur exactly once: as it is, else without trailing
white space, else shifted as a whole to the left or right, and then its replacement is shifted alike. Nothing is guessed beyond that.
What does not fit is an error whose message a model can act on: which block, what did not match, and which lines are near.

The reply is untrusted: sizes are capped, searching is linear, and `difflib` sees few and short lines. Deeply nested programs are refused,
since they would exhaust the stack of whatever walks their trees later.
"""

from __future__ import annotations

import ast
import difflib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from genomes.canonical import identity
from genomes.errors import EditError, ParseError
from genomes.source import Splice, parse_tree, splice, split_lines

MOST_CHARACTERS = 200_000  # of a reply
MOST_BLOCKS = 64
MOST_DEPTH = 64  # of a syntax tree; hand-written programs have some 20 levels
_MARK = 5  # least length of a marker: models miscount them
_TOLD = 3  # blocks that do not match, in one message
_COUNTED = 20  # matches, before it is "many"
_NEAR_LINES, _NEAR_CHARACTERS = 1000, 120  # that are compared for what is near
_SHOWN = 80  # characters of a line in a message
_FORMAT = "write blocks of <<<<<<< SEARCH, =======, >>>>>>> REPLACE, each on a line of its own"
_COPY = "copy whole lines of the program, with their indentation"


@dataclass(frozen=True)
class Block:
    """One wish: lines without their ends. `number` counts from 1."""

    number: int
    search: tuple[str, ...]
    replace: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Where a block belongs: the first of its lines in the program, from 0, and what to write there."""

    block: Block
    line: int
    replace: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.line + len(self.block.search)


def patch(text: str, reply: str) -> str:
    """The program that a reply makes of `text`.

    Raises:
        EditError: no block, a block that is incomplete or does not match exactly once, blocks that overlap, or nothing changes.
        ParseError: what results is no program, or is nested too deeply.
    """
    lines = split_lines(text)
    page = _Page(tuple(line.rstrip("\r\n") for line in lines))
    places = sorted(_found(page, blocks(reply)), key=lambda place: place.line)
    for before, after in pairwise(places):
        if after.line < before.end:
            both = f"blocks {before.block.number} and {after.block.number}"
            raise EditError(f"{both} both change line {after.line + 1}: unite them in one block")
    result = splice(text, _splices(lines, places))
    _require_program(result)
    if identity(result) == identity(text):
        raise EditError("the blocks leave the program as it was, but for comments and layout: change what it does")
    return result


def blocks(reply: str) -> tuple[Block, ...]:
    """The blocks of a reply, in its order.

    Raises:
        EditError: there is none, or one is incomplete.
    """
    if len(reply) > MOST_CHARACTERS:
        raise EditError(f"the reply has {len(reply)} characters, at most {MOST_CHARACTERS} are read: send only what changes")
    found: list[Block] = []
    part, search, replace = "", list[str](), list[str]()
    for raw in reply.split("\n"):
        line, number = raw.rstrip("\r"), len(found) + 1
        kind = _marker(line)
        if kind == "<" and part:
            raise EditError(f"block {number} is not closed by >>>>>>> REPLACE before the next one begins; {_FORMAT}")
        if kind == ">" and part != "replace":
            raise EditError(f"block {number} has no {'=======' if part else '<<<<<<< SEARCH'} before its >>>>>>> REPLACE; {_FORMAT}")
        if kind == "<":
            part, search, replace = "search", [], []
        elif kind == "=" and part == "search":
            part = "replace"
        elif kind == ">":
            found.append(_block(number, search, replace))
            part = ""
        elif part:
            (search if part == "search" else replace).append(line)
    if part:
        raise EditError(f"block {len(found) + 1} is cut off: it ends without >>>>>>> REPLACE; send it whole")
    if not found:
        raise EditError(f"the reply has no block; {_FORMAT}")
    return tuple(found)


def _found(page: _Page, wanted: Sequence[Block]) -> list[_Place]:
    """The places of all blocks; what is wrong with the first few that have none is told at once."""
    places, wrong = list[_Place](), list[str]()
    for block in wanted:
        try:
            places.append(page.find(block))
        except EditError as error:
            wrong.append(str(error))
            if len(wrong) == _TOLD:
                break
    if wrong:
        raise EditError("; ".join(wrong))
    return places


def _block(number: int, search: list[str], replace: list[str]) -> Block:
    if number > MOST_BLOCKS:
        raise EditError(f"the reply has more than {MOST_BLOCKS} blocks: make one focused change")
    if not any(line.strip() for line in search):
        raise EditError(f"block {number} has an empty SEARCH: {_COPY}, such as the line before the place of an insertion")
    return Block(number, tuple(search), tuple(replace))


def _marker(line: str) -> str:
    """ "<", "=" or ">" for the lines that structure a reply, else ""."""
    stripped = line.strip()
    sign = stripped[:1]
    if sign not in ("<", "=", ">") or not stripped.startswith(sign * _MARK):
        return ""
    rest = stripped.lstrip(sign).strip().upper()
    return sign if rest == {"<": "SEARCH", "=": "", ">": "REPLACE"}[sign] or not rest else ""


class _Page:
    """The lines of a program, without their ends, in the three spellings that blocks are looked up in."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        self.lines = lines
        self._spellings = (_Spelling(lines), _Spelling([line.rstrip() for line in lines]), _Spelling([line.strip() for line in lines]))

    def find(self, block: Block) -> _Place:
        """The one place of a block.

        Raises:
            EditError: there is none, or more than one.
        """
        exact, trimmed, bare = self._spellings
        for spelling, wanted in ((exact, block.search), (trimmed, [line.rstrip() for line in block.search])):
            matches = spelling.matches(wanted)
            if matches:
                return _Place(block, self._only(block, matches), block.replace)
        shifted = [line for line in bare.matches([line.strip() for line in block.search]) if self._shift(block, line) is not None]
        if not shifted:
            raise EditError(f"block {block.number}: {self._why(block)}; {_COPY}")
        line = self._only(block, shifted)
        return _Place(block, line, _moved(block, self._shift(block, line) or ("", "")))

    def _only(self, block: Block, matches: Sequence[int]) -> int:
        if len(matches) == 1:
            return matches[0]
        shown = ", ".join(str(line + 1) for line in matches[:4])
        count = f"{len(matches)} times" if len(matches) < _COUNTED else "many times"
        raise EditError(f"block {block.number}: its SEARCH occurs {count}, at lines {shown}: add lines around it until it occurs once")

    def _shift(self, block: Block, line: int) -> tuple[str, str] | None:
        """(what every line of the block has at its start, what the program has there instead), one of them empty; None if they differ."""
        shift = None
        for wanted, there in zip(block.search, self.lines[line : line + len(block.search)], strict=True):
            if wanted.strip():
                a, b = _indent(wanted), _indent(there)
                own = (a[: len(a) - len(b)], "") if a.endswith(b) else ("", b[: len(b) - len(a)]) if b.endswith(a) else None
                if own is None or (shift is not None and own != shift):
                    return None
                shift = own
        return shift

    def _why(self, block: Block) -> str:
        """What does not match, and what is near."""
        first = next(index for index, line in enumerate(block.search) if line.strip())
        starts = self._spellings[2].matches([block.search[first].strip()])
        if not starts:
            return f"no line of the program is {_shown(block.search[first])}; {self._near(block.search[first])}"
        length, start = max((self._agreement(block.search[first:], line), -line) for line in starts)
        there, wanted = -start + length, first + length
        if wanted == len(block.search):
            return f"its lines stand from line {-start + 1} on, but with other indentation, such as {_shown(self.lines[-start])}"
        program = f"line {there + 1} is {_shown(self.lines[there])}" if there < len(self.lines) else "the program ends"
        return f"it matches from line {-start + 1} on, then its line {wanted + 1} is {_shown(block.search[wanted])} where {program}"

    def _agreement(self, search: Sequence[str], line: int) -> int:
        """How many lines of a block agree with the program from `line` on, but for white space."""
        pairs = zip(search, self.lines[line:], strict=False)
        return next((count for count, (a, b) in enumerate(pairs) if a.strip() != b.strip()), min(len(search), len(self.lines) - line))

    def _near(self, wanted: str) -> str:
        lines = {line.strip()[:_NEAR_CHARACTERS]: number for number, line in reversed(list(enumerate(self.lines[:_NEAR_LINES], 1)))}
        close = difflib.get_close_matches(wanted.strip()[:_NEAR_CHARACTERS], [line for line in lines if line], n=2, cutoff=0.5)
        if not close:
            return "nothing is near"
        return "did you mean " + " or ".join(f"line {lines[line]}, {_shown(self.lines[lines[line] - 1])}" for line in close) + "?"


class _Spelling:
    """Lines as one text in which whole lines are looked up by `str.find`, whose time is linear."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._text = "\n" + "\n".join(lines) + "\n"
        self._starts = list(accumulate((len(line) + 1 for line in lines), initial=0))

    def matches(self, wanted: Sequence[str]) -> list[int]:
        """Lines, from 0, at which the wanted lines begin; at most `_COUNTED` of them."""
        needle, found, position = "\n" + "\n".join(wanted) + "\n", list[int](), 0
        while len(found) < _COUNTED and (position := self._text.find(needle, position)) >= 0:
            found.append(bisect_right(self._starts, position) - 1)
            position += 1
        return found


def _moved(block: Block, shift: tuple[str, str]) -> tuple[str, ...]:
    """The replacement, shifted as its SEARCH had to be."""
    extra, missing = shift
    for line in block.replace:
        if line.strip() and not line.startswith(extra):
            too_far = f"its SEARCH is indented {len(extra)} characters more than the program"
            raise EditError(f"block {block.number}: {too_far}, and {_shown(line)} cannot be moved as far; {_COPY}")
    return tuple(missing + line[len(extra) :] if line.strip() else line for line in block.replace)


def _splices(lines: Sequence[str], places: Sequence[_Place]) -> Iterator[Splice]:
    starts = list(accumulate(map(len, lines), initial=0))
    for place in places:
        last = lines[place.end - 1]
        end = last[len(last.rstrip("\r\n")) :]  # the line end, if it has one
        usual = end or "\n"
        new = usual.join(place.replace) + end if place.replace else ""
        yield Splice(starts[place.line], starts[place.end], new)


def _require_program(text: str) -> None:
    try:
        tree = parse_tree(text)
    except ParseError as error:
        raise ParseError(f"with these blocks the program does not parse: {error}") from error
    level: list[ast.AST] = [tree]
    for _ in range(MOST_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise ParseError(f"with these blocks the program is nested more than {MOST_DEPTH} levels deep: write it flatter")


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _shown(line: str) -> str:
    return repr(line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…")
