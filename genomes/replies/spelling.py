"""Lines in another spelling, to be looked up in: without the comments behind code, token by token, with the program's kind of indentation.

All of it works line by line and in linear time. A line that begins or ends inside of a string is spelt as if it were code, on both sides
alike: what is compared is never what is written, and `in_strings` says which lines must be the same as they are.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

COUNTED = 20  # matches, before it is "many"
_TAB = 4  # blanks that stand for one, and the other way round
_DIGITS = 40  # most digits of a number that is read
_TOKEN = re.compile(
    r"""(?P<string>'[^'"\\]*'|"[^'"\\]*")
    |'(?:[^'\\]++|\\.?)*+(?:'|$)
    |"(?:[^"\\]++|\\.?)*+(?:"|$)
    |(?P<number>(?<![\w.])(?:\d[\d_]*+(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?\d++)?+(?![\w.]))
    |\w+
    |\S""",
    re.VERBOSE,
)


class Spelling:
    """Lines as one text in which whole lines are looked up by `str.find`, whose time is linear."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._text = "\n" + "\n".join(lines) + "\n"
        self._starts = list(accumulate((len(line) + 1 for line in lines), initial=0))

    def matches(self, wanted: Sequence[str]) -> list[int]:
        """Lines, from 0, at which the wanted lines begin; at most `COUNTED` of them."""
        needle, found, position = "\n" + "\n".join(wanted) + "\n", list[int](), 0
        while len(found) < COUNTED and (position := self._text.find(needle, position)) >= 0:
            found.append(bisect_right(self._starts, position) - 1)
            position += 1
        return found


def without_comment(line: str) -> str:
    """Code without what follows a `#` outside of quotes; a line that is nothing but a comment stays."""
    quote, escaped = "", False
    for index, sign in enumerate(line):
        if quote:
            quote = "" if sign == quote and not escaped else quote
            escaped = sign == "\\" and not escaped
        elif sign in "'\"":
            quote = sign
        elif sign == "#":
            return line[:index].rstrip() or line.rstrip()
    return line.rstrip()


def in_strings(lines: Iterable[str]) -> tuple[set[int], set[int]]:
    """The lines, from 0, that begin inside of a string, and those that end inside of one. The first begins outside."""
    begin, end, quote = set[int](), set[int](), ""
    for number, line in enumerate(lines):
        if quote:
            begin.add(number)
        quote = _quote_after(line, quote)
        if quote:
            end.add(number)
    return begin, end


def _quote_after(line: str, quote: str) -> str:
    """The quotes that are open after a line, given those open before it."""
    position = 0
    while position < len(line):
        sign = line[position]
        if quote and sign == "\\":
            position += 2
        elif quote and line.startswith(quote, position):
            position, quote = position + len(quote), ""
        elif not quote and sign in "'\"":
            quote = sign * 3 if line.startswith(sign * 3, position) else sign
            position += len(quote)
        elif not quote and sign == "#":
            break
        else:
            position += 1
    goes_on = len(quote) == 3 or position > len(line)  # a string in single quotes only behind a backslash at the end
    return quote if goes_on else ""


def tokens(line: str) -> str:
    """The code of a line, equal for lines that differ in blanks between tokens, in quotes and in how a number is written."""
    return " ".join(_spelt(found) for found in _TOKEN.finditer(without_comment(line)))


def _spelt(found: re.Match[str]) -> str:
    text = found[0]
    if found["string"]:
        return f'"{text[1:-1]}"'
    if found["number"] and len(text) < _DIGITS:
        return repr(float(text)) if re.search(r"[.eE]", text) else text.replace("_", "")
    return text


def indent_of(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def indents(lines: Iterable[str]) -> str:
    """What lines are indented by: a tab, a blank, or "" where that differs or none is."""
    signs = {line[0] for line in lines if line[:1] in (" ", "\t") and line.strip()}
    return signs.pop() if len(signs) == 1 else ""


def reindented(lines: Sequence[str], sign: str) -> tuple[str, ...]:
    """Lines with a blank, or a tab, as the program's `sign` for their indentation; as they are where that is not clear, and in strings."""
    inside, _ = in_strings(lines)
    return tuple(line if number in inside else _reindented(line, sign) for number, line in enumerate(lines))


def _reindented(line: str, sign: str) -> str:
    code = line.lstrip(" \t")
    indent = line[: len(line) - len(code)]
    if sign == " " and indent.startswith("\t"):
        return indent.replace("\t", " " * _TAB) + code
    if sign == "\t" and indent and not len(indent.strip(" ")) and len(indent) % _TAB == 0:
        return "\t" * (len(indent) // _TAB) + code
    return line
