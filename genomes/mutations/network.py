"""The network that a program defines, by the roles of its parts: modules, the stack of blocks, attention, MLP.

Roles are told by construct, never by the name of a class: the stack is the module that loops over its blocks, attention is where queries,
keys and values meet in one call, an MLP has an activation between two linear layers. What is not recognised is a MisfitError.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from genomes.literals import last_name
from genomes.mutations.draft import Draft, MisfitError
from genomes.mutations.mutation import Program
from genomes.mutations.patterns import ACTIVATIONS, names_in
from genomes.source import parse_expression

_QUERY, _KEY, _VALUE = re.compile(r"q(uer(y|ies))?\d?"), re.compile(r"k(eys?)?\d?"), re.compile(r"v(alues?)?\d?")
_LAYER = re.compile(r"layer(_?(idx|index|id|number))?|i|idx|index|depth_index")


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


@dataclass(frozen=True, eq=False)
class Attention:
    """Where queries, keys and values meet."""

    module: Module
    statement: ast.stmt  # around the call
    call: ast.Call
    query: str
    key: str
    value: str
    heads_first: bool  # above the statement the three are (B, H, T, D), else (B, T, H, D)
    output: str  # the name of the result, (B, H, T, D) like its arguments; "" where it has none


@dataclass(frozen=True, eq=False)
class Feed:
    """An MLP: the activation, what it is taken of, and the two linear layers around it."""

    module: Module
    activation: ast.expr  # with its square
    inner: ast.expr  # its argument
    statement: ast.stmt
    up: ast.Call
    down: ast.Call


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
        for loop in (node for node in ast.walk(module.forward) if isinstance(node, ast.For)):
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
    counts = isinstance(over, ast.Call) and last_name(over.func) == "enumerate" and len(over.args) == 1
    if isinstance(over, ast.Call) and counts and isinstance(target, ast.Tuple) and all(isinstance(name, ast.Name) for name in target.elts):
        over, index, item = over.args[0], last_name(target.elts[0]), last_name(target.elts[1])
    else:
        index, item = "", target.id if isinstance(target, ast.Name) else ""
    return over, index, item if root(over) == "self" else ""


def attention(parent: Program) -> Attention:
    """The first module with a call of three arguments that are named for queries, keys and values."""
    for module in modules(parent):
        for statement in module.forward.body:
            for call in (node for node in ast.walk(statement) if isinstance(node, ast.Call) and len(node.args) >= 3):
                q, k, v = (root(argument) for argument in call.args[:3])
                if _QUERY.fullmatch(q) and _KEY.fullmatch(k) and _VALUE.fullmatch(v):
                    named = isinstance(statement, ast.Assign) and statement.value is call and isinstance(statement.targets[0], ast.Name)
                    output = last_name(statement.targets[0]) if named and isinstance(statement, ast.Assign) else ""
                    turned = all(last_name(argument) == "transpose" for argument in call.args[:3])
                    if "flash" in last_name(call.func):
                        raise MisfitError("another layout")
                    return Attention(module, statement, call, q, k, v, not turned, output)
    raise MisfitError("no attention")


def feed(parent: Program) -> Feed:
    """The first module with an activation of a linear layer, itself or through a name, and a linear layer of the same hidden width."""
    for module in modules(parent):
        layers = linears(module)
        for call in (node for node in ast.walk(module.forward) if isinstance(node, ast.Call) and last_name(node.func) in ACTIVATIONS):
            if not call.args:
                continue
            up = next((layers[name] for name in _calls_behind(module, call.args[0]) if name in layers), None)
            down = next((layer for layer in layers.values() if up and layer is not up and _width(layer, 0) == _width(up, 1)), None)
            if up is not None and down is not None:
                whole = next((outer for outer in ast.walk(module.forward) if squares(outer, call)), call)
                return Feed(module, _expression(whole), call.args[0], statement_of(module.forward, call), up, down)
    raise MisfitError("no MLP")


def _expression(node: ast.AST) -> ast.expr:
    assert isinstance(node, ast.expr)
    return node


def squares(node: ast.AST, call: ast.Call) -> bool:
    """`call.square()` or `call ** 2`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr == "square" and node.func.value is call
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and node.left is call


