"""Where a training program does what: the loop over batches, its step, what it writes into parameter groups, its loss.

Read off the tree in whatever style it is written; a part that is not found raises MisfitError, and the mutation that asked does not apply.
All of it stands in a scope: a function, or the module itself where the program is a script that is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from genomes.mutations.draft import MisfitError, alias
from genomes.mutations.mutation import Program
from genomes.mutations.patterns import is_one
from genomes.nodes import children, imported_by, is_call, last_name, names_in, text_of, walk
from genomes.source import Source

Scope = ast.FunctionDef | ast.Module

_PROGRESS = ("progress", "t", "frac_done", "time_frac")
_OPTIMISER = re.compile(r"^(opt|optim|optimi[sz]ers?|o)$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Loop:
    """The loop over batches."""

    scope: Scope
    loop: ast.For | ast.While
    block: list[ast.stmt]  # the block of the step
    step: ast.stmt  # `optimiser.step()`, or a loop over optimisers that does it


@dataclass(frozen=True, eq=False)
class Write:
    """`group["lr"] = value`: one entry of every parameter group, set at each step."""

    scope: Scope
    statement: ast.Assign
    group: str  # the group's name
    value: ast.expr


@dataclass(frozen=True, eq=False)
class Loss:
    """A call of cross_entropy, and the whole tensors that go into it before they are flattened."""

    scope: Scope
    statement: ast.stmt
    call: ast.Call
    logits: ast.expr  # (B, T, V), or whatever the model returns
    targets: ast.expr  # (B, T)


def functions(parent: Program) -> list[ast.FunctionDef]:
    """All functions, methods and inner ones too, outermost first."""
    return [node for node in walk(parent.tree) if isinstance(node, ast.FunctionDef)]


def scopes(parent: Program) -> list[Scope]:
    """The functions, and then the module."""
    return [*functions(parent), parent.tree]


def title(scope: Scope) -> str:
    """What notes call a scope."""
    return "the script" if isinstance(scope, ast.Module) else scope.name


def own_nodes(scope: Scope) -> Iterator[ast.AST]:
    """What is in a scope but not in functions inside it."""
    waiting: list[ast.AST] = list(scope.body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            waiting += children(node)


def blocks(scope: Scope) -> Iterator[list[ast.stmt]]:
    """The blocks of a scope itself, outermost first."""
    yield scope.body
    for node in own_nodes(scope):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block and isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield block


def statements(scope: Scope) -> Iterator[tuple[list[ast.stmt], ast.stmt]]:
    """Each statement with its block."""
    for block in blocks(scope):
        for statement in block:
            yield block, statement


def training_loop(parent: Program) -> Loop:
    """The loop whose body calls `backward` and steps an optimiser."""
    for scope in scopes(parent):
        for node in own_nodes(scope):
            if isinstance(node, ast.For | ast.While) and any(is_call(inner, "backward") for inner in walk(node)):
                for block, statement in statements(scope):
                    if steps(statement) and statement is not node and statement in walk(node):
                        return Loop(scope, node, block, statement)
    raise MisfitError("no loop that steps an optimiser")


def steps(statement: ast.stmt) -> bool:
    """`optimiser.step()`, or a loop over optimisers that does it."""
    inner = statement.body if isinstance(statement, ast.For) else [statement]
    calls = [line.value for line in inner if isinstance(line, ast.Expr) and is_call(line.value, "step")]
    return any(isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and _steps_in(call.func.value) for call in calls)


def _steps_in(owner: ast.expr) -> bool:
    return bool(_OPTIMISER.match(last_name(owner)))


def writes(parent: Program, key: str) -> list[Write]:
    """Where an entry of parameter groups is written step by step: not where it is remembered, as in `group["full_lr"] = group["lr"]`."""
    found = []
    for scope in scopes(parent):
        for _, statement in statements(scope):
            if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                continue
            target = statement.targets[0]
            if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name) and text_of(target.slice) == key:
                found.append(Write(scope, statement, target.value.id, statement.value))
    return found


def written(parent: Program, key: str) -> Write:
    """The first of `writes`."""
    found = writes(parent, key)
    if not found:
        raise MisfitError(f"no group's {key} is set step by step")
    return found[0]


def told_apart(write: Write) -> ast.expr | None:
    """What the scope of a write asks of a group to know it for one of Muon's: `group["kind"] == "muon"`, `"momentum" in group`."""
    tests = (node.test for node in own_nodes(write.scope) if isinstance(node, ast.If) and isinstance(node.test, ast.Compare))
    asks = (test for test in tests if write.group in names_in(test) and re.search(r"momentum|kind", ast.unparse(test)))
    return next(asks, None)


