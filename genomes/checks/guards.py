"""Constants that do not go together, found where the program itself says so.

The program's own statements are judged, not its names, by the constants that its text and prepare's fix: an `assert`, or an `if …: raise`,
that certainly stops it (batch sizes that do not divide, heads, letters of a window pattern), a dictionary of choices that lacks the one
chosen, an index beyond a table, a division of numbers by zero, a vocabulary that prepare does not offer, heads that do not divide the
width of an attention layer.
Only guards that certainly run are read: those in the top block of the module, of `main` and `build_model`, and of what these call outside
any condition.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from genomes.checks.arithmetic import Constants
from genomes.checks.calls import constitution
from genomes.checks.outline import CONSTITUTION, Outline, Scope, parts
from genomes.checks.problem import Problem
from genomes.nodes import children, is_operation, walk

_BATCHES = (f"{CONSTITUTION}.batches", f"{CONSTITUTION}.warmup_batches")
_SOMETIMES = (
    *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match, ast.IfExp, ast.BoolOp, ast.Lambda),
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
_EXCUSED = ("NotImplementedError", "StopIteration", "SystemExit", "KeyboardInterrupt")


def guard_problems(program: Outline, prepare: str) -> Iterator[Problem]:
    """Problems of values. `prepare` is the text of the lab's prepare.py, "" where it is not known."""
    constants = constants_of(program, prepare)
    runs = running(program)
    for scope, statement, test in refusals(program, constants, runs):
        yield Problem(statement.lineno, _stops(test, scope, constants))
    for subscript, scope in program.subscripts:
        if scope in runs and isinstance(subscript.ctx, ast.Load) and (wrong := _missing(subscript, scope, constants)):
            yield Problem(subscript.lineno, wrong)
    for scope in runs:
        for division in _divisions_by_zero(scope, constants):
            yield Problem(division.lineno, f"`{ast.unparse(division)[:80]}` divides by zero: change the divisor")
    for call, scope in program.calls:
        if wrong := _vocabulary(call, scope, constants) or _heads(call, scope, constants):
            yield Problem(call.lineno, wrong)


def constants_of(program: Outline, prepare: str) -> Constants:
    """The constants of a program of the lab."""
    return Constants(program, _constants_of_prepare(prepare))


@lru_cache(maxsize=2)
def _constants_of_prepare(prepare: str) -> Constants | None:
    offered = constitution(prepare)
    return Constants(offered) if offered is not None else None


def refusals(program: Outline, constants: Constants, runs: Iterable[Scope]) -> Iterator[tuple[Scope, ast.stmt, ast.expr]]:
    """The guards that stop the program, and their conditions."""
    for scope in runs:
        for statement in scope.node.body if isinstance(scope.node, ast.Module | ast.FunctionDef) else ():
            if (test := refused(statement, scope, constants)) is not None:
                yield scope, statement, test


def running(program: Outline) -> list[Scope]:
    """Scopes of the module, and of the functions that certainly run."""
    open_, found = [program.module, *_entries(program)], list[Scope]()
    while open_:
        scope = open_.pop()
        if scope in found:
            continue
        found.append(scope)
        for statement in scope.node.body if isinstance(scope.node, ast.Module | ast.FunctionDef) else ():
            for node in always(statement):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    open_ += _entered(program.definition(node.func.id, scope), program)
    return found


def _entries(program: Outline) -> list[Scope]:
    return [scope for name in ("main", "build_model") for scope in _entered(program.definition(name, program.module), program)]


def _entered(definition: ast.stmt | None, program: Outline) -> list[Scope]:
    if isinstance(definition, ast.ClassDef):
        return [
            program.scopes[id(f)] for f in definition.body if isinstance(f, ast.FunctionDef) and f.name in ("__init__", "__post_init__")
        ]
    return [program.scopes[id(definition)]] if isinstance(definition, ast.FunctionDef) else []


def always(statement: ast.stmt) -> Iterator[ast.AST]:
    """What runs whenever the statement does."""
    open_: list[ast.AST] = [statement]
    while open_:
        node = open_.pop()
        if isinstance(node, _SOMETIMES):
            heads = [getattr(node, name) for name in ("test", "iter", "subject") if isinstance(getattr(node, name, None), ast.AST)]
            open_ += heads
            continue
        yield node
        open_ += [node.test] if isinstance(node, ast.Assert) else children(node)  # its message is for failures


