"""Structural mutations of the residual stream: scales of sublayers, residual factors, re-injected embeddings, skips, causal mixing."""

from __future__ import annotations

import ast
import random
from typing import TypeGuard

from genomes.mutations.draft import Draft, MisfitError, alias, drafted
from genomes.mutations.groups import forget, train_in_blocks, train_in_stack
from genomes.mutations.network import Stack, embedding, remember, stack, width_in
from genomes.mutations.norms import normed
from genomes.mutations.patterns import atom, is_norm
from genomes.mutations.sublayers import branches
from genomes.nodes import is_call, is_operation, last_name, names_in, walk


def _layer_scale(draft: Draft, rng: random.Random) -> str:
    """What a sublayer adds is scaled by a learnt vector, or by a learnt number."""
    found = branches(draft.parent)
    if not found:
        raise MisfitError("no residual branches")
    module, _, call = rng.choice(found)
    name, nn, vector = f"{last_name(call.func)}_scale", alias(draft.parent, "torch.nn"), rng.random() < 0.6
    start = rng.choice((1.0, 1.0, 0.5))
    shape = f"({width_in(draft.parent, module)},)" if vector else "()"
    remember(draft, module, name, f"self.{name} = {nn}.Parameter(torch.full({shape}, {start}))")
    x = atom(draft.source, call.args[0]) if not is_norm(call.args[0]) else draft.code(call.args[0].args[0])
    draft.wrap(call, f"self.{name}.to({x}.dtype) * " if vector else f"self.{name} * ", "")
    train_in_blocks(draft)
    return f"{module.name}: {last_name(call.func)} × a learnt {'vector' if vector else 'number'}, {start:g} at first"


def _factors(found: Stack) -> list[tuple[str, ast.BinOp, ast.BinOp | None]]:
    """In `x = self.a[i] * x + self.b[i] * x0`: each attribute with its product and the sum around."""
    result = []
    for statement in found.loop.body:
        if isinstance(statement, ast.Assign) and statement is not found.step:
            for product in (node for node in walk(statement) if _is_factor(node, found.index)):
                around = next((s for s in walk(statement) if is_operation(s, ast.Add) and product in (s.left, s.right)), None)
                result.append((last_name(product.left), product, around))
    return result


def _is_factor(node: ast.AST, index: str) -> TypeGuard[ast.BinOp]:
    """`self.a[i] * name`."""
    if not is_operation(node, ast.Mult) or not isinstance(part := node.left, ast.Subscript):
        return False
    owner = part.value
    return isinstance(owner, ast.Attribute) and names_in(part.slice) == {index} and isinstance(node.right, ast.Name)


def _remove_factor(draft: Draft, rng: random.Random) -> str:
    """Learnt factors on the stream become 1; a re-injected embedding goes with its factors."""
    found = stack(draft.parent)
    options = _factors(found)
    if not options:
        raise MisfitError("no factors")
    name, product, around = rng.choice(options)
    if draft.code(product.right) == found.x:
        draft.replace(product, found.x)
    elif around is not None:
        draft.replace(around, draft.code(around.left if around.right is product else around.right))
    else:
        raise MisfitError("nothing would be left")
    forget(draft, name)
    return f"{found.module.name}: without {name}"


def _channel_factors(draft: Draft, rng: random.Random) -> str:
    """A factor on the stream for each channel instead of one for all."""
    found = stack(draft.parent)
    options = []
    for name, product, _ in _factors(found):
        for node in walk(found.module.init):
            made = isinstance(node, ast.Assign) and last_name(node.targets[0]) == name and isinstance(node.value, ast.Call)
            inner = node.value.args[0] if made and node.value.args else None  # type: ignore[attr-defined]
            if is_call(inner, "ones", "zeros") and len(inner.args) == 1:
                options.append((name, product, inner))
    if not options:
        raise MisfitError("no factors, or per channel already")
    name, product, made_of = rng.choice(options)
    draft.wrap(made_of.args[0], "", f", {embedding(draft.parent)[1]}")
    draft.wrap(product.left, "", f".to({draft.code(product.right)}.dtype)")
    return f"{found.module.name}: {name} per channel"


def _add_x0(draft: Draft, rng: random.Random) -> str:
    """The first state of the stream is added again before each block, by a learnt factor."""
    found = stack(draft.parent)
    if _adds_name(found) or "first" in names_in(found.module.forward):
        raise MisfitError("it is added already")
    remember(draft, found.module, "first_factor", f"self.first_factor = {alias(draft.parent, 'torch.nn')}.Parameter(torch.full((), 0.1))")
    draft.above(found.loop, f"first = {found.x}")
    draft.above(found.step, f"{found.x} = {found.x} + self.first_factor * first")
    train_in_stack(draft, "first_factor")
    return f"{found.module.name}: the embedding is added before each block"


def _adds_name(found: Stack) -> bool:
    """Is another name than the stream's added in the loop?"""
    return any(draft_name != found.x for _, product, _ in _factors(found) for draft_name in names_in(product.right))


