"""Structural mutations of single expressions and statements of the training recipe: falls of rates, initial values, momentum, clipping.

As in model.py, each changes one occurrence, in whatever style it is written. What has to know the optimiser, the loop or the parameter
groups is in schedules.py, optimisers.py, muon.py, loop.py and initial.py.
"""

from __future__ import annotations

import ast
import random
import re

from genomes.mutations.anatomy import known_to, scopes, statements, steps, title
from genomes.mutations.constants import layers_where
from genomes.mutations.mutation import STRUCTURAL, Mutation, Place, Program, Rewrite, pick, rewrite
from genomes.mutations.patterns import above, atom, imported, in_recipe, is_norm, is_one, removed, replaced, shown
from genomes.nodes import is_call, is_operation, names_in, walk
from genomes.source import Splice

_INIT = re.compile(r"init", re.IGNORECASE)
_SCHEDULE = re.compile(r"schedule|rate|lr|multiplier|warm|cool|decay|momentum", re.IGNORECASE)
_SHARPER = (1.1, 1.2, 1.35)
_CLIPS = (0.5, 1.0, 2.0)
_SMALL = (0.002, 0.005, 0.02)
_DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
# Shapes of a fall from 1 to 0, by the share that is left, `u`.
_FALLS = {
    "cosine": "(0.5 - 0.5 * math.cos(math.pi * min(1.0, {u})))",
    "square root": "(1.0 - (1.0 - min(1.0, {u})) ** 0.5)",
    "square": "({u} ** 2)",
}


def _fall(parent: Program, rng: random.Random) -> Rewrite | None:
    """A linear fall, `(1 - t) / share`, becomes a cosine, a square or 1 − √."""
    found = [
        place for place in parent.places if _SCHEDULE.search(place.name) and _is_fall(place) and "cos" not in ast.unparse(place.statement)
    ]
    place = pick(found, rng)
    if place is None:
        return None
    shape = rng.choice(sorted(_FALLS))
    linear = f"({parent.source.code(place.node)})"
    start, end = parent.source.span(place.node)
    cuts = [Splice(start, end, _FALLS[shape].format(u=linear)), *(imported(parent, "math") if shape == "cosine" else [])]
    return rewrite(parent, cuts, f"{place.name}: {shown(linear)} falls as a {shape}")


def _is_fall(place: Place) -> bool:
    if not is_operation(place.node, ast.Div) or not is_operation(rest := place.node.left, ast.Sub):
        return False
    return is_one(rest.left) and not isinstance(place.parent, ast.BinOp)


def _zero_init(parent: Program, rng: random.Random) -> Rewrite | None:
    """Weights that start at zero start small instead, and the other way round."""
    options = []
    for place in parent.places:
        call = place.node
        if not _INIT.search(place.name) or not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        owner, method = parent.source.code(call.func.value), call.func.attr
        std = rng.choice(_SMALL)
        if method == "zero_":
            options.append(replaced(parent, place, f"{owner}.normal_(std={std})", "small instead of zero"))
        elif method == "zeros_" and call.args:
            options.append(
                replaced(parent, place, f"{owner}.normal_({parent.source.code(call.args[0])}, std={std})", "small instead of zero")
            )
        elif method in ("normal_", "uniform_") and "embedding" not in owner and owner.endswith("weight"):
            options.append(replaced(parent, place, f"{owner}.zero_()", "zero at first"))
    return pick(options, rng)


def _init_distribution(parent: Program, rng: random.Random) -> Rewrite | None:
    """Uniform in ±b becomes normal with the same standard deviation."""
    options = []
    for place in parent.places:
        call = place.node
        if not _INIT.search(place.name) or not is_call(call, "uniform_") or len(call.args) < 2:
            continue
        tensor, bound = call.args[:-2], parent.source.code(call.args[-1])
        function = parent.source.code(call.func).removesuffix("uniform_") + "normal_"
        inner = "".join(f"{parent.source.code(argument)}, " for argument in tensor)
        options.append(replaced(parent, place, f"{function}({inner}std={bound} / 3**0.5)", "normal instead of uniform"))
    return pick(options, rng)


