"""Literals that no score can depend on, as far as the tree shows: to tune them would cost an evaluation each and find noise.

Four kinds, of which karpathy/autoresearch's train.py has thirty-three, and a tidy program none:

- defaults that every call replaces: `n_layer: int = 12` of a configuration that is always made with `n_layer=depth`;
- what is only shown: `pct_done = 100 * progress`, and `estimate_flops()` where all that comes of it is printed;
- first values of tensors that are filled before use: `self.rate = torch.tensor(0.0)`, then `self.rate.fill_(group["lr"])`;
- entries of parameter groups that are written before each step: `momentum=0.95`, then `group["momentum"] = momentum_at(step)`.

Names are taken for what they say throughout the program, whatever their scope, and what is not understood counts as needed.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from genomes.nodes import Definition, children, entries, last_name, parameters_of, targets_of, text_of, walk, words

_SHOWING = words("print info debug warning")
_PURE = words(
    """abs bool float int len list max min round sorted str sum tuple zip enumerate range items values keys parameters buffers modules
    numel size element_size dim exp log sqrt tanh format isinstance item detach mean cpu tolist"""
)
_CALLED_FROM_OUTSIDE = words("main build_model")  # by the harness, in its own way
_ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
_PURE_STATEMENTS = (ast.For, ast.If, ast.Return, ast.Pass)


def idle(tree: ast.Module) -> frozenset[int]:
    """The ids of the topmost nodes of which no literal matters."""
    program = _Program(tree)
    return frozenset({*_replaced_defaults(program), *_shown(program), *_filled(program), *_overwritten(program)})


@dataclass
class _Program:
    """What the rules ask about, found in one walk."""

    tree: ast.Module
    around: dict[int, ast.AST] = field(default_factory=dict)  # id(node) -> the node around it
    calls: dict[str, list[ast.Call]] = field(default_factory=lambda: defaultdict(list))  # by the last name of what is called
    mentions: dict[str, list[ast.expr]] = field(default_factory=lambda: defaultdict(list))  # names and attributes that are read
    definitions: dict[str, list[Definition]] = field(default_factory=lambda: defaultdict(list))
    assigned: dict[str, list[ast.Assign | ast.AnnAssign | ast.AugAssign]] = field(default_factory=lambda: defaultdict(list))
    bound: set[str] = field(default_factory=set)  # names that get values in other ways
    displays: list[ast.expr] = field(default_factory=list)  # of parameter groups
    subscripts: list[ast.Subscript] = field(default_factory=list)

    def __post_init__(self) -> None:
        found, kinds = [self.tree], defaultdict[type[ast.AST], list[Any]](list)
        for node in found:  # which grows
            for child in children(node):
                self.around[id(child)] = node
                found.append(child)  # type: ignore[arg-type]
            kinds[node.__class__].append(node)
        self.subscripts = kinds[ast.Subscript]
        self.displays = [n for n in (*kinds[ast.Call], *kinds[ast.Dict]) if any(key == "params" for key, _ in entries(n))]
        for call in kinds[ast.Call]:
            self.calls[last_name(call.func)].append(call)
        for definition in (*kinds[ast.FunctionDef], *kinds[ast.AsyncFunctionDef], *kinds[ast.ClassDef]):
            self.definitions[definition.name].append(definition)
        for node in (*kinds[ast.Name], *kinds[ast.Attribute]):
            self._see(node)
        self.bound |= {argument.arg for arguments in kinds[ast.arguments] for argument in parameters_of(arguments)}
        self.bound |= {name for node in (*kinds[ast.Global], *kinds[ast.Nonlocal]) for name in node.names}

    def _see(self, node: ast.Name | ast.Attribute) -> None:
        """A name is read, assigned, or bound in another way; in an annotation it is none of these."""
        around = self.around[id(node)]
        if isinstance(around, ast.arg) or (isinstance(around, ast.AnnAssign) and around.annotation is node):
            return
        if isinstance(node.ctx, ast.Load):
            self.mentions[last_name(node)].append(node)
        elif isinstance(node, ast.Name) and isinstance(around, _ASSIGNMENTS):
            self.assigned[node.id].append(around)
        elif isinstance(node, ast.Name):
            self.bound.add(node.id)

    def only_called(self, name: str) -> list[ast.Call]:
        """All calls of a function, if calls are all that is ever done with its name; else none."""
        calls = self.calls.get(name, [])
        functions = {id(call.func) for call in calls}
        return calls if all(id(node) in functions for node in self.mentions.get(name, ())) else []


# ---- defaults that every call replaces


def _replaced_defaults(program: _Program) -> Iterable[int]:
    for found in program.definitions.values():
        for definition in found:
            name, first = _called_as(program, definition)
            calls = program.only_called(name) if len(program.definitions.get(name, ())) == 1 else []
            if not calls or any(_is_open(call) for call in calls):
                continue
            parameters = _fields(definition) if isinstance(definition, ast.ClassDef) else _defaults(definition)
            for position, parameter, default in parameters:
                if default is not None and all(_gives(call, position - first, parameter) for call in calls):
                    yield id(default)


def _called_as(program: _Program, definition: Definition) -> tuple[str, int]:
    """The name that calls go by, and how many parameters they leave to Python; "" where calls say nothing."""
    if isinstance(definition, ast.ClassDef):
        is_record = any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list)
        return (definition.name if is_record else ""), 0
    around = program.around[id(definition)]
    if not isinstance(around, ast.ClassDef):
        return ("" if definition.name in _CALLED_FROM_OUTSIDE else definition.name), 0
    if definition.name == "__init__":
        return around.name, 1
    return ("" if definition.name.startswith("__") or definition.decorator_list else definition.name), 1


def _is_open(call: ast.Call) -> bool:
    """`f(*a, **b)`: nobody can say what it gives."""
    return any(isinstance(argument, ast.Starred) for argument in call.args) or any(word.arg is None for word in call.keywords)


def _gives(call: ast.Call, position: int, parameter: str) -> bool:
    return 0 <= position < len(call.args) or any(word.arg == parameter for word in call.keywords)


def _defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[tuple[int, str, ast.expr | None]]:
    """Position, name and default of each parameter; a keyword-only one has no position that a call could reach."""
    given = [*function.args.posonlyargs, *function.args.args]
    padded = [None] * (len(given) - len(function.args.defaults)) + [*function.args.defaults]
    found = [(i, argument.arg, default) for i, (argument, default) in enumerate(zip(given, padded, strict=True))]
    return found + [(-1, a.arg, d) for a, d in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)]


def _fields(definition: ast.ClassDef) -> list[tuple[int, str, ast.expr | None]]:
    """The same of a dataclass. One that has bases takes fields of theirs first, so that positions say nothing."""
    found = [s for s in definition.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
    return [(-1 if definition.bases else i, last_name(s.target), s.value) for i, s in enumerate(found)]


# ---- what is only shown


def _shown(program: _Program) -> Iterable[int]:
    names = {name for name in program.assigned if _is_plain(program, name)}
    functions = {
        name: found[0]
        for name, found in program.definitions.items()
        if len(found) == 1 and isinstance(found[0], ast.FunctionDef) and program.only_called(name) and _is_pure(found[0])
    }
    inside = {name: {id(node) for node in walk(function)} for name, function in functions.items()}
    while True:  # until all that is left goes nowhere but into what is left, or is shown
        idle_nodes = set().union(*(inside[name] for name in functions))
        needed = {n for n in names if any(not _is_shown(program, m, names, functions, idle_nodes) for m in program.mentions.get(n, ()))}
        needed |= {f for f in functions if any(not _is_shown(program, c, names, functions, idle_nodes) for c in program.calls[f])}
        if not needed:
            break
        names -= needed
        functions = {name: function for name, function in functions.items() if name not in needed}
    yield from map(id, functions.values())
    for name in names:
        for statement in program.assigned[name]:
            if statement.value is not None:
                yield from _own_arithmetic(statement.value)


def _is_plain(program: _Program, name: str) -> bool:
    """A local or module-level name that is assigned and nothing else: no parameter, no loop variable, no field of a class."""
    if name in program.bound or name in program.definitions or not program.mentions.get(name):
        return False
    return not any(isinstance(program.around[id(statement)], ast.ClassDef) for statement in program.assigned[name])


def _is_pure(function: ast.FunctionDef) -> bool:
    """It computes what it returns and changes nothing."""
    if function.decorator_list:
        return False
    for node in walk(function):
        if isinstance(node, ast.stmt) and node is not function and not _is_quiet(node):
            return False
        if isinstance(node, ast.Call) and last_name(node.func) not in _PURE:
            return False
        if isinstance(node, ast.Yield | ast.YieldFrom | ast.Await | ast.NamedExpr):
            return False
    return True


def _is_quiet(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)  # a docstring
    if isinstance(statement, _ASSIGNMENTS):
        return all(isinstance(node, ast.Name | ast.Tuple) for target in targets_of(statement) for node in walk(target))
    return isinstance(statement, _PURE_STATEMENTS)


def _is_shown(program: _Program, node: ast.AST, names: set[str], functions: dict[str, ast.FunctionDef], idle_nodes: set[int]) -> bool:
    """Whether what is read here goes into a print, into a name that is only shown, or into such a function."""
    while not isinstance(node, ast.stmt):
        if id(node) in idle_nodes:
            return True
        node = program.around[id(node)]
        if isinstance(node, ast.Call):
            if last_name(node.func) in _SHOWING:
                return True
            if last_name(node.func) not in _PURE and last_name(node.func) not in functions:
                return False
        elif not isinstance(node, ast.expr | ast.keyword | ast.stmt):
            return False
    if id(node) in idle_nodes:
        return True
    if not isinstance(node, _ASSIGNMENTS):
        return False
    return all(isinstance(target, ast.Name) and target.id in names for target in targets_of(node))


def _own_arithmetic(node: ast.expr) -> Iterable[int]:
    """The literals' nodes of an expression that are not arguments of a call that may do more than compute."""
    open_ones: list[ast.AST] = [node]
    while open_ones:
        inner = open_ones.pop()
        if isinstance(inner, ast.Call) and last_name(inner.func) not in _PURE:
            continue
        if isinstance(inner, ast.Constant):
            yield id(inner)
        open_ones += children(inner)


