"""Which programs report the same loss: a hash of all code, and of all numbers, that the loss handed to `prepare.report` is made of.

Training losses say which of two programs learns faster only where both mean the same by loss: one with smoothed labels, another
vocabulary or a second target reports other numbers for the same model. From the argument of `prepare.report` the walk goes back through
assignments, callers' arguments and called functions; what is not reached (model, optimiser, schedule) may differ. It rather goes too far
than not far enough: a hash that differs without need costs a comparison, one that agrees without reason would mislead.

How many rows make a batch and how many batches make a step are no part of it, since a loss is a mean per token. Not seen: a model that
behaves differently in training and in scoring (dropout) under the same loss.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache

from genomes.canonical import canonical_form
from genomes.nodes import Function, children, imported_by, walk
from genomes.source import read

_MODEL = "build_model"  # function of the contract that makes the model that the loss is taken of
_BATCHES = ("batches", "warmup_batches")  # functions of prepare, called with batch size and vocabulary
_DIGITS = 16
_CACHED = 4096


@lru_cache(maxsize=_CACHED)
def loss_code(text: str) -> str:
    """16 hex digits, equal for programs whose reported losses mean the same; "" for a program that reports none.

    Raises:
        ParseError: the text is no program.
    """
    walk = _Walk(read(text).tree)
    for function in walk.functions.values():
        for call in function.calls:
            if isinstance(call.func, ast.Attribute) and call.func.attr == "report":
                walk.sources(function, [*call.args, *(keyword.value for keyword in call.keywords)])
    forms = sorted(set(walk.found.values()))
    return hashlib.sha256("\n".join(forms).encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS] if forms else ""


class _Function:
    """A function or method: what it takes, calls, and where it gives a name its value."""

    def __init__(self, node: Function) -> None:
        self.node, arguments = node, node.args
        self.parameters = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        self.calls: list[ast.Call] = []
        self.bindings: dict[str, list[ast.AST]] = {}
        for inner in walk(node):
            if isinstance(inner, ast.Call):
                self.calls.append(inner)
            for name in _bound(inner):
                self.bindings.setdefault(name, []).append(inner)

    def holds(self, name: str) -> bool:
        return name in self.parameters or name in self.bindings


class _Walk:
    """Backwards from the reported loss. `found` has the canonical form of each piece of the program that was reached."""

    def __init__(self, tree: ast.Module) -> None:
        self.functions = {node.name: _Function(node) for node in tree.body if isinstance(node, Function)}
        self.found: dict[ast.AST, str] = {}
        self._methods: dict[str, list[_Function]] = {}
        self._constants: dict[str, list[ast.stmt]] = {}
        self._imports = set[str]()
        self._followed = set[tuple[_Function, str]]()
        for statement in tree.body:
            for name in _bound(statement):
                self._constants.setdefault(name, []).append(statement)
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self._imports |= {*imported_by(statement)}
            for inner in statement.body if isinstance(statement, ast.ClassDef) else ():
                if isinstance(inner, Function):
                    self._methods.setdefault(inner.name, []).append(_Function(inner))

    def sources(self, function: _Function, expressions: Iterable[ast.AST]) -> None:
        """Keeps expressions of a function, and what their values are made of."""
        for expression in expressions:
            self.found[expression] = canonical_form(expression)
            for name in _read(expression) - self._imports:
                self._variable(function, name)
            self._methods_called(function, [node for node in walk(expression) if isinstance(node, ast.Call)])

    def _variable(self, function: _Function, name: str) -> None:
        if (function, name) in self._followed:
            return
        self._followed.add((function, name))
        for node in function.bindings.get(name, ()):
            self.sources(function, _values(node))
        for caller, value in self._given(function, name):
            self.sources(caller, [value])
        if not function.holds(name):
            self._global(function, name)

    def _global(self, function: _Function, name: str) -> None:
        if name in self.functions and name != _MODEL:
            self._whole(self.functions[name])
        self.sources(function, self._constants.get(name, ()))

    def _whole(self, function: _Function) -> None:
        """Keeps a function that is called. One without parameters returns a setting, such as how many passes make a step: its code
        counts, the whole numbers at module level that it reads do not."""
        if function.node in self.found:
            return
        self.found[function.node] = canonical_form(function.node)
        for name in _read(function.node) - self._imports:
            settings = not function.parameters and name in self._constants and all(map(_is_whole_number, self._constants[name]))
            if not function.holds(name) and not settings:
                self._global(function, name)
        self._methods_called(function, function.calls)

    def _methods_called(self, function: _Function, calls: Iterable[ast.Call]) -> None:
        """Keeps called methods of the program's classes, by name. A model that is asked for more than logits may return a loss."""
        for call in calls:
            match call.func:
                case ast.Attribute(attr=name):
                    methods = self._methods.get(name, [])
                case ast.Name(id=name) if len(call.args) + len(call.keywords) > 1 and self._is_model(function, name, frozenset()):
                    methods = self._methods.get("forward", [])
                case _:
                    methods = []
            for method in methods:
                self._whole(method)

    def _is_model(self, function: _Function, name: str, seen: frozenset[tuple[_Function, str]]) -> bool:
        """Whether a name that is called may mean a model that was made or handed in: no function, class or builtin is behind it."""
        if not function.holds(name):
            return name == _MODEL
        if (function, name) in seen:
            return True
        made = [(function, value) for node in function.bindings.get(name, ()) for value in _values(node)] + list(
            self._given(function, name)
        )
        behind = [(where, other) for where, value in made for other in _read(value) if where.holds(other) or other in self.functions]
        return all(self._is_model(where, other, seen | {(function, name)}) for where, other in behind)

    def _given(self, function: _Function, name: str) -> Iterator[tuple[_Function, ast.AST]]:
        """What callers give for a parameter, and who they are; nothing for other names."""
        for caller in self.functions.values() if name in function.parameters else ():
            for call in caller.calls:
                if isinstance(call.func, ast.Name) and call.func.id == function.node.name:
                    index = function.parameters.index(name)
                    named = [keyword.value for keyword in call.keywords if keyword.arg == name]
                    yield from ((caller, value) for value in (*call.args[index : index + 1], *named))


