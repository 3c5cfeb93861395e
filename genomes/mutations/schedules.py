"""Structural mutations of schedules: how rates, momentum and weight decay move over the budget.

All of them work on the expression that is written into the parameter groups, or on the function that computes it. Time is what the program
reads as such, a name `progress` or `prepare.progress()`, so that a rehearsal, whose progress is 0, leaves nothing behind.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator

from genomes.mutations.anatomy import (
    Write,
    counter,
    functions,
    meant,
    names_of,
    one_line,
    own_nodes,
    parameters,
    progress,
    title,
    told_apart,
    writes,
    written,
)
from genomes.mutations.draft import Draft, MisfitError, drafted
from genomes.mutations.literal import is_rate
from genomes.mutations.patterns import atom, imported
from genomes.mutations.shapes import fall_from_the_start, no_ramp, ramp_shape, reshape_cosine
from genomes.nodes import is_call, is_operation, last_name, names_in, walk

_FLOOR = re.compile(r"final|floor|min_lr|decay_to|end_frac", re.IGNORECASE)
_DECAYS = {
    "constant": "",
    "linear to 0": "(1 - {t})",
    "quadratic to 0": "(1 - {t}) ** 2",
    "late": "(1 - {t} ** 2)",
    "a cosine": "(0.5 + 0.5 * math.cos(math.pi * {t}))",
}


def _add_warm_up(draft: Draft, rng: random.Random) -> str:
    """The first steps at lower rates."""
    write = written(draft.parent, "lr")
    if any(is_call(node, "min") for node in walk(write.value)):
        raise MisfitError("the rate has a ramp already")
    try:
        step = counter(write.scope)
        ramp = f"min(1.0, ({step} + 1) / {rng.choice((5, 10, 20, 50))})"
    except MisfitError:
        ramp = f"min(1.0, 0.02 + {progress(draft.parent, write.scope, write.statement)} / {rng.choice((0.01, 0.02, 0.05))})"
    draft.replace(write.value, f"{_factor(draft, write.value)} * {ramp}")
    return f"{title(write.scope)}: rates rise first: × {ramp}"


def _rate_floor(draft: Draft, rng: random.Random) -> str:
    """Rates end at a share of their full value instead of 0."""
    write = written(draft.parent, "lr")
    factors = list(_factors(write.value))
    shares = [node for node in factors if _is_of_progress(meant(write.scope, node))]
    if not shares or len(factors) == 1 or _names_a_rate(draft, meant(write.scope, shares[0])):
        raise MisfitError("no factor of progress alone")
    if any(_FLOOR.search(name) for name in _read_for(draft, meant(write.scope, shares[0]))):
        raise MisfitError("there is a knob for it")
    floor = rng.choice((0.02, 0.05, 0.1))
    draft.replace(shares[0], f"({floor} + {1 - floor:g} * {one_line(draft.source, shares[0])})")
    return f"{title(write.scope)}: rates end at {floor:g} of their full value"


def _is_of_progress(node: ast.expr) -> bool:
    """`rate_factor(progress)`."""
    if not isinstance(node, ast.Call) or len(node.args) != 1 or is_call(node, "progress"):
        return False
    return is_call(node.args[0], "progress") or isinstance(node.args[0], ast.Name)


def _factors(node: ast.expr) -> Iterator[ast.expr]:
    """What a product multiplies; the node itself where it is none."""
    if is_operation(node, ast.Mult):
        yield from _factors(node.left)
        yield from _factors(node.right)
    else:
        yield node


def _names_a_rate(draft: Draft, value: ast.expr) -> bool:
    """Whether a learning rate goes into a value, by name: it is then not a share of one."""
    return any(is_rate(name) for name in _read_for(draft, value))


def _read_for(draft: Draft, value: ast.expr) -> Iterator[str]:
    """What a value is computed from, here or in a function that is called, by name; the functions' own names are left out."""
    calls = [node for node in walk(value) if isinstance(node, ast.Call)]
    called, themselves = {last_name(call.func) for call in calls}, {id(call.func) for call in calls}
    inside = [inner for function in functions(draft.parent) if function.name in called for inner in own_nodes(function)]
    read = (n for top in (value, *inside) for n in walk(top) if isinstance(n, ast.Name | ast.Attribute))
    yield from (last_name(node) for node in read if id(node) not in themselves)


