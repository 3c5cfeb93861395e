"""Where queries, keys and values meet: the call, what is above and below it, and in which layout.

A program may attend in one of several ways, as in `if flash is None: … else: …`. Edits then stand above or below the whole statement, and
what is said of it holds of every way; where the ways differ in what an edit would need, that is not known.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from genomes.literals import read_value
from genomes.mutations.draft import MisfitError
from genomes.mutations.mutation import Program
from genomes.mutations.network import Module, modules, root
from genomes.nodes import is_call, last_name, names_in, stored_in, walk

_QUERY, _KEY, _VALUE = re.compile(r"q(uer(y|ies))?\d?"), re.compile(r"k(eys?)?\d?"), re.compile(r"v(alues?)?\d?")
_TOKENS_FIRST = "flash_attn_func"  # takes and gives (B, T, H, D); all others but FlashAttention's take and give (B, H, T, D)


@dataclass(frozen=True, eq=False)
class Attention:
    """Where queries, keys and values meet."""

    module: Module
    statement: ast.stmt  # of the forward pass itself, around the call
    call: ast.Call  # of the first way
    query: str
    key: str
    value: str
    heads_first: bool  # above the statement the three are (B, H, T, D), else (B, T, H, D)
    output: str  # the name of the result; "" where it has none
    output_heads_first: bool  # below the statement the result is (B, H, T, D), else (B, T, H, D)


@dataclass(frozen=True, eq=False)
class _Way:
    """The call in one of the blocks of which one runs."""

    call: ast.Call
    names: tuple[str, str, str]
    heads_first: bool
    output: tuple[str, bool]


def attention(parent: Program) -> Attention:
    """The first module with a call of three arguments that are named for queries, keys and values."""
    for module in modules(parent):
        for statement in module.forward.body:
            ways = [_way(block) for block in _blocks([statement])]
            found = [way for way in ways if way]
            if not found:
                continue
            first = found[0]
            if any((way.names, way.heads_first) != (first.names, first.heads_first) for way in found):
                raise MisfitError("ways of several layouts")
            same = all(way and way.output == first.output for way in ways)
            output, after = first.output if same else ("", False)
            return Attention(module, statement, first.call, *first.names, first.heads_first, output, after)
    raise MisfitError("no attention")


def _blocks(block: list[ast.stmt]) -> list[list[ast.stmt]]:
    """The blocks of which one runs where a block is a single `if`, or what is in a `with`; else the block."""
    match block:
        case [ast.If(body=body, orelse=otherwise)]:
            return [*_blocks(body), *_blocks(otherwise)]
        case [ast.With(body=body)]:
            return _blocks(body)
    return [block]


def _way(block: list[ast.stmt]) -> _Way | None:
    for index, statement in enumerate(block):
        for call in (node for node in walk(statement) if isinstance(node, ast.Call) and len(node.args) >= 3):
            q, k, v = (root(argument) for argument in call.args[:3])
            if _QUERY.fullmatch(q) and _KEY.fullmatch(k) and _VALUE.fullmatch(v):
                turned = all(last_name(argument) == "transpose" for argument in call.args[:3])
                turns = turned + sum(_turns_name(before, q) for before in block[:index])
                return _Way(call, (q, k, v), _heads_first(call) ^ bool(turns % 2), _output(block[index:], call))
    return None


def _heads_first(call: ast.Call) -> bool:
    """Whether attention takes and gives (B, H, T, D)."""
    name = last_name(call.func)
    if "flash" in name and name != _TOKENS_FIRST:
        raise MisfitError("another layout")
    return name != _TOKENS_FIRST


def _turns_name(statement: ast.stmt, name: str) -> bool:
    """`q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)`."""
    return isinstance(statement, ast.Assign) and name in stored_in(statement) and any(is_call(n, "transpose") for n in walk(statement))


def _output(block: list[ast.stmt], call: ast.Call) -> tuple[str, bool]:
    """The name of what the first statement makes by the call, "" for other forms, and whether at the block's end it is (B, H, T, D)."""
    made, *later = block
    target = made.targets[0] if isinstance(made, ast.Assign) else None
    turns = _turns(made.value, call) if isinstance(made, ast.Assign) else None
    if not isinstance(target, ast.Name) or turns is None:
        return "", False
    for statement in (s for s in later if target.id in stored_in(s)):
        more = _turns(statement.value, target) if isinstance(statement, ast.Assign) else None
        if more is None:
            return "", False
        turns += more
    return target.id, _heads_first(call) ^ bool(turns % 2)


def _turns(node: ast.expr, of: ast.Call | ast.Name) -> int | None:
    """How often `of.transpose(1, 2)` turns what it is about; None where it does something else."""
    turns = 0
    while node is not of and not (isinstance(node, ast.Name) and isinstance(of, ast.Name) and node.id == of.id):
        if not is_call(node, "transpose", "contiguous") or not isinstance(node.func, ast.Attribute):
            return None
        if node.args and sorted(str(read_value(axis)) for axis in node.args) != ["1", "2"]:
            return None
        turns += last_name(node.func) == "transpose"
        node = node.func.value
    return turns


def head_shape(parent: Program, spot: Attention, name: str = "") -> tuple[str, str]:
    """Heads and channels of a head, from `view(B, T, heads, channels)` of the queries, or of what has another name."""
    name = name or spot.query
    for statement in spot.module.forward.body:
        if not isinstance(statement, ast.Assign) or name not in {n for target in statement.targets for n in names_in(target)}:
            continue
        for call in (node for node in walk(statement) if is_call(node, "view", "reshape")):
            if len(call.args) == 4:
                return parent.source.code(call.args[2]), parent.source.code(call.args[3])
    raise MisfitError(f"no view of {name}")
