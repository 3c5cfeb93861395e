"""Structural mutations of the loop over batches: an average of the weights is what is saved, and steps that see more later on."""

from __future__ import annotations

import ast
import random

from genomes.mutations.anatomy import Loop, counter, names_of, own_nodes, progress, statements, training_loop
from genomes.mutations.draft import Draft, MisfitError, drafted
from genomes.mutations.mutation import Program
from genomes.mutations.patterns import atom, imported
from genomes.nodes import is_call, is_operation, last_name, walk


def _average(draft: Draft, rng: random.Random) -> str:
    """A moving average of the weights goes into the model when the loop ends. It starts as the plain mean, so that it forgets the start."""
    place = training_loop(draft.parent)
    model, step = _saved(draft.parent), counter(place.function)
    if model not in names_of(place.function) or {"averages", "average", "weight"} & names_of(place.function):
        raise MisfitError("no model at hand, or names are taken")
    if any(is_call(node, "save") for node in walk(place.loop)) or imported(draft.parent, "torch"):
        raise MisfitError("it is saved within the loop, or torch has another name")
    share = rng.choice((0.01, 0.03, 0.1))
    draft.above(place.loop, f"averages = [weight.detach().float().clone() for weight in {model}.parameters()]")
    pairs = f"for average, weight in zip(averages, {model}.parameters(), strict=True):"
    draft.below(
        place.step,
        "with torch.no_grad():",
        f"    {pairs}",
        f"        average.lerp_(weight.float(), max({share}, 1 / ({step} + 1)))",
    )
    draft.below(place.loop, "with torch.no_grad():", f"    {pairs}", "        weight.copy_(average)")
    return f"{place.function.name}: a moving average of the weights is saved, over about {1 / share:.0f} steps"


def _saved(parent: Program) -> str:
    """What the program calls the model that it saves."""
    for node in walk(parent.tree):
        if is_call(node, "save") and len(node.args) == 1 and isinstance(node.args[0], ast.Name):
            return node.args[0].id
    raise MisfitError("no model is saved")


def _growing_batch(draft: Draft, rng: random.Random) -> str:
    """From some point on, a step takes twice as many passes."""
    place = training_loop(draft.parent)
    test = _skips(place)
    passes = last_name(test.right)
    names = [node for node in own_nodes(place.function) if isinstance(node, ast.Name) and node.id == passes]
    stored = [node for node in names if isinstance(node.ctx, ast.Store)]
    made = [s for _, s in statements(place.function) if isinstance(s, ast.Assign) and last_name(s.targets[0]) == passes]
    if len(stored) != 1 or len(made) != 1 or made[0].lineno > place.loop.lineno or "most" in names_of(place.function):
        raise MisfitError("passes are counted in another way, or they grow already")
    share = rng.choice((0.2, 0.4, 0.6))
    draft.above(place.loop, f"most = 2 * {passes}  # passes for each step in the end")
    draft.below(
        place.step,
        f"if {progress(draft.parent, place.function)} >= {share} and {atom(draft.source, test.left)} % most == 0:",
        f"    {passes} = most",
    )
    return f"{place.function.name}: batches twice as large after {share:.0%} of the budget"


def _skips(place: Loop) -> ast.BinOp:
    """The test of `if count % passes: continue`."""
    for statement in place.loop.body:
        if isinstance(statement, ast.If) and len(statement.body) == 1 and isinstance(statement.body[0], ast.Continue):
            test = statement.test
            if is_operation(test, ast.Mod) and isinstance(test.right, ast.Name):
                return test
    raise MisfitError("no passes that add up")


LOOP_MUTATIONS = (
    drafted(
        "average-weights",
        "a moving average of the weights is saved",
        "Izmailov et al. 2018, arXiv 1803.05407; Sanyal et al. 2023, arXiv 2306.03241",
        6,
        _average,
    ),
    drafted(
        "growing-batch",
        "larger batches later in the run",
        "Smith et al. 2018, arXiv 1711.00489; McCandlish et al. 2018, arXiv 1812.06162",
        4,
        _growing_batch,
    ),
)
