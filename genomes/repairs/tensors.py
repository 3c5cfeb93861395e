"""Tensors: slips of shape, type and device that the library names and the line of the failure shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from genomes.checks.arithmetic import Constants
from genomes.checks.outline import Scope, parts
from genomes.nodes import Function, is_operation, last_name, walk
from genomes.repairs.case import Case, Repaired
from genomes.source import Splice
from genomes.units import first_line

_FACTORIES = frozenset(
    f"torch.{name}"
    for name in ("arange", "zeros", "ones", "full", "empty", "tensor", "rand", "randn", "randint", "linspace", "eye", "randperm")
)
_OF_TENSORS = ("shape", "size", "device", "dtype", "view", "reshape")
_REORDERS = ("transpose", "permute", "mT", "T")


def view(found: Case) -> Iterator[Repaired]:
    """`view` of something that does not lie in one piece is `reshape`."""
    calls = [call for call in found.innermost(ast.Call) if _is_view(call)]
    if not found.failure.lines:
        every = [call for call, _ in found.program.calls if _is_view(call)]
        calls = [call for call in every if any(isinstance(n, ast.Attribute) and n.attr in _REORDERS for n in walk(call.func))]
    cuts = []
    for call in calls:
        _, end = found.source.span(call.func)
        cuts.append(Splice(end - len("view"), end, "reshape"))
    if cuts:
        yield found.repaired(cuts, "view → reshape")


def dtype(found: Case) -> Iterator[Repaired]:
    """The operands of one product get one type."""
    attention = [call for call in found.innermost(ast.Call) if last_name(call.func) == "scaled_dot_product_attention"]
    layers = _layer_calls(found)
    products = [node for node in found.innermost(ast.BinOp) if isinstance(node.op, ast.MatMult)]
    if len(attention) == 1 and len(attention[0].args) >= 3:
        query, key, value = attention[0].args[:3]
        yield from _cast(found, [query, key], f"{_root(value)}.dtype", "query and key")
    elif len(layers) == 1 and not products:
        call, name, me, _ = layers[0]
        yield from _cast(found, call.args[:1], f"{me}.{name}.weight.dtype", f"the input of {name}")
    elif len(products) == 1 and not layers:
        yield from _cast(found, [products[0].right], f"{_root(products[0].left)}.dtype", found.source.code(products[0].right))


def _cast(found: Case, nodes: list[ast.expr], wanted: str, what: str) -> Iterator[Repaired]:
    """The nodes in a type, where none of them is in it already; `wanted` starts with a dot where nothing has the type."""
    codes = [found.source.code(node) for node in nodes]
    if wanted.startswith(".") or any(code.endswith(f".to({wanted})") for code in codes):
        return
    whole = [code if _takes_suffix(node) else f"({code})" for node, code in zip(nodes, codes, strict=True)]
    cuts = [found.instead(node, f"{code}.to({wanted})") for node, code in zip(nodes, whole, strict=True)]
    yield found.repaired(cuts, f"{what} in the type {wanted}")


def device(found: Case) -> Iterator[Repaired]:
    """Tensors made on the way to the failure come to the device of what the function was given."""
    for function, scope in found.functions():
        given = _tensor_argument(function, scope)
        calls = [call for call, s in found.program.calls if s is scope and found.program.dotted(call.func, s) in _FACTORIES]
        calls = [call for call in calls if call.args and not any(keyword.arg == "device" for keyword in call.keywords)]
        if given and calls:
            cuts = []
            for call in calls:
                end = max(found.source.span(node)[1] for node in (*call.args, *(keyword.value for keyword in call.keywords)))
                cuts.append(Splice(end, end, f", device={given}.device"))
            yield found.repaired(cuts, f"{', '.join(sorted({last_name(call.func) for call in calls}))} on the device of {given}")
            return


def swapped(found: Case, *sizes: str) -> Iterator[Repaired]:
    """A layer whose sizes the message shows the wrong way round: (…×a) times (b×a), where b in and a out were asked for."""
    given, wide, out = map(int, sizes)
    if given != out or given == wide:
        return
    fitting = []
    for call, name, _, made in _layer_calls(found):
        ratio = _ratio(made.args[0], made.args[1], found.constants, found.program.module) if len(made.args) >= 2 else None
        if ratio is not None and abs(ratio * wide / out - 1) < 1e-9:
            return  # one layer on the line widens what the other narrows, as it should be
        if ratio is not None and abs(ratio - wide / out) < 1e-9:
            fitting.append((call, name, made))
    outer = [chosen for chosen in fitting if all(other in walk(chosen[0]) for other, _, _ in fitting)]
    if len(outer) == 1:  # its input came out of the others, with the size that it was given
        _, name, made = outer[0]
        first, second = made.args[:2]
        cuts = [found.instead(first, found.source.code(second)), found.instead(second, found.source.code(first))]
        yield found.repaired(cuts, f"sizes of {name} swapped: {found.source.code(second)} in, {found.source.code(first)} out")


def in_place(found: Case) -> Iterator[Repaired]:
    """A function that writes into parameters, and has no gradients to take, runs without them."""
    for function, _ in found.functions():
        backward = any(isinstance(node, ast.Attribute) and node.attr == "backward" for node in walk(function))
        if backward or "torch" not in found.program.imports or any("no_grad" in found.source.code(d) for d in function.decorator_list):
            return
        place = found.source.starts[first_line(function) - 1]
        line = f"{' ' * function.col_offset}@torch.no_grad()\n"
        yield found.repaired([Splice(place, place, line)], f"{function.name} without gradients")
        return


def scalar_loss(found: Case) -> Iterator[Repaired]:
    """A loss per token is averaged before it goes back."""
    calls = [c for c in found.innermost(ast.Call) if isinstance(c.func, ast.Attribute) and c.func.attr == "backward" and not c.args]
    if len(calls) == 1 and isinstance(calls[0].func, ast.Attribute) and last_name(calls[0].func.value) not in ("mean", "sum"):
        _, end = found.source.span(calls[0].func.value)
        inner = calls[0].func.value
        if found.source.text[end : end + 1] == ")":  # parentheses around it are no part of the node
            yield found.repaired([Splice(end, end + 1, ").mean()")], "the mean of the loss goes back")
        else:
            yield found.repaired([found.instead(inner, f"{found.source.code(inner)}.mean()")], "the mean of the loss goes back")


def _is_view(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "view"


def _layer_calls(found: Case) -> list[tuple[ast.Call, str, str, ast.Call]]:
    """Calls on the line of `self.name(x)` where `self.name = nn.Linear(…)`: the call, the name, what `self` is called, how it was made."""
    result = []
    on_line = {id(call) for call in found.innermost(ast.Call)}
    for call, scope in found.program.calls:
        function = call.func
        kind = found.classes.kinds.get(scope.owner.name) if scope.owner is not None else None
        if id(call) not in on_line or kind is None or not isinstance(function, ast.Attribute) or not call.args:
            continue
        made = kind.stored.get(function.attr, [])
        if not isinstance(function.value, ast.Name) or function.value.id != scope.me or len(made) != 1 or not isinstance(made[0], ast.Call):
            continue
        if found.program.dotted(made[0].func, found.program.module) == "torch.nn.Linear":
            result.append((call, function.attr, scope.me, made[0]))
    return result


def _ratio(first: ast.expr, second: ast.expr, constants: Constants, module: Scope) -> float | None:
    """first / second, where what is not known cancels out: names that the text does not fix count as one each."""
    values = [_size(node, constants, module) for node in (first, second)]
    return values[0] / values[1] if values[0] is not None and values[1] else None


def _size(node: ast.expr, constants: Constants, module: Scope) -> float | None:
    known = constants.value(node, module)
    if isinstance(known, int | float):
        return float(known)
    if isinstance(node, ast.Name | ast.Attribute):
        return 1.0
    if is_operation(node, ast.Mult):
        left, right = _size(node.left, constants, module), _size(node.right, constants, module)
        return left * right if left is not None and right is not None else None
    return None


def _tensor_argument(function: Function, scope: Scope) -> str:
    """The first argument that is used as a tensor."""
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args) if argument.arg != scope.me]
    used = {
        node.value.id
        for statement in function.body
        for node in parts(statement)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in _OF_TENSORS
    }
    return next((name for name in names if name in used), "")


def _root(node: ast.expr) -> str:
    """`v` of `v.transpose(1, 2)`: a name whose type the whole expression has."""
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) and node.id not in ("self", "torch", "F", "nn") else ""


def _takes_suffix(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Call | ast.Attribute | ast.Subscript)
