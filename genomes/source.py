"""A program's text with its syntax tree and exact positions. Parsing is cached, because a parent has many children.

`ast` gives positions as (line, UTF-8 byte); edits need characters. `Source.span` translates, so that an edit splices the characters of
one node and leaves every other character as it was.
"""

from __future__ import annotations

import ast
import contextlib
import re
import symtable
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from genomes.errors import EditError, ParseError
from genomes.nodes import children, walk

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_CACHED_PROGRAMS = 4  # the garbage collector has to walk through trees: a hundred of them cost more than parsing again
MOST_LEVELS = 200  # most levels of a program's tree, so that no walk exhausts the stack; a long sum has one for each term
_SHOWN = 80  # characters of a line in a message
_MOST_BITS = 14_284  # most bits of a whole number: Python reads longer ones unless they are decimal, and prints none
_LONG_NUMBER = re.compile(rf"0[xXoObB][0-9a-fA-F_]{{{_MOST_BITS // 4},}}")  # or a piece of a string
_COLLISIONS = 50  # failures blamed on other threads, before they count as something else
_Tree = TypeVar("_Tree", ast.Module, ast.Expression)
_Result = TypeVar("_Result")


class _Positioned(ast.AST):
    lineno: int
    col_offset: int
    end_lineno: int
    end_col_offset: int


@dataclass(frozen=True)
class Splice:
    """Replace the characters `start:end` of a text by `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, eq=False)
class Source:
    """One parsed program. `lines` keep their ends and concatenate to `text`. The tree is shared: read it, never change it."""

    text: str
    tree: ast.Module
    lines: tuple[str, ...]
    starts: tuple[int, ...]  # character offset of each line

    def offset(self, line: int, byte: int) -> int:
        """Character offset of a position as `ast` gives it (line from 1, UTF-8 bytes)."""
        content = self.lines[line - 1] if line <= len(self.lines) else ""
        if content.isascii():
            return self.starts[line - 1] + byte
        return self.starts[line - 1] + len(content.encode()[:byte].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First and past-the-end character of a node that has a position (expressions, statements, keywords, …)."""
        place: _Positioned = node  # type: ignore[assignment]  # every node that callers pass has a position
        return self.offset(place.lineno, place.col_offset), self.offset(place.end_lineno, place.end_col_offset)

    def code(self, node: ast.AST) -> str:
        """The characters of a node, without parentheses around it."""
        start, end = self.span(node)
        return self.text[start:end]

    def line_at(self, offset: int) -> int:
        """Line number, from 1, of a character."""
        return bisect_right(self.starts, offset)


def parse_tree(text: str) -> ast.Module:
    """The tree alone. Warnings about the text (an invalid escape) are the program's business, not ours."""
    tree = _translated(lambda: _undisturbed(lambda: ast.parse(text)))
    if _LONG_NUMBER.search(text):
        _require_printable(tree)
    return tree


def _require_printable(tree: ast.Module) -> None:
    for node in walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value.bit_length() > _MOST_BITS:
            raise ParseError(f"line {node.lineno}: a whole number of {node.value.bit_length()} bits, more than Python prints")


def symbols(text: str) -> symtable.SymbolTable:
    """What each scope binds and reads, as CPython's own compiler sees it.

    Raises:
        ParseError: it parses and does not compile: a `return` outside of a function, an argument named twice, …
    """

    def tables() -> symtable.SymbolTable:
        compile(text, "train.py", "exec", dont_inherit=True)
        return symtable.symtable(text, "train.py", "exec")

    return _translated(tables)


def _translated(work: Callable[[], _Result]) -> _Result:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
    except SyntaxError as error:
        line = f" in {error.text.strip()[:_SHOWN]!r}" if error.text else ""
        raise ParseError(f"line {error.lineno or '?'}: {error.msg}{line}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ParseError(f"not a Python program: {error}") from error


def parse_expression(text: str) -> ast.expr:
    """The tree of one expression. Raises SyntaxError or ValueError as they are: this is for parts, which are read by the thousand."""
    return _undisturbed(lambda: ast.parse(text, mode="eval")).body


def _undisturbed(parse: Callable[[], _Tree]) -> _Tree:
    """Tries again: before CPython 3.11.8 and 3.12.2 `ast.parse` may fail while another thread parses too (python/cpython#106905)."""
    for _ in range(_COLLISIONS):
        with contextlib.suppress(SystemError):
            return parse()
    return parse()


def require_shallow(tree: ast.Module, most: int) -> None:
    """Raise ParseError where a tree has more levels than `most`."""
    level: list[ast.AST] = [tree]
    for _ in range(most):
        level = children(*level)
        if not level:
            return
    raise ParseError(f"it is nested more than {most} levels deep: write it flatter")


@lru_cache(maxsize=_CACHED_PROGRAMS)
def parse(text: str) -> Source:
    """The parsed program; raises ParseError with line and reason."""
    source = read(text)
    require_shallow(source.tree, MOST_LEVELS)
    return source


def read(text: str) -> Source:
    """Parse without caching: for parts of a program, which would push whole ones out of the cache."""
    tree = parse_tree(text)
    lines = split_lines(text)
    starts, position = [], 0
    for line in lines:
        starts.append(position)
        position += len(line)
    return Source(text, tree, lines, tuple(starts) or (0,))


def split_lines(text: str) -> tuple[str, ...]:
    """Lines with their ends, as Python's parser counts them."""
    return tuple(_LINE.findall(text))


def splice(text: str, splices: Iterable[Splice]) -> str:
    """All splices at once; they must not overlap."""
    pieces, position = [], 0
    for cut in sorted(splices, key=lambda cut: (cut.start, cut.end)):
        if cut.start < position:
            raise EditError(f"two edits overlap at character {cut.start}: {cut.text!r}")
        pieces += [text[position : cut.start], cut.text]
        position = cut.end
    return "".join([*pieces, text[position:]])
