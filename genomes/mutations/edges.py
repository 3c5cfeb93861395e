"""Structural mutations of both ends of the network: embeddings, norms around the stack, the head, its logits; and the kind of norms."""

from __future__ import annotations

import ast
import random
import re

from genomes.literals import last_name
from genomes.mutations.draft import Draft, MisfitError, alias, fitted
from genomes.mutations.groups import group_of, train_in_stack, train_table
from genomes.mutations.mlp import norm_call
from genomes.mutations.mutation import STRUCTURAL, Mutation
from genomes.mutations.network import Stack, embedding, linears, remember, self_calls, stack
from genomes.mutations.patterns import atom, is_norm, names_in
from genomes.source import parse_expression

_KINDS = {"rms_norm": "layer_norm", "layer_norm": "rms_norm", "RMSNorm": "LayerNorm", "LayerNorm": "RMSNorm"}
_NORM = re.compile(r"norm|ln", re.IGNORECASE)


def _norm_kind(draft: Draft, rng: random.Random) -> str:
    """RMSNorm instead of LayerNorm, or the other way round, throughout."""
    calls = [n for n in ast.walk(draft.parent.tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    kinds = sorted({call.func.attr for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in _KINDS})
    if not kinds:
        raise MisfitError("no norms of torch")
    kind = rng.choice(kinds)
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == kind:
            if len(call.args) > 2 or any(word.arg not in ("eps", "elementwise_affine") for word in call.keywords):
                raise MisfitError("the other norm takes other arguments")
            draft.replace(call.func, f"{draft.code(call.func.value)}.{_KINDS[kind]}")
    return f"{kind} → {_KINDS[kind]}"


def embedded(found: Stack) -> ast.Call:
    """The look-up of the tokens' embedding, in the forward pass of the stack."""
    tokens = found.module.x
    for call in self_calls(found.module.forward):
        if [last_name(argument) for argument in call.args] == [tokens] and isinstance(call.args[0], ast.Name):
            return call
    for call in (node for node in ast.walk(found.module.forward) if isinstance(node, ast.Call)):
        if [ast.unparse(argument) for argument in call.args] == [tokens] and ast.unparse(call.func).startswith("self."):
            return call
    raise MisfitError("no look-up of tokens")


def headed(found: Stack) -> ast.Call:
    """The call of the output layer: the one linear layer that the stack itself has."""
    layers = linears(found.module)
    for call in self_calls(found.module.forward):
        if last_name(call.func) in layers and len(call.args) == 1:
            return call
    raise MisfitError("no output layer")


def _edge_norm(draft: Draft, rng: random.Random) -> str:
    """The norm of the embedding, or the one before the head: added where there is none, else removed."""
    found = stack(draft.parent)
    if rng.random() < 0.5:
        inner, what = embedded(found), "of the embedding"
        outer = next((n for n in ast.walk(found.module.forward) if is_norm(n) and isinstance(n, ast.Call) and n.args[0] is inner), None)
        after = _norm_statement(found, before=True)
    else:
        call = headed(found)
        outer = call.args[0] if is_norm(call.args[0]) else None  # type: ignore[assignment]
        inner, what, after = call.args[0], "before the head", _norm_statement(found, before=False)  # type: ignore[assignment]
    if outer is not None:
        draft.replace(outer, atom(draft.source, outer.args[0]))
    elif after is not None:
        draft.delete(after)
    elif isinstance(inner, ast.Call) and _NORM.search(last_name(inner.func)):
        raise MisfitError("the norm is a module")
    else:
        norm, extra = norm_call(draft)
        draft.wrap(inner, f"{norm}(", f"{extra})")
        return f"{found.module.name}: norm {what}"
    return f"{found.module.name}: no norm {what}"


def _norm_statement(found: Stack, before: bool) -> ast.Assign | None:
    """`x = norm(x)` of the stream, before or after the loop."""
    for statement in ast.walk(found.module.forward):
        if isinstance(statement, ast.Assign) and is_norm(statement.value) and (statement.lineno < found.loop.lineno) == before:
            value = statement.value
            if isinstance(value, ast.Call) and ast.unparse(statement.targets[0]) == ast.unparse(value.args[0]) == found.x:
                return statement
    return None


def _embedding_scale(draft: Draft, rng: random.Random) -> str:
    """The stream starts larger or smaller: with a norm by a factor, without one by the root of the width."""
    found = stack(draft.parent)
    inner = embedded(found)
    around: ast.Call = next(
        (n for n in ast.walk(found.module.forward) if is_norm(n) and isinstance(n, ast.Call) and n.args[0] is inner), inner
    )
    for node in ast.walk(found.module.forward):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and around in (node.left, node.right):
            raise MisfitError("it is scaled already")
    scale = str(rng.choice((0.25, 0.5, 2.0, 4.0))) if around is not inner else f"({embedding(draft.parent)[1]}) ** 0.5"
    if around is inner and "config" in scale:
        scale = scale.replace("config", "self.config")
    if around is inner and not _is_known(draft, scale):
        raise MisfitError("the width is unknown there")
    draft.wrap(around, f"({scale} * ", ")")
    return f"{found.module.name}: the embedding × {scale}"


def _is_known(draft: Draft, code: str) -> bool:
    top = {n.id for s in draft.parent.tree.body for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return code.startswith("(self.config") or names_in(parse_expression(code)) <= top


def _logit_scale(draft: Draft, rng: random.Random) -> str:
    """Logits times a number: a fixed one, or one that is learnt."""
    found = stack(draft.parent)
    call = headed(found)
    for node in ast.walk(found.module.forward):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and call in (node.left, node.right):
            raise MisfitError("they are scaled already")
    if rng.random() < 0.5:
        factor = rng.choice((0.5, 2.0))
        draft.wrap(call, f"({factor} * ", ")")
        return f"{found.module.name}: logits × {factor:g}"
    remember(draft, found.module, "logit_scale", f"self.logit_scale = {alias(draft.parent, 'torch.nn')}.Parameter(torch.ones(()))")
    draft.wrap(call, "(self.logit_scale * ", ")")
    train_in_stack(draft, "logit_scale")
    return f"{found.module.name}: logits × a learnt number"


def _add_cap(draft: Draft, rng: random.Random) -> str:
    """Logits get a soft cap where there is none."""
    found = stack(draft.parent)
    last = found.module.forward.body[-1]
    text = ast.unparse(found.module.forward)
    if not isinstance(last, ast.Return) or last.value is None or "tanh" in text or "sigmoid" in text or ".abs()" in text:
        raise MisfitError("there is a cap, or no one place for it")
    cap = rng.choice((10.0, 15.0, 30.0))
    draft.replace(last.value, f"{cap} * torch.tanh({atom(draft.source, last.value)} / {cap})")
    return f"{found.module.name}: logits capped at ± {cap:g}"


def _bigrams(draft: Draft, rng: random.Random) -> str:
    """A second table is looked up by the token and its predecessor, hashed; it is added to the embedding, zero at first."""
    found = stack(draft.parent)
    nn, functional, (vocabulary, width) = (
        alias(draft.parent, "torch.nn"),
        alias(draft.parent, "torch.nn.functional"),
        embedding(draft.parent),
    )
    rows, tokens = rng.choice((1, 2, 4)), found.module.x
    remember(
        draft,
        found.module,
        "bigrams",
        f"self.bigrams = {nn}.Embedding({rows} * {vocabulary}, {width})",
        f"{nn}.init.zeros_(self.bigrams.weight)",
    )
    draft.above(
        found.loop,
        f"pairs = (36313 * {tokens} + 27191 * {functional}.pad({tokens}, (1, -1))) % self.bigrams.num_embeddings",
        f"{found.x} = {found.x} + self.bigrams(pairs).to({found.x}.dtype)",
    )
    train_table(draft, "bigrams", _table(embedded(found)))
    return f"{found.module.name}: an embedding of hashed token pairs, {rows} × the vocabulary"


def _table(call: ast.Call) -> str:
    return last_name(call.func)


def _tie(draft: Draft, rng: random.Random) -> str:
    """The head is the embedding's matrix, read against a stream that is divided by its width; or they are untied."""
    found = stack(draft.parent)
    head, table = headed(found), ast.unparse(embedded(found).func)
    name = last_name(head.func)
    for statement in found.module.init.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == f"self.{name}.weight":
            if group_of(draft, _table(embedded(found))) is not None:
                raise MisfitError("the head has no group of its own")
            draft.delete(statement)
            return f"{found.module.name}: head and embedding are untied"
    group = group_of(draft, name)
    if group is None:
        raise MisfitError("the head has no group of its own")
    draft.drop_element(group.display)
    removed = 0
    for statement in (node for node in ast.walk(found.module.node) if isinstance(node, ast.Expr)):
        if f"self.{name}.weight" in draft.code(statement):
            draft.delete(statement)
            removed += 1
    mentions = [n for n in ast.walk(draft.parent.tree) if isinstance(n, ast.Attribute) and n.attr == name]
    if len(mentions) != removed + 3:  # the definition, the call, the group
        raise MisfitError("the head is used elsewhere")
    made = next(s for s in found.module.init.body if isinstance(s, ast.Assign) and last_name(s.targets[0]) == name)
    draft.below(made, f"self.{name}.weight = {table}.weight")
    draft.wrap(head.args[0], "", f" / {found.x}.size(-1)")
    return f"{found.module.name}: the head is the embedding"


EDGE_MUTATIONS = (
    Mutation("norm-kind", "RMSNorm or LayerNorm", "Zhang and Sennrich 2019, arXiv 1910.07467", STRUCTURAL, 3, fitted(_norm_kind)),
    Mutation(
        "edge-norm",
        "norm of the embedding, norm before the head",
        "BLOOM, arXiv 2211.05100; karpathy/nanochat",
        STRUCTURAL,
        3,
        fitted(_edge_norm),
    ),
    Mutation(
        "embedding-scale",
        "the stream starts larger or smaller",
        "Vaswani et al. 2017, arXiv 1706.03762; Gemma, arXiv 2403.08295",
        STRUCTURAL,
        4,
        fitted(_embedding_scale),
    ),
    Mutation(
        "logit-scale", "logits times a fixed or a learnt number", "Yang et al. 2022, arXiv 2203.03466", STRUCTURAL, 4, fitted(_logit_scale)
    ),
    Mutation("add-soft-cap", "a soft cap of the logits", "Gemma 2, arXiv 2408.00118", STRUCTURAL, 4, fitted(_add_cap)),
    Mutation(
        "bigram-embedding",
        "an embedding of hashed token pairs",
        "KellerJordan/modded-nanogpt, bigram hash embedding",
        STRUCTURAL,
        6,
        fitted(_bigrams),
    ),
    Mutation("tie-weights", "head and embedding tied, or untied", "Press and Wolf 2017, arXiv 1608.05859", STRUCTURAL, 2, fitted(_tie)),
)
