"""What a program that scores itself says about its score, read off its text: two programs that say the same are scored by one measure.

A script is its own judge, and mutations change it by construct: one of them might make the number better and the model not. What counts is
how a function that may be scored computes a loss when it is not trained, all but the logits that go in, since any of them are scored
fairly; what is done with the value of an evaluation; and how the budget of time is kept (clock.py). The harness times and scores the lab's
own programs, which have nothing of this to say.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeGuard

from genomes.contract import Contract, contract_of
from genomes.literals import read_value
from genomes.mutations.anatomy import Loss, losses
from genomes.mutations.clock import clock
from genomes.mutations.draft import MisfitError
from genomes.mutations.mutation import Program, program
from genomes.mutations.scored import is_evaluation, training_only
from genomes.nodes import is_call, names_in, stored_in, walk

_CACHED = 16


@lru_cache(maxsize=_CACHED)
def measure(text: str) -> tuple[str, ...]:
    """The statements that make the score and keep the time; nothing for a program that the harness scores."""
    if contract_of(text) is Contract.LAB:
        return ()
    parent = program(text)
    computing = {loss.scope for loss in losses(parent) if isinstance(loss.scope, ast.FunctionDef) and not _is_trainings_alone(parent, loss)}
    lines: list[str] = []
    for function in sorted(computing, key=lambda node: node.lineno):
        lines += _following(_when_evaluated(function), lambda node: is_call(node, "cross_entropy"))
    return (*lines, *_following(parent.tree, lambda node: is_evaluation(node, parent)), *clock(parent))


def _is_trainings_alone(parent: Program, loss: Loss) -> bool:
    try:
        return not training_only(parent, loss)
    except MisfitError:
        return False


def _following(tree: ast.AST, is_source: Callable[[ast.AST], bool]) -> Iterator[str]:
    """The statements that hold a source or what came of one, the conditions around them, and those that set what a source is given."""
    found = sorted((node for node in walk(tree) if _is_plain(node)), key=lambda node: (node.lineno, node.col_offset))
    sources = {id(node): node for node in walk(tree) if is_source(node)}
    given = {name for node in sources.values() for name in names_in(node)} if isinstance(tree, ast.FunctionDef) else set[str]()
    came: set[str] = set()
    for statement in found if sources else ():
        holds = any(id(node) in sources for node in walk(statement))
        if isinstance(statement, ast.If):
            yield from [f"if {ast.unparse(statement.test)}"] if holds else []
        elif holds or names_in(statement) & came:
            yield ast.unparse(statement)
            came |= stored_in(statement)
        elif stored_in(statement) & given:
            yield ast.unparse(statement)


def _is_plain(node: ast.AST) -> TypeGuard[ast.stmt]:
    """A condition, or a statement with no others inside."""
    return isinstance(node, ast.If) or (isinstance(node, ast.stmt) and not hasattr(node, "body"))


def _when_evaluated(function: ast.FunctionDef) -> ast.FunctionDef:
    """A copy of a function as it is while its module is not trained; what logits go into a loss is left open."""
    copy = ast.parse(ast.unparse(_Evaluated().visit(ast.parse(ast.unparse(function))))).body[0]
    assert isinstance(copy, ast.FunctionDef)
    return copy


class _Evaluated(ast.NodeTransformer):
    """`self.training` is False."""

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return node.orelse if _asks_for_training(node.test) else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return (node.orelse or [ast.Pass()]) if _asks_for_training(node.test) else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return node.left if isinstance(node.op, ast.Add) and read_value(node.right) == 0.0 else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if is_call(node, "cross_entropy") and node.args:
            node.args[0] = ast.Constant(...)  # which no name is
            node.keywords = [word for word in node.keywords if word.arg != "label_smoothing" or read_value(word.value) != 0.0]
        return node


def _asks_for_training(node: ast.expr) -> bool:
    return ast.unparse(node) == "self.training"
