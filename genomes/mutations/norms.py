"""Structural mutations of norms: their kind and place, learnt gains, and norms of queries, keys, values, embedding and head."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeGuard

from genomes.mutations.draft import Draft, MisfitError, alias, drafted
from genomes.mutations.groups import train_in_blocks
from genomes.mutations.meeting import attention
from genomes.mutations.network import (
    Module,
    Stack,
    attributes,
    embedded,
    headed,
    linears,
    modules,
    remember,
    stack,
    unconditional,
    width_in,
)
from genomes.mutations.patterns import atom, calls_self, is_norm, shown
from genomes.mutations.sublayers import branches
from genomes.nodes import is_call, is_operation, last_name, names_in, walk

_KINDS = {"rms_norm": "layer_norm", "layer_norm": "rms_norm", "RMSNorm": "LayerNorm", "LayerNorm": "RMSNorm"}
_NORM = re.compile(r"norm|ln", re.IGNORECASE)
_NORM_CLASS = re.compile(r"\w*Norm")


def normed(draft: Draft, code: str) -> str:
    """A tensor's norm over its last dimension, by the program's own function of one tensor where it has one."""
    for node in draft.parent.tree.body:
        if isinstance(node, ast.FunctionDef) and "norm" in node.name.lower() and len(node.args.args) == 1:
            return f"{node.name}({code})"
    if not code.isidentifier():
        raise MisfitError("no norm as a function")
    return f"{alias(draft.parent, 'torch.nn.functional')}.rms_norm({code}, ({code}.size(-1),))"


def _move_norm(draft: Draft, rng: random.Random) -> str:
    """The norm of a sublayer: before it, after it, around it, or of the whole sum; one of these becomes another."""
    options = [option for module in modules(draft.parent) for option in _moves(draft, module)]
    if not options:
        raise MisfitError("no norms beside sublayers")
    node, text, what = rng.choice(options)
    draft.replace(node, text)
    return f"{what}: {shown(draft.code(node))} → {shown(text)}"


def _moves(draft: Draft, module: Module) -> Iterator[tuple[ast.expr, str, str]]:
    """An expression, what it may become, and what that is."""
    own = attributes(module.init, _NORM_CLASS)
    for node in unconditional(module.forward):
        if _is_a_norm(node, own) and isinstance(total := node.args[0], ast.BinOp) and _is_branch(total, own):
            assert isinstance(total.right, ast.Call)
            inside = _with_first(draft, total.right, _with_first(draft, node, draft.code(total.right.args[0])))
            yield node, f"{draft.code(total.left)} + {inside}", f"{module.name}: norm before {last_name(total.right.func)}"
        elif is_operation(node, ast.Add) and isinstance(node.right, ast.Call) and node.right.args:
            yield from _moves_in_a_sum(draft, module, node, own)


def _moves_in_a_sum(draft: Draft, module: Module, total: ast.BinOp, own: set[str]) -> Iterator[tuple[ast.expr, str, str]]:
    right, left = total.right, draft.code(total.left)
    assert isinstance(right, ast.Call)
    if not _is_a_norm(right, own):
        inner = right.args[0]
        if calls_self(right) and _is_a_norm(inner, own):
            bare, name = _with_first(draft, right, draft.code(inner.args[0])), f"{module.name}: norm {{}} {last_name(right.func)}"
            yield right, _with_first(draft, inner, bare), name.format("after")
            yield total, _with_first(draft, inner, f"{left} + {bare}"), f"{module.name}: norm of the sum with {last_name(right.func)}"
            if last_name(inner.func) not in own:  # a module's gain would serve two places
                yield right, _with_first(draft, inner, draft.code(right)), name.format("around")
    elif calls_self(sublayer := right.args[0]) and sublayer.args:
        name = f"{module.name}: norm {{}} {last_name(sublayer.func)}"
        if _is_a_norm(inner := sublayer.args[0], own):
            yield right, draft.code(sublayer), name.format("before")
            yield right, _with_first(draft, right, _with_first(draft, sublayer, draft.code(inner.args[0]))), name.format("after")
        else:
            yield right, _with_first(draft, sublayer, _with_first(draft, right, draft.code(inner))), name.format("before")


def _is_a_norm(node: ast.AST, own: set[str]) -> TypeGuard[ast.Call]:
    return is_norm(node) or (calls_self(node) and last_name(node.func) in own and len(node.args) == 1)


def _is_branch(total: ast.BinOp, own: set[str]) -> bool:
    """`x + self.mlp(x)`, without a norm in it."""
    call = total.right
    return isinstance(total.op, ast.Add) and calls_self(call) and bool(call.args) and not _is_a_norm(call.args[0], own)


def _with_first(draft: Draft, call: ast.Call, code: str) -> str:
    """A call with another first argument."""
    start = draft.source.span(call)[0]
    first, last = (position - start for position in draft.source.span(call.args[0]))
    whole = draft.code(call)
    return whole[:first] + code + whole[last:]


def _norm_kind(draft: Draft, rng: random.Random) -> str:
    """RMSNorm instead of LayerNorm, or the other way round, throughout."""
    calls = [n for n in walk(draft.parent.tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    kinds = sorted({call.func.attr for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in _KINDS})
    if not kinds:
        raise MisfitError("no norms of torch")
    kind = rng.choice(kinds)
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == kind:
            if len(call.args) > 2 or any(word.arg not in ("eps", "elementwise_affine") for word in call.keywords):
                raise MisfitError("the other norm takes other arguments")
            draft.replace(call.func, f"{draft.code(call.func.value)}.{_KINDS[kind]}")
            if kind == "rms_norm" and draft.source.text[draft.source.span(call)[1] :][:1] != ".":
                draft.wrap(call, "", f".type_as({draft.code(call.args[0])})")  # autocast would return float32
    return f"{kind} → {_KINDS[kind]}"


def _edge_norm(draft: Draft, rng: random.Random) -> str:
    """The norm of the embedding, or the one before the head: added where there is none, else removed."""
    found = stack(draft.parent)
    first = rng.random() < 0.5
    what = "of the embedding" if first else "before the head"
    inner = embedded(found) if first else headed(found).args[0]
    outer = next((n for n in walk(found.module.forward) if is_norm(n) and (n is inner or n.args[0] is inner)), None)
    after = _norm_statement(found, before=first)
    if outer is None and after is None:
        if isinstance(inner, ast.Call) and _NORM.search(last_name(inner.func)):
            raise MisfitError("the norm is a module")
        draft.replace(inner, normed(draft, draft.code(inner)))
        return f"{found.module.name}: norm {what}"
    if outer is not None:
        draft.replace(outer, atom(draft.source, outer.args[0]))
    elif after is not None:
        draft.delete(after)
    return f"{found.module.name}: no norm {what}"


def _norm_statement(found: Stack, before: bool) -> ast.Assign | None:
    """`x = norm(x)` of the stream, before or after the loop."""
    for statement in walk(found.module.forward):
        if isinstance(statement, ast.Assign) and is_norm(statement.value) and (statement.lineno < found.loop.lineno) == before:
            value = statement.value
            if isinstance(value, ast.Call) and ast.unparse(statement.targets[0]) == ast.unparse(value.args[0]) == found.x:
                return statement
    return None


def _sub_norm(draft: Draft, rng: random.Random) -> str:
    """A norm in front of the last matrix of attention or MLP."""
    calls = []
    for module in modules(draft.parent):
        for call in (node for node in walk(module.forward) if is_call(node, *linears(module))):
            inner = call.args[0] if len(call.args) == 1 else None
            if inner is not None and module.node is not stack(draft.parent).module.node and not is_norm(inner) and _is_last(draft, call):
                calls.append((module, call, inner))
    if not calls:
        raise MisfitError("no last layers")
    module, call, inner = rng.choice(calls)
    draft.replace(inner, normed(draft, draft.code(inner)))
    return f"{module.name}: norm before {last_name(call.func)}"


def _is_last(draft: Draft, call: ast.Call) -> bool:
    """Whether the call is what a forward pass returns, itself or by a name: `x = self.down(x)`, `return x`."""
    for node in walk(draft.parent.tree):
        if isinstance(node, ast.Return) and node.value is call:
            return True
        for before, last in pairwise(node.body if isinstance(node, ast.FunctionDef) else []):
            made = before.targets[0] if isinstance(before, ast.Assign) and before.value is call else None
            if isinstance(made, ast.Name) and isinstance(last, ast.Return) and isinstance(last.value, ast.Name):
                return made.id == last.value.id
    return False


def _norm_gain(draft: Draft, rng: random.Random) -> str:
    """A norm in front of a sublayer gets a learnt gain per channel."""
    found = [(module, inner, call) for module, _, call in branches(draft.parent) if call.args and is_norm(inner := call.args[0])]
    if not found:
        raise MisfitError("no norms in front of sublayers")
    module, norm, call = rng.choice(found)
    name, nn, x = f"{last_name(call.func)}_gain", alias(draft.parent, "torch.nn"), draft.code(norm.args[0])
    remember(draft, module, name, f"self.{name} = {nn}.Parameter(torch.ones({width_in(draft.parent, module)}))")
    draft.wrap(norm, "", f" * self.{name}.to({x}.dtype)")
    train_in_blocks(draft)
    return f"{module.name}: a learnt gain of the norm before {last_name(call.func)}"


def _qk_norm(draft: Draft, rng: random.Random) -> str:
    """Queries and keys lose their norms, or get them where they have none."""
    spot = attention(draft.parent)
    pair = {spot.query, spot.key}
    norms = [node for node in walk(spot.module.forward) if is_norm(node) and isinstance(node, ast.Call)]
    norms = [call for call in norms if names_in(call.args[0]) & pair]
    if not norms:
        both = ", ".join(normed(draft, name) for name in (spot.query, spot.key))
        draft.above(spot.statement, f"{spot.query}, {spot.key} = {both}")
        return f"{spot.module.name}: norms of queries and keys"
    for statement in spot.module.forward.body:
        inside = [call for call in norms if call in walk(statement)]
        if inside and _only_norms(statement, inside):
            draft.delete(statement)
        else:
            for call in inside:
                draft.replace(call, atom(draft.source, call.args[0]))
    return f"{spot.module.name}: no norms of queries and keys"


def _only_norms(statement: ast.stmt, norms: list[ast.Call]) -> bool:
    """`q, k = norm(q), norm(k)`: nothing is left of it without the norms."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return False
    targets, values = _elements(statement.targets[0]), _elements(statement.value)
    return len(targets) == len(values) and all(
        value in norms and isinstance(value, ast.Call) and ast.unparse(value.args[0]) == ast.unparse(target)
        for target, value in zip(targets, values, strict=True)
    )


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _value_norm(draft: Draft, rng: random.Random) -> str:
    """Values are normalised per head."""
    spot = attention(draft.parent)
    if any(is_norm(node) and names_in(node) & {spot.value} for node in walk(spot.module.forward)):
        raise MisfitError("normalised already")
    draft.above(spot.statement, f"{spot.value} = {normed(draft, spot.value)}")
    return f"{spot.module.name}: norm of the values"


NORM_MUTATIONS = (
    drafted(
        "move-norm",
        "norm before, after or around a sublayer, or of the whole sum",
        "Xiong et al. 2020, arXiv 2002.04745; Gemma 2, arXiv 2408.00118",
        7,
        _move_norm,
    ),
    drafted("norm-kind", "RMSNorm or LayerNorm", "Zhang and Sennrich 2019, arXiv 1910.07467", 3, _norm_kind),
    drafted("edge-norm", "norm of the embedding, norm before the head", "BLOOM, arXiv 2211.05100; karpathy/nanochat", 3, _edge_norm),
    drafted(
        "sub-norm", "a norm before the last matrix of a sublayer", "Magneto, arXiv 2210.06423; NormFormer, arXiv 2110.09456", 4, _sub_norm
    ),
    drafted("norm-gain", "a learnt gain of a norm", "Zhang and Sennrich 2019, arXiv 1910.07467", 4, _norm_gain),
    drafted("qk-norm", "norms of queries and keys, or none", "Henry et al. 2020, arXiv 2010.04245; Qwen3, arXiv 2505.09388", 4, _qk_norm),
    drafted("value-norm", "norms of the values", "Gemma 3n, google-deepmind/gemma", 3, _value_norm),
)
