"""How rates and momentum fall and rise: the functions that compute schedules. What is made of them is listed in schedules.py."""

from __future__ import annotations

import ast
import random
import re

from genomes.literals import read_value
from genomes.mutations.anatomy import functions, one_line, own_nodes
from genomes.mutations.draft import Draft, MisfitError
from genomes.mutations.mutation import pick
from genomes.mutations.patterns import atom, imported, is_one
from genomes.nodes import is_call, is_operation, last_name, walk
from genomes.source import Splice

_SCHEDULE = re.compile(r"schedule|rate|lr|multiplier|factor|warm|cool|decay|cosine|momentum|main|train", re.IGNORECASE)
_STEP = re.compile(r"step|iter|\bn\b|\bi\b|count", re.IGNORECASE)
# Falls from 1 to 0 over a share `t` of the way.
_FALLS = {
    "a straight line": "(1.0 - {t})",
    "1 − √": "(1.0 - {t} ** 0.5)",
    "a square": "(1.0 - {t}) ** 2",
    "a trapezoid": "min(1.0, (1.0 - {t}) / 0.5)",
}
_RISES = {"squared": "{x} ** 2", "as a root": "{x} ** 0.5", "as a half cosine": "(0.5 - 0.5 * math.cos(math.pi * {x}))"}


def reshape_cosine(draft: Draft, rng: random.Random) -> str:
    """`1 + cos(π t)` or `0.5 + 0.5 * cos(π t)` becomes a line, a square, 1 − √ or a trapezoid."""
    found = []
    for function in functions(draft.parent):
        if _SCHEDULE.search(function.name):
            found += [(function, *match) for node in own_nodes(function) if (match := _cosine(node))]
    chosen = pick(found, rng)
    if chosen is None:
        raise MisfitError("no half cosine")
    function, node, height, t = chosen
    shape = rng.choice(sorted(_FALLS))
    draft.replace(node, f"{'' if height == 1.0 else f'{height} * '}{_FALLS[shape].format(t=atom(draft.source, t))}")
    return f"{function.name}: {shape} instead of a cosine"


def _cosine(node: ast.AST) -> tuple[ast.BinOp, float, ast.expr] | None:
    """`h + h * cos(π * t)` with its full height, 2 h, and its `t`."""
    if not is_operation(node, ast.Add):
        return None
    half, wave = read_value(node.left), node.right
    if is_operation(wave, ast.Mult) and read_value(wave.left) == half:
        wave = wave.right
    elif half != 1:
        return None
    if not isinstance(half, int | float) or not is_call(wave, "cos"):
        return None
    angle = wave.args[0]
    if is_operation(angle, ast.Mult) and last_name(angle.left) == "pi":
        return node, 2.0 * half, angle.right
    return None


def fall_from_the_start(draft: Draft, rng: random.Random) -> str:
    """A plateau and a fall, `if t < 1 - share: return 1` and `(1 - t) / share`, become one fall over the whole budget."""
    for function in functions(draft.parent):
        plateau = next((n for n in own_nodes(function) if isinstance(n, ast.If) and _is_plateau(n)), None)
        fall = next((n for n in own_nodes(function) if _is_fall(n)), None)
        if plateau is None or not isinstance(fall, ast.BinOp) or not isinstance(fall.left, ast.BinOp):
            continue
        t = atom(draft.source, fall.left.right)
        _unbranch(draft, plateau)
        cosine = rng.random() < 0.6
        draft.replace(fall, f"0.5 + 0.5 * math.cos(math.pi * {t})" if cosine else draft.code(fall.left))
        draft.cuts += imported(draft.parent, "math") if cosine else []
        return f"{function.name}: {'a cosine' if cosine else 'a line'} over the whole budget instead of a plateau"
    raise MisfitError("no plateau before a fall")


def _is_plateau(node: ast.If) -> bool:
    """`if t < 1 - share: return 1.0`."""
    only = node.body[0]
    late = any(is_operation(inner, ast.Sub) and is_one(getattr(inner, "left", node)) for inner in walk(node.test))
    return len(node.body) == 1 and isinstance(only, ast.Return) and only.value is not None and is_one(only.value) and late


def _is_fall(node: ast.AST) -> bool:
    """`(1 - t) / share`."""
    if not is_operation(node, ast.Div) or not is_operation(rest := node.left, ast.Sub):
        return False
    return is_one(rest.left) and last_name(rest.right) in ("progress", "t", "x", "frac")


def _unbranch(draft: Draft, node: ast.If) -> None:
    """Delete an `if` that returns: with its lines, or an `elif` up to what follows it."""
    text, start = draft.source.text, draft.source.span(node)[0]
    if not node.orelse:
        if text.startswith("elif", start):
            raise MisfitError("nothing would follow")
        draft.delete(node)
        return
    following = text.index("el", draft.source.span(node.body[-1])[1])
    if not text.startswith("elif", start):
        raise MisfitError("an else would have no if")
    draft.cuts.append(Splice(start, following, ""))


def ramp_shape(draft: Draft, rng: random.Random) -> str:
    """A ramp over steps, `min(1, step / n)`, in another shape."""
    function, node = _ramp(draft, rng)
    shape = rng.choice(sorted(_RISES))
    draft.replace(node, _RISES[shape].format(x=one_line(draft.source, node)))
    draft.cuts += imported(draft.parent, "math") if "cosine" in shape else []
    return f"{function.name}: the ramp rises {shape}"


def no_ramp(draft: Draft, rng: random.Random) -> str:
    """A ramp over steps, `min(1, step / n)`, that is over at once."""
    function, node = _ramp(draft, rng)
    draft.replace(node, "1.0")
    return f"{function.name}: no ramp {draft.code(node)}"


def _ramp(draft: Draft, rng: random.Random) -> tuple[ast.FunctionDef, ast.Call]:
    found = []
    for function in functions(draft.parent):
        nodes = list(own_nodes(function))
        bent = {id(n.left) for n in nodes if is_operation(n, ast.Pow)}
        bent |= {id(inner) for n in nodes if is_call(n, "cos") for inner in walk(n)}
        for node in nodes:
            if is_call(node, "min") and len(node.args) == 2 and id(node) not in bent:
                quotients = [a for a in node.args if is_operation(a, ast.Div)]
                if quotients and any(is_one(a) for a in node.args) and _STEP.search(ast.unparse(quotients[0].left)):
                    found.append((function, node))
    chosen = pick(found, rng)
    if chosen is None:
        raise MisfitError("no ramp over steps")
    return chosen
