"""New parameters and the optimiser. A program trains all that its model has, or it lists its parameter groups one by one.

In a list, a new parameter gets a group like that of the residual factors: the same optimiser and settings, other tensors. Where matrix
optimisers such as Muon are given all parameters of the blocks, they keep the matrices, and one group more takes the vectors and scalars.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from genomes.mutations.anatomy import functions
from genomes.mutations.draft import Draft, MisfitError
from genomes.mutations.mutation import Program
from genomes.mutations.network import Stack, root, stack
from genomes.nodes import entries, is_call, last_name, walk

_SCALARS = re.compile(r"resid", re.IGNORECASE)
_HEAD = re.compile(r"head|unembed", re.IGNORECASE)
_DIMENSIONS = re.compile(r"\b(ndim|dim\(\))")
_NO_OPTIMISER = re.compile(r"clip_|sum$|numel|prepare|zip|print|len")


@dataclass(frozen=True, eq=False)
class Group:
    """One parameter group of a list."""

    display: ast.expr  # {"params": …, …} or dict(params=…, …)
    params: ast.expr
    function: ast.FunctionDef
    model: str  # what the model is called there


def train_in_blocks(draft: Draft) -> None:
    """Vectors and scalars that were added to the blocks are trained by an Adam group. Matrices are covered by what trains the blocks."""
    listed = _groups(draft.parent)
    if not listed:
        _require_all(draft.parent)
        return
    owner, blocks = listed[0].function, _in_the_optimiser(listed[0].model, stack(draft.parent))
    whole = [node for node in walk(owner) if isinstance(node, ast.Call) and draft.code(node) == f"{blocks}.parameters()"]
    filters = [node for node in walk(owner) if isinstance(node, ast.comprehension) and any(call in walk(node.iter) for call in whole)]
    sieved = [node for node in filters if any(_DIMENSIONS.search(ast.unparse(test)) for test in node.ifs)]
    if any(re.search(r"!= 2|< 2", ast.unparse(test)) for node in sieved for test in node.ifs):
        return
    unsieved = [call for call in whole if not any(call in walk(node.iter) for node in sieved)]
    if not unsieved:
        raise MisfitError("no optimiser of all the blocks' parameters")
    for call in unsieved:
        outer = next(
            (node for node in walk(owner) if is_call(node, "list") and node.args == [call]),
            call,
        )
        draft.replace(outer, f"[p for p in {draft.code(call)} if p.ndim == 2]")
    _add(draft, _like_scalars(draft, listed), f"[p for p in {blocks}.parameters() if p.ndim != 2]")


def train_in_stack(draft: Draft, attribute: str) -> None:
    """A scalar or vector that was added to the stack is trained by an Adam group like that of the residual factors."""
    listed = _groups(draft.parent)
    if not listed:
        _require_all(draft.parent)
        return
    template = _like_scalars(draft, listed)
    _add(draft, template, f"[{template.model}.{attribute}]")


def train_table(draft: Draft, attribute: str, like: str) -> None:
    """An embedding that was added to the stack is trained like the one of another attribute."""
    listed = _groups(draft.parent)
    if not listed:
        _require_all(draft.parent, tables=True)
        return
    template = next((group for group in listed if like in {last_name(node) for node in walk(group.params)}), None)
    if template is None:
        raise MisfitError(f"no group has {like}")
    _add(draft, template, f"[{template.model}.{attribute}.weight]")


def forget(draft: Draft, attribute: str) -> None:
    """Removes a parameter of the stack: its definition, its initial values, its group. Uses in the forward pass are the caller's.

    Raises:
        MisfitError: it is mentioned in a way that this does not know.
    """
    module = stack(draft.parent).module
    uses = [node for node in walk(draft.parent.tree) if isinstance(node, ast.Attribute) and node.attr == attribute]
    known = {id(node) for node in walk(module.forward)}
    for statement in walk(module.node):
        if isinstance(statement, ast.Assign | ast.Expr) and not known >= {id(statement)}:
            value = statement.targets[0] if isinstance(statement, ast.Assign) else statement.value
            owner = value.func.value if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) else value
            if isinstance(owner, ast.Attribute) and owner.attr == attribute:
                draft.delete(statement)
                known |= {id(node) for node in walk(statement)}
    for group in _groups(draft.parent):
        if isinstance(group.params, ast.List) and [last_name(node) for node in group.params.elts] == [attribute]:
            draft.drop_element(group.display)
            known |= {id(node) for node in walk(group.params)}
    if not uses or any(id(node) not in known for node in uses):
        raise MisfitError(f"{attribute} is used elsewhere")


def group_of(draft: Draft, owner: str) -> Group | None:
    """The group that holds nothing but `model.owner.weight`, where groups are listed."""
    for group in _groups(draft.parent):
        only = group.params.elts[0] if isinstance(group.params, ast.List) and len(group.params.elts) == 1 else None
        if isinstance(only, ast.Attribute) and only.attr == "weight" and last_name(only.value) == owner:
            return group
    return None


def _groups(parent: Program) -> list[Group]:
    """Groups of a list, if one of them names a single attribute of the model; else there is nothing to go by."""
    result: list[Group] = []
    for function in functions(parent):
        for display in (item for node in walk(function) if isinstance(node, ast.List) for item in node.elts):
            params = dict(entries(display)).get("params")
            if params is not None and (model := _model_of(params)):
                result.append(Group(display, params, function, model))
    return [group for group in result if group.function is result[0].function]


def _model_of(params: ast.expr) -> str:
    """`[model.head.weight]`, `list(self.wte.parameters())` → model, self; nothing where a plain name stands."""
    inner = params.elts[0] if isinstance(params, ast.List) and params.elts else params
    while isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.args:
        inner = inner.args[0]
    return root(inner) if isinstance(inner, ast.Attribute | ast.Call) else ""


def _in_the_optimiser(model: str, found: Stack) -> str:
    return model + found.blocks.removeprefix("self")


def _like_scalars(draft: Draft, listed: list[Group]) -> Group:
    for pattern in (_SCALARS, _HEAD):
        for group in listed:
            if isinstance(group.params, ast.List | ast.Call) and pattern.search(draft.code(group.params)):
                return group
    raise MisfitError("no group to go by")


def _add(draft: Draft, template: Group, params: str) -> None:
    start = draft.source.span(template.display)[0]
    first, last = (position - start for position in draft.source.span(template.params))
    whole = draft.code(template.display)
    draft.element(template.display, whole[:first] + params + whole[last:])


def _require_all(parent: Program, tables: bool = False) -> None:
    """`model.parameters()` outside clipping and counting: whatever is added is trained; tables too, where no dimension is asked for."""
    skipped: set[int] = set()
    for node in walk(parent.tree):
        sieves = isinstance(node, ast.ListComp | ast.GeneratorExp) and _DIMENSIONS.search(ast.unparse(node)) is not None
        if (isinstance(node, ast.Call) and _NO_OPTIMISER.search(last_name(node.func))) or (tables and sieves):
            skipped |= {id(inner) for inner in walk(node)}
    calls = [node for node in walk(parent.tree) if is_call(node, "parameters")]
    if not any(id(call) not in skipped and _is_whole(call) for call in calls):
        raise MisfitError("the optimiser does not take all parameters")


def _is_whole(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)
