"""AdamW that rests every second step: the first optimiser of a list, or the groups of one optimiser that are not Muon's."""

from __future__ import annotations

import ast
import random
import re

from genomes.mutations.anatomy import Loop, counter, names_of, one_line, title, told_apart, training_loop, written
from genomes.mutations.draft import Draft, MisfitError
from genomes.mutations.mutation import Program
from genomes.nodes import is_call, walk


def rest_adam(draft: Draft, rng: random.Random) -> str:
    """The first optimiser of a list steps every second time, on the sum of two gradients; the others always. Or groups of one optimiser."""
    place = training_loop(draft.parent)
    step = place.step
    if isinstance(step, ast.Expr):
        return _rest_groups(draft, place)
    if not isinstance(step, ast.For) or not isinstance(step.iter, ast.Name) or "zero_grad" not in ast.unparse(step):
        raise MisfitError("no list of optimisers")
    draft.wrap(step.iter, "", f"[{counter(place.scope)} % 2 :]")
    return f"{title(place.scope)}: the first optimiser rests every second step"


def _rest_groups(draft: Draft, place: Loop) -> str:
    """Where one optimiser has groups of Muon and others, and passes by what has no gradient: the others' are laid aside for a step."""
    write = written(draft.parent, "lr")
    test, optimiser = told_apart(write), _stepped(place.step)
    rest = place.block[place.block.index(place.step) + 1 :]
    cleared = next((s for s in rest if isinstance(s, ast.Expr) and is_call(s.value, "zero_grad")), None)
    if test is None or not _is_of_muon(test) or write.scope is not place.scope or cleared is None or not _passes_by(draft.parent):
        raise MisfitError("groups are not told apart, or all must have gradients")
    if {"resting", "parameter", "kept"} & names_of(place.scope):
        raise MisfitError("names are taken")
    of_others = f"for {write.group} in {optimiser}.param_groups if not {one_line(draft.source, test)}"
    draft.above(
        place.step,
        f'resting = [(p, p.grad) {of_others} for p in {write.group}["params"]] if {counter(place.scope)} % 2 else []',
        "for parameter, _ in resting:",
        "    parameter.grad = None",
    )
    draft.below(cleared, "for parameter, kept in resting:", "    parameter.grad = kept")
    return f"{title(place.scope)}: groups that are not `{one_line(draft.source, test)}` rest every second step"


def _is_of_muon(test: ast.expr) -> bool:
    """`group["kind"] == "muon"` or `"momentum" in group`, not the other way round."""
    return (
        isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq | ast.In) and bool(re.search("muon|momentum", ast.unparse(test)))
    )


def _stepped(step: ast.stmt) -> str:
    """`optimiser` in `optimiser.step()`."""
    call = step.value if isinstance(step, ast.Expr) else None
    return ast.unparse(call.func.value) if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) else ""


def _passes_by(parent: Program) -> bool:
    """`if p.grad is None: continue`."""
    skips = (node.test for node in walk(parent.tree) if isinstance(node, ast.If) and isinstance(node.body[0], ast.Continue))
    return any(re.search(r"\.grad is None", ast.unparse(test)) for test in skips)