# ---- tensors that are filled before use, entries that are written before each step


def _filled(program: _Program) -> Iterable[int]:
    filled = {last_name(call.func.value) for call in program.calls.get("fill_", ()) if isinstance(call.func, ast.Attribute)}
    for call in program.calls.get("tensor", ()):
        statement = program.around[id(call)]
        if isinstance(statement, ast.Assign) and all(isinstance(t, ast.Attribute) and t.attr in filled for t in statement.targets):
            yield from map(id, call.args[:1])


def _overwritten(program: _Program) -> Iterable[int]:
    for key, kind in _written(program):
        for display in program.displays:
            found = dict(entries(display))
            if key in found and kind in (None, text_of(found.get("kind"))):
                yield id(found[key])


def _written(program: _Program) -> set[tuple[str, str | None]]:
    """Keys that are written into parameter groups of a kind, or of all kinds (None), and that only optimisers read."""
    read = set[str]()
    written = set[tuple[str, str | None]]()
    for node in program.subscripts:
        if not (key := text_of(node.slice)):
            continue
        if isinstance(node.ctx, ast.Load):
            if not _in_an_optimiser(program, node):
                read.add(key)
        elif isinstance(statement := program.around[id(node)], ast.Assign) and len(statement.targets) == 1:
            condition = program.around[id(statement)]
            if isinstance(condition, ast.For):
                written.add((key, None))
            elif isinstance(condition, ast.If) and statement in condition.body and (kind := _kind_asked(condition.test)):
                written.add((key, kind))
    return {(key, kind) for key, kind in written if key not in read}


def _kind_asked(test: ast.expr) -> str:
    """`group["kind"] == "muon"` → muon."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq) and isinstance(test.left, ast.Subscript):
        return text_of(test.comparators[0]) if text_of(test.left.slice) == "kind" else ""
    return ""


def _in_an_optimiser(program: _Program, node: ast.AST) -> bool:
    while id(node) in program.around:
        node = program.around[id(node)]
        if isinstance(node, ast.ClassDef):
            return any(last_name(base) == "Optimizer" for base in node.bases)
    return False
