"""Values of new weights in a program whose model comes from the meta device: what a constructor gives is lost there.

The method that is called on the emptied model gives all values; what a constructor's new lines would have given is written at its end.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from genomes.mutations.draft import Draft, MisfitError
from genomes.mutations.mutation import Program
from genomes.nodes import is_call, last_name, walk

_FILLED = {"zeros": "zeros_({})", "ones": "ones_({})", "full": "constant_({}, {})", "tensor": "constant_({}, {})"}
_MADE = ("Linear", "Embedding", "Parameter")


def made_empty(parent: Program) -> bool:
    """Whether the model comes from the meta device: then no weight has a value but by what is written to it afterwards."""
    return any(is_call(node, "to_empty") for node in walk(parent.tree))


def give_again(draft: Draft, stack: ast.ClassDef, module: ast.ClassDef, lines: tuple[str, ...]) -> None:
    """Writes what new lines of a module's constructor give its weights where the stack gives values, for all such modules."""
    values = _given(lines)
    if not values:
        return
    if module is not stack:
        loop = ("for module in self.modules():", f"    if isinstance(module, {module.name}):")
        values = [*loop, *(f"        {value.replace('self.', 'module.', 1)}" for value in values)]
    draft.at_end(giver(draft.parent, stack), *values)


def giver(parent: Program, stack: ast.ClassDef) -> ast.FunctionDef:
    """The method of the stack that is called on the emptied model, and sets values in place: `model.init_weights()`."""
    calls = [node.func for node in walk(parent.tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    emptied = {ast.unparse(call.value) for call in calls if call.attr == "to_empty"}
    called = {call.attr for call in calls if ast.unparse(call.value) in emptied}
    for method in stack.body:
        if isinstance(method, ast.FunctionDef) and method.name in called and any(_in_place(node) for node in walk(method)):
            return method
    raise MisfitError("nothing gives the emptied model its values")


def _in_place(node: ast.AST) -> bool:
    """`nn.init.zeros_(w)`, `w.fill_(1)`."""
    return isinstance(node, ast.Call) and last_name(node.func).endswith("_")


def gives_value(line: str) -> bool:
    """`nn.init.zeros_(self.head.weight)`: a line that makes nothing."""
    return any(isinstance(statement, ast.Expr) and _in_place(statement.value) for statement in ast.parse(line).body)


def _given(lines: tuple[str, ...]) -> list[str]:
    """What gives the weights of these lines their values again: `self.a = nn.Parameter(torch.ones(8))` → `nn.init.ones_(self.a)`.

    Raises:
        MisfitError: a line makes a weight, and no line says its value.
    """
    statements = [statement for line in lines for statement in ast.parse(line).body]
    values = [value for statement in statements for value in _values(statement)]
    for target in (s.targets[0] for s in statements if isinstance(s, ast.Assign) and is_call(s.value, *_MADE)):
        if not any(f"({ast.unparse(target)}" in value for value in values):
            raise MisfitError(f"{ast.unparse(target)} would have no value")
    return values


def _values(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Expr) and isinstance(call := statement.value, ast.Call) and _in_place(call):
        yield ast.unparse(call)
    elif isinstance(statement, ast.Assign) and is_call(made := statement.value, "Parameter") and isinstance(made.func, ast.Attribute):
        tensor = made.args[0]
        if is_call(tensor, *_FILLED):
            fill = _FILLED[last_name(tensor.func)].format(ast.unparse(statement.targets[0]), ast.unparse(tensor.args[-1]))
            yield f"{ast.unparse(made.func.value)}.init.{fill}"