def _u_net(draft: Draft, rng: random.Random) -> str:
    """Blocks of the second half also see what their mirror image in the first half was given."""
    found = stack(draft.parent)
    x, blocks = found.x, found.blocks
    if not found.index or "inputs" in names_in(found.module.forward):
        raise MisfitError("blocks are not counted, or it is a U-net")
    start = rng.choice((0.0, 0.1, 0.3))
    nn = alias(draft.parent, "torch.nn")
    remember(draft, found.module, "skip_factors", f"self.skip_factors = {nn}.Parameter(torch.full((len({blocks}),), {start}))")
    draft.above(found.loop, "inputs = []  # of each block")
    draft.above(
        found.step,
        f"inputs.append({x})",
        f"if 2 * {found.index} + 1 >= len({blocks}):  # the second half",
        f"    {x} = {x} + self.skip_factors[{found.index}] * inputs[len({blocks}) - 1 - {found.index}]",
    )
    train_in_stack(draft, "skip_factors")
    return f"{found.module.name}: skips from the first half of the blocks to the second, {start:g} at first"


def _back_out(draft: Draft, rng: random.Random) -> str:
    """A learnt share of the stream's state in the middle is taken out at the end."""
    found = stack(draft.parent)
    if not found.index or "middle" in names_in(found.module.forward):
        raise MisfitError("blocks are not counted, or done already")
    remember(draft, found.module, "middle_factor", f"self.middle_factor = {alias(draft.parent, 'torch.nn')}.Parameter(torch.zeros(()))")
    draft.above(found.step, f"if {found.index} == len({found.blocks}) // 2:", f"    middle = {found.x}")
    draft.below(found.loop, f"{found.x} = {found.x} - self.middle_factor * middle")
    train_in_stack(draft, "middle_factor")
    return f"{found.module.name}: the state in the middle is subtracted at the end"


def _smear(draft: Draft, rng: random.Random) -> str:
    """Each token's state starts with a learnt share of the previous token's; nothing looks ahead."""
    found = stack(draft.parent)
    nn, functional, x = alias(draft.parent, "torch.nn"), alias(draft.parent, "torch.nn.functional"), found.x
    vector = rng.random() < 0.5
    shape = f"({embedding(draft.parent)[1]},)" if vector else "()"
    remember(draft, found.module, "smear", f"self.smear = {nn}.Parameter(torch.zeros({shape}))")
    factor = f"self.smear.to({x}.dtype)" if vector else "self.smear"
    draft.above(found.loop, f"{x} = {x} + {factor} * {functional}.pad({x}, (0, 0, 1, -1))  # of the previous token")
    train_in_stack(draft, "smear")
    return f"{found.module.name}: a learnt share of the previous token, {'per channel' if vector else 'one number'}"


def _convolution(draft: Draft, rng: random.Random) -> str:
    """Before attention, or before the MLP, a causal convolution along the tokens, each channel for itself, zero at first.

    It is written as a sum of shifted copies, which compilers fuse, and its weights are one vector, as optimisers sort by dimension.
    """
    found = branches(draft.parent)
    if not found:
        raise MisfitError("no residual branches")
    module, node, call = rng.choice(found)
    statement = next((s for s in module.forward.body if node in walk(s)), None)
    if statement is None or not isinstance(node.left, ast.Name):
        raise MisfitError("the sum is not a statement of its own")
    x, count, width = node.left.id, rng.choice((3, 4)), width_in(draft.parent, module)
    name, nn, functional = f"{last_name(call.func)}_taps", alias(draft.parent, "torch.nn"), alias(draft.parent, "torch.nn.functional")
    remember(draft, module, name, f"self.{name} = {nn}.Parameter(torch.zeros({count} * {width}))  # of a causal convolution per channel")
    draft.above(
        statement,
        f"past, taps = {normed(draft, x)}, self.{name}.view({count}, -1).to({x}.dtype)",
        f"{x} = {x} + sum(taps[j] * {functional}.pad(past, (0, 0, j, -j)) for j in range({count}))",
    )
    train_in_blocks(draft)
    return f"{module.name}: a causal convolution over {count} tokens before {last_name(call.func)}"


STREAM_MUTATIONS = (
    drafted("layer-scale", "a learnt scale of what a sublayer adds", "CaiT, arXiv 2103.17239; ReZero, arXiv 2003.04887", 5, _layer_scale),
    drafted(
        "remove-factor",
        "no learnt factors of the stream, or of the re-injected embedding",
        "karpathy/nanochat, x0_lambdas",
        4,
        _remove_factor,
    ),
    drafted("channel-factors", "factors of the stream per channel", "CaiT, arXiv 2103.17239", 4, _channel_factors),
    drafted("re-inject-embedding", "the embedding is added before each block", "KellerJordan/modded-nanogpt, x0_lambdas", 5, _add_x0),
    drafted(
        "u-net", "skips from the first half of the blocks to the second", "KellerJordan/modded-nanogpt; U-Net, arXiv 1505.04597", 5, _u_net
    ),
    drafted("back-out", "the state in the middle is subtracted at the end", "KellerJordan/modded-nanogpt, backout", 3, _back_out),
    drafted("smear", "a share of the previous token's embedding", "KellerJordan/modded-nanogpt, smear; RWKV, arXiv 2305.13048", 6, _smear),
    drafted(
        "causal-convolution",
        "short convolutions per channel",
        "Primer, arXiv 2109.08668; Canon layers, Allen-Zhu 2025, SSRN 5240330",
        6,
        _convolution,
    ),
)