def _group_schedule(draft: Draft, rng: random.Random) -> str:
    """Vectors and scalars, or all that Muon does not update, on a schedule of their own."""
    write = written(draft.parent, "lr")
    value = write.value
    if not is_operation(value, ast.Mult) or names_in(value.left) != {write.group}:
        raise MisfitError("the rate is no product of a full rate and a factor")
    if _names_a_rate(draft, meant(write.scope, value.right)):
        raise MisfitError("what the group is multiplied by is a rate")
    if any(isinstance(node, ast.IfExp) for node in walk(value)):
        raise MisfitError("groups differ already")
    test = _is_matrix_group(draft, write)
    power, what = rng.choice(((0.5, "fall late"), (2.0, "fall early"), (0.0, "stay")))
    factor = atom(draft.source, value.right)
    draft.replace(value.right, f"({factor} if {test} else {f'{factor} ** {power}' if power else 1.0})")
    return f"{title(write.scope)}: rates of groups that are not `{test}` {what}"


def _is_matrix_group(draft: Draft, write: Write) -> str:
    """Code that tells the groups of matrices between two widths, or of matrices, from the others."""
    if (test := told_apart(write)) is not None:
        return one_line(draft.source, test)
    if any(isinstance(n, ast.comprehension | ast.If) and "dim()" in ast.unparse(n) for n in walk(draft.parent.tree)):
        return f'{write.group}["params"][0].dim() > 1'
    raise MisfitError("all groups are alike")


def _momentum_cool_down(draft: Draft, rng: random.Random) -> str:
    """Momentum falls again at the end, as rates do."""
    write = written(draft.parent, "momentum")
    time = progress(draft.parent, write.scope, write.statement)
    if {time, "max"} & (names_in(write.value) | names_in(meant(write.scope, write.value))):
        raise MisfitError("momentum depends on progress already")
    share, depth = rng.choice((0.1, 0.2, 0.4)), rng.choice((0.05, 0.1))
    draft.replace(write.value, f"{_term(draft, write.value)} - {depth} * max(0.0, 1.0 - (1.0 - {time}) / {share})")
    return f"{title(write.scope)}: momentum falls by {depth:g} over the last {share:g}"


def _decay_schedule(draft: Draft, rng: random.Random) -> str:
    """Weight decay that stays, falls in another shape or follows the rates; where it had no schedule, it gets one."""
    try:
        write = written(draft.parent, "weight_decay")
    except MisfitError:
        return _schedule_decay(draft, rng)
    value = meant(write.scope, write.value)
    time = progress(draft.parent, write.scope, value)
    if isinstance(value, ast.Call) and len(value.args) == 1:  # `get_weight_decay(progress)`
        value = _returned(draft, value)
        time = next(iter(names_in(value) & {"progress", "t", "frac"}), time)
    if not is_operation(value, ast.Mult):
        if time in ast.unparse(value):
            raise MisfitError("weight decay is no product")
        full, now = atom(draft.source, value), ""
    else:
        full, now = atom(draft.source, value.left), ast.unparse(value.right)
    options = {what: code.format(t=time) for what, code in _DECAYS.items() if ast.unparse(ast.parse(code.format(t=time) or "''")) != now}
    rate = _rate_call(draft, time, write)
    if rate and rate != now and value is write.value:
        options["as the rates"] = rate
    what = rng.choice(sorted(name for name, code in options.items() if code or now))
    draft.replace(value, f"{full} * {options[what]}" if options[what] else full)
    draft.cuts += imported(draft.parent, "math") if "math" in options[what] else []
    return f"{title(write.scope)}: weight decay {what}"


def _returned(draft: Draft, call: ast.Call) -> ast.expr:
    for function in functions(draft.parent):
        if function.name == last_name(call.func) and isinstance(last := function.body[-1], ast.Return) and last.value:
            return last.value
    raise MisfitError("a schedule that is not defined here")


def _rate_call(draft: Draft, time: str, write: Write) -> str:
    """`rate_factor(progress)`, where it is written next to the decay."""
    for node in own_nodes(write.scope):
        if isinstance(node, ast.Call) and [ast.unparse(a) for a in node.args] == [time] and re.search(r"rate|lr", last_name(node.func)):
            return "" if _names_a_rate(draft, node) or _is_the_rate(draft, node) else ast.unparse(node)
    return ""


