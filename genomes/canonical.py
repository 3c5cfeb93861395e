"""Identity of programs: what is hashed is the syntax tree, so that equal programs are evaluated once.

Comments, layout, docstrings and other bare strings, parentheses, quotes and the spelling of numbers vanish; an int and a float of the
same value stay different, as they are to Python. Names, and the order of statements and arguments, count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from genomes.knobs import inspect
from genomes.literals import Value, is_bare, read_value
from genomes.source import parse, read
from genomes.units import blocks

_DIGITS = 16
_SEPARATOR = "\x00"
SKIPPED = frozenset({"ctx", "kind", "type_comment", "type_ignores"})  # fields that say nothing about a program
_CACHED_HASHES = 4096
_CACHED_BLOCKS = 2048
_AS_IT_IS: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True)
class _Canon:
    """The canonical form of a program or a block of it, with every literal and with the tunable ones blanked; `size` counts nodes."""

    full: str
    blanked: str
    size: int


def identity(text: str) -> str:
    """16 hex digits, equal for programs that differ only in comments, layout, docstrings and spelling of literals."""
    return _measure(text)[0]


def species(text: str) -> str:
    """16 hex digits, equal for programs that differ only in literals at places where a knob may be tuned."""
    return _measure(text)[1]


def size(text: str) -> int:
    """Number of nodes of the canonical tree: the measure of simplicity."""
    return _measure(text)[2]


def canonical_form(node: ast.AST, instead: Mapping[int, str] = _AS_IT_IS) -> str:
    """A part of a program as it is hashed: equal for parts that differ only in layout, docstrings and spelling of literals.

    Args:
        instead: id(node) → what is written in its place.
    """
    out = list[str]()
    _write(node, out, instead)
    return _SEPARATOR.join(out)


def written(value: Value) -> str:
    """The canonical form of a literal."""
    return f"({type(value).__name__} {value!r})"


@lru_cache(maxsize=_CACHED_HASHES)
def _measure(text: str) -> tuple[str, str, int]:
    """Identity, species and size together, since whoever asks for one soon asks for the others."""
    parts = [_canon(code) for code in blocks(parse(text))]
    return _digest([part.full for part in parts]), _digest([part.blanked for part in parts]), 1 + sum(part.size for part in parts)


@lru_cache(maxsize=_CACHED_BLOCKS)
def _canon(code: str) -> _Canon:
    """The canonical form of one top-level block. Nothing in it depends on the rest of the program."""
    found = inspect(read(code))
    full, blanked = list[str](), list[str]()
    for statement in found.source.tree.body:
        if not is_bare(statement):
            _write(statement, full, _AS_IT_IS)
            _write(statement, blanked, {id(spot.node): "(?)" for spot in found.spots if spot.blanked})
    return _Canon(_SEPARATOR.join(full), _SEPARATOR.join(blanked), sum(1 for piece in full if piece.startswith("(")))


def _digest(forms: list[str]) -> str:
    """Hash of a module, from the forms of its blocks; that of a docstring is empty."""
    body = ["body", *(form for form in forms if form), "]"] if forms else []
    return hashlib.sha256(_SEPARATOR.join(["(Module", *body, ")"]).encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _write(node: ast.AST, out: list[str], instead: Mapping[int, str]) -> None:
    """Append the canonical form; empty fields are left out, so that it does not depend on the version of Python."""
    if id(node) in instead:
        out.append(instead[id(node)])
        return
    if type(node) is ast.Name:  # the most frequent node by far
        out += ("(Name", "id", f"str {node.id!r}", ")")
        return
    value = read_value(node)
    if value is not None:
        out.append(written(value))
        return
    out.append(f"({type(node).__name__}")
    for name in node._fields:
        if name in SKIPPED:
            continue
        child = getattr(node, name, None)
        if child is None or child == []:
            continue
        out.append(name)
        if isinstance(child, ast.AST):
            _write(child, out, instead)
        elif isinstance(child, list):
            _write_all(child, out, instead)
        else:
            out.append(f"{type(child).__name__} {_plain(child)}")
    out.append(")")


def _plain(value: object) -> str:
    """A plain value as text; whole numbers in hexadecimal, since Python refuses to print more than 4,300 decimal digits."""
    return hex(value) if type(value) is int else repr(value)


def _write_all(children: list[object], out: list[str], instead: Mapping[int, str]) -> None:
    for child in children:
        if isinstance(child, ast.AST):
            if not is_bare(child):
                _write(child, out, instead)
        else:
            out.append(repr(child))  # None in a dictionary's keys (**), names of `global`
    out.append("]")