def _bound(node: ast.AST) -> set[str]:
    """Names whose values a node itself changes, not what is inside it: `x = …`, `x[0] += …`, `for x in …`, `with … as x`, `x.add_(…)`."""
    targets: list[ast.AST] = []
    match node:
        case ast.Assign():
            targets += node.targets
        case ast.AugAssign() | ast.AnnAssign() | ast.For() | ast.NamedExpr():
            targets.append(node.target)
        case ast.withitem(optional_vars=ast.AST() as target):
            targets.append(target)
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=target))):
            targets.append(target)
    return {name for target in targets for name in _roots(target)}


def _roots(target: ast.AST) -> Iterator[str]:
    match target:
        case ast.Name():
            yield target.id
        case ast.Attribute() | ast.Subscript() | ast.Starred():
            yield from _roots(target.value)
        case ast.Tuple() | ast.List():
            for element in target.elts:
                yield from _roots(element)


def _values(node: ast.AST) -> list[ast.AST]:
    """The parts of a binding that say what is bound: of a loop only its head."""
    return [node.target, node.iter] if isinstance(node, ast.For) else [node]


def _read(node: ast.AST) -> set[str]:
    """Names that are read, apart from the batch size that batches are requested with."""
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Load) else set()
    parts: Iterable[ast.AST] = children(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _BATCHES:
        parts = (node.func, *node.args[1:], *node.keywords)
    return set().union(*map(_read, parts))


def _is_whole_number(statement: ast.AST) -> bool:
    """An assignment that holds whole numbers and nothing else."""
    literals = [node.value for node in walk(statement) if isinstance(node, ast.Constant)]
    return bool(literals) and all(type(value) is int for value in literals)
