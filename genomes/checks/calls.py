"""Calls and attributes that cannot work, where the text is certain about what is called or read.

calls        of the program's own top-level functions and classes, of methods of `self`, of submodules that `self` holds, alone or in a
             ModuleList, and of the lab's `prepare`: too many arguments, missing ones, unknown names
attributes   of `self` that no method, class body or base has; of `prepare` that it does not define
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache

from genomes.checks.classes import MODULE, Classes, Kind, plain_signature
from genomes.checks.outline import CONSTITUTION, Outline, Scope, outline
from genomes.checks.problem import Problem
from genomes.checks.signatures import Signature, misfit
from genomes.checks.torchlike import LIBRARY
from genomes.errors import ParseError, nearest
from genomes.nodes import Function, is_call, last_name, walk
from genomes.source import parse_tree

_HIDE = ("globals", "exec", "setattr")
_LISTS = ("torch.nn.ModuleList", "torch.nn.Sequential")


def call_problems(program: Outline, classes: Classes, prepare: str) -> Iterator[Problem]:
    """Calls that raise TypeError.

    Args:
        prepare: text of the lab's prepare.py; "" where it is not known.
    """
    offered = constitution(prepare)
    for call, scope in program.calls:
        callee = _callee(call.func, scope, program, classes) or _offered(call.func, scope, program, offered)
        callee = callee or LIBRARY.get(program.dotted(call.func, scope))
        if callee is not None and (wrong := misfit(call, callee)):
            yield Problem(call.lineno, wrong)
        elif callee is not None and callee.gives_nothing and id(call) in _used(program, callee.name.endswith(".forward")):
            yield Problem(call.lineno, f"{callee.name}() returns nothing, but a value is expected here: end it with a return")


@lru_cache(maxsize=2)
def _used(program: Outline, assigned: bool) -> frozenset[int]:
    """ids of calls whose value is used; `assigned`: also of those whose value is only given a name."""
    found = set[int]()
    for node in walk(program.module.node):
        if isinstance(node, ast.Attribute | ast.Subscript):
            found.add(id(node.value))
        elif isinstance(node, ast.BinOp):
            found |= {id(node.left), id(node.right)}
        elif assigned and isinstance(node, ast.Assign):
            found.add(id(node.value))
    return frozenset(found)


def attribute_problems(program: Outline, classes: Classes, prepare: str) -> Iterator[Problem]:
    """Attributes that nobody defines, once per class and name; the same for what is imported from prepare."""
    offered, told = constitution(prepare), set[tuple[str, str]]()
    made = _made_locals(program, classes)
    known = {name: classes.known(kind) | program.strings for name, kind in classes.kinds.items() if not classes.dynamic}
    for attribute, scope in program.attributes:
        owner = scope.owner.name if scope.owner is not None else ""
        if offered and program.dotted(attribute.value, scope) == CONSTITUTION and not _has(offered, attribute.attr):
            yield Problem(attribute.lineno, _not_offered(attribute.attr, offered))
        elif owner in known and _is_self(attribute.value, scope) and isinstance(attribute.ctx, ast.Load):
            kind, name = classes.kinds[owner], attribute.attr
            if kind.node is scope.owner and name not in known[owner] and not name.startswith("_") and (owner, name) not in told:
                told.add((owner, name))
                own = {*kind.stored, *kind.methods}
                yield Problem(attribute.lineno, f"{owner} has no attribute '{name}': assign self.{name} in it; {nearest(name, own)}")
        elif isinstance(attribute.value, ast.Name) and (id(scope), attribute.value.id) in made:
            kind, name = made[id(scope), attribute.value.id], attribute.attr
            if isinstance(attribute.ctx, ast.Load) and name not in known.get(kind.node.name, {name}) and not name.startswith("_"):
                own = {*kind.stored, *kind.methods}
                yield Problem(attribute.lineno, f"{kind.node.name} has no attribute '{name}'; {nearest(name, own)}")
    for node in program.import_nodes if offered else ():
        if isinstance(node, ast.ImportFrom) and node.module == CONSTITUTION and not node.level and id(node) not in program.guarded:
            for alias in node.names:
                if alias.name != "*" and offered is not None and not _has(offered, alias.name):
                    yield Problem(node.lineno, _not_offered(alias.name, offered))


@lru_cache(maxsize=2)
def constitution(prepare: str) -> Outline | None:
    """What prepare.py defines; None where it is not known, or makes names that its text does not show."""
    try:
        found = outline(parse_tree(prepare)) if prepare else None
    except ParseError:
        return None
    if found is None or "*" in found.module.bound or "__getattr__" in found.module.bound:
        return None
    return None if any(last_name(call.func) in _HIDE for call, _ in found.calls) else found


def _has(offered: Outline, name: str) -> bool:
    return name in offered.module.bound or name.startswith("__")


def _not_offered(name: str, offered: Outline) -> str:
    public = [known for known in offered.module.bound if not known.startswith("_")]
    return f"{CONSTITUTION} has no '{name}'; {nearest(name, public)}"


def _callee(function: ast.expr, scope: Scope, program: Outline, classes: Classes) -> Signature | None:
    if isinstance(function, ast.Name):
        definition = program.definition(function.id, scope)
        if isinstance(definition, Function):
            return plain_signature(definition.name, definition, program)
        if isinstance(definition, ast.ClassDef):
            kind = classes.kinds.get(definition.name)
            return classes.construction(kind) if kind is not None and kind.node is definition else None
        element = _element_of(function, scope, program, classes)
        return _instance_call(element, classes)
    kind = classes.kinds.get(scope.owner.name) if scope.owner is not None else None
    if kind is None or kind.node is not scope.owner or not isinstance(function, ast.Attribute) or not _is_self(function.value, scope):
        return None
    held = _held(function.attr, kind, classes)
    return _instance_call(held, classes) if held is not None else classes.call(kind, function.attr)


def _offered(function: ast.expr, scope: Scope, program: Outline, offered: Outline | None) -> Signature | None:
    module, _, name = program.dotted(function, scope).rpartition(".")
    if offered is None or module != CONSTITUTION:
        return None
    definition = offered.definition(name, offered.module)
    return plain_signature(name, definition, offered) if isinstance(definition, ast.FunctionDef) else None


def _instance_call(kind: Kind | None, classes: Classes) -> Signature | None:
    """How an instance is called: calling a module is calling its `forward`."""
    if kind is None or not kind.is_a(MODULE) or any("__call__" in relative.methods for relative in kind.lineage()):
        return None
    return classes.call(kind, "forward")


def _held(name: str, kind: Kind, classes: Classes) -> Kind | None:
    """The class of a submodule that is assigned in one place."""
    values = kind.stored.get(name, [])
    if len(values) != 1 or name in classes.foreign_stores or name in kind.methods or classes.children(kind) or kind.bases:
        return None
    return _made(values[0], classes)


def _made(value: ast.expr | None, classes: Classes) -> Kind | None:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return classes.kinds.get(value.func.id)
    return None


def _element_of(name: ast.Name, scope: Scope, program: Outline, classes: Classes) -> Kind | None:
    """`block` of `for block in self.blocks`, or of `for i, block in enumerate(self.blocks)`, where the list holds one class."""
    kind = classes.kinds.get(scope.owner.name) if scope.owner is not None else None
    if kind is None or kind.node is not scope.owner or scope.bound[name.id] != 1 or kind.bases or classes.children(kind):
        return None
    for loop in walk(scope.node):
        if not isinstance(loop, ast.For | ast.comprehension):
            continue
        target, iterated = loop.target, loop.iter
        if is_call(iterated, "enumerate") and isinstance(target, ast.Tuple) and iterated.args:
            target, iterated = target.elts[-1], iterated.args[0]
        if not (isinstance(target, ast.Name) and target.id == name.id and isinstance(iterated, ast.Attribute)):
            continue
        values = kind.stored.get(iterated.attr, []) if _is_self(iterated.value, scope) else []
        if len(values) == 1 and iterated.attr not in classes.foreign_stores:
            return _of_list(values[0], program, classes)
    return None


def _of_list(value: ast.expr | None, program: Outline, classes: Classes) -> Kind | None:
    if not isinstance(value, ast.Call) or program.dotted(value.func, program.module) not in _LISTS or len(value.args) != 1:
        return None
    (made,) = value.args
    if isinstance(made, ast.ListComp | ast.GeneratorExp):
        return _made(made.elt, classes)
    return None


def _made_locals(program: Outline, classes: Classes) -> dict[tuple[int, str], Kind]:
    """(id(scope), name) → class, for `model = GPT(…)` where that is all that a function assigns to `model`."""
    found = dict[tuple[int, str], Kind]()
    for node, scope in program.assignments:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        kind = _made(node.value, classes)
        if kind is not None and isinstance(target, ast.Name) and scope.bound[target.id] == 1 and isinstance(scope.node, ast.FunctionDef):
            found[id(scope), target.id] = kind
    return found


def _is_self(node: ast.expr, scope: Scope) -> bool:
    return isinstance(node, ast.Name) and scope.me != "" and node.id == scope.me and _binds_once(node.id, scope)


def _binds_once(name: str, scope: Scope) -> bool:
    holder = scope.holder(name)
    return holder is not None and holder.bound[name] == 1 and isinstance(holder.node, Function)
