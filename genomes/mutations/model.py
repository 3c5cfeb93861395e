"""Structural mutations of single expressions and statements of a network: activations, norms, gates, soft-caps, residual sums, ablations.

Each looks for its construct anywhere in the functions that hold the recipe, in whatever style it is written, and changes one occurrence.
What has to know the network's modules, and edits several of them, is in norms.py, mlp.py, attention.py, values.py, stream.py and edges.py.
"""

from __future__ import annotations

import ast
import random
import re

from genomes.literals import read_value
from genomes.mutations.anatomy import losses, torch_entropy
from genomes.mutations.constants import block_count, layers_where
from genomes.mutations.draft import MisfitError
from genomes.mutations.mutation import STRUCTURAL, Mutation, Place, Program, Rewrite, pick, rewrite
from genomes.mutations.patterns import (
    ACTIVATIONS,
    atom,
    data_names,
    in_recipe,
    is_norm,
    is_one,
    is_touchable,
    neighbours,
    replaced,
    shown,
    squares,
    uses_module,
    without,
)
from genomes.mutations.weights import made_empty
from genomes.nodes import is_call, is_operation, names_in, walk
from genomes.source import Splice, parse_expression, splice

_VITAL = re.compile(
    r"lr\b|rate|std|weights|update|loss|\bx\b|width|bound|ramp|momentum|\bcos\b|\bsin\b", re.IGNORECASE
)  # nothing trains without
_INIT = re.compile(r"init", re.IGNORECASE)
_VALUES = ("fill_", "normal_", "uniform_", "trunc_normal_")  # what gives a tensor all its values
_SHAPES = (
    "{f}.relu({x}).square()",
    "{f}.gelu({x})",
    "{f}.silu({x})",
    "{f}.leaky_relu({x}, 0.1).square()",
    "{f}.relu({x})",
    "{f}.mish({x})",
)


def _activation(parent: Program, rng: random.Random) -> Rewrite | None:
    source = parent.source
    place = pick((place for place in parent.places if is_call(place.node, *ACTIVATIONS) and place.node.args), rng)
    if place is None or not isinstance(call := place.node, ast.Call):
        return None
    whole = next((outer for outer in parent.places if squares(outer.node, call)), place)
    prefix = source.code(call.func.value) if isinstance(call.func, ast.Attribute) else "torch.nn.functional"
    prefix = "torch.nn.functional" if prefix in ("torch", "nn") else prefix
    options = [shape.format(f=prefix, x=source.code(call.args[0])) for shape in _SHAPES]
    now = ast.unparse(whole.node)
    text = pick((option for option in options if ast.unparse(parse_expression(option)) != now), rng)
    return replaced(parent, whole, text, "activation") if text else None


def _remove_norm(parent: Program, rng: random.Random) -> Rewrite | None:
    place = pick((place for place in in_recipe(parent) if is_norm(place.node) and "norm" not in place.function.name.lower()), rng)
    if place is None or not isinstance(place.node, ast.Call):
        return None
    return replaced(parent, place, atom(parent.source, place.node.args[0]), "no norm")


def _drop_statement(parent: Program, rng: random.Random) -> Rewrite | None:
    """Ablate `x = x … ` or `x += …`, or a call that changes a tensor in place; never the only value that it gets."""
    found = [place for place in in_recipe(parent) if place.node is place.statement and _is_update(place.statement)]
    found = [place for place in found if not _gives_values(place.statement) or (_INIT.search(place.name) and not made_empty(parent))]
    fit = [place for place in found if is_touchable(parent.source, place.statement) and not uses_module(place, place.statement)]
    return pick([without(parent, place, "ablated") for place in fit], rng)


def _is_update(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.AugAssign):
        return not is_one(statement.value)  # `+= 1` counts steps, and the count may be a divisor
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(target := statement.targets[0], ast.Name):
        return target.id in names_in(statement.value) and (isinstance(statement.value, ast.BinOp) or is_norm(statement.value))
    if isinstance(statement, ast.Expr) and isinstance(call := statement.value, ast.Call) and isinstance(call.func, ast.Attribute):
        return call.func.attr in (*_VALUES, "mul_", "clamp_")
    return False