def refused(statement: ast.stmt, scope: Scope, constants: Constants) -> ast.expr | None:
    """The condition by which a statement certainly stops the program; None where it does not."""
    if isinstance(statement, ast.Assert):
        return statement.test if constants.truth(statement.test, scope) is False else None
    if isinstance(statement, ast.If) and isinstance(statement.body[-1], ast.Raise):
        raised = statement.body[-1].exc
        excused = raised is None or any(isinstance(n, ast.Name) and n.id in _EXCUSED for n in walk(raised))
        return statement.test if not excused and constants.truth(statement.test, scope) else None
    return None


def _stops(test: ast.expr, scope: Scope, constants: Constants) -> str:
    """The condition, with the values of everything in it."""
    values = {}
    for node in walk(test):
        if isinstance(node, ast.Name | ast.Attribute) and (value := constants.value(node, scope)) is not None:
            values[ast.unparse(node)] = value
    told = ", ".join(f"{name} = {_shown(value)}" for name, value in values.items())
    return f"these values stop the program at `{ast.unparse(test)}`: {told}; change one so that they fit"


def _missing(node: ast.Subscript, scope: Scope, constants: Constants) -> str:
    key = constants.value(node.slice, scope)
    if key is None or isinstance(node.slice, ast.Constant):
        return ""
    table = constants.definition(node.value.id, scope) if isinstance(node.value, ast.Name) else node.value
    if isinstance(table, ast.Dict) and not _changed(node.value, scope):
        keys = [constants.value(known, scope) if known is not None else None for known in table.keys]
        if None not in keys and keys and key not in keys:
            return f"{ast.unparse(node.slice)} = {_shown(key)} is none of {', '.join(map(_shown, keys))}"
    rows = constants.value(node.value, scope)
    if isinstance(rows, tuple | str) and type(key) is int and not -len(rows) <= key < len(rows):
        return f"{ast.unparse(node.slice)} = {key} is not an index of {ast.unparse(node.value)[:40]}, which has {len(rows)} elements"
    return ""


def _divisions_by_zero(scope: Scope, constants: Constants) -> Iterator[ast.BinOp]:
    """Divisions that certainly run, of one number by another that is zero; a tensor may be divided by it."""
    for statement in scope.node.body if isinstance(scope.node, ast.Module | ast.FunctionDef) else ():
        for node in always(statement):
            if is_operation(node, ast.Div, ast.FloorDiv, ast.Mod):
                numbers = [constants.value(side, scope) for side in (node.left, node.right)]
                if all(isinstance(number, int | float) for number in numbers) and numbers[1] == 0:
                    yield node
        if any(isinstance(node, ast.Return) for node in parts(statement)):
            return  # what follows may not run


def _changed(table: ast.expr, scope: Scope) -> bool:
    """Whether something may be added to a named dictionary; where its name is used in one place only, nothing can be."""
    if not isinstance(table, ast.Name):
        return False
    holder = scope.holder(table.id)
    uses = sum(1 for n in walk(holder.node) if isinstance(n, ast.Name) and n.id == table.id) if holder is not None else 3
    return uses > 2


def _vocabulary(call: ast.Call, scope: Scope, constants: Constants) -> str:
    if constants.program.dotted(call.func, scope) not in _BATCHES:
        return ""
    given = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "vocab_size")]
    size, sizes = constants.value(given[0], scope) if given else None, constants.offered("VOCAB_SIZES")
    if size is None or not isinstance(sizes, tuple) or size in sizes:
        return ""
    return f"{ast.unparse(given[0])} = {size} is none of {CONSTITUTION}.VOCAB_SIZES: {', '.join(map(str, sizes))}"


def _heads(call: ast.Call, scope: Scope, constants: Constants) -> str:
    if constants.program.dotted(call.func, scope) != "torch.nn.MultiheadAttention":
        return ""
    width, heads = ([constants.value(argument, scope) for argument in call.args[:2]] + [None, None])[:2]
    if type(width) is int and type(heads) is int and (heads < 1 or width % heads):
        return f"{heads} heads do not divide the width {width} of nn.MultiheadAttention: change one so that they do"
    return ""


def involved(test: ast.AST, scope: Scope, constants: Constants) -> set[str]:
    """The module's constants that a condition depends on, through whatever local names."""
    found, open_ = set[str](), [(node, scope) for node in parts(test)]
    seen = set[int]()
    while open_:
        node, where = open_.pop()
        if not isinstance(node, ast.Name) or id(node) in seen:
            continue
        seen.add(id(node))
        holder, given = where.holder(node.id), constants.definition(node.id, where)
        if holder is constants.program.module and given is not None:
            found.add(node.id)
        if holder is not None and given is not None:
            open_ += [(inner, holder) for inner in parts(given)]
    return found


def _shown(value: Any) -> str:
    return repr(value)[:60]
