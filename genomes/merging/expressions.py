"""Three-way merge inside one statement, on its libcst tree: different arguments of one call, or operands of one expression, unite.

libcst keeps every token, so what neither side touched comes out as it was. A conflict is as small as makes sense by itself: a literal, an
argument; but what is called, and on what object, is one thing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields

import libcst as cst

from genomes.align import Keyed, Stage, stretches, versions, walk
from genomes.merging.chains import are_chains, chain, terms
from genomes.merging.nodes import LAYOUT, UnfitError, bare, calls_another, code, fitted, key, label, may_come_together, same, spine
from genomes.merging.wrapping import grown, wraps

Choose = Callable[[str, str, str], str]  # of the sources (base, a, b), "a" or "b"
_COMMENT = re.compile(r"#[^\n]*")
_LITERAL = re.compile(r"""((?<![\w.])\.?\d[\w.]*(?:(?<=[eE])[+-]\d+)?|\bTrue\b|\bFalse\b|"[^"\n]*"|'[^'\n]*')""")
_SHELL = "if 1:\n"
_HEAD = re.compile(r"\s*(@|def |class |if |for |while |with |async |try\b)")


def merge_lines(base: str, a: str, b: str, choose: Choose) -> str | None:
    """Merge three versions of a statement's lines, or of a compound statement's head; None where they do not parse alone, or would not
    parse united."""
    values = _literals(base, a, b)
    if values is not None:
        return values
    trees = [_parse(text) for text in (base, a, b)]
    if trees[0] is None or trees[1] is None or trees[2] is None:
        return None
    try:
        merged = _Expressions(choose).node(trees[0], trees[1], trees[2])
    except cst.CSTValidationError:  # parts that libcst knows not to go together
        return None
    if not isinstance(merged, cst.Module) or _read(merged.code) is None:
        return None
    united = _strip(merged.code, a)
    return united if _keeps_comments(united, base, a, b) else None


def _literals(base: str, a: str, b: str) -> str | None:
    """The text with the literals that either side changed; None where more was changed, or both changed one. To the character, and fast."""
    pieces = [_LITERAL.split(text) for text in (base, a, b)]
    if len({len(parts) for parts in pieces}) > 1 or any(parts[::2] != pieces[0][::2] for parts in pieces):
        return None
    if any(len({old, left, right}) > 2 for old, left, right in zip(*pieces, strict=True)):
        return None
    return "".join(left if left != old else right for old, left, right in zip(*pieces, strict=True))


def _parse(text: str) -> cst.Module | None:
    """The lines in a shell that makes their indentation legal; a head gets an empty body."""
    return _read(_wrap(text))


def _read(text: str) -> cst.Module | None:
    try:
        return cst.parse_module(text)
    except cst.ParserSyntaxError:
        return None


def _indent(text: str) -> str:
    return text[: len(text) - len(text.lstrip(" \t"))]


def _is_head(text: str) -> bool:
    last = text.rstrip().splitlines()[-1] if text.strip() else ""
    return bool(_HEAD.match(text)) and last.split("#")[0].rstrip().endswith(":")


def _wrap(text: str) -> str:
    indent = _indent(text)
    body = f"{indent} pass\n" if _is_head(text) else ""
    return (_SHELL if indent else "") + text + ("" if text.endswith("\n") else "\n") + body


def _strip(text: str, like: str) -> str:
    """Undo `_wrap`."""
    indent = _indent(like)
    text = text.removeprefix(_SHELL if indent else "")
    text = text.removesuffix(f"{indent} pass\n") if _is_head(like) else text
    return text if like.endswith("\n") else text.removesuffix("\n")


