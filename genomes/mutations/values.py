"""Structural mutations of what attention carries: value embeddings, where they are and who shares them, and the first block's values."""

from __future__ import annotations

import ast
import random
import re

from genomes.mutations.constants import block_count, layers_where, require_blocks
from genomes.mutations.draft import Draft, MisfitError, alias, drafted
from genomes.mutations.groups import train_in_blocks
from genomes.mutations.meeting import attention
from genomes.mutations.mutation import Program
from genomes.mutations.network import attributes, depth, linears, modules, remember, stack, width_in
from genomes.nodes import is_call, last_name, names_in, stored_in, walk
from genomes.source import parse_expression

_ABOUT_VALUES = re.compile(r"value_emb|has_ve|value_lookup", re.IGNORECASE)


def _value_residual(draft: Draft, rng: random.Random) -> str:
    """Each block's values are mixed with the first block's by a learnt share; the values travel in a list from block to block."""
    require_blocks(draft.parent, 2)
    found, spot = stack(draft.parent), attention(draft.parent)
    if "values" in names_in(found.module.forward) | names_in(spot.module.forward):
        raise MisfitError("the name is taken")
    blocks = [module for module in modules(draft.parent) if attributes(module.init, re.compile(spot.module.name))]
    calls = [
        call for module in blocks for call in walk(module.forward) if is_call(call, *attributes(module.init, re.compile(spot.module.name)))
    ]
    if len(blocks) != 1 or len(calls) != 1:
        raise MisfitError("attention is called elsewhere")
    draft.above(found.loop, "values = []  # of each block")
    for call in (found.call, calls[0]):
        draft.argument(call, "values")
    for module in (blocks[0], spot.module):
        draft.parameter(module.forward, "values")
    share = rng.choice((0.0, 0.2, 0.5))
    remember(draft, spot.module, "value_share", f"self.value_share = {alias(draft.parent, 'torch.nn')}.Parameter(torch.tensor({share}))")
    v = spot.value
    draft.above(spot.statement, f"values.append({v})", f"{v} = {v} + self.value_share * (values[0] - {v})  # the first block's")
    train_in_blocks(draft)
    return f"{spot.module.name}: values mixed with the first block's, {share:g} at first"


def _where(draft: Draft, rng: random.Random) -> str:
    """Value embeddings in no block, at both ends, in the first or in the last half of the blocks."""
    for function in draft.parent.tree.body:
        if not isinstance(function, ast.FunctionDef) or not _ABOUT_VALUES.search(function.name) or not function.args.args:
            continue
        layer, last, blocks = function.args.args[0].arg, function.body[-1], _depth_in(draft.parent, function)
        if not isinstance(last, ast.Return) or last.value is None:
            continue
        options = {
            "in no block": "False",
            "in the first and last block": f"{layer} in (0, {blocks} - 1)",
            "in the first half of the blocks": f"2 * {layer} < {blocks}",
            "in the last half of the blocks": f"2 * {layer} + 1 >= {blocks}",
        }
        now = draft.code(last.value)
        name = rng.choice(
            [name for name, text in sorted(options.items()) if text != now and _differ(draft.parent, layer, now, text, blocks)]
        )
        draft.replace(last.value, options[name])
        return f"{function.name}: {name}"
    raise MisfitError("no rule for value embeddings")


def _differ(parent: Program, layer: str, now: str, then: str, blocks: str) -> bool:
    """Do two rules say different things of some block, as far as the text shows?"""
    known = {} if blocks.isupper() else {blocks: block_count(parent)}
    said = layers_where(parent, now, layer, known)
    return said is None or said != layers_where(parent, then, layer, known)


def _depth_in(parent: Program, function: ast.FunctionDef) -> str:
    """What the function calls the number of blocks: its second parameter, or the constant that the blocks are made by."""
    if len(function.args.args) == 2:
        return function.args.args[1].arg
    if not (constant := depth(parent)).isupper():
        raise MisfitError("the number of blocks is unknown there")
    return constant


