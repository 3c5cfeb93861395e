"""The network that a program defines, by the roles of its parts: modules, the stack of blocks, attention, MLP.

Roles are recognised by construct, never by the name of a class: the stack is the module that loops over its blocks, attention is where
queries, keys and values meet in one call, an MLP has an activation between two linear layers. What is not recognised is a MisfitError.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from genomes.mutations.draft import Draft, MisfitError
from genomes.mutations.mutation import Program
from genomes.mutations.patterns import calls_self
from genomes.mutations.weights import give_again, gives_value, made_empty
from genomes.nodes import children, is_call, last_name, names_in, stored_in, targets_of, walk
from genomes.source import parse_expression


@dataclass(frozen=True, eq=False)
class Module:
    """A class with a constructor and a forward pass."""

    node: ast.ClassDef
    init: ast.FunctionDef
    forward: ast.FunctionDef

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def x(self) -> str:
        """What the forward pass is given first."""
        return self.forward.args.args[1].arg


@dataclass(frozen=True, eq=False)
class Stack:
    """The module that runs all blocks in turn: `for i, block in enumerate(self.blocks): … x = block(x, …)`."""

    module: Module
    loop: ast.For
    step: ast.Assign  # x = block(x, …)
    call: ast.Call
    x: str
    index: str  # "" where the loop does not count
    blocks: str  # "self.blocks"


def modules(parent: Program) -> list[Module]:
    """All classes that derive from a Module and have both methods."""
    result = []
    for node in parent.tree.body:
        if isinstance(node, ast.ClassDef) and any(last_name(base) == "Module" for base in node.bases):
            methods = {inner.name: inner for inner in node.body if isinstance(inner, ast.FunctionDef)}
            if "__init__" in methods and "forward" in methods and len(methods["forward"].args.args) > 1:
                result.append(Module(node, methods["__init__"], methods["forward"]))
    return result


def stack(parent: Program) -> Stack:
    """The stack of blocks."""
    for module in modules(parent):
        for loop in (node for node in walk(module.forward) if isinstance(node, ast.For)):
            blocks, index, block = _looped(loop)
            for step in loop.body:
                if not isinstance(step, ast.Assign) or not isinstance(call := step.value, ast.Call) or not call.args or not block:
                    continue
                target = step.targets[0]
                if isinstance(target, ast.Name) and last_name(call.func) == block and names_in(call.args[0]) == {target.id}:
                    return Stack(module, loop, step, call, target.id, index, ast.unparse(blocks))
    raise MisfitError("no loop over blocks")


def _looped(loop: ast.For) -> tuple[ast.expr, str, str]:
    """What is looped over, the name that counts, and the name of an item; no name where the loop is of another kind."""
    over, target = loop.iter, loop.target
    counts = is_call(over, "enumerate") and len(over.args) == 1
    if isinstance(over, ast.Call) and counts and isinstance(target, ast.Tuple) and all(isinstance(name, ast.Name) for name in target.elts):
        over, index, item = over.args[0], last_name(target.elts[0]), last_name(target.elts[1])
    else:
        index, item = "", target.id if isinstance(target, ast.Name) else ""
    return over, index, item if root(over) == "self" else ""


def linears(module: Module) -> dict[str, ast.Call]:
    """Attribute -> `nn.Linear(in, out, …)` of the constructor; layers that may be None are left out."""
    result = {}
    for statement in module.init.body:
        target, value = _assigned(statement)
        if isinstance(target, ast.Attribute) and is_call(value, "Linear") and len(value.args) == 2:
            result[target.attr] = value
    return result


def embedding(parent: Program) -> tuple[str, str]:
    """Number of tokens and width, as the stack's constructor writes them for its first embedding."""
    for node in walk(stack(parent).module.init):
        if is_call(node, "Embedding") and len(node.args) == 2:
            return parent.source.code(node.args[0]), parent.source.code(node.args[1])
    raise MisfitError("no embedding")


def width_in(parent: Program, module: Module) -> str:
    """The width of the residual stream, written so that the module's constructor understands it."""
    width = embedding(parent)[1]
    needed = names_in(parse_expression(width))
    if needed <= known_in(parent, module.init):
        return width
    raise MisfitError(f"{width} is unknown in {module.name}")


