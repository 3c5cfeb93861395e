"""Small questions about syntax trees that the structural mutations ask."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TypeGuard

from genomes.literals import read_value
from genomes.mutations.mutation import Place, Program, Rewrite, rewrite
from genomes.nodes import is_operation, last_name, names_in, targets_of, walk
from genomes.source import Source, Splice

# Functions whose arithmetic is the recipe. Constructors and loops are left alone: shapes and bookkeeping live there.
_RECIPE = re.compile(
    r"forward|init_weights|initiali|schedule|rate|lr|momentum|decay|update|rotary|rotate|norm|act|cap|loss|orthogonal|newton|polar|muon|adam",
    re.I,
)
_PLUMBING = re.compile(r"__init__|main|build|train|rehearse|batch|eval|report|save|attention_functions|mask|window|optimi[sz]ers")
_UNTOUCHABLE = re.compile(
    r"\b(device|dtype|cuda|autocast|compile\w*|seed|manual_seed|prepare|backward|super|register_buffer|os|sys|shape|view|reshape|mT|size|len|gc"
    r"|getattr|to|type|type_as|bfloat16|float32|is_causal|\w*mask\w*|cross_entropy|state|grads?|targets|idx|tokens)\b"
)
_NORM = re.compile(r"^(rms_?norm|layer_?norm|norm|rmsnorm|ln)$", re.IGNORECASE)
ACTIVATIONS = ("relu", "gelu", "silu", "leaky_relu", "elu", "mish", "relu6")
_SHOWN = 60


def in_recipe(parent: Program) -> Iterator[Place]:
    """Places in functions that hold the recipe."""
    for place in parent.places:
        last = place.name.rsplit(".", 1)[-1]
        if _RECIPE.search(place.name) and not _PLUMBING.search(last):
            yield place


def neighbours(parent: Program) -> Iterator[tuple[Place, ast.stmt, ast.stmt]]:
    """Statements of the recipe, each with the next one of its block."""
    for place in in_recipe(parent):
        if place.node is place.statement and (index := place.block.index(place.statement)) + 1 < len(place.block):
            yield place, place.statement, place.block[index + 1]


def is_touchable(source: Source, node: ast.AST) -> bool:
    """Whether nothing in it is about devices, number formats, shapes, seeds, masks or the harness."""
    return not _UNTOUCHABLE.search(source.code(node))


def is_norm(node: ast.AST) -> TypeGuard[ast.Call]:
    """A call of a norm without parameters of its own: `norm(x)`, `F.rms_norm(x, …)`; not `x.norm()`, not `self.ln(x)`."""
    if not isinstance(node, ast.Call) or not node.args or not _NORM.match(last_name(node.func)):
        return False
    return isinstance(node.func, ast.Name) or (isinstance(node.func, ast.Attribute) and last_name(node.func.value) in ("F", "functional"))


def calls_self(node: ast.AST) -> TypeGuard[ast.Call]:
    """`self.a(…)`."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and last_name(node.func.value) == "self"


def squares(node: ast.AST, call: ast.Call) -> bool:
    """`call.square()` or `call ** 2`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr == "square" and node.func.value is call
    return is_operation(node, ast.Pow) and node.left is call


def uses_module(place: Place, node: ast.AST) -> bool:
    """Does the node call a submodule, itself or through a local name, or look weights up? Without it they would get no gradient."""
    if any(_is_module_call(inner) or _is_weight(inner, place.function) for inner in walk(node)):
        return True
    names = names_in(node)
    for statement in walk(place.function):
        if not isinstance(statement, ast.Assign) or statement is place.statement:
            continue
        bound = {name for target in statement.targets for name in names_in(target)}
        if names & bound and any(_is_module_call(inner) for inner in walk(statement.value)):
            return True
    return False


def _is_weight(node: ast.AST, function: ast.FunctionDef) -> bool:
    """`p["embed"]`, `p[f"l{i}_out"]` of a dictionary that the function is given."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        return False
    named = isinstance(node.slice, ast.JoinedStr) or (isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str))
    return named and node.value.id in {argument.arg for argument in function.args.args}


def data_names(function: ast.FunctionDef) -> set[str]:
    """The first argument but `self`, and what is computed from it. An expression without any of it no longer depends on the data."""
    arguments = [argument.arg for argument in function.args.args if argument.arg != "self"]
    found, before = set(arguments[:1]), set[str]()
    assigned = [node for node in walk(function) if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None]
    while found != before:
        before = set(found)
        for node in assigned:
            if node.value is not None and names_in(node.value) & found:
                found |= {name for target in targets_of(node) for name in names_in(target) if name != "self"}
    return found


def _is_module_call(node: ast.AST) -> bool:
    """`self.mlp(…)`, `self.blocks[i](…)`; also a loop over layers, `layer(x)`."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func.value if isinstance(node.func, ast.Subscript) else node.func
    return (isinstance(function, ast.Attribute) and last_name(function.value) == "self") or last_name(function) in (
        "layer",
        "block",
        "module",
    )


def atom(source: Source, node: ast.expr) -> str:
    """Source of an expression that can stand anywhere: with parentheses unless it is a name, number, call, attribute or subscript."""
    code = source.code(node)
    return (
        code if isinstance(node, ast.Name | ast.Call | ast.Attribute | ast.Subscript | ast.Constant) and "\n" not in code else f"({code})"
    )


def replaced(parent: Program, place: Place, text: str, what: str, *along: Splice) -> Rewrite:
    """The program with one expression replaced, and what must change along with it, and the note that says so."""
    start, end = parent.source.span(place.node)
    note = f"{place.name}: {what}: {shown(parent.source.code(place.node))} → {shown(text)}"
    return rewrite(parent, [Splice(start, end, text), *along], note)


def without(parent: Program, place: Place, what: str) -> Rewrite:
    """The program without a statement's lines; `pass` where it was alone."""
    return removed(parent, place.block, place.statement, f"{place.name}: {what}")


def removed(parent: Program, block: list[ast.stmt], statement: ast.stmt, what: str) -> Rewrite:
    """As `without`, for a statement of any scope and its block."""
    source = parent.source
    start, end = source.span(statement)
    note = f"{what}: {shown(source.text[start:end])}"
    if len(block) == 1 or source.text[start - statement.col_offset : start].strip():
        return rewrite(parent, [Splice(start, end, "pass")], note)
    stop = source.starts[statement.end_lineno or statement.lineno] if (statement.end_lineno or 0) < len(source.lines) else len(source.text)
    rest = source.text[end:stop].strip()
    if rest and not rest.startswith("#"):
        return rewrite(parent, [Splice(start, end, "pass")], note)
    return rewrite(parent, [Splice(source.starts[statement.lineno - 1], stop, "")], note)


def above(parent: Program, statement: ast.stmt, line: str) -> Splice:
    """A new line above a statement that begins its own line."""
    start = parent.source.starts[statement.lineno - 1]
    indent = parent.text[start : start + statement.col_offset]
    return Splice(start, start, f"{indent}{line}\n")


def imported(parent: Program, module: str) -> list[Splice]:
    """What makes `import module` hold: nothing where it does, else a line before the first import that is not from __future__."""
    imports = [node for node in parent.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    if any(isinstance(node, ast.Import) and any(alias.name == module and not alias.asname for alias in node.names) for node in imports):
        return []
    first = next((node for node in imports if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")), None)
    return [above(parent, first, f"import {module}")] if first else []


def is_one(node: ast.AST) -> bool:
    return read_value(node) in (1, 1.0)


def shown(text: str) -> str:
    """One line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
