"""What a program that scores itself computes its score with, so that a change of the loss stays out of it.

The lab's own programs leave the score to the harness, which takes logits: their loss is training's alone. A script calls an evaluation of
prepare.py, which may ask the model for its loss: what is added to that loss must then be added in training only, or the score would no
longer be the cross-entropy of the model's logits.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TypeGuard

from genomes.contract import Contract, contract_of
from genomes.mutations.anatomy import Loss, Scope, own_nodes, scopes, training_loop
from genomes.mutations.draft import MisfitError
from genomes.mutations.mutation import Program
from genomes.nodes import is_call, last_name, walk

_EVALUATES = re.compile(r"eval|score|bpb", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """`evaluate_bpb(model, …)`, a function of prepare.py."""

    scope: Scope
    call: ast.Call
    model: str


def evaluation(parent: Program) -> Evaluation:
    """The one call of an evaluation that prepare.py has."""
    found = [
        Evaluation(scope, node, node.args[0].id)
        for scope in scopes(parent)
        for node in own_nodes(scope)
        if is_evaluation(node, parent) and node.args and isinstance(node.args[0], ast.Name)
    ]
    if len(found) != 1:
        raise MisfitError(f"{len(found)} evaluations")
    return found[0]


def is_evaluation(node: ast.AST, parent: Program) -> TypeGuard[ast.Call]:
    """A call of an evaluation by its name, and prepare.py's: `evaluate_bpb` as imported from there, or `prepare.evaluate_bpb`."""
    if not isinstance(node, ast.Call) or not _EVALUATES.search(last_name(function := node.func)):
        return False
    if isinstance(function, ast.Attribute):
        return isinstance(function.value, ast.Name) and function.value.id == "prepare"
    imports = (other for other in walk(parent.tree) if isinstance(other, ast.ImportFrom) and other.module == "prepare")
    return any((alias.asname or alias.name) == last_name(function) for other in imports for alias in other.names)


def training_only(parent: Program, loss: Loss) -> str:
    """The condition under which a loss is training's and no part of the score; "" where it always is.

    Raises:
        MisfitError: the score may be computed with it, and nothing tells the two apart.
    """
    if contract_of(parent.text) is Contract.LAB:
        return ""
    if _is_method(parent, loss.scope):
        if not _is_scored_in_eval_mode(parent):
            raise MisfitError("what is scored would change with it")
        return "self.training"
    inside = {id(node) for node in walk(training_loop(parent).loop)}
    uses = [loss.statement] if isinstance(loss.scope, ast.Module) else _mentions(parent, loss.scope)
    if id(loss.statement) not in inside and not (uses and all(id(node) in inside for node in uses)):
        raise MisfitError("what is scored would change with it")
    return ""


def _is_method(parent: Program, scope: Scope) -> bool:
    return any(isinstance(node, ast.ClassDef) and scope in node.body for node in walk(parent.tree))


def _is_scored_in_eval_mode(parent: Program) -> bool:
    """Was the last word before the evaluation, in its scope, `model.eval()`?"""
    found = evaluation(parent)
    said = [
        (node.lineno, node.func.attr)
        for node in own_nodes(found.scope)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("train", "eval")
        if ast.unparse(node.func.value) == found.model and node.lineno < found.call.lineno
    ]
    return bool(said) and max(said)[1] == "eval"


def _mentions(parent: Program, function: Scope) -> list[ast.AST]:
    """Where the program names a function."""
    name = function.name if isinstance(function, ast.FunctionDef) else ""
    return [node for node in walk(parent.tree) if isinstance(node, ast.Name | ast.Attribute) and last_name(node) == name]


def is_evaluated_in(parent: Program, loop: ast.For | ast.While) -> bool:
    """Whether a loop scores the model or saves it."""
    return any(is_call(node, "save") or is_evaluation(node, parent) for node in walk(loop))
