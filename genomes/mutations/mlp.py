"""Structural mutations of the MLP: gated forms and back, hidden width by depth, norms inside, biases, layers that blocks share."""

from __future__ import annotations

import ast
import random

from genomes.literals import read_value
from genomes.mutations.compiled import allow_shapes
from genomes.mutations.constants import require_blocks
from genomes.mutations.draft import Draft, MisfitError, alias, drafted
from genomes.mutations.groups import train_in_blocks
from genomes.mutations.network import Module, construct, depth, known_in, linears, modules, remember, stack
from genomes.mutations.sublayers import calls_behind, feed, layer_number, statement_of
from genomes.nodes import is_call, is_operation, names_in, walk
from genomes.source import parse_expression

_GATED = {
    "SwiGLU": "{f}.silu(gate) * value",
    "GEGLU": "{f}.gelu(gate) * value",
    "ReGLU": "{f}.relu(gate) * value",
    "ReLU² gate": "{f}.relu(gate).square() * value",
    "bilinear": "gate * value",
}


def _gated(draft: Draft, rng: random.Random) -> str:
    """`down(act(up(x)))` becomes `down(act(gate) * value)` of a layer twice as wide; the hidden width is two thirds, so that cost stays.

    Gate and value come from one matrix, so that initial values and optimiser groups need no change.
    """
    spot = feed(draft.parent)
    hidden = draft.code(spot.up.args[1])
    if {"gate", "value", "hidden"} & (names_in(spot.module.forward) | names_in(spot.module.init)):
        raise MisfitError("names are taken")
    kind = rng.choice(sorted(_GATED))
    made = statement_of(spot.module.init, spot.up)
    draft.above(made, f"hidden = 64 * max(1, round({hidden} / 96))  # gated: two thirds of the width for equal cost")
    _follow(draft, spot.module, spot.up.args[1], "hidden")
    draft.replace(spot.up.args[1], "2 * hidden")
    draft.replace(spot.down.args[0], "hidden")
    draft.above(spot.statement, f"gate, value = {draft.code(spot.inner)}.chunk(2, dim=-1)")
    text = _GATED[kind].format(f=alias(draft.parent, "torch.nn.functional"))
    draft.replace(spot.activation, text if not _is_operand(draft, spot.activation) else f"({text})")
    return f"{spot.module.name}: {kind}, two thirds of the hidden width for each half"


def _follow(draft: Draft, module: Module, width: ast.expr, other: str) -> None:
    """Weights of each hidden channel become as many as there are hidden channels now."""
    for made in (node for node in walk(module.init) if is_call(node, "Parameter")):
        for node in walk(made):
            if ast.dump(node) == ast.dump(width):
                draft.replace(node, other)


def _is_operand(draft: Draft, node: ast.expr) -> bool:
    return any(isinstance(outer, ast.BinOp) and node in (outer.left, outer.right) for outer in walk(draft.parent.tree))


def _plain(draft: Draft, rng: random.Random) -> str:
    """A gated MLP whose halves come from one matrix becomes `down(relu(up(x))²)`, with half as many hidden channels again."""
    for module in modules(draft.parent):
        layers = linears(module)
        for split in module.forward.body:
            if not isinstance(split, ast.Assign) or not isinstance(split.targets[0], ast.Tuple) or not _halves(split.value):
                continue
            halves = names_in(split.targets[0])
            behind = (layers[name] for name in calls_behind(module, split.value) if name in layers)
            up = next((layer for layer in behind if _doubles(layer.args[1])), None)
            product = next((node for node in reversed([*walk(module.forward)]) if _is_gate(node, halves)), None)  # the innermost
            if up is None or product is None or not isinstance(split.value, ast.Call):
                continue
            width = draft.code(up.args[1].right) if isinstance(up.args[1], ast.BinOp) else ""
            down = next((layer for layer in layers.values() if draft.code(layer.args[0]) == width), None)
            if down is None or not isinstance(split.value.func, ast.Attribute):
                continue
            _follow(draft, module, down.args[0], f"{width} + {width} // 2")
            draft.replace(up.args[1], f"{width} + {width} // 2")
            draft.replace(down.args[0], f"{width} + {width} // 2")
            draft.delete(split)
            inner = draft.code(split.value.func.value)
            draft.replace(product, f"{alias(draft.parent, 'torch.nn.functional')}.relu({inner}).square()")
            return f"{module.name}: ReLU² without a gate"
    raise MisfitError("no gated MLP")


def _halves(node: ast.expr) -> bool:
    return is_call(node, "chunk") and bool(node.args) and read_value(node.args[0]) == 2


def _doubles(node: ast.expr) -> bool:
    return is_operation(node, ast.Mult) and read_value(node.left) == 2 and isinstance(node.right, ast.Name)


def _is_gate(node: ast.AST, halves: set[str]) -> bool:
    return is_operation(node, ast.Mult) and halves <= names_in(node)