class _Expressions:
    def __init__(self, choose: Choose) -> None:
        self.choose = choose

    def node(self, base: cst.CSTNode, a: cst.CSTNode, b: cst.CSTNode, firm: bool = False) -> cst.CSTNode:
        """One node from three versions. `firm`: a clash here is one of the whole expression around it, and raises UnfitError."""
        if same(a, b) or same(b, base):
            return a
        if same(a, base):
            return b
        if isinstance(base, cst.BinaryOperation) and are_chains(base, a, b):
            found = self.sequence((terms(base), terms(a), terms(b)), base)
            return chain(found, base) if found else self.whole(base, a, b, firm)
        if type(base) is type(a) is type(b) and not wraps(a, base) and not wraps(b, base):
            merged = self.fields(base, a, b)
            if merged is not None:
                return merged
        return self.whole(base, a, b, firm)

    def whole(self, base: cst.CSTNode, a: cst.CSTNode, b: cst.CSTNode, firm: bool) -> cst.CSTNode:
        """Merges a node that cannot be united from its parts."""
        old, left, right = key(base), key(a), key(b)
        if left == right or old in (left, right):  # but for layout
            return b if left == old and right != old else a
        for outer, inner in ((a, b), (b, a)):
            if (united := grown(base, outer, inner)) is not None:
                return united
        if firm:
            raise UnfitError
        return a if self.choose(bare(base), bare(a), bare(b)) == "a" else b

    def fields(self, base: cst.CSTNode, a: cst.CSTNode, b: cst.CSTNode) -> cst.CSTNode | None:
        """Merge field by field; None where both sides changed a plain value, such as a name, or what is called."""
        if _plain_clash(base, a, b) or _clashing_calls(base, a, b):
            return None
        changes: dict[str, object] = {}
        layout = a if _layout(a) != _layout(base) else b  # brackets come in pairs: all of them from one side
        try:
            for name in _names(base):
                changes[name] = getattr(layout, name) if name in LAYOUT else self.field(name, base, a, b)
        except UnfitError:
            return None
        return fitted(a.with_changes(**changes))

    def field(self, name: str, base: cst.CSTNode, a: cst.CSTNode, b: cst.CSTNode) -> object:
        old, left, right = (getattr(node, name) for node in (base, a, b))
        if same(left, right) or same(right, old):
            return left
        if same(left, old):
            return right
        if isinstance(old, cst.CSTNode) and isinstance(left, cst.CSTNode) and isinstance(right, cst.CSTNode):
            if "#" not in code(left) + code(right) and not code(left).strip() and not code(right).strip():
                return left  # white space is worth no conflict
            return self.node(old, left, right, firm=name in spine(base))
        if isinstance(old, tuple | list) and isinstance(left, tuple | list) and isinstance(right, tuple | list):
            return self.sequence((old, left, right), base)
        return left  # layout alone: `_plain_clash` has found everything else

    def sequence(self, lists: tuple[Sequence[cst.CSTNode], ...], parent: cst.CSTNode) -> list[cst.CSTNode]:
        """Merges the items of a list of arguments, elements, targets …"""
        merged = list[cst.CSTNode]()
        for stretch, kept in stretches(walk(*map(_keyed, lists))):
            merged += self.stretch(stretch, parent)
            merged += [self.node(*kept)] if kept is not None else []
        return _ended(merged, lists)

    def stretch(self, stages: Sequence[Stage[cst.CSTNode]], parent: cst.CSTNode) -> list[cst.CSTNode]:
        """Merges what stands between two items that both sides have."""
        base, a, b = versions(stages)
        new_a, new_b = [item for stage in stages for item in stage.inserted_a], [item for stage in stages for item in stage.inserted_b]
        known_a, known_b = set(map(key, new_a)), set(map(key, new_b))
        left, right = [item for item in new_a if key(item) not in known_b], [item for item in new_b if key(item) not in known_a]
        torn = any(kept is not None and key(kept) != key(s.base) for s in stages for kept in (s.a, s.b) if s.base is not None)
        if torn or (left and right and not may_come_together(left, right, parent)):
            return a if self.choose(*(_listed(items, parent) for items in (base, a, b))) == "a" else b
        merged = list[cst.CSTNode]()
        for stage in stages:
            merged += [*stage.inserted_a, *(item for item in stage.inserted_b if item in right)]
        return merged


