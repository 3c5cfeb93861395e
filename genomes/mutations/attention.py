"""Structural mutations of attention: norms and gains of queries and keys, grouped queries, rotary angles, windows, gates, shifts."""

from __future__ import annotations

import ast
import random
import re

from genomes.mutations.constants import block_count, head_count, require_blocks
from genomes.mutations.draft import Draft, MisfitError, alias, drafted
from genomes.mutations.groups import train_in_blocks
from genomes.mutations.meeting import Attention, attention, head_shape
from genomes.mutations.network import depth, linears, remember, width_in
from genomes.mutations.patterns import atom, calls_self
from genomes.mutations.sublayers import layer_number
from genomes.nodes import is_call, is_operation, last_name, names_in, walk

_ROTATION = re.compile(r"rot|rope", re.IGNORECASE)


def _query_gain(draft: Draft, rng: random.Random) -> str:
    """A learnt factor on the queries, per channel of a head or per head: the temperature of the softmax."""
    spot = attention(draft.parent)
    heads, channels = head_shape(draft.parent, spot)
    per_head = rng.random() < 0.5 and heads != "-1"
    size, place = (heads, "[:, None, None]" if spot.heads_first else "[:, None]") if per_head else (channels, "")
    nn = alias(draft.parent, "torch.nn")
    remember(draft, spot.module, "query_gain", f"self.query_gain = {nn}.Parameter(torch.ones({size}))")
    draft.above(spot.statement, f"{spot.query} = {spot.query} * self.query_gain{place}.to({spot.query}.dtype)")
    train_in_blocks(draft)
    return f"{spot.module.name}: learnt gain of the queries per {'head' if per_head else 'channel'}"


def _log_scale(draft: Draft, rng: random.Random) -> str:
    """Queries grow with the logarithm of how many keys they see, so that attention over long rows stays sharp."""
    spot = attention(draft.parent)
    if "seen" in names_in(spot.module.forward):
        raise MisfitError("scaled already")
    axis, place = (-2, "[:, None]") if spot.heads_first else (1, "[:, None, None]")
    strength = rng.choice((0.05, 0.1, 0.2))
    draft.above(
        spot.statement,
        f"seen = torch.arange(1, {spot.query}.size({axis}) + 1, device={spot.query}.device)",
        f"{spot.query} = {spot.query} * (1 + {strength} * seen.log()){place}.to({spot.query}.dtype)",
    )
    return f"{spot.module.name}: queries × (1 + {strength} log n)"


def _shift(draft: Draft, rng: random.Random) -> str:
    """Keys, or values, are mixed with those of the previous token by a learnt share; nothing looks ahead."""
    spot = attention(draft.parent)
    name = rng.choice((spot.key, spot.value))
    share = f"{'key' if name == spot.key else 'value'}_shift"
    nn, functional = alias(draft.parent, "torch.nn"), alias(draft.parent, "torch.nn.functional")
    remember(draft, spot.module, share, f"self.{share} = {nn}.Parameter(torch.zeros(()))")
    pad = "(0, 0, 1, -1)" if spot.heads_first else "(0, 0, 0, 0, 1, -1)"
    draft.above(spot.statement, f"{name} = {name} + self.{share} * {functional}.pad({name}, {pad})  # of the previous token")
    train_in_blocks(draft)
    return f"{spot.module.name}: {share.replace('_', ' ')} by a learnt share"


def _grouped(draft: Draft, rng: random.Random) -> str:
    """Two or four queries share a key and a value, where the number of heads divides."""
    if (keyword := _head_keyword(draft)) is not None:
        heads = draft.code(keyword.value)
        draft.replace(keyword.value, f"{heads} // 2 if {heads} % 2 == 0 else {heads}")
        _allow_groups(draft)
        return f"{keyword.arg}: half of {heads}"
    spot = attention(draft.parent)
    heads, _channels = head_shape(draft.parent, spot)
    count = head_count(draft.parent, spot)
    if count is not None and count % 2:
        raise MisfitError(f"{count} heads cannot share keys")
    layers, shared = linears(spot.module), rng.choice((2, 4))
    made = [layers[name] for name in _projections(spot) if name in layers]
    if len(made) != 3 or len({draft.code(call.args[1]) for call in made}) != 1 or not heads.startswith("self."):
        raise MisfitError("keys are not projected like queries")
    first = next(s for s in spot.module.init.body if isinstance(s, ast.Assign) and s.value in made)
    options = " else ".join(f"{n} if {heads} % {n} == 0" for n in range(shared, 1, -1))
    draft.above(first, f"self.queries_per_key = {options} else 1")
    for call in made[1:]:
        draft.replace(call.args[1], f"({draft.code(call.args[1])}) // self.queries_per_key")
    last = _open_views(draft, spot, heads)
    repeat = f"(t.repeat_interleave(self.queries_per_key, dim=2) for t in ({spot.key}, {spot.value}))"
    draft.below(last, f"{spot.key}, {spot.value} = {repeat}")
    return f"{spot.module.name}: up to {shared} queries share a key and a value"


