"""One line for people about a change of a statement: the smallest expression that tells the two versions apart, or where it went."""

from __future__ import annotations

import ast
import re

from genomes.canonical import SKIPPED
from genomes.errors import ParseError
from genomes.literals import is_bare
from genomes.source import parse_tree

_SHOWN = 48  # characters of a statement in a description
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_LEAD = re.compile(r"\A(?:[ \t]*(?:#[^\n]*)?(?:\n|\Z))*")  # blank lines and comments
_ELIF = re.compile(r"^(\s*)elif\b")


def shown(text: str) -> str:
    """The first meaningful line of a text, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = next((line for line in lines if not line.startswith("#")), lines[0] if lines else "blank lines")
    return shortened(telling, _SHOWN)


def shortened(line: str, most: int) -> str:
    """At most `most` characters: whole parts if that keeps half of them, else whole words, with brackets that they open closed again.

    A note that ends in the middle of a name or a number is read as if that were all of it.
    """
    if len(line) <= most:
        return line
    part = line[: most - 1].rpartition("; ")[0]
    if len(part) >= most // 2 and not _closers(part):
        return f"{part}; …"[:most]
    for end in range(most - 1, most // 2, -1):
        kept = line[:end].rstrip()
        closed = f"{kept}…{_closers(kept)}"
        if not (line[end].isalnum() or line[end] in "_.") and len(closed) <= most:
            return closed
    return line[: most - 1] + "…"  # one long word


def _closers(text: str) -> str:
    """The closing brackets for those that are open at the end of a text."""
    open_: list[str] = []
    for character in text:
        if character in _PAIRS:
            open_.append(_PAIRS[character])
        elif open_ and character == open_[-1]:
            open_.pop()
    return "".join(reversed(open_))


def named(text: str) -> str:
    """What a statement goes by: a definition's name, else the first line."""
    first = next((line for line in text.splitlines() if re.match(r"\s*(async def|def|class)\b", line)), "")
    return " ".join(re.findall(r"\w+", first.partition("(")[0])[-2:]) or shown(text)


def changed(old: str, new: str) -> str:
    """`F.relu → F.gelu` of two versions of a statement or of its head; the lines themselves where they do not say more apart."""
    a, b = _statement(old), _statement(new)
    if a is None or b is None:
        return f"{shown(old)} → {shown(new)}"
    if ast.dump(a) == ast.dump(b):
        return f"comment or layout of {shown(new)}"
    label, before, after = _smallest(a, b)
    return f"{label}{shown(ast.unparse(before))} → {shown(ast.unparse(after))}"


def says_the_same(old: str, new: str) -> bool:
    """Whether two versions of statements, or of a head, differ in comments, docstrings and layout alone."""
    a, b = _statements(old), _statements(new)
    return a is not None and b is not None and [ast.dump(s) for s in a if not is_bare(s)] == [ast.dump(s) for s in b if not is_bare(s)]


def _statement(text: str) -> ast.stmt | None:
    """The one statement that a text is, or that it is the head of."""
    found = _statements(text)
    return found[0] if found and len(found) == 1 else None


def _statements(text: str) -> list[ast.stmt] | None:
    """The statements of a text, which may end with the head of one; None where they cannot be read."""
    code = _ELIF.sub(r"\1if", _LEAD.sub("", text, count=1))
    if not code.strip():
        return []
    indent = code[: len(code) - len(code.lstrip())]
    opening = "if 1:\n" if indent else ""
    for program in (f"{opening}{code}\n", f"{opening}{code}\n{indent}    pass\n"):
        try:
            body = parse_tree(program).body
        except ParseError:
            continue
        return body[0].body if indent and isinstance(body[0], ast.If) else body
    return None


def _smallest(a: ast.AST, b: ast.AST, label: str = "") -> tuple[str, ast.AST, ast.AST]:
    """What is given the value that differs, if anything, and the innermost pair of nodes around all differences that can be written."""
    pairs = _differing(a, b)
    if len(pairs) != 1 or not isinstance(pairs[0][0], ast.expr | ast.keyword | ast.arguments | ast.withitem):
        return label, a, b
    if isinstance(a, ast.keyword) and a.arg:
        label = f"{a.arg}="
    elif isinstance(a, ast.Assign) and pairs[0][0] is a.value:
        label = f"{shown(', '.join(ast.unparse(target) for target in a.targets))} = "
    return _smallest(*pairs[0], label)


def _differing(a: ast.AST, b: ast.AST) -> list[tuple[ast.AST, ast.AST]]:
    """Children that differ; none where the nodes themselves do, or have different numbers of children."""
    if type(a) is not type(b):
        return []
    found: list[tuple[ast.AST, ast.AST]] = []
    for name in a._fields:
        x, y = getattr(a, name, None), getattr(b, name, None)
        left, right = (x, y) if isinstance(x, list) and isinstance(y, list) else ([x], [y])
        if name in SKIPPED:
            continue
        if len(left) != len(right):
            return []
        for old, new in zip(left, right, strict=True):
            if isinstance(old, ast.AST) and isinstance(new, ast.AST):
                found += [(old, new)] if ast.dump(old) != ast.dump(new) else []
            elif old != new:
                return []
    return found