def _is_the_rate(draft: Draft, call: ast.Call) -> bool:
    """Whether a group's rate is what a call gives, by itself or through a name, and not a product with it."""
    code = ast.unparse(call)
    for write in writes(draft.parent, "lr"):
        value = write.value
        set_here = [n for n in own_nodes(write.scope) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == ast.unparse(value)]
        if code in (ast.unparse(value), *(ast.unparse(node.value) for node in set_here)):
            return True
    return False


def _schedule_decay(draft: Draft, rng: random.Random) -> str:
    write = written(draft.parent, "lr")
    if "weight_decay" not in draft.source.text:
        raise MisfitError("nothing decays")
    shape = rng.choice(sorted(name for name, code in _DECAYS.items() if code))
    factor = _DECAYS[shape].format(t=progress(draft.parent, write.scope, write.statement))
    full = f'{write.group}.setdefault("full_weight_decay", {write.group}["weight_decay"])'
    draft.below(write.statement, f'{write.group}["weight_decay"] = {full} * {factor}')
    draft.cuts += imported(draft.parent, "math") if "math" in factor else []
    return f"{title(write.scope)}: weight decay {shape}"


def _beta_schedule(draft: Draft, rng: random.Random) -> str:
    """AdamW's memory of squares grows over the first steps, `1 - (step + 1) ** -0.8` at most its full length."""
    write = written(draft.parent, "lr")
    if any(is_call(n, "setdefault") and "full_betas" in ast.unparse(n) for n in own_nodes(write.scope)):
        raise MisfitError("it grows already")
    if "step" not in parameters(write.scope) | names_of(write.scope) or "AdamW(" not in draft.source.text:
        raise MisfitError("no count of steps, or no AdamW")
    power, step = rng.choice((0.6, 0.8)), counter(write.scope)
    full = f'{write.group}.setdefault("full_betas", {write.group}["betas"])'
    grown = f'min({write.group}["full_betas"][1], 1.0 - ({step} + 2) ** -{power})'
    draft.below(write.statement, f'if "betas" in {write.group}:', f'    {write.group}["betas"] = {full}[0], {grown}')
    return f"{title(write.scope)}: the second beta grows with the steps, power {power:g}"


def _factor(draft: Draft, node: ast.expr) -> str:
    """Code that can be a factor."""
    code = one_line(draft.source, node)
    return f"({code})" if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Mult | ast.Div) else _closed(node, code)


def _term(draft: Draft, node: ast.expr) -> str:
    return _closed(node, one_line(draft.source, node))


def _closed(node: ast.expr, code: str) -> str:
    return f"({code})" if isinstance(node, ast.IfExp | ast.Lambda | ast.BoolOp | ast.Compare) else code


SCHEDULE_MUTATIONS = (
    drafted(
        "reshape-cosine",
        "a line, square, 1 − √ or trapezoid instead of a cosine",
        "Hägele et al. 2024, arXiv 2405.18392",
        6,
        reshape_cosine,
    ),
    drafted(
        "fall-from-the-start",
        "a cosine or line over the whole budget, no plateau",
        "Loshchilov and Hutter 2017, arXiv 1608.03983",
        4,
        fall_from_the_start,
    ),
    drafted("add-warm-up", "lower rates in the first steps", "Goyal et al. 2017, arXiv 1706.02677", 4, _add_warm_up),
    drafted("rate-floor", "rates end above 0", "Hoffmann et al. 2022, arXiv 2203.15556", 3, _rate_floor),
    drafted(
        "group-schedule",
        "some groups' rates fall later, earlier or not at all",
        "Everett et al. 2024, arXiv 2407.05872",
        4,
        _group_schedule,
    ),
    drafted("ramp-shape", "another shape of a ramp over steps", "modded-nanogpt, momentum", 3, ramp_shape),
    drafted("no-ramp", "momentum at its full value from the first step", "Keller Jordan, Muon", 3, no_ramp),
    drafted("momentum-cool-down", "momentum falls at the end", "KellerJordan/modded-nanogpt, momentum", 5, _momentum_cool_down),
    drafted(
        "decay-schedule",
        "weight decay constant, falling or in step with the rates",
        "Xie et al. 2023, arXiv 2011.11152",
        6,
        _decay_schedule,
    ),
    drafted("beta-schedule", "AdamW's memory of squares grows", "Adafactor, arXiv 1804.04235", 3, _beta_schedule),
)