def _with_values(parent: Program) -> int | None:
    """How many blocks have a value embedding, by a rule of one return; None where the text does not say."""
    for function in parent.tree.body:
        last = function.body[-1] if isinstance(function, ast.FunctionDef) and _ABOUT_VALUES.search(function.name) else None
        if isinstance(function, ast.FunctionDef) and isinstance(last, ast.Return) and last.value is not None and function.args.args:
            known = {argument.arg: block_count(parent) for argument in function.args.args[1:]}
            said = layers_where(parent, parent.source.code(last.value), function.args.args[0].arg, known)
            return None if said is None else sum(map(bool, said))
    return None


def _share(draft: Draft, rng: random.Random) -> str:
    """One table of value embeddings for all blocks that have one."""
    module = stack(draft.parent).module
    if _with_values(draft.parent) in (0, 1):
        raise MisfitError("one block at most has a table")
    for statement in module.init.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        tables = next((n for n in walk(statement) if isinstance(n, ast.DictComp) and last_name(n.value) == "Embedding"), None)
        if not isinstance(target, ast.Attribute) or tables is None:
            continue
        uses = [n for n in walk(draft.parent.tree) if isinstance(n, ast.Attribute) and n.attr == target.attr and n is not target]
        lookups = [n for n in walk(module.forward) if isinstance(n, ast.Subscript) and last_name(n.value) == target.attr]
        tests = [n for n in walk(module.forward) if isinstance(n, ast.Compare) and last_name(n.comparators[0]) == target.attr]
        if not lookups or any(last_name(lookup.slice) != "str" for lookup in lookups) or not uses:
            raise MisfitError("tables are looked up in another way")
        for test in tests:
            draft.replace(test, _rule(draft, tables, test))
        draft.replace(tables, f'{{"shared": {draft.code(tables.value)}}}')
        for lookup in lookups:
            draft.replace(lookup.slice, '"shared"')
        return f"{module.name}: one table of value embeddings for all blocks"
    raise MisfitError("no tables")


def _rule(draft: Draft, tables: ast.DictComp, test: ast.Compare) -> str:
    """By which rule a block had a table: `str(i) in self.tables` becomes the condition that tables were made by, for the same block."""
    found, loop = stack(draft.parent), tables.generators[0]
    asks = isinstance(test.ops[0], ast.In) and ast.unparse(test.left) == f"str({found.index})"
    if not asks or len(loop.ifs) != 1 or ast.unparse(tables.key) != f"str({last_name(loop.target)})":
        raise MisfitError("tables are asked for in another way")
    rule = re.sub(rf"\b{last_name(loop.target)}\b", found.index, draft.code(loop.ifs[0]))
    own = {argument.arg for argument in found.module.init.args.args} | stored_in(found.module.init)
    for name in names_in(parse_expression(rule)) & own - {found.index}:
        if f"self.{name} = {name}\n" not in draft.code(found.module.init):
            raise MisfitError(f"{name} is unknown in the forward pass")
        rule = re.sub(rf"(?<![.\w]){name}\b", f"self.{name}", rule)
    return rule


def _wide_gate(draft: Draft, rng: random.Random) -> str:
    """The gate of the value embeddings sees all channels of its input."""
    spot = attention(draft.parent)
    for statement in spot.module.init.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        layers = [n for n in walk(statement) if is_call(n, "Linear") and len(n.args) == 2]
        if not isinstance(target, ast.Attribute) or "gate" not in target.attr or len(layers) != 1 or target.attr in linears(spot.module):
            continue
        for call in walk(spot.module.forward):
            if is_call(call, target.attr) and isinstance(part := call.args[0], ast.Subscript):
                draft.replace(layers[0].args[0], width_in(draft.parent, spot.module))
                draft.replace(part, draft.code(part.value))
                return f"{spot.module.name}: {target.attr} sees all channels"
    raise MisfitError("no gate of some channels")


VALUE_MUTATIONS = (
    drafted(
        "value-residual",
        "values mixed with the first block's",
        "ResFormer, arXiv 2410.17897; KellerJordan/modded-nanogpt",
        6,
        _value_residual,
    ),
    drafted(
        "value-embedding-layers", "which blocks have a value embedding", "KellerJordan/modded-nanogpt, U-shaped value embeddings", 5, _where
    ),
    drafted("share-value-embeddings", "one table of value embeddings", "KellerJordan/modded-nanogpt, shared value embeddings", 4, _share),
    drafted("wide-gate", "gates that see all channels", "karpathy/nanochat, gates of value embeddings", 3, _wide_gate),
)