def _clip(parent: Program, rng: random.Random) -> Rewrite | None:
    """Clip the global gradient norm ahead of the optimiser's step; where it is clipped already, do not."""
    everywhere = [(scope, block, statement) for scope in scopes(parent) for block, statement in statements(scope)]
    clipping = [found for found in everywhere if "clip_grad" in ast.unparse(found[2]) and not isinstance(found[2], _DEFINITIONS)]
    if clipping:
        found = pick([found for found in clipping if isinstance(found[2], ast.Expr)], rng)
        return removed(parent, found[1], found[2], f"{title(found[0])}: no gradient clipping") if found else None
    for scope, _, statement in everywhere:
        if steps(statement) and "model" in known_to(parent, scope):
            limit = rng.choice(_CLIPS)
            line = f"torch.nn.utils.clip_grad_norm_(model.parameters(), {limit})"
            return rewrite(parent, [above(parent, statement, line)], f"{title(scope)}: gradients clipped at {limit:g}")
    return None


def _no_nesterov(parent: Program, rng: random.Random) -> Rewrite | None:
    """`grads.lerp(mean, momentum)` looks ahead; `mean` alone is plain momentum."""
    calls = [place for place in in_recipe(parent) if is_call(place.node, "lerp", "lerp_") and len(place.node.args) == 2]
    place = pick([place for place in calls if not isinstance(place.parent, ast.Expr)], rng)
    if place is None or not isinstance(place.node, ast.Call):
        return None
    return replaced(parent, place, parent.source.code(place.node.args[0]), "plain momentum")


def _sharpen(parent: Program, rng: random.Random) -> Rewrite | None:
    """Normalised queries times a factor: sharper attention."""
    place = pick([place for place in in_recipe(parent) if _normalises_queries(place.node, place.statement)], rng)
    if place is None or not isinstance(place.node, ast.expr):
        return None
    return replaced(parent, place, f"{rng.choice(_SHARPER)} * {atom(parent.source, place.node)}", "sharper attention")


def _normalises_queries(value: ast.AST, statement: ast.stmt) -> bool:
    """Are the queries assigned this, and is it their norm without a factor: `norm(q)`, or `rotate(norm(q), …)`, which keeps factors?"""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1 or isinstance(value, ast.BinOp):
        return False
    target, whole = statement.targets[0], statement.value
    if isinstance(target, ast.Tuple) and isinstance(whole, ast.Tuple) and value in whole.elts and len(target.elts) == len(whole.elts):
        target, whole = target.elts[whole.elts.index(value)], value
    if value is not whole or not isinstance(target, ast.Name) or target.id not in ("q", "query", "queries"):
        return False
    return any(is_norm(node) and target.id in names_in(node) for node in walk(value))


def _drop_condition(parent: Program, rng: random.Random) -> Rewrite | None:
    """One condition fewer in an `and` or `or`: the last block's full window, for example."""
    options = []
    for place in parent.places:
        if isinstance(node := place.node, ast.BoolOp) and re.search(r"window|embed|layer", place.name):
            layer = place.function.args.args[0].arg if place.function.args.args else ""
            said = layers_where(parent, parent.source.code(node), layer)
            for kept in node.values:
                if said is not None and said == layers_where(parent, parent.source.code(kept), layer):
                    continue
                options.append(replaced(parent, place, f"({parent.source.code(kept)})", "one condition fewer"))
    return pick(options, rng)


TRAINING_MUTATIONS = (
    Mutation("schedule-shape", "another shape of the warmdown", "Hägele et al. 2024, arXiv 2405.18392", STRUCTURAL, 8, _fall),
    Mutation(
        "zero-init", "zero at first ↔ small at first", "Zhang et al. 2019, arXiv 1901.09321; karpathy/nanochat", STRUCTURAL, 6, _zero_init
    ),
    Mutation(
        "init-distribution",
        "normal instead of uniform initial values",
        "karpathy/nanochat, init_weights",
        STRUCTURAL,
        4,
        _init_distribution,
    ),
    Mutation("clip-gradients", "add or remove clipping of the gradient norm", "Pascanu et al. 2013, arXiv 1211.5063", STRUCTURAL, 5, _clip),
    Mutation("no-nesterov", "plain instead of Nesterov momentum", "Keller Jordan, Muon", STRUCTURAL, 3, _no_nesterov),
    Mutation("sharpen-attention", "normalised queries times a factor", "karpathy/nanochat, QK-norm with a scale", STRUCTURAL, 5, _sharpen),
    Mutation("drop-condition", "one condition fewer about layers", "karpathy/autoresearch, window pattern", STRUCTURAL, 3, _drop_condition),
)