def _allow_groups(draft: Draft) -> None:
    """PyTorch's own attention has to be told that several queries may share a key."""
    for call in walk(draft.parent.tree):
        if is_call(call, "scaled_dot_product_attention") and "enable_gqa" not in {word.arg for word in call.keywords}:
            if call.keywords:
                draft.wrap(call.keywords[-1].value, "", ", enable_gqa=True")
            else:
                draft.argument(call, "enable_gqa=True")


def _head_keyword(draft: Draft) -> ast.keyword | None:
    """`n_kv_head=heads` beside `n_head=heads`."""
    for call in (node for node in walk(draft.parent.tree) if isinstance(node, ast.Call)):
        words = {word.arg: word for word in call.keywords if word.arg}
        for name, word in words.items():
            twin = words.get(name.replace("kv_", ""))
            if "kv_" in name and twin is not None and isinstance(word.value, ast.Name) and ast.dump(word.value) == ast.dump(twin.value):
                return word
    return None


def _projections(spot: Attention) -> list[str]:
    """Attributes that make queries, keys and values, in this order."""
    for statement in spot.module.forward.body:
        for node in walk(statement):
            if isinstance(node, ast.GeneratorExp | ast.ListComp) and isinstance(node.generators[0].iter, ast.Tuple):
                return [last_name(item) for item in node.generators[0].iter.elts]
    made: dict[str, str] = {}
    for statement in spot.module.forward.body:
        if isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
            for call in walk(statement.value):
                if calls_self(call):
                    made.setdefault(target.id, last_name(call.func))
    return [made.get(name, "") for name in (spot.query, spot.key, spot.value)]


def _open_views(draft: Draft, spot: Attention, heads: str) -> ast.stmt:
    """The views of keys and values leave the number of heads open; returns the last such statement."""
    last = None
    for statement in spot.module.forward.body:
        bound = {name for t in statement.targets for name in names_in(t)} if isinstance(statement, ast.Assign) else set()
        views = [n for n in walk(statement) if is_call(n, "view") and len(n.args) == 4]
        if bound & {spot.key, spot.value} and len(views) == 1 and draft.code(views[0].args[2]) == heads and _projects(statement):
            draft.replace(views[0].args[2], "-1")
            last = statement
    if last is None:
        raise MisfitError("no views of keys and values")
    return last


def _projects(statement: ast.stmt) -> bool:
    return "self." in ast.unparse(statement)


def _partial_rotary(draft: Draft, rng: random.Random) -> str:
    """Only the faster part of the channel pairs turns; the others carry content without a place."""
    for place in draft.parent.places:
        if not is_call(call := place.node, "outer") or len(call.args) != 2 or "arange" not in ast.unparse(place.function):
            continue
        name = call.args[1]
        if not isinstance(name, ast.Name) or place.node is place.statement or f"{name.id}.numel()" in ast.unparse(place.function):
            continue
        share = rng.choice((0.25, 0.5, 0.75))
        device = f", device={name.id}.device" if "device=" in ast.unparse(place.function) else ""
        draft.above(place.statement, f"{name.id} = {name.id} * (torch.arange({name.id}.numel(){device}) < {share} * {name.id}.numel())")
        return f"{place.name}: {share:.0%} of the channels rotate"
    raise MisfitError("no rotary frequencies")


def _some_rotary(draft: Draft, rng: random.Random) -> str:
    """Some blocks do not turn their queries and keys: they attend by content alone."""
    spot = attention(draft.parent)
    count = block_count(draft.parent)
    intervals = [every for every in (2, 3, 4) if count is None or every <= count]
    if not intervals:
        raise MisfitError("too few blocks")
    layer, every = layer_number(spot.module), rng.choice(intervals)
    turns = [n for n in walk(spot.module.forward) if isinstance(n, ast.Call) and _ROTATION.search(last_name(n.func)) and n.args]
    turns = [call for call in turns if names_in(call.args[0]) & {spot.query, spot.key}]
    if len(turns) != 2:
        raise MisfitError("queries and keys do not turn once each")
    remember(draft, spot.module, "turns", f"self.turns = {layer} % {every} != {every - 1}  # the others have no rotary embedding")
    for call in turns:
        draft.replace(call, f"({draft.code(call)} if self.turns else {atom(draft.source, call.args[0])})")
    return f"{spot.module.name}: no rotary embedding in one block of {every}"


