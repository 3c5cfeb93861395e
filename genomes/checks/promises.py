"""What a function or class has to do for those who use it: begin, come to an end, give something back.

main, build_model    can be called without arguments; build_model gives a model back; what is trained is saved
__init__             of a module calls that of nn.Module before it holds anything
recursion            that has no way out
containers           nn.ModuleDict has names as keys
values               that are taken apart into more or fewer names than they have parts; betas of Adam outside of [0, 1)
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from genomes.checks.arithmetic import Constants
from genomes.checks.classes import MODULE, Classes, Kind
from genomes.checks.guards import always, constants_of
from genomes.checks.outline import CONSTITUTION, Outline, Scope
from genomes.checks.problem import Problem
from genomes.checks.signatures import signature
from genomes.nodes import is_call, last_name, names_in, walk, words

_ENTRIES = ("build_model", "main")
_TAKEN = f"{CONSTITUTION}.batches"
_SAVE = f"{CONSTITUTION}.save"
_ADAMS = ("torch.optim.AdamW", "torch.optim.Adam")
_HELD = words("torch.nn.Linear torch.nn.Embedding torch.nn.Parameter torch.nn.ModuleList torch.nn.ModuleDict")
_NUMBERED = ("range", "enumerate")


def entry_problems(program: Outline) -> Iterator[Problem]:
    """Problems of what the lab calls: main and build_model."""
    for name in _ENTRIES:
        function = program.definition(name, program.module)
        if not isinstance(function, ast.FunctionDef) or function.decorator_list:
            continue
        known = signature(name, function, bound=False)
        asked = [*known.positional[: known.required], *sorted(known.required_keywords)]
        if asked:
            yield Problem(function.lineno, f"{name}() is called without arguments and asks for '{asked[0]}': give it a default")
        if name == "build_model" and known.gives_nothing and len(function.body) > 1:
            yield Problem(function.lineno, "build_model() returns nothing: end it with `return model`")
    if _trains(program) and not _saves(program):
        yield Problem(0, f"trains and hands over nothing: end main() with {_SAVE}(model)")


def promise_problems(program: Outline, classes: Classes, prepare: str) -> Iterator[Problem]:
    """Problems of everything else."""
    constants = constants_of(program, prepare)
    for kind in classes.kinds.values():
        yield from _unstarted(kind, program)
    for function in program.definitions.values():
        yield from _endless(function, program)
    for call, scope in program.calls:
        dotted = program.dotted(call.func, scope)
        if dotted == "torch.nn.ModuleDict" and call.args and _numbered(call.args[0]):
            yield Problem(call.lineno, "keys of nn.ModuleDict are names: use str(…) for a number, also where they are looked up")
        elif dotted == _SAVE and call.args and is_call(call.args[0], "state_dict"):
            yield Problem(call.lineno, f"{_SAVE}() takes the model itself, not its state_dict()")
        elif dotted in _ADAMS:
            yield from _betas(call, scope, constants)
    yield from _taken_apart(program, constants)


def _trains(program: Outline) -> bool:
    return any(program.dotted(call.func, scope) == _TAKEN for call, scope in program.calls)


def _saves(program: Outline) -> bool:
    """Whether `save` is mentioned; any mention counts, since it may be handed around."""
    return any(attribute.attr == "save" for attribute, _ in program.attributes) or _SAVE in program.imports.values()


def _unstarted(kind: Kind, program: Outline) -> Iterator[Problem]:
    method = kind.methods.get("__init__")
    if method is None or not kind.is_a(MODULE) or kind.bases:
        return
    names = names_in(method)
    starts = "super" in names or any(isinstance(node, ast.Attribute) and node.attr == "__init__" for node in walk(method))
    holds = [node for node in walk(method) if isinstance(node, ast.Call) and _is_module(node, program)]
    if holds and not starts:
        yield Problem(method.lineno, f"{kind.node.name}.__init__() does not call super().__init__(): call it first")


def _is_module(call: ast.Call, program: Outline) -> bool:
    return program.dotted(call.func, program.module) in _HELD


def _endless(function: ast.stmt, program: Outline) -> Iterator[Problem]:
    if not isinstance(function, ast.FunctionDef) or function.decorator_list:
        return
    scope = program.scopes[id(function)]
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in walk(function)):
        return
    for statement in function.body:
        for node in always(statement):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and program.definition(node.func.id, scope) is function:
                yield Problem(node.lineno, f"{function.name}() calls itself whatever happens: it never ends")
                return
        if any(isinstance(node, ast.Return | ast.Raise) for node in walk(statement)):
            return


def _numbered(keys: ast.expr) -> bool:
    """`{i: … for i in range(…)}`, `{0: …}`."""
    if isinstance(keys, ast.Dict):
        return any(isinstance(key, ast.Constant) and isinstance(key.value, int) for key in keys.keys)
    if not isinstance(keys, ast.DictComp) or not isinstance(keys.key, ast.Name):
        return False
    for loop in keys.generators:
        counted = isinstance(loop.iter, ast.Call) and isinstance(loop.iter.func, ast.Name) and loop.iter.func.id in _NUMBERED
        target = loop.target.elts[0] if isinstance(loop.target, ast.Tuple) and loop.target.elts else loop.target
        if counted and isinstance(target, ast.Name) and target.id == keys.key.id:
            return True
    return False


def _betas(call: ast.Call, scope: Scope, constants: Constants) -> Iterator[Problem]:
    for keyword in call.keywords:
        value = constants.value(keyword.value, scope) if keyword.arg == "betas" else None
        if value is None:
            continue
        pair = isinstance(value, tuple) and len(value) == 2
        if not pair or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in value):
            yield Problem(call.lineno, f"betas = {value!r} of {last_name(call.func)}: give two numbers from 0 to below 1")


def _taken_apart(program: Outline, constants: Constants) -> Iterator[Problem]:
    for scope in program.scopes.values():
        for loop in walk(scope.node) if isinstance(scope.node, ast.FunctionDef) else ():
            if not isinstance(loop, ast.For) or not isinstance(loop.target, ast.Tuple):
                continue
            rows = constants.value(loop.iter, scope)
            names = len(loop.target.elts) if not any(isinstance(target, ast.Starred) for target in loop.target.elts) else None
            for row in rows if names is not None and isinstance(rows, tuple) else ():
                if isinstance(row, tuple) and len(row) != names:
                    what = ast.unparse(loop.iter)[:40]
                    yield Problem(loop.lineno, f"a row of {what} has {len(row)} elements for {names} names: make the two numbers equal")
                    break
