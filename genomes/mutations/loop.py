"""Structural mutations of the loop over batches: an average of the weights is what is saved or scored, and steps that see more later on."""

from __future__ import annotations

import ast
import random

from genomes.mutations.anatomy import Loop, counter, known_to, names_of, own_nodes, progress, statements, title, training_loop
from genomes.mutations.draft import Draft, MisfitError, drafted
from genomes.mutations.mutation import Program
from genomes.mutations.patterns import atom, imported
from genomes.mutations.scored import evaluation, is_evaluated_in
from genomes.nodes import is_call, is_operation, last_name, walk


def _average(draft: Draft, rng: random.Random) -> str:
    """A moving average of the weights goes into the model when the loop ends. It starts as the plain mean, so that it forgets the start."""
    place = training_loop(draft.parent)
    (model, done), step = _kept(draft.parent, place), counter(place.scope)
    if model not in known_to(draft.parent, place.scope) or {"averages", "average", "weight"} & names_of(place.scope):
        raise MisfitError("no model at hand, or names are taken")
    if is_evaluated_in(draft.parent, place.loop) or imported(draft.parent, "torch"):
        raise MisfitError("it is saved or scored within the loop, or torch has another name")
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
    return f"{title(place.scope)}: a moving average of the weights is {done}, over about {1 / share:.0f} steps"


def _kept(parent: Program, place: Loop) -> tuple[str, str]:
    """What the program calls the model that it saves, or that it scores below the loop; and which it does."""
    for node in walk(parent.tree):
        if is_call(node, "save") and len(node.args) == 1 and isinstance(node.args[0], ast.Name):
            return node.args[0].id, "saved"
    found = evaluation(parent)
    if found.scope is not place.scope or found.call.lineno < place.loop.lineno:
        raise MisfitError("no model is saved or scored below the loop")
    return found.model, "scored"


def _growing_batch(draft: Draft, rng: random.Random) -> str:
    """From some point on, a step takes twice as many passes."""
    place = training_loop(draft.parent)
    passes, full = _passes(draft, place)
    names = [node for node in own_nodes(place.scope) if isinstance(node, ast.Name) and node.id == passes]
    stored = [node for node in names if isinstance(node.ctx, ast.Store)]
    made = [s for _, s in statements(place.scope) if isinstance(s, ast.Assign) and last_name(s.targets[0]) == passes]
    if len(stored) != 1 or len(made) != 1 or made[0].lineno > place.loop.lineno or "most" in names_of(place.scope):
        raise MisfitError("passes are counted in another way, or they grow already")
    share = rng.choice((0.2, 0.4, 0.6))
    draft.above(place.loop, f"most = 2 * {passes}  # passes for each step in the end")
    draft.below(place.step, f"if {progress(draft.parent, place.scope, place.step)} >= {share}{full}:", f"    {passes} = most")
    return f"{title(place.scope)}: batches twice as large after {share:.0%} of the budget"


def _passes(draft: Draft, place: Loop) -> tuple[str, str]:
    """The name of the number of passes, and what else must hold when it changes: `if count % passes: continue`, or a loop over a range."""
    for statement in place.loop.body:
        if isinstance(statement, ast.If) and len(statement.body) == 1 and isinstance(statement.body[0], ast.Continue):
            test = statement.test
            if is_operation(test, ast.Mod) and isinstance(test.right, ast.Name):
                return test.right.id, f" and {atom(draft.source, test.left)} % most == 0"
        if isinstance(statement, ast.For) and (passes := _repeats(statement)) and place.step not in walk(statement):
            return passes, ""
    raise MisfitError("no passes that add up")


def _repeats(loop: ast.For) -> str:
    """The name in `for _ in range(passes)` of a loop that computes gradients."""
    counted = is_call(loop.iter, "range") and any(is_call(node, "backward") for node in walk(loop))
    arguments = loop.iter.args if counted and isinstance(loop.iter, ast.Call) else []
    return arguments[0].id if len(arguments) == 1 and isinstance(arguments[0], ast.Name) else ""


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