def _windows(draft: Draft, rng: random.Random) -> str:
    """Short windows widen, or narrow, with depth."""
    require_blocks(draft.parent, 2)
    blocks, widen = depth(draft.parent), rng.random() < 0.7
    for function in draft.parent.tree.body:
        if not isinstance(function, ast.FunctionDef) or "window" not in function.name or len(function.args.args) != 1:
            continue
        layer, last = function.args.args[0].arg, function.body[-1]
        choice = last.value if isinstance(last, ast.Return) else None
        short = next((n for n in (choice.body, choice.orelse) if _divides(n)), None) if isinstance(choice, ast.IfExp) else None
        if short is None or not blocks.isupper() or blocks in draft.code(short):
            continue
        share = f"{layer} + 1" if widen else f"{blocks} - {layer}"
        draft.replace(short, f"max(1, ({draft.code(short)}) * ({share}) // {blocks})")
        return f"{function.name}: short windows {'widen' if widen else 'narrow'} with depth"
    raise MisfitError("no rule for windows")


def _divides(node: ast.expr) -> bool:
    return is_operation(node, ast.FloorDiv)


def _output_gate(draft: Draft, rng: random.Random) -> str:
    """Each head's output behind a sigmoid of the block's input."""
    spot = attention(draft.parent)
    if not spot.output:
        raise MisfitError("the output has no name")
    heads, _ = head_shape(draft.parent, spot)
    if heads == "-1":
        raise MisfitError("the number of heads is unknown")
    width, nn, x = width_in(draft.parent, spot.module), alias(draft.parent, "torch.nn"), spot.module.x
    remember(
        draft,
        spot.module,
        "output_gate",
        f"self.output_gate = {nn}.Linear({width}, {heads}, bias=False)",
        f"{nn}.init.zeros_(self.output_gate.weight)",
    )
    gate = f"2 * torch.sigmoid(self.output_gate({x}))"
    gate = f"({gate}).transpose(1, 2)" if spot.output_heads_first else f"({gate})"
    y = spot.output
    draft.below(spot.statement, f"{y} = {y} * {gate}.unsqueeze(-1).to({y}.dtype)  # 1 at first")
    return f"{spot.module.name}: a gate on each head's output"


def _exclusive(draft: Draft, rng: random.Random) -> str:
    """What a head returns loses its part along the token's own value: attention adds what others know."""
    spot = attention(draft.parent)
    if not spot.output or "own" in names_in(spot.module.forward):
        raise MisfitError("no output, or done already")
    y, functional = spot.output, alias(draft.parent, "torch.nn.functional")
    direct = isinstance(spot.statement, ast.Assign) and spot.statement.value is spot.call
    value = draft.code(spot.call.args[2]) if direct else _as_output(spot)
    own = f"own = {functional}.normalize({value}{_repeated(draft, spot)}, dim=-1)"
    draft.below(spot.statement, *([own] if direct else []), f"{y} = {y} - ({y} * own).sum(-1, keepdim=True) * own")
    if not direct:  # below, the values may have another layout
        draft.above(spot.statement, own)
    return f"{spot.module.name}: outputs without their part along the token's own value"


def _as_output(spot: Attention) -> str:
    """The values above the statement, in the output's layout."""
    return spot.value if spot.heads_first == spot.output_heads_first else f"{spot.value}.transpose(1, 2)"


def _repeated(draft: Draft, spot: Attention) -> str:
    """Values that several queries share stand once for each of these in the output."""
    heads, own = (head_shape(draft.parent, spot, name)[0] for name in (spot.query, spot.value))
    dimension = 1 if spot.output_heads_first else 2
    return "" if own in (heads, "-1") else f".repeat_interleave({heads} // {own}, dim={dimension})"


ATTENTION_MUTATIONS = (
    drafted("query-gain", "a learnt gain of the queries", "Henry et al. 2020, arXiv 2010.04245", 5, _query_gain),
    drafted("log-scaled-queries", "queries grow with the logarithm of their position", "Nakanishi 2025, arXiv 2501.19399", 3, _log_scale),
    drafted(
        "token-shift", "keys or values mixed with the previous token's", "RWKV, arXiv 2305.13048; KellerJordan/modded-nanogpt", 6, _shift
    ),
    drafted("grouped-queries", "several queries share a key and a value", "Ainslie et al. 2023, arXiv 2305.13245", 4, _grouped),
    drafted(
        "partial-rotary", "only part of the channels rotates", "GPT-NeoX, arXiv 2204.06745; KellerJordan/modded-nanogpt", 6, _partial_rotary
    ),
    drafted("some-rotary", "blocks without a rotary embedding", "Yang et al. 2025, arXiv 2501.18795", 4, _some_rotary),
    drafted("window-by-depth", "short windows that widen or narrow with depth", "KellerJordan/modded-nanogpt, window sizes", 4, _windows),
    drafted(
        "output-gate", "a gate on each head's output", "Qiu et al. 2025, arXiv 2505.06708; KellerJordan/modded-nanogpt", 6, _output_gate
    ),
    drafted(
        "exclusive-attention", "no output along the token's own value", "Zhai 2026, arXiv 2603.09078; openai/parameter-golf", 3, _exclusive
    ),
)