def _gives_values(statement: ast.stmt) -> bool:
    """`torch.nn.init.normal_(w)`, `self.rate.fill_(group["lr"])`."""
    return isinstance(statement, ast.Expr) and is_call(statement.value, *_VALUES)


def _drop_part(parent: Program, rng: random.Random) -> Rewrite | None:
    """Ablate one operand of a sum or a product."""
    options = []
    for place in in_recipe(parent):
        if not is_operation(node := place.node, ast.Add, ast.Sub, ast.Mult):
            continue
        for kept, lost in ((node.left, node.right), (node.right, node.left)):
            subtracts = isinstance(node.op, ast.Sub) and kept is node.right
            if (
                _loses_the_data(place, kept, lost)
                or subtracts
                or read_value(kept) is not None
                or not is_touchable(parent.source, lost)
                or uses_module(place, lost)
            ):
                continue
            if _VITAL.search(parent.source.code(lost)):
                continue
            options.append(replaced(parent, place, atom(parent.source, kept), "ablated"))
    return pick(options, rng)


def _loses_the_data(place: Place, kept: ast.expr, lost: ast.expr) -> bool:
    """Would the expression no longer depend on what the function is given, be of another shape, or bound a range from one side only?"""
    if isinstance(lost, ast.UnaryOp) or any(is_call(node, "uniform_") for node in walk(place.statement)):
        return True
    if any(isinstance(node, ast.keyword) and node.arg == "keepdim" for node in walk(kept)):
        return not any(isinstance(node, ast.keyword) and node.arg == "keepdim" for node in walk(lost))
    data = data_names(place.function)
    return bool(names_in(lost) & data) and not names_in(kept) & data


def _soft_cap(parent: Program, rng: random.Random) -> Rewrite | None:
    """`c * tanh(x / c)` becomes `x`, a softsign or a sigmoid of the same height and slope."""
    options = []
    for place in parent.places:
        if not is_operation(node := place.node, ast.Mult) or not is_call(call := node.right, "tanh"):
            continue
        if not call.args or not is_operation(ratio := call.args[0], ast.Div) or ast.dump(node.left) != ast.dump(ratio.right):
            continue
        cap, x = parent.source.code(node.left), atom(parent.source, ratio.left)
        options += [
            _uncapped(parent, place, x),
            replaced(parent, place, f"{cap} * {x} / ({cap} + {x}.abs())", "soft-cap"),
            replaced(parent, place, f"{cap} * (2 * torch.sigmoid(2 * {x} / {cap}) - 1)", "soft-cap") if rng.random() < 0.3 else None,
        ]
    return pick((option for option in options if option is not None), rng)


def _uncapped(parent: Program, place: Place, x: str) -> Rewrite | None:
    """Without the cap, and with a loss that needs none; None where the program has no name for that."""
    try:
        losses_too = [Splice(*parent.source.span(loss.call.func), torch_entropy(parent, loss)) for loss in losses(parent)]
    except MisfitError:
        return None
    return replaced(parent, place, x, "no soft-cap", *losses_too)


def _gate(parent: Program, rng: random.Random) -> Rewrite | None:
    """`2 * sigmoid(x)` becomes another gate that is 1 at 0."""
    options = []
    for place in in_recipe(parent):
        node = place.node
        if is_operation(node, ast.Mult) and is_call(call := node.right, "sigmoid") and read_value(node.left) is not None and call.args:
            x = parent.source.code(call.args[0])
            options += [
                replaced(parent, place, f"(1 + torch.tanh({x}))", "gate"),
                replaced(parent, place, f"torch.exp({x}).clamp(max=4.0)", "gate"),
            ]
            options += [replaced(parent, place, parent.source.code(call), "gate")]
    return pick(options, rng)


