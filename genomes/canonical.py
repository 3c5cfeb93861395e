"""Identity of programs: what is hashed is the syntax tree, so that equal programs are evaluated once.

Comments, layout, docstrings and other bare strings, parentheses, quotes and the spelling of numbers vanish; an int and a float of the
same value stay different, as they are to Python. Names, and the order of statements and arguments, count.
"""

from __future__ import annotations

import ast
import hashlib
from functools import lru_cache

from genomes.knobs import survey
from genomes.literals import read_value
from genomes.source import parse

_DIGITS = 16
_SKIPPED = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_CACHED_HASHES = 4096


def identity(text: str) -> str:
    """16 hex digits, equal for programs that differ only in comments, layout, docstrings and spelling of literals."""
    return _identity_and_size(text)[0]


@lru_cache(maxsize=_CACHED_HASHES)
def species(text: str) -> str:
    """16 hex digits, equal for programs that differ only in literals at places where a knob may be tuned."""
    found = survey(text)
    return _digest(_canonical(found.source.tree, frozenset(id(spot.node) for spot in found.spots if spot.blanked)))


def size(text: str) -> int:
    """Number of nodes of the canonical tree: the measure of simplicity."""
    return _identity_and_size(text)[1]


@lru_cache(maxsize=_CACHED_HASHES)
def _identity_and_size(text: str) -> tuple[str, int]:
    """Both from one walk, since whoever asks for one soon asks for the other."""
    pieces = _canonical(parse(text).tree, frozenset())
    return _digest(pieces), sum(1 for piece in pieces if piece.startswith("("))


def _canonical(tree: ast.Module, blanked: frozenset[int]) -> list[str]:
    pieces: list[str] = []
    _write(tree, pieces, blanked)
    return pieces


def _digest(pieces: list[str]) -> str:
    return hashlib.sha256("\x00".join(pieces).encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _write(node: ast.AST, out: list[str], blanked: frozenset[int]) -> None:
    """Append the canonical form; empty fields are left out, so that it does not depend on the version of Python."""
    if id(node) in blanked:
        out.append("(?)")
        return
    if type(node) is ast.Name:  # the most frequent node by far
        out += ("(Name", "id", f"str {node.id!r}", ")")
        return
    value = read_value(node)
    if value is not None:
        out.append(f"({type(value).__name__} {value!r})")
        return
    out.append(f"({type(node).__name__}")
    for name in node._fields:
        if name in _SKIPPED:
            continue
        child = getattr(node, name, None)
        if child is None or child == []:
            continue
        out.append(name)
        if isinstance(child, ast.AST):
            _write(child, out, blanked)
        elif isinstance(child, list):
            _write_all(child, out, blanked)
        else:
            out.append(f"{type(child).__name__} {child!r}")
    out.append(")")


def _write_all(children: list[object], out: list[str], blanked: frozenset[int]) -> None:
    for child in children:
        if isinstance(child, ast.AST):
            if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
                _write(child, out, blanked)
        else:
            out.append(repr(child))  # None in a dictionary's keys (**), names of `global`
    out.append("]")