def _calls_behind(module: Module, node: ast.expr) -> list[str]:
    """Submodules that an expression calls, itself or through the names in it."""
    names = names_in(node)
    assigned = [s.value for s in ast.walk(module.forward) if isinstance(s, ast.Assign) and names_in(s.targets[0]) & names]
    calls = [inner for part in (node, *assigned) for inner in ast.walk(part) if isinstance(inner, ast.Call)]
    return [call.func.attr for call in calls if isinstance(call.func, ast.Attribute) and last_name(call.func.value) == "self"]


def _width(layer: ast.Call, position: int) -> str:
    return ast.unparse(layer.args[position])


def linears(module: Module) -> dict[str, ast.Call]:
    """Attribute -> `nn.Linear(in, out, …)` of the constructor; layers that may be None are left out."""
    result = {}
    for statement in module.init.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Attribute) and isinstance(value, ast.Call) and last_name(value.func) == "Linear" and len(value.args) == 2:
            result[target.attr] = value
    return result


def statement_of(function: ast.FunctionDef, node: ast.AST) -> ast.stmt:
    """The innermost statement around a node."""
    around = [
        s for s in ast.walk(function) if isinstance(s, ast.stmt) and s is not function and any(inner is node for inner in ast.walk(s))
    ]
    return max(around, key=lambda s: (s.lineno, s.col_offset, -(s.end_lineno or 0)))


def embedding(parent: Program) -> tuple[str, str]:
    """Number of tokens and width, as the stack's constructor writes them for its first embedding."""
    for node in ast.walk(stack(parent).module.init):
        if isinstance(node, ast.Call) and last_name(node.func) == "Embedding" and len(node.args) == 2:
            return parent.source.code(node.args[0]), parent.source.code(node.args[1])
    raise MisfitError("no embedding")


def width_in(parent: Program, module: Module) -> str:
    """The width of the residual stream, written so that the module's constructor understands it."""
    width = embedding(parent)[1]
    needed = {node.id for node in ast.walk(parse_expression(width)) if isinstance(node, ast.Name)}
    if needed <= known_in(parent, module.init):
        return width
    raise MisfitError(f"{width} is unknown in {module.name}")


def known_in(parent: Program, function: ast.FunctionDef) -> set[str]:
    """Names that a function's last line knows: its parameters, what it assigns, what the module defines."""
    own = {argument.arg for argument in function.args.args}
    own |= {name.id for name in ast.walk(function) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
    top = {
        name.id
        for statement in parent.tree.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for name in ast.walk(statement)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
    return own | top


def layer_number(module: Module) -> str:
    """The constructor's parameter that says which block this is."""
    for argument in module.init.args.args:
        if _LAYER.fullmatch(argument.arg):
            return argument.arg
    raise MisfitError("the module does not know its layer")


def remember(draft: Draft, module: Module, name: str, *lines: str) -> None:
    """Lines in a module's constructor that make `self.name`, below its other attributes. Where it has one of that name, a MisfitError."""
    if any(isinstance(node, ast.Attribute) and node.attr == name for node in ast.walk(module.node)):
        raise MisfitError(f"{module.name} has {name}")
    last = next((statement for statement in reversed(module.init.body) if _sets_attribute(statement)), None)
    if last is None:
        raise MisfitError("no attributes")
    draft.below(last, *lines)


def _sets_attribute(statement: ast.stmt) -> bool:
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    return isinstance(target, ast.Attribute) and last_name(target.value) == "self"


def head_shape(parent: Program, spot: Attention) -> tuple[str, str]:
    """Heads and channels of a head, from `view(B, T, heads, channels)` of the queries."""
    for statement in spot.module.forward.body:
        if not isinstance(statement, ast.Assign) or spot.query not in {name for target in statement.targets for name in names_in(target)}:
            continue
        for call in (node for node in ast.walk(statement) if isinstance(node, ast.Call) and last_name(node.func) in ("view", "reshape")):
            if len(call.args) == 4:
                return parent.source.code(call.args[2]), parent.source.code(call.args[3])
    raise MisfitError("no view of the queries")


def self_calls(node: ast.AST) -> Iterator[ast.Call]:
    """Calls `self.a(…)` below a node."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and last_name(inner.func.value) == "self":
            yield inner


def root(node: ast.expr) -> str:
    """`q.transpose(1, 2)` → q, `self.a.b` → self."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""
