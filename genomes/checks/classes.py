"""The classes of a program, as far as its text is certain about them: what an instance has, and how it is made and called.

Nothing is said about a class when a base is not known, when it is decorated (except as a dataclass) or has a metaclass, or when something
sets attributes by a name that is not a literal.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from genomes.checks.outline import Outline
from genomes.checks.signatures import Signature, record_signature, signature
from genomes.nodes import Definition, Function, imported_by, last_name, targets_of, walk, words

# What torch.nn.Module and torch.optim.Optimizer have (torch 2.10 to 2.13); names with an underscore in front are not looked at.
_MODULE = words(
    """T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches eval extra_repr float
    forward get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict modules mtia named_buffers named_children
    named_modules named_parameters parameters register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory state_dict to to_empty train training type xpu zero_grad"""
)
_OPTIMISER = words(
    """OptimizerPostHook OptimizerPreHook add_param_group defaults load_state_dict param_groups profile_hook_step
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_state_dict_post_hook register_state_dict_pre_hook
    register_step_post_hook register_step_pre_hook state state_dict step zero_grad"""
)
MODULE = "torch.nn.Module"
_BASES = {
    MODULE: _MODULE,
    "torch.optim.Optimizer": _OPTIMISER,
    "torch.optim.optimizer.Optimizer": _OPTIMISER,
    "object": frozenset[str](),
}
_PLAIN_DECORATORS = (
    "torch.no_grad",
    "torch.inference_mode",
    "torch.compile",
    "torch.enable_grad",
    "functools.cache",
    "functools.lru_cache",
)
_DATACLASS = ("dataclass", "dataclasses.dataclass")
_DYNAMIC = ("__getattr__", "__getattribute__", "__slots__", "__new__", "__init_subclass__")


@dataclass(eq=False)
class Kind:
    """One top-level class that is certain: its name is bound once, its bases are known."""

    node: ast.ClassDef
    bases: tuple[Kind, ...]  # bases in the program
    foreign: tuple[str, ...]  # dotted names of its bases in torch
    record: bool  # a dataclass
    stored: dict[str, list[ast.expr | None]] = field(default_factory=dict)  # attribute → what its methods assign to it

    @cached_property
    def methods(self) -> dict[str, Function | None]:
        """Methods of its own body; None for a name that is defined twice or other than by `def`."""
        found: dict[str, Function | None] = {}
        for name, statement in _body_names(self.node.body):
            plain = isinstance(statement, Function) and name not in found
            found[name] = statement if plain else None  # type: ignore[assignment]  # narrowed by the line above
        return found

    def lineage(self) -> Iterator[Kind]:
        """Itself and its bases in the program, nearest first."""
        yield self
        for base in self.bases:
            yield from base.lineage()

    def method(self, name: str) -> Function | None:
        """What an instance runs under that name, unless a subclass says otherwise."""
        for kind in self.lineage():
            if name in kind.stored:
                return None
            if name in kind.methods:
                return kind.methods[name]
        return None

    def is_a(self, base: str) -> bool:
        return any(base in kind.foreign for kind in self.lineage())


class Classes:
    """All certain classes of a program."""

    def __init__(self, program: Outline) -> None:
        self.program = program
        self.dynamic = any(_sets_anything(call) for call, _ in program.calls) or any(a.attr == "__dict__" for a, _ in program.attributes)
        self.foreign_stores: set[str] = set()  # attributes that are set on something other than `self`
        self.kinds: dict[str, Kind] = {}
        for name, node in program.definitions.items():
            if isinstance(node, ast.ClassDef) and program.module.bound[name] == 1 and (kind := self._kind(node)) is not None:
                self.kinds[name] = kind
        self._drop_uncertain_bases()
        self._collect_stores()

    def children(self, kind: Kind) -> list[Kind]:
        return [other for other in self.kinds.values() if other is not kind and any(k is kind for k in other.lineage())]

    def known(self, kind: Kind) -> set[str]:
        """Every attribute that an instance can have."""
        family = {id(k): k for relative in [kind, *self.children(kind)] for k in relative.lineage()}.values()
        names = set(self.foreign_stores)
        for relative in family:
            names |= {*relative.methods, *relative.stored}
            names.update(*(_BASES[base] for base in relative.foreign))
        return names

    def construction(self, kind: Kind) -> Signature | None:
        """How the class is called; None where that is not certain."""
        if kind.record:
            return record_signature(kind.node) if not kind.bases and "__init__" not in kind.methods else None
        method = kind.method("__init__")
        found = plain_signature(kind.node.name, method, self.program) if method is not None else None
        return replace(found, gives_nothing=False) if found is not None else None

    def call(self, kind: Kind, name: str) -> Signature | None:
        """How a method is called on an instance; None where a subclass may override it, or it is not certain."""
        if any(name in child.methods or name in child.stored for child in self.children(kind)) or name in self.foreign_stores:
            return None
        method = kind.method(name)
        return plain_signature(f"{kind.node.name}.{name}", method, self.program) if method is not None else None

    def _kind(self, node: ast.ClassDef) -> Kind | None:
        record = [d for d in node.decorator_list if self._decorator(d) in _DATACLASS]
        if len(record) != len(node.decorator_list) or node.keywords or any(name in _DYNAMIC for name, _ in _body_names(node.body)):
            return None
        bases, foreign = [], []
        for base in node.bases:
            dotted = self._name(base)
            if dotted in _BASES:
                foreign.append(dotted)
            elif dotted in self.kinds:
                bases.append(self.kinds[dotted])
            else:
                return None
        return Kind(node, tuple(bases), tuple(foreign), bool(record))

    def _drop_uncertain_bases(self) -> None:
        """Drops what an uncertain class inherits from, since such a class may change its bases."""
        certain = {id(kind.node) for kind in self.kinds.values()}
        for scope in self.program.scopes.values():
            if isinstance(scope.node, ast.ClassDef) and id(scope.node) not in certain:
                for base in scope.node.bases:
                    for kind in tuple(self.kinds[base.id].lineage() if isinstance(base, ast.Name) and base.id in self.kinds else ()):
                        self.kinds.pop(kind.node.name, None)

    def _decorator(self, node: ast.expr) -> str:
        return self._name(node.func if isinstance(node, ast.Call) else node)

    def _name(self, node: ast.expr) -> str:
        module = self.program.module
        return self.program.dotted(node, module) or (node.id if isinstance(node, ast.Name) else "")

    def _collect_stores(self) -> None:
        by_node = {id(kind.node): kind for kind in self.kinds.values()}
        values = _assigned_values(self.program)
        for attribute, scope in self.program.attributes:
            if isinstance(attribute.ctx, ast.Load):
                continue
            kind = by_node.get(id(scope.owner))
            if kind is not None and isinstance(attribute.value, ast.Name) and attribute.value.id == scope.me:
                kind.stored.setdefault(attribute.attr, []).append(values.get(id(attribute)))
            else:
                self.foreign_stores.add(attribute.attr)


def plain_signature(name: str, function: Function, program: Outline) -> Signature | None:
    """The signature of a function whose decorators keep it; None for others."""
    for decorator in function.decorator_list:
        node = decorator.func if isinstance(decorator, ast.Call) else decorator
        if program.dotted(node, program.module) not in _PLAIN_DECORATORS:
            return None
    return signature(name, function, bound="." in name or name != function.name)


def _body_names(block: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    for statement in block:
        if isinstance(statement, Definition):
            yield statement.name, statement
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            yield from ((name, statement) for name in imported_by(statement))
        else:
            yield from ((n.id, statement) for n in walk(statement) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load))
            yield from ((f.name, f) for f in walk(statement) if isinstance(f, ast.FunctionDef) for _ in range(2))


def _assigned_values(program: Outline) -> dict[int, ast.expr]:
    """id(target attribute) → the whole value that a plain assignment gives it."""
    found: dict[int, ast.expr] = {}
    for node, _ in program.assignments:
        targets = targets_of(node)
        if len(targets) == 1 and isinstance(targets[0], ast.Attribute) and node.value is not None:
            found[id(targets[0])] = node.value
    return found


def _sets_anything(call: ast.Call) -> bool:
    """`setattr` with a name that is not a literal: it could set anything. Literal names are among the program's strings."""
    name = last_name(call.func)
    if name == "vars":
        return True
    if name not in ("setattr", "register_buffer", "register_parameter", "add_module", "register_module", "delattr"):
        return False
    position = 1 if name in ("setattr", "delattr") else 0
    wanted = call.args[position] if len(call.args) > position else next((k.value for k in call.keywords if k.arg == "name"), None)
    return not (isinstance(wanted, ast.Constant) and isinstance(wanted.value, str))
