"""Edits at random of any Python program, as the laws of the merge are tried on: crude, but the result parses."""

from __future__ import annotations

import ast
import random
import warnings
from collections.abc import Callable, Sequence
from itertools import accumulate

Edit = Callable[[str, random.Random], str]


def edited(text: str, rng: random.Random, count: int = 1, edits: Sequence[Edit] = ()) -> str:
    """The text after some edits, of all kinds unless told; each is tried until one parses, and left out where none does."""
    for _ in range(count):
        for _ in range(20):
            changed = rng.choice(edits or EDITS)(text, rng)
            if changed != text and changed.strip() and parses(changed):
                text = changed
                break
    return text


def parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "edited.py", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def _expressions(text: str) -> list[tuple[int, int]]:
    """Spans of expressions on one line."""
    listed = text.splitlines(keepends=True)
    starts = [0, *accumulate(map(len, listed))]
    spans = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.expr) and node.lineno == node.end_lineno and listed[node.lineno - 1].isascii():
            spans.add((starts[node.lineno - 1] + node.col_offset, starts[node.lineno - 1] + (node.end_col_offset or 0)))
    return sorted(spans) or [(len(text), len(text))]


def wrap(text: str, rng: random.Random) -> str:
    """`x` → `norm(x)`, `-x`, `x + 1`, …"""
    start, end = rng.choice(_expressions(text))
    code = text[start:end]
    return text[:start] + rng.choice(["norm({})", "({} + 1)", "-{}", "2 * {}", "{}.item", "({})"]).format(code) + text[end:]


def swap_expression(text: str, rng: random.Random) -> str:
    """An expression of the program in the place of another."""
    spans = _expressions(text)
    (start, end), (other, stop) = rng.choice(spans), rng.choice(spans)
    return text[:start] + text[other:stop] + text[end:]


def insert_argument(text: str, rng: random.Random) -> str:
    _, end = rng.choice(_expressions(text))
    return text[:end] + rng.choice([", extra", ", key=1", " + extra", " * extra"]) + text[end:]


def lines(text: str, rng: random.Random) -> str:
    """Drop, double or move lines."""
    listed = text.splitlines(keepends=True)
    first = rng.randrange(len(listed))
    last = min(len(listed), first + rng.choice([1, 1, 1, 2, 5]))
    taken = listed[first:last]
    move = rng.randrange(3)
    if move == 0:
        return "".join(listed[:first] + listed[last:])
    if move == 1:
        return "".join(listed[:last] + taken + listed[last:])
    rest = listed[:first] + listed[last:]
    place = rng.randrange(len(rest) + 1)
    return "".join(rest[:place] + taken + rest[place:])


def remark(text: str, rng: random.Random) -> str:
    """A comment above a line."""
    listed = text.splitlines(keepends=True)
    place = rng.randrange(len(listed))
    return "".join([*listed[:place], _indent(listed[place]), f"# a remark {rng.randrange(9)}\n", *listed[place:]])


def insert_statement(text: str, rng: random.Random) -> str:
    listed = text.splitlines(keepends=True)
    place = rng.randrange(len(listed))
    indent = _indent(listed[place])
    new = rng.choice(["x = norm(x)", "extra = 1", "print(x)", "self.extra = 2", "x = 2 * x", "def extra():\n{0}    return 1", "return x"])
    return "".join([*listed[:place], indent, new.format(indent), "\n", *listed[place:]])


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())].strip("\r\n")


def rename(text: str, rng: random.Random) -> str:
    names = sorted({node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)})
    name = rng.choice(names) if names else "x"
    return "".join(f"{name}_new" if word == name else word for word in _words(text))


def _words(text: str) -> list[str]:
    words, current = list[str](), ""
    for character in text:
        if character.isalnum() or character == "_":
            current += character
        else:
            words += [current, character]
            current = ""
    return [*words, current]


EDITS: tuple[Edit, ...] = (
    wrap,
    swap_expression,
    insert_argument,
    lines,
    remark,
    insert_statement,
    rename,
)