def _by_depth(draft: Draft, rng: random.Random) -> str:
    """Hidden layers widen, or narrow, with depth; their mean stays."""
    require_blocks(draft.parent, 2)
    spot, found = feed(draft.parent), stack(draft.parent)
    hidden, blocks = draft.code(spot.up.args[1]), depth(draft.parent)
    if draft.code(spot.down.args[0]) != hidden or "layer" in names_in(spot.module.init) | {a.arg for a in spot.module.init.args.args}:
        raise MisfitError("the MLP knows its layer")
    if not set(names_in(parse_expression(blocks))) <= known_in(draft.parent, spot.module.init):
        raise MisfitError(f"{blocks} is unknown in {spot.module.name}")
    made, number = _made(draft, spot.module.name)
    draft.argument(made, number)
    draft.parameter(spot.module.init, "layer")
    up = rng.random() < 0.5
    share = f"(layer + 0.5) / {blocks}" if up else f"1.5 - (layer + 0.5) / {blocks}"
    factor = f"(0.5 + {share})" if up else f"({share})"
    draft.above(statement_of(spot.module.init, spot.up), f"hidden = 16 * max(1, round({hidden} * {factor} / 16))")
    _follow(draft, spot.module, spot.up.args[1], "hidden")
    draft.replace(spot.up.args[1], "hidden")
    draft.replace(spot.down.args[0], "hidden")
    allow_shapes(draft)
    return f"{spot.module.name}: hidden width {'rises' if up else 'falls'} over the blocks of {found.blocks}"


def _made(draft: Draft, name: str) -> tuple[ast.Call, str]:
    """The one call that makes a module of that class, in a class that knows its layer, and what it calls the layer."""
    for module in modules(draft.parent):
        for node in walk(module.init):
            if is_call(node, name):
                return node, layer_number(module)
    raise MisfitError(f"{name} is made elsewhere")


def _bias(draft: Draft, rng: random.Random) -> str:
    """A bias for one linear layer of a block, zero at first; or none where there was one like it."""
    inner = [module for module in modules(draft.parent) if module.node is not stack(draft.parent).module.node]
    found = [(m, name, word) for m in inner for name, call in linears(m).items() for word in call.keywords if word.arg == "bias"]
    plain = [(m, name, word) for m, name, word in found if read_value(word.value) is False]
    if not plain:
        raise MisfitError("no layer without bias")
    module, name, word = rng.choice(plain)
    draft.replace(word.value, "True")
    made = statement_of(module.init, word.value)
    construct(draft, module, made, f"{alias(draft.parent, 'torch.nn')}.init.zeros_(self.{name}.bias)")
    train_in_blocks(draft)
    return f"{module.name}: a bias in {name}"


def _shared(draft: Draft, rng: random.Random) -> str:
    """Two neighbouring blocks share one MLP."""
    require_blocks(draft.parent, 2)
    found, spot = stack(draft.parent), feed(draft.parent)
    for module in modules(draft.parent):
        for statement in module.init.body:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            value = statement.value if isinstance(statement, ast.Assign) else None
            if isinstance(target, ast.Attribute) and is_call(value, spot.module.name):
                if any(isinstance(node, ast.Name) and node.id == "later" for node in walk(found.module.init)):
                    raise MisfitError("shared already")
                blocks = next((s for s in found.module.init.body if isinstance(s, ast.Assign) and _makes(s, found.blocks)), None)
                if blocks is None:
                    raise MisfitError("the blocks are not made by one statement")
                draft.below(
                    blocks,
                    f"for earlier, later in zip({found.blocks}[::2], {found.blocks}[1::2]):",
                    f"    later.{target.attr} = earlier.{target.attr}  # two blocks share it",
                )
                return f"{found.module.name}: pairs of blocks share {target.attr}"
    raise MisfitError("no MLP of a block's own")


def _makes(statement: ast.Assign, blocks: str) -> bool:
    first = blocks.split(".")[1]
    return isinstance(statement.targets[0], ast.Attribute) and statement.targets[0].attr == first


def _hidden_gain(draft: Draft, rng: random.Random) -> str:
    """A learnt gain per hidden channel behind the activation."""
    spot = feed(draft.parent)
    if any(isinstance(node, ast.Attribute) and node.attr == "hidden_gain" for node in walk(spot.module.node)):
        raise MisfitError("it has one")
    hidden = draft.code(spot.up.args[1])
    remember(draft, spot.module, "hidden_gain", f"self.hidden_gain = {alias(draft.parent, 'torch.nn')}.Parameter(torch.ones({hidden}))")
    code = draft.code(spot.activation)
    draft.replace(spot.activation, f"({code} * self.hidden_gain)")
    train_in_blocks(draft)
    return f"{spot.module.name}: a learnt gain per hidden channel"


MLP_MUTATIONS = (
    drafted("gated-mlp", "SwiGLU, GEGLU, ReGLU or bilinear MLP of equal cost", "Shazeer 2020, arXiv 2002.05202", 8, _gated),
    drafted("plain-mlp", "a gated MLP without its gate", "Primer, arXiv 2109.08668", 3, _plain),
    drafted("mlp-width-by-depth", "hidden width that rises or falls with depth", "OpenELM, arXiv 2404.14619", 3, _by_depth),
    drafted("add-bias", "a bias in one layer of the blocks", "Qwen, arXiv 2309.16609", 2, _bias),
    drafted("share-mlp", "neighbouring blocks share their MLP", "ALBERT, arXiv 1909.11942; MobileLLM, arXiv 2402.14905", 2, _shared),
    drafted("hidden-gain", "a learnt gain per hidden channel", "IA³, arXiv 2205.05638", 2, _hidden_gain),
)
