"""Three-way merge inside one statement, on its libcst tree: different arguments of one call, or operands of one expression, unite.

libcst keeps every token, so what neither side touched comes out as it was. Each node is rebuilt once, from its merged children: two
`deep_replace` calls in a row would lose the second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields

import libcst as cst

from genomes.align import Keyed, walk

Settle = Callable[[str, str, str], str]  # (base, a, b) source → "a" or "b"
_SHELL = "if 1:\n"
_EMPTY = cst.Module([])
_TRIVIA = re.compile(r"whitespace|comma|lpar|rpar|lbracket|rbracket|semicolon|leading_lines|trailing|header|footer|equal|newline")


def merge_statement(base: str, a: str, b: str, settle: Settle) -> str | None:
    """Merge three versions of a statement's lines, or of a compound statement's head; None where they do not parse alone."""
    trees = [_parse(text) for text in (base, a, b)]
    if trees[0] is None or trees[1] is None or trees[2] is None:
        return None
    merged = _node(trees[0], trees[1], trees[2], settle)
    return _strip(merged.code, a) if isinstance(merged, cst.Module) else None


def _parse(text: str) -> cst.Module | None:
    """The lines in a shell that makes their indentation legal; a head gets an empty body."""
    try:
        return cst.parse_module(_wrap(text))
    except cst.ParserSyntaxError:
        return None


def _indent(text: str) -> str:
    return text[: len(text) - len(text.lstrip(" \t"))]


def _is_head(text: str) -> bool:
    last = text.rstrip().splitlines()[-1] if text.strip() else ""
    return bool(re.match(r"\s*(@|def |class |if |for |while |with |async |try\b)", text)) and last.split("#")[0].rstrip().endswith(":")


def _wrap(text: str) -> str:
    indent = _indent(text)
    body = f"{indent} pass\n" if _is_head(text) else ""
    return (_SHELL if indent else "") + text + ("" if text.endswith("\n") else "\n") + body


def _strip(code: str, like: str) -> str:
    """Undo `_wrap`."""
    indent = _indent(like)
    code = code.removeprefix(_SHELL if indent else "")
    code = code.removesuffix(f"{indent} pass\n") if _is_head(like) else code
    return code if like.endswith("\n") else code.removesuffix("\n")


def _node(base: cst.CSTNode, a: cst.CSTNode, b: cst.CSTNode, settle: Settle) -> cst.CSTNode:
    if a.deep_equals(b) or b.deep_equals(base):
        return a
    if a.deep_equals(base):
        return b
    if type(base) is type(a) is type(b):
        merged = _fields(base, a, b, settle)
        if merged is not None:
            return merged
    for outer, inner in ((a, b), (b, a)):
        if (grown := _grown(base, outer, inner)) is not None:
            return grown
    return a if settle(_code(base), _code(a), _code(b)) == "a" else b


def _fields(base: cst.CSTNode, a: cst.CSTNode, b: cst.CSTNode, settle: Settle) -> cst.CSTNode | None:
    """Merge field by field; None where both sides changed a plain value, such as a name, or wrapped the node."""
    if _contains(a, base) or _contains(b, base) or _clashing_calls(base, a, b):
        return None
    changes: dict[str, object] = {}
    for field in fields(base):
        old, left, right = (getattr(node, field.name) for node in (base, a, b))
        if isinstance(old, cst.CSTNode) and isinstance(left, cst.CSTNode) and isinstance(right, cst.CSTNode):
            quiet = bool(_TRIVIA.match(field.name))
            changes[field.name] = _node(old, left, right, _first if quiet else settle)
        elif isinstance(old, tuple | list) and isinstance(left, tuple | list) and isinstance(right, tuple | list):
            changes[field.name] = _sequence(old, left, right, settle)
        elif _same(left, right) or _same(right, old) or _TRIVIA.match(field.name):
            changes[field.name] = left if not _same(left, old) else right
        elif _same(left, old):
            changes[field.name] = right
        else:
            return None
    return a.with_changes(**changes)


def _clashing_calls(base: cst.CSTNode, a: cst.CSTNode, b: cst.CSTNode) -> bool:
    """Both sides call something else: the arguments of one belong to its function, not to the other's."""
    if not (isinstance(base, cst.Call) and isinstance(a, cst.Call) and isinstance(b, cst.Call)):
        return False
    return not (_same(a.func, b.func) or _same(a.func, base.func) or _same(b.func, base.func))