def _alternate(parent: Program, rng: random.Random) -> Rewrite | None:
    """`layer % 2 == k % 2`: every layer, or every third."""
    options = []
    for place in parent.places:
        node = place.node
        if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq) or not isinstance(left := node.left, ast.BinOp):
            continue
        divisor = read_value(left.right) if isinstance(left.op, ast.Mod) else None
        about_layers = re.search(r"layer|depth|block", ast.unparse(node) + place.name, re.IGNORECASE)
        if not isinstance(divisor, int) or not 2 <= divisor <= 4 or not about_layers:
            continue
        inner = [part for part in (left, node.comparators[0]) if is_operation(part, ast.Mod)]
        for new in {1, 2, 3} - {divisor}:
            if _says_the_same(parent, place, node, [part.right for part in inner], new):
                continue
            cuts = [Splice(*parent.source.span(part.right), str(new)) for part in inner]
            options.append(rewrite(parent, cuts, f"{place.name}: every {new} of the layers instead of every {divisor}"))
    return pick(options, rng)


def _says_the_same(parent: Program, place: Place, rule: ast.Compare, divisors: list[ast.expr], new: int) -> bool:
    """Would another divisor say the same of every block, as far as the text shows?"""
    arguments = [argument.arg for argument in place.function.args.args]
    source, start = parent.source, parent.source.span(rule)[0]
    spans = [source.span(divisor) for divisor in divisors]
    other = splice(source.code(rule), [Splice(first - start, end - start, str(new)) for first, end in spans])
    known = {name: block_count(parent) for name in arguments[1:]} if arguments[1:] else {}
    said = layers_where(parent, source.code(rule), arguments[0], known) if arguments else None
    return said is not None and said == layers_where(parent, other, arguments[0], known)


def _swap_updates(parent: Program, rng: random.Random) -> Rewrite | None:
    """`x = x + f(x)` then `x = x + g(x)`, or `return x + g(x)`: the other order, or both from the same x."""
    source, options = parent.source, []
    for place, first, second in neighbours(parent):
        f, g = _added(first), _added(second)
        if f is None or g is None or not isinstance(first, ast.Assign) or names_in(first.targets[0]) != names_in(f.left) != set():
            continue
        if ast.dump(f.left) != ast.dump(g.left):
            continue
        swap = [Splice(*source.span(f.right), source.code(g.right)), Splice(*source.span(g.right), source.code(f.right))]
        options.append(rewrite(parent, swap, f"{place.name}: {shown(source.code(g.right))} before {shown(source.code(f.right))}"))
        start = source.span(first)[0]
        together = [Splice(start, source.span(second)[0], ""), Splice(source.span(g)[1], source.span(g)[1], f" + {source.code(f.right)}")]
        options.append(
            rewrite(parent, together, f"{place.name}: {shown(source.code(f.right))} and {shown(source.code(g.right))} in parallel")
        )
    return pick(options, rng)


def _added(statement: ast.stmt) -> ast.BinOp | None:
    """The sum `x + …` of an assignment or return, with a name on its left."""
    value = statement.value if isinstance(statement, ast.Assign | ast.Return) else None
    return value if is_operation(value, ast.Add) and isinstance(value.left, ast.Name) else None


MODEL_MUTATIONS = (
    Mutation(
        "activation",
        "another activation in the MLP",
        "Primer, arXiv 2109.08668; GLU variants, arXiv 2002.05202",
        STRUCTURAL,
        10,
        _activation,
    ),
    Mutation("remove-norm", "one norm fewer, QK-norm included", "Henry et al. 2020, arXiv 2010.04245", STRUCTURAL, 5, _remove_norm),
    Mutation("drop-statement", "ablate one update", "Meyes et al. 2019, arXiv 1901.08644", STRUCTURAL, 7, _drop_statement),
    Mutation(
        "drop-part",
        "ablate one term or factor, residual scalars included",
        "Meyes et al. 2019, arXiv 1901.08644",
        STRUCTURAL,
        9,
        _drop_part,
    ),
    Mutation("soft-cap", "remove or reshape the logit soft-cap", "Gemma 2, arXiv 2408.00118", STRUCTURAL, 6, _soft_cap),
    Mutation("gate", "another gate of the value embeddings", "karpathy/nanochat, value embeddings", STRUCTURAL, 6, _gate),
    Mutation("alternate-layers", "value embeddings in more or fewer layers", "KellerJordan/modded-nanogpt", STRUCTURAL, 6, _alternate),
    Mutation("swap-updates", "sublayers in the other order, or in parallel", "GPT-J; PaLM, arXiv 2204.02311", STRUCTURAL, 5, _swap_updates),
)
