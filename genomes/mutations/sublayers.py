"""The sublayers of a network's blocks: MLPs, and the sums that sublayers are added by."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from genomes.mutations.draft import MisfitError
from genomes.mutations.mutation import Program
from genomes.mutations.network import Module, linears, modules, stack, unconditional
from genomes.mutations.patterns import ACTIVATIONS, calls_self, squares
from genomes.nodes import is_call, is_operation, last_name, names_in, walk

_LAYER = re.compile(r"layer(_?(idx|index|id|number))?|i|idx|index|depth_index")


@dataclass(frozen=True, eq=False)
class Feed:
    """An MLP: the activation, what it is taken of, and the two linear layers around it."""

    module: Module
    activation: ast.expr  # the activation, with its square if it has one
    inner: ast.expr  # its argument
    statement: ast.stmt
    up: ast.Call
    down: ast.Call


def feed(parent: Program) -> Feed:
    """The first module with an activation of a linear layer, itself or through a name, and a linear layer of the same hidden width."""
    for module in modules(parent):
        layers = linears(module)
        for call in (node for node in walk(module.forward) if is_call(node, *ACTIVATIONS)):
            if not call.args:
                continue
            up = next((layers[name] for name in calls_behind(module, call.args[0]) if name in layers), None)
            down = next((layer for layer in layers.values() if up and layer is not up and _width(layer, 0) == _width(up, 1)), None)
            if up is not None and down is not None:
                whole = next((outer for outer in walk(module.forward) if squares(outer, call)), call)
                return Feed(module, _expression(whole), call.args[0], statement_of(module.forward, call), up, down)
    raise MisfitError("no MLP")


def _expression(node: ast.AST) -> ast.expr:
    assert isinstance(node, ast.expr)
    return node


def calls_behind(module: Module, node: ast.expr) -> list[str]:
    """Submodules that an expression calls, itself or through the names in it."""
    names = names_in(node)
    assigned = [s.value for s in walk(module.forward) if isinstance(s, ast.Assign) and names_in(s.targets[0]) & names]
    return [last_name(call.func) for part in (node, *assigned) for call in walk(part) if calls_self(call)]


def _width(layer: ast.Call, position: int) -> str:
    return ast.unparse(layer.args[position])


def statement_of(function: ast.FunctionDef, node: ast.AST) -> ast.stmt:
    """The innermost statement around a node."""
    around = [s for s in walk(function) if isinstance(s, ast.stmt) and s is not function and node in walk(s)]
    return max(around, key=lambda s: (s.lineno, s.col_offset, -(s.end_lineno or 0)))


def layer_number(module: Module) -> str:
    """The constructor's parameter that says which block this is."""
    for argument in module.init.args.args:
        if _LAYER.fullmatch(argument.arg):
            return argument.arg
    raise MisfitError("the module does not know its layer")


def branches(parent: Program) -> list[tuple[Module, ast.BinOp, ast.Call]]:
    """Sums `x + self.attention(…)` of blocks."""
    top = stack(parent).module.node
    result = []
    for module in modules(parent):
        for node in unconditional(module.forward):
            if module.node is top or not is_operation(node, ast.Add):
                continue
            if calls_self(call := node.right):
                result.append((module, node, call))
    return result