def known_in(parent: Program, function: ast.FunctionDef) -> set[str]:
    """Names that a function's last line knows: its parameters, what it assigns, what the module defines."""
    own = {argument.arg for argument in function.args.args} | stored_in(function)
    return own | module_names(parent)


def module_names(parent: Program) -> set[str]:
    """Names that an assignment at module level gives a value."""
    return set[str]().union(*(stored_in(s) for s in parent.tree.body if isinstance(s, ast.Assign | ast.AnnAssign)))


def depth(parent: Program) -> str:
    """`range(DEPTH)` of the comprehension that makes the blocks."""
    found = stack(parent)
    for node in walk(found.module.init):
        if is_call(node, "range") and len(node.args) == 1:
            return parent.source.code(node.args[0])
    raise MisfitError("no number of blocks")


def attributes(init: ast.FunctionDef, name: re.Pattern[str]) -> set[str]:
    """Attributes that hold a module of a class of that name."""
    made: set[str] = set()
    for statement in init.body:
        target, value = _assigned(statement)
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = [*zip(target.elts, value.elts, strict=True)]
        made |= {t.attr for t, v in pairs if isinstance(t, ast.Attribute) and isinstance(v, ast.Call) and name.fullmatch(last_name(v.func))}
    return made


def remember(draft: Draft, module: Module, name: str, *lines: str) -> None:
    """Lines in a module's constructor that make `self.name`, below its other attributes. Where it has one of that name, a MisfitError."""
    if any(isinstance(node, ast.Attribute) and node.attr == name for node in walk(module.node)):
        raise MisfitError(f"{module.name} has {name}")
    last = next((statement for statement in reversed(module.init.body) if _sets_attribute(statement)), None)
    if last is None:
        raise MisfitError("no attributes")
    construct(draft, module, last, *lines)


def construct(draft: Draft, module: Module, after: ast.stmt, *lines: str) -> None:
    """New lines of a module's constructor. What gives weights their values goes where values are given, if a constructor's are lost."""
    empty = made_empty(draft.parent)
    if kept := [line for line in lines if not (empty and gives_value(line))]:
        draft.below(after, *kept)
    if empty:
        give_again(draft, stack(draft.parent).module.node, module.node, lines)


def _assigned(statement: ast.stmt) -> tuple[ast.expr | None, ast.expr | None]:
    """The first target of an assignment and its value."""
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return targets_of(statement)[0], statement.value
    return None, None


def _sets_attribute(statement: ast.stmt) -> bool:
    target, _ = _assigned(statement)
    return isinstance(target, ast.Attribute) and last_name(target.value) == "self"


def unconditional(function: ast.FunctionDef) -> list[ast.AST]:
    """The nodes of a function that are under no `if`: what is changed there takes effect."""
    nodes, open_ones = list[ast.AST](), list[ast.AST](function.body)
    while open_ones:
        node = open_ones.pop(0)
        nodes.append(node)
        if not isinstance(node, ast.If):
            open_ones += children(node)
    return nodes


def root(node: ast.expr) -> str:
    """`q.transpose(1, 2)` → q, `self.a.b` → self."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def embedded(found: Stack) -> ast.Call:
    """The look-up of the tokens' embedding, in the forward pass of the stack."""
    tokens = found.module.x
    for call in filter(calls_self, walk(found.module.forward)):
        if [last_name(argument) for argument in call.args] == [tokens] and isinstance(call.args[0], ast.Name):
            return call
    for call in (node for node in walk(found.module.forward) if isinstance(node, ast.Call)):
        if [ast.unparse(argument) for argument in call.args] == [tokens] and ast.unparse(call.func).startswith("self."):
            return call
    raise MisfitError("no look-up of tokens")


def headed(found: Stack) -> ast.Call:
    """The call of the output layer: the one linear layer that the stack itself has."""
    layers = linears(found.module)
    for call in filter(calls_self, walk(found.module.forward)):
        if last_name(call.func) in layers and len(call.args) == 1:
            return call
    raise MisfitError("no output layer")
