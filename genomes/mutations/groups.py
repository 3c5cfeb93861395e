"""New parameters and the optimiser. A program trains all that its model has, or it lists its parameter groups one by one.

In a list, a new parameter gets a group like that of the residual factors: the same optimiser and settings, other tensors. Where matrix
optimisers such as Muon are given all parameters of the blocks, they keep the matrices, and one group more takes the vectors and scalars.
Where groups are lists that have names, so is the new one; and where all parameters are counted, it is counted too.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from genomes.mutations.anatomy import functions
from genomes.mutations.compiled import allow_shapes
from genomes.mutations.counts import count_also, count_around, uncount
from genomes.mutations.draft import Draft, MisfitError
from genomes.mutations.mutation import Program
from genomes.mutations.network import Stack, root, stack
from genomes.nodes import entries, is_call, last_name, names_in, stored_in, walk

_SCALARS = re.compile(r"resid", re.IGNORECASE)
_HEAD = re.compile(r"head|unembed", re.IGNORECASE)
_DIMENSIONS = re.compile(r"\b(ndim|dim\(\))")
_NO_OPTIMISER = re.compile(r"clip_|sum$|numel|prepare|zip|print|len")


@dataclass(frozen=True, eq=False)
class Group:
    """One parameter group of a list."""

    display: ast.expr  # {"params": …, …} or dict(params=…, …)
    params: ast.expr  # as the display says it, perhaps a name
    named: ast.Assign | None  # what gives the name its value
    function: ast.FunctionDef
    model: str  # what the model is called there

    @property
    def held(self) -> ast.expr:
        """What is in it: `[model.head.weight]`, `list(model.head.parameters())`."""
        return self.named.value if self.named else self.params


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
    _add(draft, _like_scalars(draft, listed), "vector_params", f"[p for p in {blocks}.parameters() if p.ndim != 2]")


def train_in_stack(draft: Draft, attribute: str) -> None:
    """A scalar or vector that was added to the stack is trained by an Adam group like that of the residual factors."""
    listed = _groups(draft.parent)
    if not listed:
        _require_all(draft.parent)
        return
    template = _like_scalars(draft, listed)
    _add(draft, template, f"{attribute}_params", f"[{template.model}.{attribute}]")


def train_table(draft: Draft, attribute: str, like: str) -> None:
    """An embedding that was added to the stack is trained like the one of another attribute."""
    listed = _groups(draft.parent)
    if not listed:
        _require_all(draft.parent, tables=True)
        return
    template = next((group for group in listed if like in {last_name(node) for node in walk(group.held)}), None)
    if template is None:
        raise MisfitError(f"no group has {like}")
    _add(draft, template, f"{attribute}_params", f"[{template.model}.{attribute}.weight]")


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
        if isinstance(group.held, ast.List) and [last_name(node) for node in group.held.elts] == [attribute]:
            drop_group(draft, group)
            known |= {id(node) for node in walk(group.held)}
    known |= {id(use) for use in uses if id(use) not in known and forget_count(draft, use)}
    if not uses or any(id(node) not in known for node in uses):
        raise MisfitError(f"{attribute} is used elsewhere")


def forget_count(draft: Draft, mention: ast.AST) -> bool:
    """Whether weights are only counted where they are mentioned; then they are counted no more."""
    count = count_around(draft.parent.tree, mention)
    if count is not None:
        uncount(draft, count)
    return count is not None


def drop_group(draft: Draft, group: Group) -> None:
    """Removes a group from its list; its name too, and where its parameters are counted by it."""
    draft.drop_element(group.display)
    if group.named is None:
        return
    draft.delete(group.named)
    for use in _loads(group.function, last_name(group.params)):
        if use is not group.params and not forget_count(draft, use):
            raise MisfitError("the group's list is used elsewhere")


def group_of(draft: Draft, owner: str) -> Group | None:
    """The group that holds nothing but `model.owner.weight`, or `model.owner.parameters()`, where groups are listed."""
    for group in _groups(draft.parent):
        held = group.held
        only = held.elts[0] if isinstance(held, ast.List) and len(held.elts) == 1 else None
        if is_call(held, "list") and len(held.args) == 1 and is_call(inner := held.args[0], "parameters"):
            only = inner.func
        if isinstance(only, ast.Attribute) and only.attr in ("weight", "parameters") and last_name(only.value) == owner:
            return group
    return None


def _groups(parent: Program) -> list[Group]:
    """Groups of a list, if one of them names a single attribute of the model; else there is nothing to go by."""
    result: list[Group] = []
    for function in functions(parent):
        for display in (item for node in walk(function) if isinstance(node, ast.List) for item in node.elts):
            params = dict(entries(display)).get("params")
            if params is None:
                continue
            named = _named(function, params)
            if model := _model_of(named.value if named else params):
                result.append(Group(display, params, named, function, model))
    return [group for group in result if group.function is result[0].function]


def _named(function: ast.FunctionDef, params: ast.expr) -> ast.Assign | None:
    """`head_params = list(model.head.parameters())`: what a function says once of a name, if it is a part of the model."""
    if not isinstance(params, ast.Name):
        return None
    stores = [node for node in walk(function) if isinstance(node, ast.Assign) and params.id in stored_in(node)]
    if len(stores) != 1 or not isinstance(stores[0].targets[0], ast.Name) or not isinstance(stores[0].value, ast.List | ast.Call):
        return None
    whole = any(is_call(node, "parameters") and _is_whole(node) for node in walk(stores[0].value))
    return None if whole else stores[0]


def _loads(function: ast.FunctionDef, name: str) -> list[ast.Name]:
    return [n for n in walk(function) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)]


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
            if isinstance(group.held, ast.List | ast.Call) and pattern.search(draft.code(group.held)):
                return group
    raise MisfitError("no group to go by")


def _add(draft: Draft, template: Group, name: str, params: str) -> None:
    """One group more, like another; under a name where that one has a name."""
    if template.named is not None:
        if name in names_in(template.function):
            raise MisfitError(f"the name {name} is taken")
        draft.below(template.named, f"{name} = {params}")
        params = name
    count_also(draft, template.function, template.model, params)
    allow_shapes(draft)
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
