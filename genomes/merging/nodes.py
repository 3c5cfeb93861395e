"""What the merge asks of libcst nodes: their text, whether they are the same, what they go by, and whether they stand well together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import libcst as cst

LAYOUT = frozenset(  # fields
    ("lpar", "rpar", "whitespace_before_args", "whitespace_after_func")
)
_EMPTY = cst.Module([])
_OPERATORS = (
    cst.BinaryOperation,
    cst.UnaryOperation,
    cst.BooleanOperation,
    cst.Comparison,
    cst.IfExp,
    cst.Lambda,
    cst.Await,
    cst.Yield,
    cst.NamedExpr,
    cst.Tuple,
    cst.GeneratorExp,
)
_TIGHT = (*_OPERATORS, cst.Attribute, cst.Call, cst.Subscript, cst.StarredElement)  # nodes whose children may need parentheses
_SPINE = {
    cst.Call: ("func",),
    cst.Attribute: ("value", "attr"),
    cst.Subscript: ("value",),
    cst.Decorator: ("decorator",),
    cst.BinaryOperation: ("operator",),
    cst.UnaryOperation: ("operator",),
    cst.BooleanOperation: ("operator",),
    cst.ComparisonTarget: ("operator",),
    cst.AugAssign: ("operator",),
}
_NUMBERS = (cst.BaseNumber, cst.SimpleString, cst.ConcatenatedString, cst.UnaryOperation)
_ORDERED = (cst.SimpleString, cst.ConcatenatedString, cst.FormattedString, cst.List, cst.Tuple)  # a sum of them is a sequence
_SETS_OF_NAMES = (cst.ImportFrom, cst.Import, cst.Global, cst.Nonlocal)


class UnfitError(Exception):
    """Internal: what both sides changed is not a part that could be chosen alone."""


def code(node: cst.CSTNode) -> str:
    if isinstance(node, cst.Annotation):  # whether `:` or `->` introduces it, only its owner knows
        node = node.annotation
    return _EMPTY.code_for_node(node)


def bare(node: cst.CSTNode) -> str:
    """Source of an item without the comma that follows it."""
    if isinstance(node, cst.ParamStar):
        return "*"
    return code(node.with_changes(comma=cst.MaybeSentinel.DEFAULT) if hasattr(node, "comma") else node).strip()


def key(node: cst.CSTNode) -> str:
    """Equal for nodes that differ in layout alone. White space inside strings counts, and so do comments."""
    text = bare(node)
    return text if any(mark in text for mark in "'\"#") else "".join(text.split())


def same(one: object, other: object) -> bool:
    if isinstance(one, cst.CSTNode) and isinstance(other, cst.CSTNode):
        return one is other or one.deep_equals(other)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(same(x, y) for x, y in zip(one, other, strict=True))
    return one is other or one == other


def alike(one: cst.CSTNode, other: cst.CSTNode) -> bool:
    """Whether they are the same expression, in parentheses or not."""
    if type(one) is not type(other):
        return False
    parts = [field.name for field in fields(one) if field.name not in ("lpar", "rpar")]
    return all(same(getattr(one, name), getattr(other, name)) for name in parts)


def label(item: cst.CSTNode) -> str:
    """What an item is recognised by once it has changed."""
    if isinstance(item, cst.Arg) and item.keyword is not None:
        return f"keyword {item.keyword.value}"
    if isinstance(item, cst.Param):
        return f"keyword {item.name.value}"
    if isinstance(item, cst.DictElement):
        return f"keyword {bare(item.key)}"
    return type(item).__name__


def spine(node: cst.CSTNode) -> tuple[str, ...]:
    """The fields that say what a node is about: two versions of them are never mixed."""
    return _SPINE.get(type(node), ())


def calls_another(base: cst.Call, changed: cst.Call) -> bool:
    return _callee(base.func) != _callee(changed.func)


def _callee(func: cst.BaseExpression) -> str:
    """`F.relu`; `.square` of a method of something that is no plain name."""
    if isinstance(func, cst.Attribute):
        owner = _callee(func.value)
        return f"{owner if isinstance(func.value, cst.Name | cst.Attribute) else ''}.{func.attr.value}"
    return func.value if isinstance(func, cst.Name) else ""


def may_come_together(left: Sequence[cst.CSTNode], right: Sequence[cst.CSTNode], parent: cst.CSTNode) -> bool:
    """May both sides' new items stand at one place, in either order? Keywords, keys, imported names and terms may; in a list, what is no
    number."""
    items = [*left, *right]
    labels = [label(item) for item in items]
    if all(text.startswith("keyword ") for text in labels):
        return len(set(labels)) == len(labels) and not isinstance(parent, cst.Parameters)
    if isinstance(parent, cst.List | cst.Set):
        return not any(isinstance(item, cst.Element) and isinstance(item.value, _NUMBERS) for item in items)
    if isinstance(parent, cst.BinaryOperation):
        return not any(isinstance(item, _ORDERED) for item in items)
    return isinstance(parent, _SETS_OF_NAMES)


def fitted(node: cst.CSTNode) -> cst.CSTNode:
    """The node with parentheses around those children that its source would be read without."""
    if not isinstance(node, _TIGHT):
        return node
    loose = {name: child for name, child in _operands(node) if isinstance(child, _OPERATORS) and not child.lpar}
    if not loose or _reads_as_meant(node, loose):
        return node
    return node.with_changes(**{name: parenthesised(child) for name, child in loose.items()})


def parenthesised(node: cst.CSTNode) -> cst.CSTNode:
    """An expression that cannot be torn apart by what stands around it."""
    if not isinstance(node, _OPERATORS) or node.lpar:
        return node
    return node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])


def _operands(node: cst.CSTNode) -> list[tuple[str, cst.CSTNode]]:
    names = ("left", "right", "value", "func", "expression", "test", "body", "orelse")
    return [(name, child) for name in names if isinstance(child := getattr(node, name, None), cst.CSTNode)]


def _reads_as_meant(node: cst.CSTNode, loose: Mapping[str, cst.CSTNode]) -> bool:
    try:
        again = cst.parse_expression(f"({code(node)})")
    except cst.ParserSyntaxError:
        return False
    if type(again) is not type(node):
        return False
    return all(isinstance(child := getattr(again, name), type(meant)) and key(child) == key(meant) for name, meant in loose.items())
