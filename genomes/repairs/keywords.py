"""Arguments that a function does not take, and the call that hands the model over."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from genomes.checks.outline import CONSTITUTION, parts
from genomes.repairs.case import Case, Repaired
from genomes.repairs.names import one_edit
from genomes.source import Splice


def unexpected(found: Case, name: str) -> Iterator[Repaired]:
    """The argument as the program's own function spells it; for a library's function, the call without it."""
    calls = [call for call in found.innermost(ast.Call) if any(keyword.arg == name for keyword in call.keywords)]
    if len(calls) != 1:
        return
    (call,) = calls
    (keyword,) = [keyword for keyword in call.keywords if keyword.arg == name]
    own = isinstance(call.func, ast.Name) and call.func.id in found.program.definitions
    taken = re.search(r"it takes \d+: ([\w, ]+)$", found.failure.message)
    near = [other for other in (taken.group(1).split(", ") if taken else []) if one_edit(name, other)]
    if len(near) == 1:
        start, _ = found.source.span(keyword)
        yield found.repaired([Splice(start, start + len(name), near[0])], f"{name} → {near[0]}")
    elif not own and taken is None:
        yield found.repaired([_without(found, call, keyword)], f"without {name}=")


def fused(found: Case) -> Iterator[Repaired]:
    """Fused optimisers are not there for every device and type."""
    cuts = []
    for call, _ in found.program.calls:
        for keyword in call.keywords:
            if keyword.arg == "fused" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True:
                cuts.append(_without(found, call, keyword))
    if cuts:
        yield found.repaired(cuts, "without fused=True")


def save(found: Case) -> Iterator[Repaired]:
    """`main` ends by handing over what `build_model` gave it."""
    main = found.program.definition("main", found.program.module)
    if not isinstance(main, ast.FunctionDef) or CONSTITUTION not in found.program.imports:
        return
    calls = [node for statement in main.body for node in parts(statement) if isinstance(node, ast.Call)]
    if any(found.program.dotted(call.func, found.program.scopes[id(main)]) == f"{CONSTITUTION}.save" for call in calls):
        return
    for statement in main.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="build_model"))):
                last = main.body[-1]
                line = f"{' ' * last.col_offset}{CONSTITUTION}.save({name})\n"
                returns = isinstance(last, ast.Return)
                end = (last.lineno if returns else (last.end_lineno or 0) + 1) - 1
                starts, text = found.source.starts, found.source.text
                place = starts[end] if end < len(starts) else len(text)
                newline = "" if place == 0 or text[place - 1] == "\n" else "\n"
                yield found.repaired([Splice(place, place, newline + line)], f"{CONSTITUTION}.save({name}) at the end of main")
                return


def unstarted(found: Case) -> Iterator[Repaired]:
    """The first line of a module's `__init__`."""
    for function, _ in found.functions():
        first = function.body[0]
        start, _ = found.source.span(first)
        yield found.repaired([Splice(start, start, f"super().__init__()\n{' ' * first.col_offset}")], "super().__init__() first")
        return


def _without(found: Case, call: ast.Call, keyword: ast.keyword) -> Splice:
    """Takes an argument out, with the comma before it or, of the first one, the comma behind it."""
    everything: list[ast.AST] = sorted([*call.args, *call.keywords], key=lambda node: found.source.span(node))
    position = everything.index(keyword)
    start, end = found.source.span(keyword)
    if position:
        return Splice(found.source.span(everything[position - 1])[1], end, "")
    return Splice(start, found.source.span(everything[1])[0] if len(everything) > 1 else end, "")
