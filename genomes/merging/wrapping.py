"""Where one side wrapped an expression (`x` → `norm(x)`), what the other side made of it goes into the wrapping."""

from __future__ import annotations

import libcst as cst

from genomes.merging.nodes import alike, fitted, parenthesised

_BINDERS = (cst.Lambda, cst.CompFor, cst.NamedExpr)  # inside them a name may mean something else
_ATOMS = (cst.BaseNumber, cst.SimpleString)  # the same literal a second time is another one
_OPEN = (cst.Tuple, cst.GeneratorExp, cst.NamedExpr, cst.Yield, cst.Lambda, cst.IfExp)  # would spill over into a list of arguments


def wraps(outer: cst.CSTNode, inner: cst.CSTNode) -> bool:
    """Is `inner`, an expression of more than one token, a proper part of `outer`?"""
    if not isinstance(inner, cst.BaseExpression) or isinstance(inner, cst.Name | cst.BaseNumber | cst.SimpleString):
        return False
    return _holds(outer, inner)


def _holds(outer: cst.CSTNode, inner: cst.CSTNode) -> bool:
    return any(alike(child, inner) or _holds(child, inner) for child in outer.children)


def grown(base: cst.CSTNode, outer: cst.CSTNode, inner: cst.CSTNode) -> cst.CSTNode | None:
    """`outer` with `inner` in the place of `base`; None where that is not what happened, or both sides wrapped it."""
    if not all(isinstance(node, cst.BaseExpression) for node in (base, outer, inner)) or _swapped(base, inner, inner)[1]:
        return None
    united, count = _swapped(base, inner, outer)
    return united if count == 1 or (count > 1 and not isinstance(base, _ATOMS)) else None


def _swapped(old: cst.CSTNode, new: cst.CSTNode, within: cst.CSTNode) -> tuple[cst.CSTNode, int]:
    """The node with every occurrence replaced, and how many there were; none where a name may mean something else."""
    swap = _Swap(old, new)
    united = within.visit(swap)
    assert isinstance(united, cst.CSTNode)
    return united, 0 if swap.binds and isinstance(old, cst.Name) else swap.done


class _Swap(cst.CSTTransformer):
    """Replaces every occurrence of one expression in a single pass, and counts them. Attributes and keywords are no expressions."""

    def __init__(self, old: cst.CSTNode, new: cst.CSTNode) -> None:
        super().__init__()
        self.old, self.new, self.done = old, new, 0
        self.binds = False
        self.words: set[int] = set()

    def on_visit(self, node: cst.CSTNode) -> bool:
        self.binds = self.binds or isinstance(node, _BINDERS)
        word = node.attr if isinstance(node, cst.Attribute) else node.keyword if isinstance(node, cst.Arg) else None
        self.words.add(id(word))
        return True

    def on_leave(
        self, original_node: cst.CSTNodeT, updated_node: cst.CSTNodeT
    ) -> cst.CSTNodeT | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNodeT]:
        if id(original_node) not in self.words and alike(original_node, self.old):
            self.done += 1
            return self._new(original_node)  # type: ignore[return-value]
        return updated_node if updated_node is original_node else fitted(updated_node)  # type: ignore[return-value]

    def _new(self, place: cst.CSTNode) -> cst.CSTNode:
        parentheses = [bool(getattr(node, "lpar", None)) for node in (place, self.old)]
        return parenthesised(self.new) if isinstance(self.new, _OPEN) or parentheses == [True, False] else self.new