def _names(node: cst.CSTNode) -> list[str]:
    return [field.name for field in fields(node)]


def _layout(node: cst.CSTNode) -> list[str]:
    return [code(part) for name in _names(node) if name in LAYOUT for part in _parts(getattr(node, name))]


def _parts(value: object) -> list[cst.CSTNode]:
    return [part for part in (value if isinstance(value, tuple | list) else [value]) if isinstance(part, cst.CSTNode)]


def _plain_clash(base: cst.CSTNode, a: cst.CSTNode, b: cst.CSTNode) -> bool:
    """Did both sides change one field that has no parts, to different things?"""
    for name in _names(base):
        values = [getattr(node, name) for node in (base, a, b)]
        if name in LAYOUT or all(isinstance(value, cst.CSTNode) for value in values) or any(isinstance(v, tuple | list) for v in values):
            continue
        old, left, right = values
        if not (same(left, right) or same(left, old) or same(right, old)) and not name.startswith("whitespace") and name != "comma":
            return True
    return False


def _clashing_calls(base: cst.CSTNode, a: cst.CSTNode, b: cst.CSTNode) -> bool:
    """Whether one side calls something else and the other has more, fewer or other arguments, which belong to what was called before."""
    if not (isinstance(base, cst.Call) and isinstance(a, cst.Call) and isinstance(b, cst.Call)):
        return False
    return any(calls_another(base, one) and _arguments(other) != _arguments(base) for one, other in ((a, b), (b, a)))


def _arguments(call: cst.Call) -> list[str]:
    return [argument.star + (argument.keyword.value if argument.keyword else "") for argument in call.args]


def _keyed(items: Sequence[cst.CSTNode]) -> list[Keyed[cst.CSTNode]]:
    return [Keyed(item, key(item), label(item)) for item in items]


def _listed(items: Sequence[cst.CSTNode], parent: cst.CSTNode) -> str:
    between = code(parent.operator) if isinstance(parent, cst.BinaryOperation) else ", "
    return between.join(bare(item) for item in items)


def _ended(merged: list[cst.CSTNode], lists: tuple[Sequence[cst.CSTNode], ...]) -> list[cst.CSTNode]:
    """Ends an item that is no longer the last as those before the last were ended, and the other way round."""
    listed = [list(items) for items in lists if items]
    lasts = {id(items[-1]) for items in listed}
    between = [comma for items in listed for item in items[:-1] if (comma := _comma(item)) and "#" not in code(comma)]
    after = [_comma(items[-1]) for items in listed[1:]]
    ended = [_with_comma(item, between[0] if between else None) if id(item) in lasts else item for item in merged[:-1]]
    return [*ended, *(last if id(last) in lasts or not after else _with_comma(last, after[0]) for last in merged[-1:])]


def _comma(item: cst.CSTNode) -> cst.Comma | None:
    comma = getattr(item, "comma", None)
    return comma if isinstance(comma, cst.Comma) else None


def _with_comma(item: cst.CSTNode, comma: cst.Comma | None) -> cst.CSTNode:
    """The item with another comma after it, unless there is a comment at its own."""
    own = _comma(item)
    if not hasattr(item, "comma") or (own is not None and "#" in code(own)):
        return item
    return item.with_changes(comma=cst.MaybeSentinel.DEFAULT if comma is None else comma)


def _keeps_comments(united: str, base: str, a: str, b: str) -> bool:
    """Whether the united text has every comment that both sides have or that is new in one, and none too often. Each side may have put the
    same words somewhere else."""
    found, old, left, right = (Counter(_COMMENT.findall(text)) for text in (united, base, a, b))
    needed = (left & right) | (left - old) | (right - old)
    return needed <= found <= (left | right) + ((left - old) & (right - old))
