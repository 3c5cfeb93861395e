"""Structural mutations of both ends of the network: embeddings, norms around the stack, the head, its logits; and the kind of norms."""

from __future__ import annotations

import ast
import random

from genomes.mutations.draft import Draft, MisfitError, alias, drafted
from genomes.mutations.groups import drop_group, forget_count, group_of, train_in_stack, train_table
from genomes.mutations.network import Stack, embedded, embedding, headed, module_names, remember, stack
from genomes.mutations.patterns import atom, is_norm
from genomes.mutations.weights import giver, made_empty
from genomes.nodes import is_operation, last_name, names_in, walk
from genomes.source import parse_expression


def _embedding_scale(draft: Draft, rng: random.Random) -> str:
    """The stream starts larger or smaller: with a norm by a factor, without one by the root of the width."""
    found = stack(draft.parent)
    inner = embedded(found)
    around: ast.Call = next((n for n in walk(found.module.forward) if is_norm(n) and isinstance(n, ast.Call) and n.args[0] is inner), inner)
    _require_plain(found, around)
    scale = str(rng.choice((0.25, 0.5, 2.0, 4.0))) if around is not inner else f"({embedding(draft.parent)[1]}) ** 0.5"
    if around is inner and "config" in scale:
        scale = scale.replace("config", "self.config")
    if around is inner and not _is_known(draft, scale):
        raise MisfitError("the width is unknown there")
    draft.wrap(around, f"({scale} * ", ")")
    return f"{found.module.name}: the embedding × {scale}"


def _require_plain(found: Stack, call: ast.Call) -> None:
    """MisfitError where a call is a factor already."""
    for node in walk(found.module.forward):
        if is_operation(node, ast.Mult) and call in (node.left, node.right):
            raise MisfitError("it is scaled already")


def _is_known(draft: Draft, code: str) -> bool:
    return code.startswith("(self.config") or names_in(parse_expression(code)) <= module_names(draft.parent)


def _logit_scale(draft: Draft, rng: random.Random) -> str:
    """Logits times a number: a fixed one, or one that is learnt."""
    found = stack(draft.parent)
    call = headed(found)
    _require_plain(found, call)
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
    train_table(draft, "bigrams", last_name(embedded(found).func))
    return f"{found.module.name}: an embedding of hashed token pairs, {rows} × the vocabulary"


def _tie(draft: Draft, rng: random.Random) -> str:
    """The head is the embedding's matrix, read against a stream that is divided by its width; or they are untied."""
    found = stack(draft.parent)
    head, table = headed(found), ast.unparse(embedded(found).func)
    name = last_name(head.func)
    for statement in walk(found.module.node):
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == f"self.{name}.weight":
            if group_of(draft, last_name(embedded(found).func)) is not None:
                raise MisfitError("groups are listed, and the head has none")
            draft.delete(statement)
            return f"{found.module.name}: head and embedding are untied"
    made = next(s for s in found.module.init.body if isinstance(s, ast.Assign) and last_name(s.targets[0]) == name)
    _forget_head(draft, found, made.targets[0], head)
    tied = f"self.{name}.weight = {table}.weight"
    if made_empty(draft.parent):  # which makes two of them
        draft.at_end(giver(draft.parent, found.module.node), tied)
    else:
        draft.below(made, tied)
    draft.wrap(head.args[0], "", f" / {found.x}.size(-1)")
    return f"{found.module.name}: the head is the embedding"


def _forget_head(draft: Draft, found: Stack, made: ast.expr, call: ast.Call) -> None:
    """Removes the group of the head's matrix, its initial values, and its part in counts of weights."""
    name = last_name(made)
    group = group_of(draft, name)
    if group is None:
        raise MisfitError("the head has no group of its own")
    drop_group(draft, group)
    gone: list[ast.AST] = [made, call, group.held]
    for statement in (node for node in walk(found.module.node) if isinstance(node, ast.Expr)):
        if f"self.{name}.weight" in draft.code(statement):
            draft.delete(statement)
            gone.append(statement)
    known = {id(node) for part in gone for node in walk(part)}
    mentions = [n for n in walk(draft.parent.tree) if isinstance(n, ast.Attribute) and n.attr == name and id(n) not in known]
    if not all(forget_count(draft, mention) for mention in mentions):
        raise MisfitError("the head is used elsewhere")


EDGE_MUTATIONS = (
    drafted(
        "embedding-scale",
        "the stream starts larger or smaller",
        "Vaswani et al. 2017, arXiv 1706.03762; Gemma, arXiv 2403.08295",
        4,
        _embedding_scale,
    ),
    drafted("logit-scale", "logits times a fixed or a learnt number", "Yang et al. 2022, arXiv 2203.03466", 4, _logit_scale),
    drafted("add-soft-cap", "a soft cap of the logits", "Gemma 2, arXiv 2408.00118", 4, _add_cap),
    drafted("bigram-embedding", "an embedding of hashed token pairs", "KellerJordan/modded-nanogpt, bigram hash embedding", 6, _bigrams),
    drafted("tie-weights", "head and embedding tied, or untied", "Press and Wolf 2017, arXiv 1608.05859", 2, _tie),
)