def meant(scope: Scope, node: ast.expr) -> ast.expr:
    """The value that a name has in its scope, where it is given one by one statement alone; anything else means itself."""
    if not isinstance(node, ast.Name) or node.id in parameters(scope):
        return node
    same = [inner for inner in own_nodes(scope) if isinstance(inner, ast.Name) and inner.id == node.id]
    stored = [inner for inner in same if isinstance(inner.ctx, ast.Store)]
    made = [s.value for _, s in statements(scope) if isinstance(s, ast.Assign) and len(s.targets) == 1 and s.targets[0] in stored]
    return made[0] if len(stored) == len(made) == 1 else node


def names_of(scope: Scope) -> set[str]:
    """Names of a function's parameters and of what it assigns; of a module, what it imports and defines too."""
    stored = {node.id for node in own_nodes(scope) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | (_bound(scope) if isinstance(scope, ast.Module) else parameters(scope))


def _bound(module: ast.Module) -> set[str]:
    """What a module binds but by assignment."""
    defined = {node.name for node in own_nodes(module) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return defined.union(*(imported_by(node) for node in own_nodes(module) if isinstance(node, ast.Import | ast.ImportFrom)))


def known_to(parent: Program, scope: Scope) -> set[str]:
    """Names that a scope may use: its own and the module's."""
    return names_of(scope) | names_of(parent.tree)


def parameters(scope: Scope) -> set[str]:
    if isinstance(scope, ast.Module):
        return set()
    arguments = scope.args
    return {argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}


def progress(parent: Program, scope: Scope, at: ast.stmt | ast.expr) -> str:
    """Code for the share of the budget that is spent, at a place of a scope."""
    for name in _PROGRESS:
        if name in parameters(scope) or (name == "progress" and _is_set_above(scope, name, at)):
            return name
    if any(isinstance(n, ast.Import) and any(a.name == "prepare" and not a.asname for a in n.names) for n in parent.tree.body):
        return "prepare.progress()"
    raise MisfitError("nothing says how much of the budget is spent")


def _is_set_above(scope: Scope, name: str, at: ast.stmt | ast.expr) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store) and node.lineno < at.lineno
        for node in own_nodes(scope)
    )


def counter(scope: Scope) -> str:
    """Name of the number of steps so far: a parameter `step`, what grows by one, or what `enumerate` counts from 0."""
    if "step" in parameters(scope):
        return "step"
    for node in own_nodes(scope):
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add) and is_one(node.value) and isinstance(node.target, ast.Name):
            return node.target.id
    for node in own_nodes(scope):
        if isinstance(node, ast.For) and isinstance(node.target, ast.Tuple) and _counts_from_0(node.iter):
            return last_name(node.target.elts[0])
    raise MisfitError("nothing counts the steps")


def _counts_from_0(node: ast.expr) -> bool:
    return is_call(node, "enumerate") and len(node.args) == 1 and not node.keywords


def losses(parent: Program) -> list[Loss]:
    """The calls of cross_entropy that training makes."""
    found = []
    for scope in scopes(parent):
        for _, statement in statements(scope):
            for node in _expressions(statement):
                if is_call(node, "cross_entropy") and len(node.args) >= 2:
                    found.append(Loss(scope, statement, node, _whole(node.args[0]), _whole(node.args[1])))
    return found


def training_loss(parent: Program) -> Loss:
    found = losses(parent)
    if len(found) != 1:
        raise MisfitError(f"{len(found)} calls of cross_entropy")
    return found[0]


def torch_entropy(parent: Program, loss: Loss) -> str:
    """PyTorch's cross_entropy as this program names it: a function of its own may count on capped logits."""
    own = isinstance(loss.call.func, ast.Name) and any(f.name == loss.call.func.id for f in functions(parent))
    return f"{alias(parent, 'torch.nn.functional')}.cross_entropy" if own else ast.unparse(loss.call.func)


def _expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement itself, not of statements inside it."""
    waiting = [child for child in children(statement) if isinstance(child, ast.expr)]
    for node in waiting:
        yield from walk(node)


def _whole(node: ast.expr) -> ast.expr:
    """`model(x).flatten(0, 1)` → `model(x)`; `logits.view(-1, V)` → `logits`."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in (
        "flatten", "view", "reshape", "float", "contiguous", "transpose", "mT",
    ):  # fmt: skip
        node = node.func.value
    return node


def one_line(source: Source, node: ast.AST) -> str:
    """Code that can be written elsewhere; MisfitError for code over several lines, which may hold comments."""
    code = source.code(node)
    if "\n" in code:
        raise MisfitError("the expression spans lines")
    return code
