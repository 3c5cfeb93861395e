"""Sums and products as lists of terms: `a + b + c` is nested to the left, but people add, drop and change terms."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from genomes.merging.nodes import fitted

_COMMUTING = (cst.Add, cst.Multiply)


def terms(node: cst.CSTNode) -> list[cst.BaseExpression]:
    """The terms of a sum, or the factors of a product; the node alone where it is neither."""
    if not isinstance(node, cst.BinaryOperation) or not isinstance(node.operator, _COMMUTING):
        return [node] if isinstance(node, cst.BaseExpression) else []
    left = terms(node.left) if not node.left.lpar and _operator(node.left) is _operator(node) else [node.left]
    return [*left, node.right]


def are_chains(base: cst.CSTNode, a: cst.CSTNode, b: cst.CSTNode) -> bool:
    """Are three versions sums, or three products, and does one have more or fewer terms?"""
    kinds = {_operator(node) for node in (base, a, b)}
    return len(kinds) == 1 and kinds <= {*_COMMUTING} and len({len(terms(node)) for node in (base, a, b)}) > 1


def chain(found: Sequence[cst.CSTNode], like: cst.BinaryOperation) -> cst.CSTNode:
    """The terms as a sum or product again, in the parentheses and with the operator of `like`. At least one term."""
    united = found[0]
    for term in found[1:]:
        united = fitted(like.with_changes(left=united, right=term, lpar=(), rpar=()))
    return united.with_changes(lpar=like.lpar, rpar=like.rpar) if len(found) > 1 else united


def _operator(node: cst.CSTNode) -> type[cst.CSTNode] | None:
    return type(node.operator) if isinstance(node, cst.BinaryOperation) else None
