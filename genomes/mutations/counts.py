"""Numbers of weights that a program adds up: for an assertion that its optimiser's groups hold all of them, or for its log.

A group more is counted too, what is removed is counted no more: the assertion stays, and stays true.
"""

from __future__ import annotations

import ast

from genomes.mutations.draft import Draft, MisfitError
from genomes.nodes import is_call, is_operation, walk


def count_also(draft: Draft, function: ast.FunctionDef, model: str, params: str) -> None:
    """Adds `len(params)` to the sum that a function asserts to be the number of the model's parameters.

    Raises:
        MisfitError: the assertion is written in a way that this does not know.
    """
    for statement in (node for node in walk(function) if isinstance(node, ast.Assert)):
        if any(_is_all(node, model) for node in walk(statement)):
            draft.wrap(_total(statement.test, model), "", f" + len({params})")


def _is_all(node: ast.AST, model: str) -> bool:
    """`model.parameters()`."""
    return is_call(node, "parameters") and ast.unparse(node.func) == f"{model}.parameters"


def _total(test: ast.expr, model: str) -> ast.expr:
    """What `len(list(model.parameters()))` is compared with, a sum of lengths."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        sides = test.left, test.comparators[0]
        for one, other in (sides, sides[::-1]):
            if is_call(one, "len") and any(_is_all(node, model) for node in walk(one)) and _is_sum_of_lengths(other):
                return other
    raise MisfitError("parameters are counted in another way")


def _is_sum_of_lengths(node: ast.expr) -> bool:
    if is_operation(node, ast.Add):
        return _is_sum_of_lengths(node.left) and _is_sum_of_lengths(node.right)
    return is_call(node, "len")


def count_around(tree: ast.AST, mention: ast.AST) -> ast.expr | None:
    """`w.numel()`, `sum(p.numel() for p in layer.parameters())`, or an added `len(params)`, around a mention of weights."""
    for node in walk(tree):
        if is_call(node, "numel", "sum") and "numel" in ast.unparse(node) and _is_about(node, mention):
            return node
        if is_operation(node, ast.Add):
            for part in (node.left, node.right):
                if is_call(part, "len") and _is_about(part, mention):
                    return part
    return None


def _is_about(count: ast.AST, mention: ast.AST) -> bool:
    """Whether it counts what is mentioned and no more."""
    inside = list(walk(count))
    return mention in inside and not any(is_operation(node, ast.Add, ast.Sub, ast.Mult) for node in inside)


def uncount(draft: Draft, count: ast.expr) -> None:
    """Takes a number out of the sum that it is a part of; alone it is 0."""
    for node in walk(draft.parent.tree):
        if is_operation(node, ast.Add) and count in (node.left, node.right):
            draft.keep(node, node.left if node.right is count else node.right)
            return
    draft.replace(count, "0")