def _first(base: str, a: str, b: str) -> str:
    """Layout is not worth a conflict."""
    return "a"


def _same(one: object, other: object) -> bool:
    if isinstance(one, cst.CSTNode) and isinstance(other, cst.CSTNode):
        return one.deep_equals(other)
    return one == other


def _sequence(base: Sequence[cst.CSTNode], a: Sequence[cst.CSTNode], b: Sequence[cst.CSTNode], settle: Settle) -> list[cst.CSTNode]:
    merged: list[cst.CSTNode] = []
    for stage in walk(_keyed(base), _keyed(a), _keyed(b)):
        merged += stage.inserted_a
        merged += [item for item in stage.inserted_b if not any(_key(item) == _key(other) for other in stage.inserted_a)]
        if stage.base is None:
            continue
        if stage.a is not None and stage.b is not None:
            merged.append(_node(stage.base, stage.a, stage.b, settle))
        elif (kept := stage.a or stage.b) is not None and _key(kept) != _key(stage.base):
            side = "a" if stage.a is not None else "b"
            texts = [_code(item) if item is not None else "" for item in (stage.base, stage.a, stage.b)]
            merged += [kept] if settle(texts[0], texts[1], texts[2]) == side else []
    return merged


def _keyed(items: Sequence[cst.CSTNode]) -> list[Keyed[cst.CSTNode]]:
    return [Keyed(item, _key(item), _label(item)) for item in items]


def _key(item: cst.CSTNode) -> str:
    """Source of an item without the comma that follows it."""
    return _code(item.with_changes(comma=cst.MaybeSentinel.DEFAULT) if hasattr(item, "comma") else item)


def _label(item: cst.CSTNode) -> str:
    if isinstance(item, cst.Arg) and item.keyword is not None:
        return f"keyword {item.keyword.value}"
    if isinstance(item, cst.Param):
        return f"keyword {item.name.value}"
    return type(item).__name__


def _code(node: cst.CSTNode) -> str:
    return _EMPTY.code_for_node(node).strip()


def _contains(outer: cst.CSTNode, inner: cst.CSTNode) -> bool:
    """Is `inner`, an expression of more than one token, a proper part of `outer`?"""
    if not isinstance(inner, cst.BaseExpression) or isinstance(inner, cst.Name | cst.BaseNumber | cst.SimpleString):
        return False
    return any(child.deep_equals(inner) or _contains(child, inner) for child in outer.children)


def _grown(base: cst.CSTNode, outer: cst.CSTNode, inner: cst.CSTNode) -> cst.CSTNode | None:
    """Where one side wrapped the expression (`x + y` → `norm(x + y)`), the other side's version goes into the wrapping."""
    if not _contains(outer, base):
        return None
    swap = _Swap(base, inner)
    grown = outer.visit(swap)
    return grown if isinstance(grown, cst.CSTNode) and swap.done == 1 else None


class _Swap(cst.CSTTransformer):
    """Replaces every occurrence of one expression in a single pass, and counts them."""

    def __init__(self, old: cst.CSTNode, new: cst.CSTNode) -> None:
        super().__init__()
        self.old, self.new, self.done = old, new, 0

    def on_leave(
        self, original_node: cst.CSTNodeT, updated_node: cst.CSTNodeT
    ) -> cst.CSTNodeT | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNodeT]:
        if type(original_node) is type(self.old) and original_node.deep_equals(self.old):
            self.done += 1
            return self.new  # type: ignore[return-value]  # an expression for an expression
        return updated_node
